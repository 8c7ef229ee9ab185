//! `exeat ctl` as a person uses it, against a real daemon. A daemon takes root; what needs one says so where it is
//! skipped.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

mod attachments {
    #[allow(dead_code, reason = "made for the tests of attachments, which use all of it")]
    pub(crate) mod ground;
}
mod serve {
    pub(crate) mod pki;
    #[allow(dead_code, reason = "made for the tests of the daemon, which use all of it")]
    pub(crate) mod verb;
}

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use serve::pki::certify;
use serve::verb::{OTHER, OURS, Verb, write_private};
use support::exeat::binary;

/// How a command ended, and what it wrote.
#[derive(Debug)]
struct Told {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Told {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self { code: output.status.code().expect("a code"), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Told {
    #[track_caller]
    fn well(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{self:#?}");
        self.out
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.well()).expect("JSON")
    }

    /// It ended with this code, and told all of these.
    #[track_caller]
    fn ill(self, code: i32, parts: &[&str]) {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{self:#?}");
        assert!(parts.iter().all(|part| self.err.contains(part)), "{parts:?} in {self:#?}");
    }
}

fn command<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(binary());
    command.arg("ctl").args(arguments).stdin(Stdio::null());
    for variable in ["SOCKET", "ADDRESS", "TOKEN_FILE", "CA", "CERTIFICATE", "KEY"] {
        command.env_remove(format!("EXEAT_{variable}"));
    }
    command
}

impl Verb {
    /// Runs `exeat ctl`, with these words, for this daemon.
    fn ctl(&self, words: &str) -> Told {
        let mut command = command(words.split_whitespace());
        command.env("EXEAT_SOCKET", self.at("control.sock")).current_dir(self.folder.path());
        self.output(command).into()
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.at(name), text).expect("a file");
    }
}

#[test]
fn a_daemon_that_is_not_there_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("control.sock");
    let list = |more: &[&str]| -> Told {
        let words = ["list", "--socket", socket.to_str().expect("text")];
        command([&words, more].concat()).output().expect("exeat").into()
    };
    list(&[]).ill(125, &["no daemon listens at", "control.sock", "exeat serve", "EXEAT_SOCKET"]);
    drop(UnixListener::bind(&socket).expect("a socket"));
    list(&[]).ill(125, &["is not running", "exeat serve"]);
    list(&["--address", "https://localhost:1"]).ill(2, &["say one of the two"]);
    let told = |words: &str| -> Told { command(words.split_whitespace()).output().expect("exeat").into() };
    told("list --address http://192.0.2.1:8420").ill(2, &["in clear text", "loopback"]);
    told("list --address https://127.0.0.1:1").ill(125, &["no daemon answers at 127.0.0.1:1", "refused"]);
    told("list --address https://127.0.0.1:1 --token-file /nowhere").ill(125, &["/nowhere cannot be used"]);
    told("attach a").ill(2, &["--netns or --interface"]);
    told("attach a --interface tap0").ill(2, &["--sandbox-address"]);
    told("lst").ill(2, &["list"]);
}

#[test]
fn what_answers_without_end_is_no_daemon() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("control.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    std::thread::spawn(move || {
        let (mut io, _) = listener.accept().expect("a client");
        assert!(io.read(&mut [0; 4096]).expect("a request") > 0);
        io.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("it reads");
        // Until it has had enough.
        while io.write_all(&[b' '; 1 << 20]).is_ok() {}
    });
    let words = ["list", "--socket", socket.to_str().expect("text")];
    Told::from(command(words).output().expect("exeat")).ill(125, &["the daemon's answer cannot be read", "limit"]);
}

#[test]
fn shells_complete_it() {
    let script = "source <(\"$EXEAT\" completion bash)
        COMP_WORDS=(exeat ctl pol) COMP_CWORD=2
        complete -p exeat >/dev/null && _exeat exeat pol ctl && echo \"${COMPREPLY[@]}\"";
    let done = Command::new("bash").args(["-c", script]).env("EXEAT", binary()).output().expect("bash");
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "policy", "{done:?}");
    for shell in ["zsh", "fish"] {
        let done = Command::new(binary()).args(["completion", shell]).output().expect("exeat");
        assert!(done.status.success() && String::from_utf8_lossy(&done.stdout).contains("trust-bundle"), "{shell}");
    }
}

#[test]
fn a_sandbox_from_create_to_delete() {
    let settings = format!("allowProtected: [{OURS}/32, {OTHER}/32]\n");
    let Some(verb) = Verb::start(&settings, |_| ()) else { return };
    verb.greet_at(OURS);
    verb.ground.sandbox("exd-a");
    assert_eq!(verb.ctl("health").well(), "ready\n");
    assert_eq!(verb.ctl("list").well(), "NAME  STATUS  ATTACHMENT  POLICY  AGE\n");
    assert_eq!(verb.ctl("create demo").well(), "demo\n");
    let unnamed = verb.ctl("create --policy preset:no-network --format json").json();
    assert_eq!(unnamed["networkPolicy"], json!({ "mode": "deny-all" }));

    // It reaches nothing until it is attached, and then what its policy allows.
    assert_eq!(verb.ctl("attach demo --netns exd-a").well(), "demo: netns /run/netns/exd-a\n");
    assert_eq!(verb.ground.client("exd-a", &format!("tcp {OURS} 7")), ["ECONNRESET"]);
    verb.file("policy.yaml", &format!("allow: [a.test, b.test]\nsubnets: {{ allow: [{OURS}/32] }}\ntests: []\n"));
    let told = verb.ctl("policy set demo policy.yaml").well();
    let shown = verb.ctl("show demo --format json").json();
    assert_eq!(told, format!("demo: revision {} is in force\n", shown["revision"].as_str().expect("a revision")));
    let (greeted, client) = verb.ground.keeping_client("exd-a", &format!("tcp {OURS} 7"));
    assert_eq!(greeted, ["hello"]);

    let list = verb.ctl("list").well();
    let row = list.lines().find(|line| line.starts_with("demo ")).expect("its row");
    assert!(row.contains("running  netns /run/netns/exd-a  2 names, 1 range"), "{list}");
    let show = verb.ctl("show demo").well();
    for line in ["allowed names   a.test, b.test", "allowed ranges  203.0.113.9/32", "generation      2"] {
        assert!(show.lines().any(|found| found == line), "{line} in {show}");
    }
    assert_eq!(verb.ctl("policy get demo").json()["allowedDomains"], json!(["a.test", "b.test"]));
    let flows = verb.ctl("flows demo").well();
    let flow: Vec<&str> = flows.lines().nth(1).expect("a flow").split_whitespace().collect();
    assert_eq!(flow.get(1..4), Some(["-", OURS, "7"].as_slice()), "{flows}");
    drop(client);

    assert_eq!(verb.ctl("limit demo").well(), "demo: -\n");
    assert_eq!(verb.ctl("limit demo flows=7 dnsPerMinute=60").well(), "demo: dnsPerMinute=60 flows=7\n");
    assert!(verb.ctl("show demo").well().contains("\nlimits          dnsPerMinute=60 flows=7\n"));
    assert_eq!(verb.ctl("limit demo --none --format json").json(), json!({}));

    let certificate = verb.ctl("trust-bundle demo --print certificate").well();
    assert!(verb.ctl("trust-bundle demo").well().contains(&certificate) && certificate.starts_with("-----BEGIN"));
    assert!(verb.ctl("trust-bundle demo --print variables").well().contains("SSL_CERT_FILE=/"));

    assert_eq!(verb.ctl("detach demo").well(), "demo: detached\n");
    assert_eq!(verb.ctl("stop demo").well(), "demo: stopped\n");
    let show = verb.ctl("show demo").well();
    assert!(show.contains("\nstatus          stopped\n") && show.contains("\nbytes           6 in, "), "{show}");
    assert_eq!(verb.ctl("delete demo").well(), "demo: deleted\n");
    let names: Vec<Value> = verb.ctl("list --format json").json().as_array().expect("a list").clone();
    assert_eq!(names.iter().map(|sandbox| &sandbox["name"]).collect::<Vec<_>>(), [&unnamed["name"]]);
}

#[test]
fn what_the_daemon_refuses_is_told_in_its_words() {
    let Some(verb) = Verb::start("", |_| ()) else { return };
    verb.ctl("create demo").well();
    verb.ctl("create demo").ill(1, &["there is a sandbox `demo` already"]);
    verb.ctl("show dmo").ill(1, &["there is no sandbox `dmo`; did you mean `demo`?"]);
    verb.ctl("flows other").ill(1, &["there is no sandbox `other`\n"]);
    verb.ctl("show ../../metrics").ill(1, &["there is no sandbox `../../metrics`"]);
    verb.ctl("limit demo flos=7").ill(1, &["flos"]);
    verb.ctl("limit demo flows").ill(2, &["KEY=NUMBER"]);
    verb.ctl("attach demo --netns none").ill(1, &["/run/netns/none"]);
    // Faults stand where they stand in the file, also after tests, which are not sent.
    verb.file(
        "bad.yaml",
        "tests:\n  - { request: 'GET https://a.test/', verdict: allow }\nalow: [a.test]\ndeny: ['*a']\n",
    );
    verb.ctl("policy set demo bad.yaml")
        .ill(1, &["error[", "--> bad.yaml:3:1", "did you mean `allow`?", "--> bad.yaml:4:"]);
    verb.file("extends.yaml", "extends: [bad.yaml]\nsecrets: { A: { env: A } }\n");
    verb.ctl("policy set demo extends.yaml")
        .ill(1, &["--> extends.yaml:1:1", "write what it would bring into the policy"]);
    verb.ctl("policy set demo nowhere.yaml").ill(2, &["nowhere.yaml"]);
    assert_eq!(verb.ctl("policy get demo").json(), json!({ "mode": "deny-all" }), "nothing has changed");
    verb.ctl("policy set demo preset:no-network --replaces 0").ill(1, &["the revision in force is"]);
    let revision = verb.ctl("show demo --format json").json()["revision"].as_str().expect("a revision").to_owned();
    verb.ctl(&format!("policy set demo preset:one-api --replaces {revision}")).ill(1, &["secrets"]);
    verb.ctl(&format!("policy set demo preset:no-network --replaces {revision}")).well();

    // What cannot be made whole is not left behind.
    verb.ctl("create half --policy bad.yaml").ill(1, &["--> bad.yaml:3:1"]);
    verb.ctl("create half --netns none").ill(1, &["/run/netns/none"]);
    verb.ctl("show half").ill(1, &["there is no sandbox `half`"]);

    let mut stranger = Command::new("setpriv");
    stranger.args(["--reuid=61234", "--regid=61234", "--clear-groups"]).arg(binary()).args(["ctl", "list", "--socket"]);
    stranger.arg(verb.at("control.sock"));
    std::fs::set_permissions(verb.folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("permissions");
    Told::from(verb.output(stranger)).ill(125, &["you may not ask the daemon", "user 0 and group 0"]);
}

#[test]
fn secrets_are_listed_with_how_each_is_kept_and_without_a_value() {
    let settings = "secrets:\n  GIVEN: { file: {}/given, to: [a.test] }\n  LOST: { file: {}/lost, to: [a.test] }\n";
    let Some(verb) = Verb::start(settings, |folder| write_private(&folder.join("given"), "canary")) else { return };
    let listed = verb.ctl("secrets --format json").json();
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
    assert_eq!(listed[0], json!({ "name": "GIVEN", "source": "file", "state": "ready" }));
    assert_eq!((&listed[1]["name"], &listed[1]["state"]), (&json!("LOST"), &json!("unavailable")));
    assert!(listed[1]["failingSince"].is_u64(), "{listed}");
    let reason = listed[1]["reason"].as_str().expect("a sentence");
    assert!(
        reason.starts_with("the secret LOST cannot be had: the file")
            && reason.contains("cannot be read: No such file")
    );
    let table = verb.ctl("secrets").well();
    assert!(table.starts_with("NAME   SOURCE  STATE        EXPIRES  NEXT REFRESH"), "{table}");
    assert!(table.contains("GIVEN  file    ready ") && table.contains("LOST   file    unavailable "), "{table}");
    // A daemon that lacks one is ready all the same, and says so.
    let health = verb.ctl("health").well();
    assert!(
        health.starts_with("ready\nsecret GIVEN (file): ready\nsecret LOST (file): unavailable; since "),
        "{health}"
    );
    assert!([listed.to_string(), table, health].iter().all(|text| !text.contains("canary")));
}

#[test]
fn a_secret_is_set_from_a_file_or_standard_input_and_deleted() {
    let Some(verb) = Verb::start("", |folder| write_private(&folder.join("value"), "canary-one\n")) else { return };
    let set = verb.ctl("secrets set KEY --to a.test --port 8443 --method GET --expires-in 3600 --value-file value");
    assert_eq!(set.well(), "KEY: set\n");
    let mut given = Command::new("sh");
    given.args(["-c", "exec $0 ctl secrets set OTHER --to '*.b.test' --format json <value"]).arg(binary());
    given.env("EXEAT_SOCKET", verb.at("control.sock")).current_dir(verb.folder.path());
    let told = Told::from(verb.output(given)).json();
    assert_eq!(told, json!({ "name": "OTHER", "source": "api", "state": "ready" }));
    let listed = verb.ctl("secrets").well();
    assert!(listed.contains("KEY    api     ready") && !listed.contains("canary"), "{listed}");
    verb.ctl("secrets set KEY").ill(2, &["--to"]);
    verb.ctl("secrets set KEY --to a.test").ill(1, &["`value`"]);
    verb.ctl("secrets set KEY --to a.test --value-file nowhere").ill(2, &["nowhere"]);
    assert_eq!(verb.ctl("secrets delete KEY").well(), "KEY: deleted\n");
    verb.ctl("secrets delete KEY").ill(1, &["no secret `KEY` was set over the API; `exeat ctl secrets` lists"]);
    verb.ctl("secrets delete 1KEY").ill(1, &["a secret's name is letters, digits and `_`"]);
}

#[test]
fn denied_is_not_failed() {
    let Some(verb) = Verb::start("", |_| ()) else { return };
    verb.file("policy.yaml", "allow: { a.test: [{ match: { method: [GET] } }] }\n");
    verb.ctl("create demo --policy policy.yaml").well();
    let allowed = verb.ctl("policy explain demo https://a.test/x?y=%2F&z").well();
    assert!(
        allowed.starts_with("GET https://a.test/x") && allowed.contains("\nallow: terminate, by policy:1\n"),
        "{allowed}"
    );
    let denied = verb.ctl("policy explain demo b.test:22");
    assert_eq!((denied.code, denied.err.as_str()), (3, ""), "{denied:?}");
    assert!(denied.out.contains("\ndeny: no-rule\n") && denied.out.contains("to allow it:"), "{}", denied.out);
    let denied = verb.ctl("policy explain demo https://a.test/ --resolved 127.0.0.1 --format json");
    let judged: Value = serde_json::from_str(&denied.out).expect("JSON");
    assert_eq!((denied.code, &judged["reason"]), (3, &json!("protected-range")));
    verb.ctl("policy explain demo nonsense").ill(1, &["there is no port"]);
}

#[test]
fn events_are_followed_until_the_daemon_ends() {
    let Some(verb) = Verb::start("", |_| ()) else { return };
    verb.sandbox("exd-a", r#""deny-all""#);
    verb.sandbox("exd-b", r#""deny-all""#);
    let follow = |words: &str| {
        let mut command = command(words.split_whitespace());
        command.env("EXEAT_SOCKET", verb.at("control.sock")).stdout(Stdio::piped()).stderr(Stdio::piped());
        verb.ground.place.enter(move || command.spawn().expect("exeat"))
    };
    let (mut human, mut data) = (follow("events"), follow("events exd-b --denied --format json"));
    let happens = || {
        for sandbox in ["exd-a", "exd-b"] {
            assert_eq!(verb.ground.client(sandbox, &format!("tcp {OURS} 7")), ["ECONNRESET"]);
        }
    };
    let lines = |child: &mut Child| BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let (mut human_lines, mut data_lines) = (lines(&mut human), lines(&mut data));
    let (seen, both) = std::sync::mpsc::channel();
    let second = seen.clone();
    // The one reads a line and goes away; the other reads to the end.
    std::thread::spawn(move || seen.send(human_lines.next().expect("a line").expect("text")));
    let rest = std::thread::spawn(move || {
        second.send(data_lines.next().expect("a line").expect("text")).expect("it is waited for");
        data_lines.count()
    });
    // Nobody says when a follower has begun to follow, so something happens until both have seen it.
    let mut told: Vec<String> = Vec::new();
    while told.len() < 2 {
        happens();
        told.extend(both.try_iter());
    }
    told.sort();
    let [human_line, data_line] = told.try_into().expect("two");
    assert!(human_line.contains("  exd-a  deny   ") && human_line.contains(&format!("{OURS}:7")), "{human_line}");
    let record: Value = serde_json::from_str(&data_line).expect("JSON");
    assert_eq!((&record["sandbox"], &record["verdict"]), (&json!("exd-b"), &json!("deny")));
    // Nobody reads: it ends, as a program in a pipe does.
    while human.try_wait().expect("a child").is_none() {
        happens();
    }
    assert_eq!(human.wait().expect("a child").code(), Some(0));
    verb.end();
    let told = Told::from(data.wait_with_output().expect("it ends"));
    assert_eq!(told.code, 125, "{told:?}");
    assert!(told.err.contains("the daemon has ended") || told.err.contains("broke off"), "{told:?}");
    rest.join().expect("no panic");
}

#[test]
fn over_tcp_both_sides_are_who_they_say() {
    let token = "0123456789abcdef";
    let files = |folder: &Path| {
        certify(folder, "one");
        certify(folder, "two");
        write_private(&folder.join("token"), token);
        write_private(&folder.join("other"), "fedcba9876543210");
    };
    let settings = "control: { tcp: { address: '203.0.113.9:8421', certificate: {}/one-leaf.pem, key: {}/one-leaf.key, \
                    tokenFile: {}/token, clientCertificates: {}/one.pem }, \
                    insecureLoopback: { address: '127.0.0.1:8420', tokenFile: {}/token } }\n";
    let Some(verb) = Verb::start(settings, files) else { return };
    let address = "--address https://203.0.113.9:8421";
    let ours = "--certificate one-leaf.pem --key one-leaf.key";
    let ctl = |words: &str| -> Told {
        let mut command = command(words.split_whitespace());
        verb.output({
            command.current_dir(verb.folder.path());
            command
        })
        .into()
    };
    assert_eq!(ctl(&format!("health {address} --ca one.pem --token-file token {ours}")).well(), "ready\n");
    ctl(&format!("health {address} --ca one.pem --token-file other {ours}"))
        .ill(125, &["does not let us in", "--token-file"]);
    ctl(&format!("health {address} --ca one.pem {ours}")).ill(125, &["does not let us in", "send the token"]);
    ctl(&format!("health {address} --ca two.pem --token-file token {ours}"))
        .ill(125, &["no trust", "--ca", "UnknownIssuer"]);
    let stranger = "--certificate two-leaf.pem --key two-leaf.key";
    assert_eq!(ctl(&format!("health {address} --ca one.pem --token-file token {stranger}")).code, 125);
    ctl(&format!("health {address} --ca one.pem --certificate one-leaf.pem")).ill(2, &["--key"]);
    assert_eq!(ctl("list --address http://127.0.0.1:8420 --token-file token --format json").json(), json!([]));
    // The same by variables, as in a script.
    let mut by_variables = command(["health"]);
    by_variables.env("EXEAT_ADDRESS", "https://203.0.113.9:8421").current_dir(verb.folder.path());
    for (name, file) in
        [("CA", "one.pem"), ("TOKEN_FILE", "token"), ("CERTIFICATE", "one-leaf.pem"), ("KEY", "one-leaf.key")]
    {
        by_variables.env(format!("EXEAT_{name}"), file);
    }
    assert_eq!(Told::from(verb.output(by_variables)).well(), "ready\n");
}
