//! `forwardURL` from end to end: a sandbox, the daemon, and the verifying helper of the reference SDK, which nobody
//! here wrote. The helper asks for the keys where the issuer would publish them; the test lets it ask at the control
//! socket.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::attachments::ground::{Ground, Process};
use crate::support::names::Names;
use crate::support::origin::Ca;
use crate::support::{eventually, skipped};

/// Where `.ci/run` puts the SDK.
const SDK: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/sdk");
/// Where names are asked for, and where the helper listens.
const RESOLVER: &str = "203.0.113.53";
const PROXY: &str = "203.0.113.10";

/// A web server around the helper: it answers with what the helper made of a request.
const RECEIVER: &str = r#"
import https from 'node:https';
import http from 'node:http';
import fs from 'node:fs';
import { pathToFileURL } from 'node:url';
const [folder, sdk, socketPath] = process.argv.slice(2);
globalThis.fetch = (url) => new Promise((done, failed) => {
    if (String(url) !== 'https://oidc.vercel.com/rig/.well-known/jwks') return failed(new Error('who is ' + url));
    http.get({ socketPath, path: '/.well-known/jwks' }, async (answer) => {
        const chunks = [];
        for await (const chunk of answer) chunks.push(chunk);
        done(new Response(Buffer.concat(chunks), { status: answer.statusCode }));
    }).on('error', failed);
});
const { defineSandboxProxy } = await import(pathToFileURL(sdk + '/node_modules/@vercel/sandbox/dist/proxy.js'));
const handler = defineSandboxProxy(
    async (request, meta) => Response.json({ meta, url: request.url, method: request.method,
        body: await request.text(), headers: Object.fromEntries(request.headers) }),
    (request, error) => Response.json({ error: String(error) }, { status: 403 }));
const [key, cert] = ['key.pem', 'cert.pem'].map((name) => fs.readFileSync(folder + '/' + name));
https.createServer({ key, cert }, async (incoming, outgoing) => {
    const chunks = [];
    for await (const chunk of incoming) chunks.push(chunk);
    const body = ['GET', 'HEAD'].includes(incoming.method) ? undefined : Buffer.concat(chunks);
    const { method, headers } = incoming;
    const answer = await handler(new Request('https://proxy.rig' + incoming.url, { method, headers, body }));
    fs.writeFileSync(folder + '/last-token', headers['vercel-sandbox-oidc-token'] ?? '');
    outgoing.writeHead(answer.status, { 'content-type': 'application/json' });
    outgoing.end(await answer.text());
}).listen(443, '203.0.113.10', () => console.log('ready'));
"#;

struct Rig {
    ground: Ground,
    folder: TempDir,
    daemon: Child,
    _receiver: Process,
    _names: Names,
    _runtime: tokio::runtime::Runtime,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Rig {
    fn new() -> Option<Self> {
        if !Path::new(SDK).exists() {
            skipped("forwardURL against the reference SDK: `.ci/run` installs it");
            return None;
        }
        let ground = Ground::new()?;
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        for address in [RESOLVER, PROXY] {
            ground.place.ip(&format!("address add {address}/32 dev lo"));
        }
        let resolver = format!("{RESOLVER}:53").parse().expect("an address");
        let names = Names::serve(&ground.place, resolver, runtime.handle());
        names.set("proxy.rig", &[PROXY.parse().expect("an address")]);
        let at = |name: &str| folder.path().join(name);
        let ca = Ca::new(folder.path());
        let (certificate, key) = ca.pair(&["proxy.rig"]);
        let settings = format!(
            "state: {}\ncontrol: {{ socket: {} }}\nallowProtected: [{PROXY}/32]\nresolvers: [{RESOLVER}]\n\
             issuer: https://oidc.vercel.com/rig\nforwardHosts: [proxy.rig]\naudit: {}\n",
            at("state").display(),
            at("run/control.sock").display(),
            at("audit").display(),
        );
        let files = [("serve.yaml", settings.as_str()), ("cert.pem", &certificate), ("key.pem", &key)];
        for (name, text) in files.into_iter().chain([("receiver.mjs", RECEIVER)]) {
            std::fs::write(at(name), text).expect("a file");
        }
        let mut node = Command::new("node");
        node.arg(at("receiver.mjs")).arg(folder.path()).arg(SDK).arg(at("run/control.sock"));
        let mut receiver = ground.start(&mut node);
        assert_eq!(receiver.line(), "ready");
        let daemon = serve(&ground, folder.path());
        let rig = Self { ground, folder, daemon, _receiver: receiver, _names: names, _runtime: runtime };
        rig.listens();
        Some(rig)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("run/control.sock")
    }

    fn listens(&self) {
        assert!(eventually(|| self.control("GET", "/readyz", "") == "ready"), "the daemon listens");
    }

    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }

    /// Ends the daemon as a crash does, and starts another.
    fn restart(&mut self) {
        self.kill();
        self.daemon = serve(&self.ground, self.folder.path());
        self.listens();
    }

    fn control(&self, method: &str, path: &str, body: &str) -> String {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "20", "-X", method, "--data-binary", body, "--unix-socket"]);
        let done = curl.arg(self.socket()).arg(format!("http://localhost{path}")).output().expect("curl");
        String::from_utf8(done.stdout).expect("text").trim().to_owned()
    }

    /// Makes a namespace and a sandbox of the same name; its session.
    fn create(&self, name: &'static str, policy: &Value) -> String {
        self.ground.sandbox(name);
        let attachment = json!({ "netns": format!("/run/netns/{name}") });
        let body = json!({ "name": name, "attachment": attachment, "networkPolicy": policy, "teamId": "team_rig" });
        let created = self.control("POST", "/v2/sandboxes", &body.to_string());
        let created: Value = serde_json::from_str(&created).expect("JSON");
        created
            .pointer("/session/id")
            .and_then(Value::as_str)
            .unwrap_or_else(|| panic!("not created: {created}"))
            .to_owned()
    }

    /// What the helper answers to a request of the sandbox.
    fn asks(&self, name: &str, arguments: &str) -> Value {
        let curl = format!(
            "ip netns exec {name} curl --silent --max-time 20 --insecure \
             --resolve api.rig:443:203.0.113.99 {arguments}"
        );
        let answer = self.ground.shell(&curl);
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{arguments}: {answer}"))
    }
}

fn serve(ground: &Ground, folder: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exeat"));
    command.arg("serve").arg("--config").arg(folder.join("serve.yaml"));
    command.env("SSL_CERT_FILE", folder.join("rig-root.pem"));
    ground.place.enter(move || command.spawn().expect("exeat"))
}

#[test]
fn the_helper_of_the_reference_sdk_verifies_a_forwarded_request() {
    let Some(mut rig) = Rig::new() else { return };
    let deep = json!({ "allow": { "api.rig": [{ "forwardURL": "https://proxy.rig/agents/" }] } });
    let flat = json!({ "allow": { "api.rig": [{ "forwardURL": "https://proxy.rig" }] } });
    let (first, second) = (rig.create("exd-a", &deep), rig.create("exd-b", &flat));
    let asked = rig.asks("exd-a", "-d body -H 'vercel-forwarded-host: evil.rig' 'https://api.rig/v1/x?y=1'");
    let meta = |host: &str, session: &str, name: &str| -> Value {
        json!({ "host": host, "teamId": "team_rig", "projectId": "local", "sandboxId": session, "sandboxName": name })
    };
    assert_eq!(asked["meta"], meta("proxy.rig", &first, "exd-a"), "{asked}");
    let (url, method, body) = (json!("https://api.rig/v1/x?y=1"), json!("POST"), json!("body"));
    assert_eq!((&asked["url"], &asked["method"], &asked["body"]), (&url, &method, &body));
    assert!(asked["headers"]["vercel-forwarded-host"].is_null() && asked["headers"]["user-agent"].is_string());
    for path in ["https://api.rig", "https://api.rig/", "--http1.1 https://api.rig/a/b"] {
        let asked = rig.asks("exd-b", path);
        assert_eq!(asked["meta"], meta("proxy.rig", &second, "exd-b"), "{path}: {asked}");
    }
    // A token is for one URL; the keys survive the daemon.
    let token = std::fs::read_to_string(rig.folder.path().join("last-token")).expect("a token");
    let keys = rig.control("GET", "/.well-known/jwks", "");
    let public: Value = serde_json::from_str(&keys).expect("JSON");
    assert_eq!(public["keys"].as_array().map(Vec::len), Some(2), "{keys}");
    rig.restart();
    assert_eq!(rig.control("GET", "/.well-known/jwks", ""), keys);
    assert_eq!(rig.asks("exd-a", "https://api.rig/again")["meta"]["sandboxName"], "exd-a");
    let stored = std::fs::read(rig.folder.path().join("state/sandboxes.redb")).expect("the store");
    assert!(!stored.windows(5).any(|bytes| bytes == b"pkcs8"), "the keys are sealed");
    let audit = std::fs::read_to_string(rig.folder.path().join("audit")).expect("the record");
    assert!(audit.contains("\"route\":\"forward\"") && !audit.contains(&token), "{audit}");
}

#[test]
fn a_forward_url_that_the_operator_does_not_list_is_refused() {
    let Some(rig) = Rig::new() else { return };
    let policy = json!({ "allow": { "api.rig": [{ "forwardURL": "https://evil.rig" }] } });
    let refused =
        rig.control("POST", "/v2/sandboxes", &json!({ "name": "exd-a", "networkPolicy": policy }).to_string());
    assert!(refused.contains("invalid_policy") && refused.contains("the operator lists"), "{refused}");
}
