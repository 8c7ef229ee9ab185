//! A small Internet, and who looks at it from inside a sandbox.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::exeat::{Identity, Run, is_root};
use super::names::Names;
use super::origin::{Ca, Origin, Speaks, files_or_echo};
use super::place::Place;
use super::skipped;

/// A named server of the world: HTTPS on 443 and HTTP on 80, both giving the world's files, and echoing.
pub(crate) struct Site {
    /// Its name.
    pub(crate) name: &'static str,
    /// The address that a client dials; in the loopback world nothing is there.
    pub(crate) address: Ipv4Addr,
    /// The same for IPv6.
    pub(crate) address6: Ipv6Addr,
    /// What it received on port 443.
    pub(crate) https: Origin,
    /// What it received on port 80.
    pub(crate) http: Origin,
}

impl Site {
    /// Fails the test if a byte reached it, on any of its ports.
    #[track_caller]
    pub(crate) fn assert_untouched(&self) {
        self.https.assert_untouched();
        self.http.assert_untouched();
    }
}

/// See the module above.
pub(crate) struct World {
    /// Who starts `exeat` in it.
    pub(crate) identity: Identity,
    /// The site that tests allow. Its certificate also covers `neighbour.rig`, which shares its addresses.
    pub(crate) allowed: Site,
    /// The site that nothing may reach.
    pub(crate) evil: Site,
    /// What only the wide world has.
    pub(crate) wide: Option<Wide>,
    place: Place,
    ca: Ca,
    folder: TempDir,
    _runtime: Runtime,
}

/// What only the wide world has: its DNS, and servers that have no name.
pub(crate) struct Wide {
    /// The resolver of the host.
    pub(crate) names: Names,
    /// `169.254.169.254:80`: a cloud's metadata.
    pub(crate) metadata: Origin,
    /// `10.20.0.5:80`: a private server.
    pub(crate) private: Origin,
    /// Port 80 of the host itself: `127.0.0.1` and `203.0.113.2`.
    pub(crate) host: Origin,
    /// `203.0.113.20:5432`: it speaks first (`hello`), then echoes; no protocol that exeat knows.
    pub(crate) opaque: Origin,
    internet: Place,
    /// Every datagram that came to port 9000 of somebody on the Internet: whom it came to.
    datagrams: Arc<Mutex<Vec<String>>>,
}

impl Wide {
    /// Who received a datagram at port 9000, in order. Each is sent back.
    pub(crate) fn datagrams(&self) -> Vec<String> {
        self.datagrams.lock().expect("no panic").clone()
    }
}

/// A server that ends with the test.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where `opaque` listens.
pub(crate) const OPAQUE: &str = "203.0.113.20";
/// The host's own address.
pub(crate) const HOST: &str = "203.0.113.2";
/// Where `private` listens.
pub(crate) const PRIVATE: &str = "10.20.0.5";
/// Where the wide world's DNS listens.
pub(crate) const RESOLVER: &str = "203.0.113.53";

/// Shares the addresses and the certificate of `allowed.rig`, as names behind one CDN do.
pub(crate) const NEIGHBOUR: &str = "neighbour.rig";

/// A site's name and addresses.
type Named = (&'static str, &'static str, &'static str);
const ALLOWED: Named = ("allowed.rig", "203.0.113.10", "2a0e:5ca1:ab1e::10");
const EVIL: Named = ("evil.rig", "203.0.113.66", "2a0e:5ca1:ab1e::66");

impl World {
    /// Runs `test` in every world that this machine allows.
    pub(crate) fn each(test: impl Fn(&World)) {
        for identity in Identity::all() {
            eprintln!("in the loopback world, as {identity:?}");
            test(&Self::loopback(identity));
        }
        Self::each_wide(test);
    }

    /// Runs `test` in the wide world, as every identity; where that takes root and there is none, says so.
    pub(crate) fn each_wide(test: impl Fn(&World)) {
        if !is_root() {
            skipped("the wide world: it takes root");
            return;
        }
        for identity in Identity::all() {
            eprintln!("in the wide world, as {identity:?}");
            test(&Self::wide(identity));
        }
    }

    /// The most telling world of this machine, for tests of what differs in none.
    pub(crate) fn best() -> Self {
        if is_root() { Self::wide(Identity::User) } else { Self::loopback(Identity::Current) }
    }

    /// Origins on loopback.
    pub(crate) fn loopback(identity: Identity) -> Self {
        let (folder, runtime) = (folder(), runtime());
        let ca = Ca::new(folder.path());
        let place = Place::here();
        let echo = files_or_echo(folder.path().join("files"));
        let open = |speaks| Origin::serve(vec![place.listen(socket("127.0.0.1", 0))], speaks, runtime.handle());
        let site = |&(name, address, address6): &Named, certified: &[&str]| Site {
            name,
            address: address.parse().expect("an address"),
            address6: address6.parse().expect("an address"),
            https: open(Speaks::Https(ca.tls(certified), echo.clone())),
            http: open(Speaks::Http(echo.clone())),
        };
        let allowed = site(&ALLOWED, &["allowed.rig", NEIGHBOUR]);
        let evil = site(&EVIL, &["evil.rig"]);
        Self { identity, allowed, evil, wide: None, place, ca, folder, _runtime: runtime }
    }

    /// Two namespaces joined by a veth. Needs root.
    pub(crate) fn wide(identity: Identity) -> Self {
        let (folder, runtime) = (folder(), runtime());
        let ca = Ca::new(folder.path());
        let (internet, host) = (Place::fresh(), Place::fresh());
        join(&internet, &host);
        dress(&host, folder.path(), &ca);
        let echo = files_or_echo(folder.path().join("files"));
        let names = Names::serve(&internet, socket(RESOLVER, 53), runtime.handle());
        let open = |addresses: &[&str], port, speaks| {
            let listeners = addresses.iter().map(|address| internet.listen(socket(address, port))).collect();
            Origin::serve(listeners, speaks, runtime.handle())
        };
        let site = |&(name, address, address6): &Named, certified: &[&str]| {
            let (v4, v6) = (address.parse().expect("an address"), address6.parse().expect("an address"));
            names.set(name, &[IpAddr::V4(v4), IpAddr::V6(v6)]);
            let https = open(&[address, address6], 443, Speaks::Https(ca.tls(certified), echo.clone()));
            let http = open(&[address, address6], 80, Speaks::Http(echo.clone()));
            Site { name, address: v4, address6: v6, https, http }
        };
        let allowed = site(&ALLOWED, &["allowed.rig", NEIGHBOUR]);
        let evil = site(&EVIL, &["evil.rig"]);
        names.set(NEIGHBOUR, &[allowed.address.into()]);
        let metadata = open(&["169.254.169.254"], 80, Speaks::Http(echo.clone()));
        let private = open(&[PRIVATE], 80, Speaks::Http(echo.clone()));
        let opaque = open(&[OPAQUE], 5432, Speaks::Opaque("hello\n"));
        let own = vec![host.listen(socket("127.0.0.1", 80)), host.listen(socket(HOST, 80))];
        let own = Origin::serve(own, Speaks::Http(echo.clone()), runtime.handle());
        let datagrams = Arc::default();
        for (place, address) in [
            (&internet, OPAQUE),
            (&internet, EVIL.1),
            (&internet, EVIL.2),
            (&internet, "169.254.169.254"),
            (&host, HOST),
        ] {
            let socket = place.datagrams(socket(address, 9000));
            runtime.spawn(send_back(socket, address, Arc::clone(&datagrams)));
        }
        let wide = Some(Wide { names, host: own, metadata, private, opaque, internet, datagrams });
        Self { identity, allowed, evil, wide, place: host, ca, folder, _runtime: runtime }
    }

    /// `exeat run` in this world.
    pub(crate) fn run(&self) -> Run<'_> {
        let run = Run::new(&self.place, self.identity);
        if self.wide.is_some() {
            return run;
        }
        let resolve = |name: &str, port: u16, origin: &Origin| {
            ["--resolve".to_owned(), format!("{name}:{port}:{}", origin.address)]
        };
        let names = [("allowed.rig", &self.allowed), (NEIGHBOUR, &self.allowed), ("evil.rig", &self.evil)];
        let names = names.into_iter().flat_map(|(name, site)| {
            [resolve(name, 443, &site.https), resolve(name, 80, &site.http)].into_iter().flatten()
        });
        run.options(names)
            .options([OsStr::new("--upstream-ca"), self.ca.file().as_os_str()])
            .options(["--allow-protected", "127.0.0.0/8"])
    }

    /// Runs a command on the host of this world, outside any sandbox; it must succeed.
    pub(crate) fn command(&self, command: &[&str]) -> String {
        let words: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        self.place.enter(move || {
            let done = Command::new(&words[0]).args(&words[1..]).output().expect("the command is installed");
            assert!(done.status.success(), "{words:?}: {done:?}");
            String::from_utf8_lossy(&done.stdout).into_owned()
        })
    }

    /// Starts a server on the Internet of the wide world. It ends with the handle.
    pub(crate) fn serve(&self, command: &[&str]) -> Server {
        let words: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        let internet = &self.wide.as_ref().expect("the wide world").internet;
        let start = move || Command::new(&words[0]).args(&words[1..]).spawn().expect("the server is installed");
        Server(internet.enter(start))
    }

    /// Where this world's files stand; all may read it.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts a file below what the sites give.
    pub(crate) fn publish(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.folder().join("files").join(path);
        std::fs::create_dir_all(path.parent().expect("below the files")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    }

    /// The root that certified its sites.
    pub(crate) fn ca(&self) -> &Ca {
        &self.ca
    }
}

async fn send_back(socket: std::net::UdpSocket, name: &'static str, record: Arc<Mutex<Vec<String>>>) {
    socket.set_nonblocking(true).expect("a socket option");
    let socket = tokio::net::UdpSocket::from_std(socket).expect("a socket of this runtime");
    let mut room = vec![0; 4096];
    while let Ok((length, client)) = socket.recv_from(&mut room).await {
        record.lock().expect("no panic").push(name.to_owned());
        // The client may be gone.
        let _ = socket.send_to(&room[..length], client).await;
    }
}

/// Two ends of a wire: the gateway of the Internet with everybody's addresses, and the host's one.
fn join(internet: &Place, host: &Place) {
    internet.ip(&format!("link add wire0 type veth peer name up0 netns {}", host.id()));
    for address in ["203.0.113.1/24", "203.0.113.10/24", "203.0.113.20/24", "203.0.113.53/24", "203.0.113.66/24"] {
        internet.ip(&format!("address add {address} dev wire0"));
    }
    internet.ip(&format!(
        "address add {PRIVATE}/32 dev wire0
         address add 169.254.169.254/32 dev wire0
         -6 address add 2a0e:5ca1:ab1e::1/64 dev wire0 nodad
         -6 address add {}/64 dev wire0 nodad
         -6 address add {}/64 dev wire0 nodad
         link set wire0 up",
        ALLOWED.2, EVIL.2
    ));
    host.ip(&format!(
        "address add {HOST}/24 dev up0
         -6 address add 2a0e:5ca1:ab1e::2/64 dev up0 nodad
         link set up0 up
         route add default via 203.0.113.1
         -6 route add default via 2a0e:5ca1:ab1e::1"
    ));
}

/// Gives the host its resolver, and the rig's root among those of the system.
fn dress(host: &Place, folder: &Path, ca: &Ca) {
    const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
    let resolver = folder.join("resolv.conf");
    std::fs::write(&resolver, format!("nameserver {RESOLVER}\n")).expect("a file in the rig's folder");
    host.bind(&resolver, "/etc/resolv.conf");
    let bundle = folder.join("bundle.pem");
    let roots = std::fs::read_to_string(BUNDLE).expect("the system has roots");
    std::fs::write(&bundle, roots + ca.pem()).expect("a file in the rig's folder");
    host.bind(&bundle, BUNDLE);
}

fn socket(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("exeat-world-").tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
    folder
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}
