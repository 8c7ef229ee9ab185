//! The listeners of the control API: who is let in, by what, and that no sandbox reaches any of them.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::serve::pki::certify;
use crate::serve::verb::{OTHER, OURS, Verb, write_private};
use crate::support::PATIENCE;
use exeat::attach::LISTENER_PORT;
use exeat::attach::netns::SANDBOX_IPV4;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

const TLS: &str = "address: '203.0.113.9:8421', certificate: {}/one-leaf.pem, key: {}/one-leaf.key";

fn files(folder: &Path) {
    certify(folder, "one");
    certify(folder, "two");
    write_private(&folder.join("token"), TOKEN);
}

impl Verb {
    /// Asks over TLS, trusting this root, with these options.
    fn tls(&self, root: &str, options: &[&str]) -> (u16, String) {
        let ca = self.at(&format!("{root}.pem"));
        let arguments = [&["--cacert", ca.to_str().expect("text"), "https://203.0.113.9:8421/v2/sandboxes"], options];
        self.curl(&arguments.concat())
    }
}

#[test]
fn over_tls_whoever_has_the_token_is_let_in() {
    let settings = format!("control: {{ tcp: {{ {TLS}, tokenFile: {{}}/token }} }}\n");
    let Some(mut verb) = Verb::start(&settings, files) else { return };
    let bearer = |token: &str| format!("authorization: Bearer {token}");
    let (status, answer) = verb.tls("one", &["-H", &bearer(TOKEN)]);
    assert_eq!(status, 200, "{answer}");
    for headers in [vec![], vec!["-H".to_owned(), bearer("0123456789abcdef0123456789abcdee")]] {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let (status, answer) = verb.tls("one", &headers);
        assert!(status == 401 && answer.contains(r#"{"error":{"code":"unauthorized","message":"#), "{answer}");
    }
    // Whoever does not know the daemon's root does not talk to it; and it talks to nobody in clear text.
    assert_eq!(verb.tls("two", &["-H", &bearer(TOKEN)]).0, 0);
    assert_eq!(verb.curl(&["-H", &bearer(TOKEN), "http://203.0.113.9:8421/v2/sandboxes"]).0, 0);

    // Another token, and another certificate.
    let next = "fedcba9876543210fedcba9876543210";
    write_private(&verb.at("token"), next);
    let told = verb.reload(&settings.replace("one-leaf", "two-leaf"));
    assert!(told.ends_with("the settings were read again"), "{told}");
    assert_eq!(verb.tls("two", &["-H", &bearer(TOKEN)]).0, 401);
    assert_eq!(verb.tls("two", &["-H", &bearer(next)]).0, 200);
    // A token that anybody may read is none, so the one before stays.
    std::fs::write(verb.at("open"), TOKEN).expect("a file");
    let told = verb.reload(&settings.replace("/token", "/open"));
    assert!(told.contains("nothing is changed") && told.contains("open is open to others"), "{told}");
    assert_eq!(verb.tls("two", &["-H", &bearer(next)]).0, 200);
    verb.end();
}

#[test]
fn over_tls_whoever_has_a_certificate_is_let_in() {
    let settings = format!("control: {{ tcp: {{ {TLS}, clientCertificates: {{}}/one.pem }} }}\n");
    let Some(mut verb) = Verb::start(&settings, files) else { return };
    let with = |verb: &Verb, name: &str| {
        let [certificate, key] = ["pem", "key"].map(|kind| verb.at(&format!("{name}-leaf.{kind}")));
        let path = |path: &Path| path.to_str().expect("text").to_owned();
        verb.tls("one", &["--cert", &path(&certificate), "--key", &path(&key)]).0
    };
    assert_eq!((with(&verb, "one"), with(&verb, "two"), verb.tls("one", &[]).0), (200, 0, 0));
    verb.reload(&settings.replace("/one.pem", "/two.pem"));
    assert_eq!((with(&verb, "one"), with(&verb, "two")), (0, 200));
}

#[test]
fn in_clear_text_only_the_token_opens_and_only_on_loopback() {
    let settings = "control: { insecureLoopback: { address: '127.0.0.1:8420', tokenFile: {}/token } }\n";
    let Some(mut verb) = Verb::start(settings, files) else { return };
    let url = "http://127.0.0.1:8420/metrics";
    let header = format!("authorization: Bearer {TOKEN}");
    assert_eq!((verb.curl(&[url]).0, verb.curl(&["-H", &header, url]).0), (401, 200));
    let told = verb.reload(&settings.replace("127.0.0.1", "0.0.0.0"));
    assert!(told.contains("nothing is changed") && told.contains("not a loopback address"), "{told}");
    let told = verb.reload(&settings.replace("8420", "8422"));
    assert!(told.contains("control.insecureLoopback.address: when the daemon is started again"), "{told}");
    assert_eq!(verb.curl(&["-H", &header, url]).0, 200);
}

#[test]
fn the_socket_is_for_its_owner_and_group_alone() {
    let settings = "control: { mode: '0660', owner: { user: 61236, group: 61237 } }\n";
    let everybody_may_look = |folder: &Path| {
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).expect("permissions");
    };
    let Some(verb) = Verb::start(settings, everybody_may_look) else { return };
    let asks = |user: u32, group: u32| {
        let mut setpriv = Command::new("setpriv");
        setpriv.args([format!("--reuid={user}"), format!("--regid={group}")]).args(["--clear-groups", "curl"]);
        setpriv.args(["--silent", "--unix-socket"]).arg(verb.at("control.sock")).arg("http://localhost/healthz");
        verb.output(setpriv).stdout == b"ok\n"
    };
    assert_eq!((asks(61_236, 61_238), asks(61_238, 61_237), asks(61_238, 61_238)), (true, true, false));
}

#[test]
fn a_daemon_without_descriptors_listens_on() {
    let Some(verb) = Verb::start("", |_| ()) else { return };
    let process = verb.process();
    let limit = |soft: &str| {
        let mut prlimit = Command::new("prlimit");
        prlimit.args([format!("--pid={process}"), format!("--nofile={soft}")]);
        assert!(prlimit.status().expect("prlimit is installed").success());
    };
    let open = std::fs::read_dir(format!("/proc/{process}/fd")).expect("it runs");
    let open: Vec<u32> =
        open.map(|entry| entry.expect("an entry").file_name().to_string_lossy().parse().expect("a number")).collect();
    let first_free = (0..).find(|number| !open.contains(number)).expect("a number");
    limit(&format!("{first_free}:"));
    let mut io = UnixStream::connect(verb.at("control.sock")).expect("it listens");
    io.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("room");
    io.set_read_timeout(Some(Duration::from_millis(200))).expect("a time-out");
    let mut answer = String::new();
    assert_eq!(io.read_to_string(&mut answer).expect_err("nobody can accept it").kind(), ErrorKind::WouldBlock);
    limit("1024:");
    io.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    io.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

/// Tries, from inside, everything that the daemon listens at; what curl is answered by each, and by whom.
fn tries(verb: &Verb, sandbox: &str, urls: &[String]) -> Vec<String> {
    let mut curl = Command::new("ip");
    curl.args(["netns", "exec", sandbox, "curl", "--silent", "--insecure", "--max-time", "5", "--header"]);
    curl.arg(format!("authorization: Bearer {TOKEN}")).args(["--write-out", "%{http_code} %header{exeat-denied}\n"]);
    curl.args(urls.iter().flat_map(|url| ["--output", "/dev/null", url.as_str()]));
    let text = String::from_utf8(verb.output(curl).stdout).expect("text");
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// Connects more often than the daemon refuses at once, and shows what comes back.
const CROWD: &str = "
import socket, sys
crowd = [socket.socket(socket.AF_UNIX) for _ in range(40)]
for s in crowd: s.connect(sys.argv[1])
print({s.recv(99) for s in crowd})
";

#[test]
fn c29_no_sandbox_reaches_the_control_api_or_another_listener() {
    let settings = format!(
        "allowProtected: [{OTHER}/32]\ncontrol: {{ tcp: {{ {TLS}, tokenFile: {{}}/token }}, \
         insecureLoopback: {{ address: '127.0.0.1:8420', tokenFile: {{}}/token }} }}\n"
    );
    let Some(verb) = Verb::start(&settings, files) else { return };
    verb.greet_at(OTHER);
    verb.sandbox("exd-a", r#""allow-all""#);
    verb.sandbox("exd-b", r#""allow-all""#);
    for (sandbox, device, last) in [("exd-c", "exdc", 2), ("exd-d", "exdd", 3)] {
        verb.ground.place.ip(&format!(
            "netns add {sandbox}
             link add {device} type veth peer name eth0 netns {sandbox}
             -n {sandbox} link set lo up
             -n {sandbox} address add 10.0.0.{last}/24 dev eth0
             -n {sandbox} link set eth0 up
             -n {sandbox} route add default via 10.0.0.77"
        ));
        let interface = format!(r#"{{"interface": {{"name": "{device}", "addresses": ["10.0.0.{last}"]}}}}"#);
        let body = format!(r#"{{"name": "{sandbox}", "networkPolicy": "allow-all", "attachment": {interface}}}"#);
        verb.ask("POST", "/v2/sandboxes", &body);
    }
    let urls: Vec<String> = ["https://203.0.113.9:8421", "http://203.0.113.9:8421", "http://127.0.0.1:8420"]
        .into_iter()
        .flat_map(|origin| ["/v2/sandboxes", "/metrics"].map(|path| format!("{origin}{path}")))
        .chain(
            [OURS, OTHER, SANDBOX_IPV4.to_string().as_str(), "10.0.0.2", "10.0.0.3", "127.0.0.1", "10.0.0.77"]
                .map(|address| format!("http://{address}:{LISTENER_PORT}/")),
        )
        .collect();
    for sandbox in ["exd-a", "exd-b", "exd-c", "exd-d"] {
        let hello = verb.ground.client(sandbox, &format!("tcp {OTHER} 7"));
        assert_eq!(hello, ["hello"], "{sandbox} reaches what was opened to it");
        let answers = tries(&verb, sandbox, &urls);
        assert_eq!(answers.len(), urls.len(), "{answers:?}");
        for (url, answer) in urls.iter().zip(&answers) {
            // Nobody answers, or exeat refuses in its own name.
            let refused = answer == "000" || ["403 protected-range", "403 loop"].contains(&answer.as_str());
            assert!(refused, "{sandbox} {url}: {answer}");
        }
        assert!(answers.iter().any(|answer| answer.ends_with("protected-range")), "{answers:?}");
    }
    // A network namespace hides no Unix socket: the daemon itself tells who is in one.
    let socket = verb.at("control.sock");
    for sandbox in ["exd-a", "exd-b"] {
        let mut curl = Command::new("ip");
        curl.args(["netns", "exec", sandbox, "curl", "--silent", "--include", "--max-time", "20", "--unix-socket"]);
        let answer = verb.output({
            curl.arg(&socket).arg("http://localhost/v2/sandboxes");
            curl
        });
        let answer = String::from_utf8(answer.stdout).expect("text");
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("does not answer sandboxes"), "{answer}");
    }
    let mut crowd = Command::new("ip");
    crowd.args(["netns", "exec", "exd-a", "/usr/bin/python3", "-c", CROWD]).arg(&socket);
    assert_eq!(verb.output(crowd).stdout, b"{b''}\n", "who does not ask is told nothing, be they ever so many");
    // All of it is there, for whoever is on the host.
    assert_eq!(verb.ask("GET", "/v2/sandboxes", "")["sandboxes"].as_array().map(Vec::len), Some(4));
    let header = format!("authorization: Bearer {TOKEN}");
    for url in &urls[..6] {
        let status = verb.curl(&["--insecure", "-H", &header, url]).0;
        assert_eq!(status != 200, url.starts_with("http://203"), "{url}: {status}");
    }
}
