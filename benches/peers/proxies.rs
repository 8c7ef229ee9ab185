//! The proxies, each as one would set it up for this work: a worker for each core, origin verified, idle connections
//! kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::load::Work;
use crate::stand::{BOXES, KEY, NAME, ORIGIN, Place, Stand, listens, succeed, wait_until};

/// Where a proxy listens that is not exeat.
const PORT: u16 = 8443;

/// A proxy that can be started.
pub(crate) struct Proxy {
    pub(crate) name: String,
    kind: Kind,
    intercepts: bool,
}

enum Kind {
    Nothing,
    Relay,
    Haproxy,
    Nginx,
    Exeat(PathBuf),
}

/// Where a proxy runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cores {
    /// Wherever there is room, with two workers.
    All,
    /// With one worker, and nobody else, on [`PROXY_CORE`].
    One,
}

/// The core that a proxy has to itself where it has one, and the one that all others share then.
pub(crate) const PROXY_CORE: &str = "1";
pub(crate) const OTHERS_CORE: &str = "0";

impl Cores {
    fn workers(self) -> usize {
        match self {
            Self::All => 2,
            Self::One => 1,
        }
    }

    /// A command in the gateway, there.
    fn command(self, program: &str) -> Command {
        match self {
            Self::All => Place::Gateway.command(program),
            Self::One => {
                let mut command = Place::Gateway.command("taskset");
                command.args(["--cpu-list", PROXY_CORE, program]);
                command
            }
        }
    }
}

/// One that has been.
pub(crate) struct Started {
    /// Whom its clients trust.
    pub(crate) trust: PathBuf,
    /// Where the stand's files are.
    pub(crate) folder: PathBuf,
    /// exeat's control socket.
    pub(crate) control: Option<PathBuf>,
    intercepts: bool,
}

impl Proxy {
    /// All of them; with another build of exeat, if there is one.
    pub(crate) fn all(before: Option<PathBuf>) -> Vec<Self> {
        let new = |name: &str, kind, intercepts| Self { name: name.to_owned(), kind, intercepts };
        let exeat = || Kind::Exeat(env!("CARGO_BIN_EXE_exeat").into());
        let mut all = vec![
            new("none", Kind::Nothing, false),
            new("relay", Kind::Relay, false),
            new("haproxy-sni", Kind::Haproxy, false),
            new("nginx-sni", Kind::Nginx, false),
            new("exeat-sni", exeat(), false),
            new("haproxy-mitm", Kind::Haproxy, true),
            new("nginx-mitm", Kind::Nginx, true),
            new("exeat-mitm", exeat(), true),
        ];
        if let Some(path) = before {
            all.push(new("before-sni", Kind::Exeat(path.clone()), false));
            all.push(new("before-mitm", Kind::Exeat(path), true));
        }
        all
    }

    /// Whether it can do this work. Plain routing says how long a connection takes, and how much of what a neighbour
    /// does is felt without any proxy; a bare relay has no memory that
    /// would mean anything; nginx makes no certificates.
    pub(crate) fn does(&self, work: Work) -> bool {
        match (&self.kind, work) {
            (Kind::Nothing, work) => matches!(work, Work::ConnectUnread | Work::Neighbour),
            (Kind::Relay, Work::Idle) | (Kind::Nginx, Work::NewNames) => false,
            _ => work.intercepted().is_none_or(|needs| needs == self.intercepts),
        }
    }

    /// Starts it in the gateway, and sends the sandbox's connections its way.
    pub(crate) fn start(&self, stand: &Stand<'_>, cores: Cores) -> Started {
        let mut trust = if self.intercepts { &stand.keys.proxy_root } else { &stand.keys.origin_root }.clone();
        let mut control = None;
        match &self.kind {
            Kind::Nothing => {}
            Kind::Relay => {
                let this = std::env::current_exe().expect("this program");
                for _ in 0..cores.workers() {
                    stand.spawn(cores.command(&this.to_string_lossy()).args(["relay", &PORT.to_string()]));
                }
            }
            Kind::Haproxy => {
                drop(stand.spawn(cores.command("haproxy").args(["-db", "-f"]).arg(self.haproxy(stand, cores))))
            }
            Kind::Nginx => {
                let mut nginx = cores.command("nginx");
                stand.spawn(nginx.args(["-e", "stderr", "-c"]).arg(self.nginx(stand, cores)));
            }
            Kind::Exeat(path) => {
                let (socket, root) = self.exeat(stand, path, cores);
                control = Some(socket);
                if self.intercepts {
                    trust = root;
                }
            }
        }
        if matches!(self.kind, Kind::Relay | Kind::Haproxy | Kind::Nginx) {
            wait_until(&self.name, || listens(Place::Gateway, PORT));
            redirect();
        }
        Started { trust, folder: stand.folder.clone(), control, intercepts: self.intercepts }
    }

    fn haproxy(&self, stand: &Stand<'_>, cores: Cores) -> PathBuf {
        let [leaf, root, origin] =
            [&stand.keys.proxy_leaf, &stand.keys.proxy_root, &stand.keys.origin_root].map(|path| path.display());
        let rest = if self.intercepts {
            format!(
                "  mode http
frontend sandbox
  bind :{PORT} ssl crt {leaf} generate-certificates ca-sign-file {root} alpn h2,http/1.1
  http-request set-header x-key {KEY}
  default_backend origin
backend origin
  http-reuse always
  server origin {ORIGIN}:443 ssl verify required ca-file {origin} sni ssl_fc_sni
"
            )
        } else {
            format!(
                "  mode tcp
  option splice-auto
frontend sandbox
  bind :{PORT}
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req.ssl_hello_type 1 }} {{ req.ssl_sni -m found }}
  tcp-request content reject
  default_backend origin
backend origin
  server origin {ORIGIN}:443
"
            )
        };
        let times = "timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n  timeout http-keep-alive 300s";
        let all = format!("global\n  nbthread {}\n  maxconn 4000\ndefaults\n  {times}\n{rest}", cores.workers());
        self.file(stand, "cfg", &all)
    }

    fn nginx(&self, stand: &Stand<'_>, cores: Cores) -> PathBuf {
        let (leaf, origin) = (stand.keys.proxy_leaf.display(), stand.keys.origin_root.display());
        let folder = stand.folder.display();
        let rest = if self.intercepts {
            format!(
                "http {{
  access_log off; keepalive_timeout 300s; keepalive_requests 100000000;
  client_max_body_size 0; proxy_request_buffering off;
  upstream origin {{ server {ORIGIN}:443; keepalive 64; keepalive_requests 100000000; keepalive_timeout 300s; }}
  server {{
    listen {PORT} ssl http2 reuseport backlog=4096;
    ssl_certificate {leaf}; ssl_certificate_key {leaf}; ssl_protocols TLSv1.2 TLSv1.3;
    location / {{
      proxy_pass https://origin; proxy_http_version 1.1; proxy_max_temp_file_size 0;
      proxy_set_header connection \"\"; proxy_set_header host $host; proxy_set_header x-key {KEY};
      proxy_ssl_server_name on; proxy_ssl_name $host; proxy_ssl_protocols TLSv1.2 TLSv1.3;
      proxy_ssl_verify on; proxy_ssl_trusted_certificate {origin};
    }}
  }}
}}
"
            )
        } else {
            format!(
                "stream {{
  resolver {ORIGIN} ipv6=off valid=300s;
  server {{
    listen {PORT} reuseport backlog=4096;
    ssl_preread on; proxy_timeout 300s; proxy_pass $ssl_preread_server_name:443;
  }}
}}
"
            )
        };
        let main = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
user root; worker_processes {}; daemon off; pid {folder}/proxy.pid; error_log stderr;
events {{ worker_connections 8192; }}
",
            cores.workers()
        );
        self.file(stand, "conf", &(main + &rest))
    }

    fn file(&self, stand: &Stand<'_>, ending: &str, text: &str) -> PathBuf {
        let path = stand.folder.join(format!("{}.{ending}", self.name));
        fs::write(&path, text).expect("a file in the stand's folder");
        path
    }

    /// The daemon, with each sandbox behind its device: its control socket, and the first one's root in a file. It has
    /// as many workers as cores that it may run on.
    fn exeat(&self, stand: &Stand<'_>, path: &Path, cores: Cores) -> (PathBuf, PathBuf) {
        let state = tempfile::tempdir_in(&stand.folder).expect("a folder").keep();
        let socket = state.join("control.sock");
        let settings = format!(
            "state: {}\ncontrol: {{ socket: {} }}\nallowProtected: [10.211.2.0/24]\nresolvers: [{ORIGIN}]\n",
            state.display(),
            socket.display()
        );
        let settings = self.file(stand, "yaml", &settings);
        // A device is attached before anything can come by it.
        for (_, _, _, device) in BOXES {
            succeed(Place::Gateway.command("ip").args(["link", "set", device, "down"]));
        }
        let mut daemon = cores.command(&path.to_string_lossy());
        stand.spawn(daemon.args(["serve", "--config"]).arg(settings).env("SSL_CERT_FILE", &stand.keys.origin_root));
        wait_until("the daemon", || socket.exists());
        let policy = policy(&[NAME, "*.new.bench"], self.intercepts);
        for (_, address, router, device) in BOXES {
            let sandbox = format!(
                r#"{{"name": "{device}", "networkPolicy": {policy},
                    "attachment": {{"interface": {{"name": "{device}", "addresses": ["{address}"]}}}}}}"#
            );
            ask(&socket, "POST", "/v2/sandboxes", Some(&sandbox));
            // The sandbox finds its neighbour again, now that it answers.
            succeed(Place::Gateway.command("ip").args(["addr", "replace", &format!("{router}/24"), "dev", device]));
        }
        let trust = ask(&socket, "GET", "/trust-bundle?sandbox=box0", None);
        let trust: serde_json::Value = serde_json::from_str(&trust).expect("JSON");
        let root = trust.get("certificate").and_then(serde_json::Value::as_str).expect("a certificate").to_owned();
        (socket, self.file(stand, "pem", &root))
    }
}

/// What exeat is to allow: these names, with a header added to every request if it `intercepts`.
pub(crate) fn policy(names: &[&str], intercepts: bool) -> String {
    let rule = format!(r#"{{"transform": [{{"headers": {{"x-key": "{KEY}"}}}}]}}"#);
    let rules = if intercepts { &rule } else { "" };
    let names: Vec<String> = names.iter().map(|name| format!(r#""{name}": [{rules}]"#)).collect();
    format!(r#"{{"allow": {{{}}}}}"#, names.join(", "))
}

/// Asks exeat's control API; what it answers, which must be good.
pub(crate) fn ask(socket: &Path, method: &str, path: &str, body: Option<&str>) -> String {
    let answer = asked(socket, method, path, body);
    let told = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(answer.status.success(), "{method} {path}: {told}{}", String::from_utf8_lossy(&answer.stderr));
    told
}

/// Asks exeat's control API.
pub(crate) fn asked(socket: &Path, method: &str, path: &str, body: Option<&str>) -> Output {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail-with-body", "--max-time", "10", "-X", method, "--unix-socket"]).arg(socket);
    let body = body.map(|body| ["--data-binary", body]);
    curl.args(body.iter().flatten()).arg(format!("http://localhost{path}")).output().expect("curl")
}

impl Started {
    /// That the proxy is in the way, and does what is asked of it.
    pub(crate) fn check(&self) {
        let told = succeed(self.curl().args(["--max-time", "15", "--retry", "2", &format!("https://{NAME}/key")]));
        let expected = if self.intercepts { "added" } else { "plain" };
        assert_eq!(told, expected, "the header that is to be added");
    }

    /// curl in the sandbox, which finds every name at the origin and trusts whom it is to trust.
    pub(crate) fn curl(&self) -> Command {
        let mut curl = Place::Sandbox.command("curl");
        curl.args(["-sS", "--http1.1", "--resolve", &format!("*:443:{ORIGIN}"), "--cacert"]).arg(&self.trust);
        curl
    }
}

/// Sends the sandboxes' TLS connections to [`PORT`].
fn redirect() {
    let rules = format!(
        "table ip bench {{ chain prerouting {{ type nat hook prerouting priority dstnat; \
         iifname \"box*\" tcp dport 443 redirect to :{PORT}; }}; }}"
    );
    succeed(Place::Gateway.command("nft").arg(rules));
}
