//! Two sandboxes, a gateway and an origin in network namespaces, the origin's names, and keys for everybody. All of it
//! goes with the value.
//!
//! ```text
//! sandbox   10.211.1.2 -- 10.211.1.1 box0 \
//!                                          gateway 10.211.2.1 -- 10.211.2.2 wan (nginx, dnsmasq)
//! neighbour 10.211.3.2 -- 10.211.3.1 box1 /
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// The sandboxes: where each is, the gateway's address there, and its device.
pub(crate) const BOXES: [(Place, &str, &str, &str); 2] =
    [(Place::Sandbox, "10.211.1.2", "10.211.1.1", "box0"), (Place::Neighbour, "10.211.3.2", "10.211.3.1", "box1")];
pub(crate) const ORIGIN: &str = "10.211.2.2";
pub(crate) const NAME: &str = "origin.bench";
/// What an intercepting proxy adds to every request. The origin says whether it came, and not what it is: exeat would
/// strike that out.
pub(crate) const KEY: &str = "canary";
/// Bytes of the large file.
pub(crate) const BULK: u64 = 256 * 1024 * 1024;
/// Bytes of the file that is sent.
pub(crate) const UPLOAD: u64 = 2 * 1024 * 1024 * 1024;

/// Certificates and keys, in files.
pub(crate) struct Keys {
    /// Who signs for the origin.
    pub(crate) origin_root: PathBuf,
    /// Who signs for proxies that make certificates: key and certificate.
    pub(crate) proxy_root: PathBuf,
    /// A ready-made certificate for the origin's name, signed by that root, and its key.
    pub(crate) proxy_leaf: PathBuf,
    origin_leaf: PathBuf,
}

impl Keys {
    pub(crate) fn make(folder: &Path) -> Self {
        let [(origin_root, origin_leaf), (proxy_root, proxy_leaf)] = ["origin", "proxy"].map(|whose| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, format!("bench {whose} root"));
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let key = KeyPair::generate().expect("a key");
            let root = params.self_signed(&key).expect("a certificate");
            let root_file = write(folder, &format!("{whose}-root.pem"), &(root.pem() + &key.serialize_pem()));
            let issuer = Issuer::new(params, key);
            let key = KeyPair::generate().expect("a key");
            let names = vec![NAME.to_owned(), "*.new.bench".to_owned()];
            let leaf = CertificateParams::new(names).expect("names").signed_by(&key, &issuer).expect("a certificate");
            (root_file, write(folder, &format!("{whose}-leaf.pem"), &(leaf.pem() + &key.serialize_pem())))
        });
        Self { origin_root, proxy_root, proxy_leaf, origin_leaf }
    }
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).expect("a file in the stand's folder");
    path
}

/// The namespaces, and what runs in them.
pub(crate) struct Stand<'k> {
    pub(crate) folder: PathBuf,
    pub(crate) keys: &'k Keys,
}

/// Where a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Sandbox,
    Neighbour,
    Gateway,
    Wan,
}

impl Place {
    const ALL: [Self; 4] = [Self::Sandbox, Self::Neighbour, Self::Gateway, Self::Wan];

    fn name(self) -> String {
        let place = match self {
            Self::Sandbox => "sandbox",
            Self::Neighbour => "neighbour",
            Self::Gateway => "gateway",
            Self::Wan => "wan",
        };
        format!("exeat-bench-{}-{place}", std::process::id())
    }

    /// A command, to be run there. None copies by `rep movsb`, as an old C library does also on those processors of
    /// AMD's that are slow at it where the addresses happen to be bad: luck would be measured.
    pub(crate) fn command(self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.env("GLIBC_TUNABLES", "glibc.cpu.x86_rep_movsb_threshold=1073741824");
        command.args(["netns", "exec", &self.name(), program]).stdin(Stdio::null());
        command
    }

    /// Who runs there.
    pub(crate) fn processes(self) -> Vec<u32> {
        let listed = Command::new("ip").args(["netns", "pids", &self.name()]).output().expect("ip");
        String::from_utf8_lossy(&listed.stdout).lines().filter_map(|line| line.trim().parse().ok()).collect()
    }
}

/// Runs a command to its end, and says what it printed; it must succeed.
pub(crate) fn succeed(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let told = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{command:?}: {told}{}", String::from_utf8_lossy(&done.stderr));
    told
}

/// Waits, for 20 seconds at most, until `ready`.
pub(crate) fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: not in time");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl<'k> Stand<'k> {
    /// Makes the namespaces and starts the origin. Files go into `folder`.
    pub(crate) fn up(folder: &Path, keys: &'k Keys) -> Self {
        let stand = Self { folder: folder.to_owned(), keys };
        let ip = |line: &str| drop(succeed(Command::new("ip").args(line.split_whitespace())));
        let [gateway, wan] = [Place::Gateway, Place::Wan].map(Place::name);
        for place in Place::ALL {
            ip(&format!("netns add {}", place.name()));
            succeed(place.command("ip").args(["link", "set", "lo", "up"]));
            for setting in [
                "net.ipv4.ip_local_port_range=1024 65000",
                "net.ipv4.tcp_tw_reuse=1",
                "net.core.somaxconn=16384",
                "net.ipv4.conf.all.rp_filter=0",
                "net.ipv4.conf.default.rp_filter=0",
            ] {
                set(place, setting);
            }
        }
        ip(&format!("link add wan0 netns {gateway} type veth peer name up0 netns {wan}"));
        set(Place::Gateway, "net.ipv4.ip_forward=1");
        let give = |namespace: &str, device: &str, address: &str| {
            ip(&format!("-n {namespace} addr add {address}/24 dev {device}"));
            ip(&format!("-n {namespace} link set {device} up"));
        };
        give(&gateway, "wan0", "10.211.2.1");
        give(&wan, "up0", ORIGIN);
        for (place, address, router, device) in BOXES {
            let sandbox = place.name();
            ip(&format!("link add up0 netns {sandbox} type veth peer name {device} netns {gateway}"));
            give(&sandbox, "up0", address);
            give(&gateway, device, router);
            ip(&format!("-n {sandbox} route add default via {router}"));
        }
        ip(&format!("-n {wan} route add default via 10.211.2.1"));
        stand.serve_names();
        stand.serve_origin();
        stand
    }

    /// Starts a process that lives until the stand goes.
    pub(crate) fn spawn(&self, command: &mut Command) -> Child {
        let log = fs::File::options().append(true).create(true).open(self.folder.join("log")).expect("a log");
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log).spawn().expect("a process")
    }

    fn serve_names(&self) {
        let told = format!("--address=/bench/{ORIGIN}");
        let (alone, pid) = ("--conf-file=/dev/null", "--pid-file=");
        let listen = format!("--listen-address={ORIGIN}");
        self.spawn(Place::Wan.command("dnsmasq").args([
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--user=root",
            alone,
            pid,
            &listen,
            &told,
        ]));
    }

    fn serve_origin(&self) {
        let (folder, leaf) = (self.folder.display(), self.keys.origin_leaf.display());
        let (small, bulk) = (self.folder.join("1k"), self.folder.join("bulk"));
        fs::write(small, [b'x'; 1024]).expect("a file");
        for (file, length) in [(bulk, BULK), (self.folder.join("upload"), UPLOAD)] {
            fs::File::create(file).and_then(|file| file.set_len(length)).expect("a file");
        }
        fs::create_dir_all(self.folder.join("up")).expect("a folder");
        let config = write(
            &self.folder,
            "origin.conf",
            &format!(
                "user root; worker_processes 2; daemon off; pid {folder}/origin.pid; error_log stderr;
events {{ worker_connections 8192; }}
http {{
  access_log off; root {folder}; keepalive_timeout 300s; keepalive_requests 100000000;
  client_body_temp_path {folder}/arriving; client_max_body_size 0;
  server {{
    listen {ORIGIN}:443 ssl http2 backlog=4096;
    ssl_certificate {leaf}; ssl_certificate_key {leaf}; ssl_protocols TLSv1.2 TLSv1.3;
    location = /sink {{ dav_methods PUT; alias /dev/null; }}
    location /up/ {{ dav_methods PUT; }}
    location = /key {{
      if ($http_x_key = {KEY}) {{ return 200 added; }}
      return 200 plain;
    }}
  }}
}}
"
            ),
        );
        self.spawn(Place::Wan.command("nginx").arg("-c").arg(config).args(["-e", "stderr"]));
        wait_until("the origin", || listens(Place::Wan, 443));
    }
}

fn set(place: Place, setting: &str) {
    let (key, value) = setting.split_once('=').expect("key and value");
    let path = format!("/proc/sys/{}", key.replace('.', "/"));
    succeed(place.command("sh").args(["-c", &format!("echo '{value}' > {path}")]));
}

/// Whether somebody listens at a port.
pub(crate) fn listens(place: Place, port: u16) -> bool {
    let told = succeed(place.command("ss").args(["-Hltn", &format!("sport = :{port}")]));
    !told.trim().is_empty()
}

impl Drop for Stand<'_> {
    fn drop(&mut self) {
        for place in Place::ALL {
            // Whoever runs there was started by this stand.
            for signal in ["-TERM", "-KILL"] {
                for _ in 0..40 {
                    let alive = place.processes();
                    if alive.is_empty() {
                        break;
                    }
                    let pids = alive.iter().map(u32::to_string);
                    let _ = Command::new("kill").arg(signal).args(pids).stderr(Stdio::null()).status();
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            let _ = Command::new("ip").args(["netns", "del", &place.name()]).status();
        }
    }
}
