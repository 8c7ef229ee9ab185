//! Secrets that services give, from end to end: a sandbox, the daemon, and a server that answers as Vault (KV version
//! 2, AppRole), an OAuth 2.0 server and GitHub document that they do; no package offers any of them here.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::verb::write_private;
use crate::attachments::ground::{Ground, Process};
use crate::support::eventually;
use crate::support::names::Names;
use crate::support::origin::Ca;

/// Where names are asked for, where the origin is, and where the services are.
const RESOLVER: &str = "203.0.113.53";
const ORIGIN: &str = "203.0.113.10";
/// Where nobody listens.
const SHUT: &str = "203.0.113.11";
const SERVICES: &str = "203.0.113.9";

/// What lets a caller in over TCP.
pub(super) const TOKEN: &str = "canary-bearer-0123456789";

/// The services and the origin, which repeats what is sent to it, or dies of that. `mode` in the folder says how the
/// services are: `well`, `sealed`, or `gone`.
const SERVER: &str = r#"
import base64, http.server, json, ssl, sys, threading, urllib.parse
folder = sys.argv[1]
def mode(): return open(folder + '/mode').read()
class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *_): pass
    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header('content-type', 'application/json')
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
class Origin(Server):
    def do_GET(self):
        with open(folder + '/seen', 'a') as seen:
            seen.write(self.path + ' ' + str(self.headers.get('authorization')) + '\n')
        self.answer(200, 'done')
    def chunks(self):
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size + 2)[:-2]
        self.rfile.readline()
    def do_POST(self):
        path, said = self.path.split('?')[0], b''
        if length := self.headers.get('content-length'):
            said = self.rfile.read(int(length))
        else:
            for chunk in self.chunks():
                said += chunk
                if path == '/placed/dies' and len(said) > 20: break
        with open(folder + '/seen', 'a') as seen:
            seen.write(self.path + ' ' + said.decode() + '\n')
        self.close_connection = True
        if path == '/placed/dies': return
        self.send_response(403 if path == '/placed/refused' else 200)
        self.send_header('location', self.path)
        self.send_header('content-length', str(len(said) + 1000 * (path == '/placed/breaks')))
        self.end_headers()
        self.wfile.write(said)
class Services(Server):
    def do_POST(self): self.serve()
    def do_GET(self): self.serve()
    def serve(self):
        said = self.rfile.read(int(self.headers.get('content-length') or 0)).decode()
        if mode() == 'gone':
            self.close_connection = True
            return
        if self.path == '/v1/auth/approle/login':
            right = json.loads(said) == {'role_id': 'role', 'secret_id': 'canary-secret-id'}
            if mode() == 'sealed': return self.answer(503, {'errors': ['Vault is sealed']})
            if not right: return self.answer(400, {'errors': ['invalid role or secret ID']})
            auth = {'client_token': 'canary-vault-token', 'lease_duration': 600, 'renewable': True}
            return self.answer(200, {'auth': auth})
        if self.path == '/v1/secret/data/ci/key' and self.headers.get('x-vault-token') == 'canary-vault-token':
            data = {'data': {'value': 'canary-from-vault'}, 'metadata': {'deletion_time': ''}}
            return self.answer(200, {'data': data})
        if self.path == '/token':
            shown = base64.b64decode(self.headers.get('authorization', '').removeprefix('Basic ')).decode()
            form = urllib.parse.parse_qs(said)
            if mode() == 'sealed': return self.answer(500, {})
            if (shown, form) != ('client:canary-client-secret', {'grant_type': ['client_credentials']}):
                return self.answer(401, {'error': 'invalid_client'})
            token = {'access_token': 'canary-from-oauth', 'token_type': 'Bearer', 'expires_in': 4}
            return self.answer(200, token)
        if self.path == '/github/app/installations/7/access_tokens':
            if mode() == 'sealed': return self.answer(500, {})
            claims = self.headers.get('authorization').split('.')[1]
            claims = json.loads(base64.urlsafe_b64decode(claims + '=' * (-len(claims) % 4)))
            right = claims['iss'] == '12' and claims['exp'] - claims['iat'] <= 600
            token = {'token': 'canary-from-github', 'expires_at': '2099-01-01T00:00:00Z'}
            return self.answer(201, token) if right else self.answer(401, {})
        self.answer(404, {'errors': []})
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(folder + '/cert.pem', folder + '/key.pem')
for address, port, handler in [('203.0.113.10', 443, Origin), ('203.0.113.9', 8200, Services)]:
    server = http.server.ThreadingHTTPServer((address, port), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever).start()
print('ready', flush=True)
"#;

pub(super) struct Rig {
    pub(super) ground: Ground,
    pub(super) folder: TempDir,
    daemon: Child,
    _server: Process,
    _names: Names,
    _runtime: tokio::runtime::Runtime,
}

impl Drop for Rig {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn settings(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "state: {folder}/state\ncontrol:\n  socket: {folder}/run/control.sock\n  \
         insecureLoopback: {{ address: '127.0.0.1:8420', tokenFile: {folder}/token }}\n\
         allowProtected: [{ORIGIN}/31]\nresolvers: [{RESOLVER}]\naudit: {folder}/audit\nsecrets:\n  \
         VAULT:\n    vault:\n      address: https://{SERVICES}:8200\n      path: ci/key\n      \
         appRole: {{ roleId: role, secretId: {{ file: {folder}/secret-id }} }}\n      ca: {folder}/rig-root.pem\n    \
         to: [api.rig]\n  \
         OAUTH:\n    oauth2:\n      tokenUrl: https://{SERVICES}:8200/token\n      clientId: client\n      \
         clientSecret: {{ env: CLIENT_SECRET }}\n      ca: {folder}/rig-root.pem\n    to: [api.rig]\n  \
         GITHUB:\n    githubApp:\n      api: https://{SERVICES}:8200/github\n      appId: \"12\"\n      \
         installationId: 7\n      privateKey: {{ file: {folder}/app.pem }}\n      ca: {folder}/rig-root.pem\n    \
         to: [api.rig]\n"
    )
}

/// Starts a daemon that may leave as much of a core as it likes, and says all that it can say.
fn daemon(ground: &Ground, folder: &Path, arguments: &[&str]) -> Child {
    let at = |name: &str| folder.join(name);
    let mut command = Command::new("prlimit");
    command.args(["--core=unlimited:unlimited", env!("CARGO_BIN_EXE_exeat"), "serve", "--config"]);
    command.arg(at("serve.yaml")).args(arguments).current_dir(folder).env("SSL_CERT_FILE", at("rig-root.pem"));
    command.env("CLIENT_SECRET", "canary-client-secret").env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
    // Memory is asked of the system as it is needed, and not a great deal of it in advance, so that a limit is met.
    command.env("MIMALLOC_ARENA_RESERVE", "0");
    let file = |name: &str| std::fs::File::options().create(true).append(true).open(at(name)).expect("a file");
    command.stdout(file("said")).stderr(file("told"));
    ground.place.enter(move || command.spawn().expect("exeat"))
}

impl Rig {
    pub(super) fn new(more: &str) -> Option<Self> {
        let ground = Ground::new()?;
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        for address in [RESOLVER, ORIGIN, SHUT, SERVICES] {
            ground.place.ip(&format!("address add {address}/32 dev lo"));
        }
        let names = Names::serve(&ground.place, format!("{RESOLVER}:53").parse().expect("one"), runtime.handle());
        for (name, address) in [("api.rig", ORIGIN), ("shut.rig", SHUT)] {
            names.set(name, &[address.parse().expect("an address")]);
        }
        let at = |name: &str| folder.path().join(name);
        let (certificate, key) = Ca::new(folder.path()).pair(&["api.rig", SERVICES]);
        for (name, text) in [
            ("serve.yaml", (settings(folder.path()) + &more.replace("{}", at("").to_str().expect("text"))).as_str()),
            ("cert.pem", &certificate),
            ("key.pem", &key),
            ("server.py", SERVER),
            ("mode", "sealed"),
            ("seen", ""),
            ("secret-id", "canary-secret-id\n"),
        ] {
            std::fs::write(at(name), text).expect("a file");
        }
        write_private(&at("token"), TOKEN);
        let mut openssl = Command::new("openssl");
        // In the form that GitHub gives a key.
        openssl.args(["genrsa", "-traditional", "-out"]).arg(at("app.pem")).stderr(Stdio::null());
        assert!(openssl.status().expect("openssl").success());
        let mut server = ground.start(Command::new("python3").arg(at("server.py")).arg(folder.path()));
        assert_eq!(server.line(), "ready");
        let daemon = daemon(&ground, folder.path(), &[]);
        let rig = Self { ground, folder, daemon, _server: server, _names: names, _runtime: runtime };
        rig.listens();
        Some(rig)
    }

    fn listens(&self) {
        assert!(eventually(|| self.control("GET", "/readyz", "").starts_with("ready")), "the daemon listens");
    }

    /// What the daemon is, as the kernel numbers it.
    pub(super) fn process(&self) -> Pid {
        Pid::from_raw(self.daemon.id().cast_signed())
    }

    /// How the daemon ends, by this signal or by itself; another is started in its place.
    pub(super) fn ends(&mut self, by: Option<Signal>) -> ExitStatus {
        let (process, mut status) = (self.process(), None);
        let ended = eventually(|| {
            // The first fault is Rust's own handler's, which looks whether a stack is full: it takes another.
            by.iter().for_each(|signal| kill(process, *signal).expect("it was not waited for"));
            status = self.daemon.try_wait().expect("a child");
            status.is_some()
        });
        assert!(ended, "it ends by {by:?}: {}", self.holds("told"));
        self.daemon = daemon(&self.ground, self.folder.path(), &[]);
        self.listens();
        status.expect("it has ended")
    }

    /// Another daemon takes over, and the one before ends.
    pub(super) fn hands_over(&mut self) {
        let next = daemon(&self.ground, self.folder.path(), &["--take-over"]);
        let mut before = std::mem::replace(&mut self.daemon, next);
        let ended = eventually(|| before.try_wait().expect("a child").is_some());
        assert!(ended, "the one before ends: {}", self.holds("told"));
        self.listens();
    }

    pub(super) fn is(&self, mode: &str) {
        std::fs::write(self.folder.path().join("mode"), mode).expect("a file");
    }

    pub(super) fn holds(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.path().join(name)).expect("a file")).into_owned()
    }

    pub(super) fn control(&self, method: &str, path: &str, body: &str) -> String {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "20", "-X", method, "--data-binary", body, "--unix-socket"]);
        curl.arg(self.folder.path().join("run/control.sock")).arg(format!("http://localhost{path}"));
        String::from_utf8(curl.output().expect("curl").stdout).expect("text")
    }

    /// What of the audit record comes within a second to whoever follows it.
    pub(super) fn follows(&self) -> String {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "1", "--unix-socket"]).arg(self.folder.path().join("run/control.sock"));
        let heard = curl.arg("http://localhost/events").output().expect("curl");
        String::from_utf8(heard.stdout).expect("text")
    }

    /// A secret, as the API tells of it.
    pub(super) fn secret(&self, name: &str) -> Value {
        let listed: Value = serde_json::from_str(&self.control("GET", "/secrets", "")).expect("JSON");
        let all = listed.get("secrets").and_then(Value::as_array).expect("a list");
        all.iter().find(|secret| secret.get("name") == Some(&json!(name))).expect("a secret").clone()
    }

    pub(super) fn is_in(&self, name: &str, state: &str) -> bool {
        self.secret(name).get("state") == Some(&json!(state))
    }

    /// What a request of the sandbox is answered: the status, and the reason of a denial.
    pub(super) fn asks(&self, path: &str) -> String {
        let curl = format!(
            "ip netns exec exd-a curl --silent --max-time 20 --insecure --resolve api.rig:443:203.0.113.99 \
             --output /dev/null --write-out '%{{http_code}} %header{{exeat-denied}}' https://api.rig{path}"
        );
        self.ground.shell(&curl).trim().to_owned()
    }
}

#[test]
fn f63_services_give_secrets_and_without_one_nothing_is_sent() {
    let Some(rig) = Rig::new("") else { return };
    let rule = |path: &str, secret: &str| {
        json!({ "match": { "path": { "exact": path } },
            "transform": [{ "headers": { "authorization": format!("Bearer ${{secrets.{secret}}}") } }] })
    };
    let rules = json!([rule("/vault", "VAULT"), rule("/oauth", "OAUTH"), rule("/github", "GITHUB")]);
    rig.ground.sandbox("exd-a");
    let body = json!({ "name": "exd-a", "attachment": { "netns": "/run/netns/exd-a" },
        "networkPolicy": { "allow": { "api.rig": rules } } });
    let created = rig.control("POST", "/v2/sandboxes", &body.to_string());
    assert!(created.contains("exd-a") && !created.contains("error"), "{created}");

    // None of them answers yet.
    for (name, reason) in [
        ("VAULT", "Vault at https://203.0.113.9:8200 is sealed, or down for maintenance (503)"),
        ("OAUTH", "the OAuth server at https://203.0.113.9:8200/token answered with the status 500"),
        ("GITHUB", "GitHub at https://203.0.113.9:8200/github answered with the status 500"),
    ] {
        assert!(eventually(|| rig.is_in(name, "unavailable")), "{}", rig.secret(name));
        let told = rig.secret(name);
        assert_eq!(told.get("reason"), Some(&json!(format!("the secret {name} cannot be had: {reason}"))), "{told}");
        assert!(told.get("nextRefresh").is_some_and(Value::is_u64), "{told}");
        assert_eq!(rig.asks(&format!("/{}", name.to_lowercase())), "503 secret-unavailable");
    }
    assert_eq!(rig.holds("seen"), "", "nobody upstream was contacted");

    // They recover by themselves.
    rig.is("well");
    for name in ["VAULT", "OAUTH", "GITHUB"] {
        assert!(eventually(|| rig.is_in(name, "ready")), "{}", rig.secret(name));
        assert_eq!(rig.asks(&format!("/{}", name.to_lowercase())), "200");
    }
    let seen = rig.holds("seen");
    for (path, value) in [("/vault", "vault"), ("/oauth", "oauth"), ("/github", "github")] {
        assert!(seen.contains(&format!("{path} Bearer canary-from-{value}\n")), "{seen}");
    }

    // A value is kept past its end by nothing: its source is asked ahead of it, and when it is gone, so is the value.
    rig.is("gone");
    assert!(eventually(|| rig.is_in("OAUTH", "unavailable")), "{}", rig.secret("OAUTH"));
    let before = rig.holds("seen");
    assert_eq!(rig.asks("/oauth"), "503 secret-unavailable");
    assert_eq!(rig.asks("/vault"), "200", "what has no end is good");
    assert!(!rig.holds("seen").replacen(&before, "", 1).contains("/oauth"));

    // Nothing shows what they gave, nor what they were shown.
    for path in ["/secrets", "/readyz", "/metrics", "/v2/sandboxes/exd-a", "/v2/sandboxes/exd-a/flows"] {
        let told = rig.control("GET", path, "");
        assert!(!told.is_empty() && !told.contains("canary"), "{path}: {told}");
    }
    let told = rig.holds("told");
    assert!(told.contains("the secret VAULT cannot be had") && told.contains("can be had again"), "{told}");
    for name in ["told", "audit", "state/sandboxes.redb"] {
        assert!(!rig.holds(name).contains("canary"), "{name}");
    }
}
