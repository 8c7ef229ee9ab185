//! What lies between the daemon and its origins by its settings: a proxy of the operator's (`tinyproxy`), and
//! certificates of ours that an origin (`nginx`) asks for. Both servers are as they are packaged.

use std::fs::read_to_string;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tokio::runtime::Handle;

use crate::attachments::ground::Process;
use crate::serve::verb::{OTHER, OURS, Verb, write_private};
use crate::support::names::Names;
use crate::support::origin::Ca;
use crate::support::{eventually, skipped};

const CANARY: &str = "canary-eeghoh5iethu";
const SETTINGS: &str = "audit: {}/audit\nallowProtected: [203.0.113.10/32]\nresolvers: [203.0.113.9]\n";
/// Two names are terminated, one is not.
const POLICY: &str = r#"{"allow": {"mutual.rig": [{"transform": [{"headers": {"x-rig": "ours"}}]}],
    "asking.rig": [{"transform": [{"headers": {"x-rig": "ours"}}]}], "unread.rig": []}}"#;
const NAMES: [&str; 3] = ["mutual.rig", "asking.rig", "unread.rig"];

/// A daemon, a sandbox, and an origin at the three names, which tells whose certificate it was shown.
struct Rig {
    verb: Verb,
    ca: Ca,
    _origin: Process,
}

impl Rig {
    fn new(settings: &str, before: impl FnOnce(&Path)) -> Option<Self> {
        if !["nginx", "tinyproxy"].iter().all(|program| Command::new(program).arg("-v").output().is_ok()) {
            skipped("the daemon's upstreams: nginx or tinyproxy is not installed");
            return None;
        }
        let mut ca = None;
        let verb = Verb::start(&format!("{SETTINGS}{settings}"), |folder| {
            let ca = ca.insert(Ca::new(folder));
            let (certificate, key) = ca.pair(&NAMES);
            std::fs::write(folder.join("origin.pem"), certificate).expect("a file");
            std::fs::write(folder.join("origin.key"), key).expect("a file");
            show(folder, &ca.pair(&["first.rig"]));
            before(folder);
        })?;
        let ca = ca.expect("it was made");
        let runtime = verb.ground.run(async { Handle::current() });
        let resolver = format!("{OURS}:53").parse().expect("an address");
        let names = Names::serve(&verb.ground.place, resolver, &runtime);
        NAMES.iter().for_each(|name| names.set(name, &[OTHER.parse().expect("an address")]));
        let origin = origin(&verb);
        verb.sandbox("exd-a", POLICY);
        let trust = verb.ask("GET", "/trust-bundle?sandbox=exd-a", "");
        let roots = read_to_string(verb.at("rig-root.pem")).expect("a root");
        let roots = roots + trust.get("certificate").and_then(Value::as_str).expect("a certificate");
        std::fs::write(verb.at("inside.pem"), roots).expect("a file");
        assert!(eventually(|| listens(&verb, &format!("{OTHER}:443"))), "the origin listens");
        Some(Self { verb, ca, _origin: origin })
    }

    /// What the origin answers the sandbox, with the head.
    fn asks(&self, name: &str) -> String {
        self.verb.ground.shell(&format!(
            "ip netns exec exd-a curl --silent --include --max-time 20 --cacert {} --resolve {name}:443:203.0.113.99 \
             https://{name}/",
            self.verb.at("inside.pem").display()
        ))
    }
}

fn listens(verb: &Verb, at: &str) -> bool {
    verb.ground.shell("ss --no-header --listening --tcp --numeric").contains(at)
}

/// Shows origins this certificate from now on.
fn show(folder: &Path, (certificate, key): &(String, String)) {
    write_private(&folder.join("client.key"), key);
    std::fs::write(folder.join("client.pem"), certificate).expect("a file");
}

fn origin(verb: &Verb) -> Process {
    let folder = verb.folder.path().display();
    let settings = format!(
        "daemon off; master_process off; pid {folder}/pid; error_log {folder}/log; events {{}}\n\
         http {{ access_log off; client_body_temp_path {folder}/1; proxy_temp_path {folder}/2;\n\
         fastcgi_temp_path {folder}/3; uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;\n\
         server {{ listen {OTHER}:443 ssl http2; ssl_certificate {folder}/origin.pem;\n\
         ssl_certificate_key {folder}/origin.key; ssl_client_certificate {folder}/rig-root.pem;\n\
         ssl_verify_client optional; location / {{\n\
         return 200 \"shown $ssl_client_verify $ssl_client_fingerprint rule $http_x_rig\\n\"; }} }} }}\n"
    );
    std::fs::write(verb.at("nginx.conf"), settings).expect("a file");
    verb.ground.start(Command::new("nginx").arg("-c").arg(verb.at("nginx.conf")))
}

fn last_line(answer: &str) -> String {
    answer.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn all_of_the_daemons_goes_through_the_operators_proxy_by_address() {
    let settings = "upstreamProxy: { url: \"http://203.0.113.9:3128\", credentials: { file: {}/credentials } }\n";
    let Some(rig) = Rig::new(settings, |folder| {
        write_private(&folder.join("credentials"), &format!("rig:{CANARY}\n"));
        let proxy = format!(
            "Port 3128\nListen {OURS}\nTimeout 60\nLogFile \"{}\"\nLogLevel Connect\nBasicAuth rig {CANARY}\n",
            folder.join("proxy.log").display()
        );
        std::fs::write(folder.join("proxy.conf"), proxy).expect("a file");
    }) else {
        return;
    };
    let verb = &rig.verb;
    let answer = rig.asks("asking.rig");
    assert!(
        answer.starts_with("HTTP/2 502") && answer.contains("the operator's proxy could not be reached"),
        "{answer}"
    );

    let proxy = verb.ground.start(Command::new("tinyproxy").arg("-d").arg("-c").arg(verb.at("proxy.conf")));
    assert!(eventually(|| listens(verb, &format!("{OURS}:3128"))), "the proxy listens");
    assert_eq!(last_line(&rig.asks("asking.rig")), "shown NONE  rule ours");
    assert_eq!(last_line(&rig.asks("unread.rig")), "shown NONE  rule ");
    let log = read_to_string(verb.at("proxy.log")).expect("its log");
    assert!(log.matches("203.0.113.10:443").count() >= 2 && !log.contains(".rig"), "names are our business: {log}");
    proxy.end();
    let told = read_to_string(verb.at("audit")).expect("the audit");
    assert!(!told.contains(CANARY) && !verb.ground.shell("ps axww").contains(CANARY), "{told}");
    rig.verb.end();
}

#[test]
fn the_daemon_shows_an_origin_the_certificate_that_its_name_has() {
    let settings =
        "clientCertificates: [{ to: [mutual.rig, unread.rig], certificate: {}/client.pem, key: {}/client.key }]\n";
    let Some(rig) = Rig::new(settings, |_| ()) else { return };
    let first = last_line(&rig.asks("mutual.rig"));
    assert!(first.starts_with("shown SUCCESS ") && first.ends_with(" rule ours"), "{first}");
    assert_eq!(last_line(&rig.asks("asking.rig")), "shown NONE  rule ours", "nobody else is shown it");
    assert_eq!(last_line(&rig.asks("unread.rig")), "shown NONE  rule ", "TLS that goes through unread is not ours");
    show(rig.verb.folder.path(), &rig.ca.pair(&["second.rig"]));
    let changed = || Some(last_line(&rig.asks("mutual.rig"))).filter(|line| line.contains("SUCCESS") && *line != first);
    assert!(eventually(|| changed().is_some()), "it is read again");
    rig.verb.end();
}
