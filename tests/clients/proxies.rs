//! `tinyproxy` (CONNECT) and `microsocks` (SOCKS 5), as they are packaged, between exeat and every origin: the host has
//! no other way to them.

use std::process::Command;

use crate::support::exeat::{Run, is_root};
use crate::support::world::{OPAQUE, Server, World};
use crate::support::{eventually, skipped};

const CANARY: &str = "canary-aeth8eghieko";

/// A proxy at the gateway of the Internet.
struct Proxy {
    url: &'static str,
    log: std::path::PathBuf,
    server: Server,
}

impl Proxy {
    fn http(world: &World) -> Self {
        let folder = world.folder();
        let (settings, log) = (folder.join("tinyproxy.conf"), folder.join("tinyproxy.log"));
        let text = format!(
            "Port 3128\nListen 203.0.113.1\nTimeout 60\nLogFile \"{}\"\nLogLevel Connect\nBasicAuth rig {CANARY}\n",
            log.display()
        );
        std::fs::write(&settings, text).expect("a file");
        let server = world.serve(&["tinyproxy", "-d", "-c", settings.to_str().expect("UTF-8")]);
        Self::open(world, "http://203.0.113.1:3128", log, server)
    }

    fn socks(world: &World) -> Self {
        let log = world.folder().join("microsocks.log");
        let start = format!("exec microsocks -i 203.0.113.1 -p 1080 -u rig -P {CANARY} 2> {}", log.display());
        let server = world.serve(&["bash", "-c", &start]);
        Self::open(world, "socks5://203.0.113.1:1080", log, server)
    }

    fn open(world: &World, url: &'static str, log: std::path::PathBuf, server: Server) -> Self {
        let port = url.rsplit(':').next().expect("a port");
        let listens =
            || world.command(&["bash", "-c", &format!(": < /dev/tcp/203.0.113.1/{port} && echo yes || true")]);
        assert!(eventually(|| listens() == "yes\n"), "{url}");
        Self { url, log, server }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// A world in which the host reaches nobody but the proxy and its resolver.
fn world() -> Option<World> {
    let is_there = |program: &&str| Command::new("which").arg(program).output().is_ok_and(|done| done.status.success());
    if !is_root() {
        skipped("proxies: the wide world takes root");
        return None;
    }
    if !["tinyproxy", "microsocks"].iter().all(is_there) {
        skipped("proxies: tinyproxy or microsocks is not installed");
        return None;
    }
    let world = World::best();
    for address in [&world.allowed.address.to_string(), &world.evil.address.to_string(), OPAQUE] {
        world.command(&["ip", "route", "add", "unreachable", &format!("{address}/32")]);
    }
    world.command(&["ip", "-6", "route", "add", "unreachable", &format!("{}/128", world.allowed.address6)]);
    Some(world)
}

/// Two names, one of them terminated; an address at which an origin speaks first; and one for datagrams.
const POLICY: &str = "version: 1\nsubnets: { allow: [203.0.113.20/32] }\n\
                      allow:\n  neighbour.rig: []\n  allowed.rig:\n    - match: { path: { exact: /unchanged } }\n";

fn run<'w>(world: &'w World, proxy: &Proxy, credentials: &str) -> Run<'w> {
    let run = world.run().policy(POLICY).file("credentials", credentials);
    let path = run.folder().join("credentials").display().to_string();
    run.options(["--upstream-proxy", proxy.url, "--upstream-proxy-credentials", &path])
}

#[test]
fn c34_all_goes_through_the_operators_proxy_by_address() {
    let Some(world) = world() else { return };
    for proxy in [Proxy::http(&world), Proxy::socks(&world)] {
        let script = format!(
            "ask() {{ curl --silent --show-error --max-time 30 -o /dev/null --write-out '%{{http_code}} ' \"$@\"; }}
            ask https://allowed.rig/1; ask https://allowed.rig/2; ask --http1.1 https://allowed.rig/3
            ask --insecure https://neighbour.rig/4; ask http://allowed.rig/5
            exec 3<> /dev/tcp/{OPAQUE}/5432; read -r -t 20 hello <&3; echo $hello; cat credentials"
        );
        let outcome = run(&world, &proxy, &format!("rig:{CANARY}\n")).bash(&script).succeeded();
        assert_eq!(outcome.stdout, "200 200 200 200 200 hello\n", "{outcome:#?}");
        assert!(!outcome.audit.contains(CANARY), "{outcome:#?}");
        let log = proxy.log();
        assert!(log.contains("203.0.113.10:443"), "{log}");
        assert!(!log.contains(".rig"), "names are our business: {log}");
    }
}

#[test]
fn what_the_operators_proxy_does_not_carry_goes_nowhere_and_the_reason_is_told() {
    let Some(world) = world() else { return };
    let script = "curl --silent --include --max-time 30 http://allowed.rig/; \
                  begun=$SECONDS; echo hello | nc -u -w 9 203.0.113.20 9000; echo after $((SECONDS - begun)) s";
    for proxy in [Proxy::http(&world), Proxy::socks(&world)] {
        let outcome = run(&world, &proxy, "rig:other\n").bash(script).succeeded();
        assert!(outcome.stdout.starts_with("HTTP/1.1 502"), "{outcome:#?}");
        assert!(outcome.stdout.contains("the operator's proxy does not take the credentials"), "{outcome:#?}");
        assert!(outcome.audit.contains("the operator's proxy does not take the credentials"), "{outcome:#?}");
        assert!(!outcome.stdout.contains("hello"), "datagrams are not carried: {outcome:#?}");
        assert!(outcome.audit.contains("the operator's proxy carries no datagrams"), "{outcome:#?}");

        let (url, Proxy { server, .. }) = (proxy.url, proxy);
        drop(server);
        let outcome = world.run().policy(POLICY).options(["--upstream-proxy", url]).bash(script).succeeded();
        assert!(outcome.stdout.starts_with("HTTP/1.1 502"), "{outcome:#?}");
        assert!(outcome.stdout.contains("the operator's proxy could not be reached"), "{outcome:#?}");

        let direct = ["--upstream-proxy", url, "--direct", "203.0.113.66/32", "--direct", "203.0.113.20/32"];
        world.command(&["ip", "route", "del", "unreachable", "203.0.113.66/32"]);
        let outcome = world.run().allow("evil.rig").options(direct).curl(["--fail", "http://evil.rig/"]);
        outcome.succeeded();
        world.command(&["ip", "route", "add", "unreachable", "203.0.113.66/32"]);
    }
    world.allowed.assert_untouched();
}
