//! Chromium as it is packaged, without a screen, at a page of `nginx`'s with all that a page has: over HTTP/2, and with
//! offers of HTTP/3 that lead nowhere. And `curl`, which asks for more at once than one connection of `nginx`'s gives.

use std::collections::BTreeSet;
use std::process::Command;

use hickory_proto::rr::rdata::svcb::{Alpn, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{HTTPS, SVCB};
use hickory_proto::rr::{Name, RData};

use crate::support::exeat::{Outcome, Run, is_root};
use crate::support::skipped;
use crate::support::world::{OPAQUE, Server, World};

const CANARY: &str = "canary-ooghaeg4ahth";

/// What comes with the page says so in its title.
const PAGE: &str = "<!doctype html><link rel=stylesheet href=/style.css><title>page</title><p id=p>text</p>
<script>const came = what => document.title += ' ' + what;</script><script src=/script.js></script>
<img src=/image.svg onload=\"came('image')\" onerror=\"came('no image')\">
<script>addEventListener('load', async () => {
    came(getComputedStyle(p).color == 'rgb(1, 2, 3)' ? 'style' : 'no style');
    for (const turn of [1, 2, 3]) came((await (await fetch('/data.json?' + turn)).json()).turn);
    came('end');
})</script>";

/// A page at `browser.rig`, which offers HTTP/3 in its answers and in DNS. Each connection ends after so many requests,
/// as it does by default after a thousand: what was asked beyond is left aside.
fn serve(world: &World, requests: u32) -> Server {
    let folder = world.folder().join("nginx");
    std::fs::create_dir_all(folder.join("root")).expect("a folder");
    let file = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).expect("a file");
        folder.join(name).display().to_string()
    };
    file("root/index.html", PAGE);
    file("root/style.css", "p { color: rgb(1, 2, 3) }");
    file("root/script.js", "came('script');");
    file("root/image.svg", "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>");
    let (certificate, key) = world.ca().pair(&["browser.rig"]);
    let (certificate, key) = (file("certificate.pem", &certificate), file("key.pem", &key));
    let folder = folder.display();
    let settings = format!(
        "daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors; events {{}}\n\
         http {{ client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;\n\
         uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5; keepalive_requests {requests};\n\
         types {{ text/html html; text/css css; text/javascript js; image/svg+xml svg; }}\n\
         log_format rig '$request_uri $server_protocol $http_x_rig'; access_log {folder}/requests rig;\n\
         server {{ listen {OPAQUE}:443 ssl http2; server_name browser.rig; ssl_certificate {certificate};\n\
         ssl_certificate_key {key}; root {folder}/root; add_header alt-svc 'h3=\":443\"; ma=86400' always;\n\
         location = /data.json {{ return 200 '{{ \"turn\": $args }}'; }} }} }}\n",
    );
    let settings = file("nginx.conf", &settings);
    let names = &world.wide.as_ref().expect("the wide world").names;
    names.set("browser.rig", &[OPAQUE.parse().expect("an address")]);
    let offer = vec![(SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h3".to_owned(), "h2".to_owned()])))];
    names.add("browser.rig", RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), offer))));
    world.serve(&["nginx", "-c", &settings])
}

/// What came to it: path, version and our header of each request.
fn received(world: &World) -> Vec<String> {
    let text = std::fs::read_to_string(world.folder().join("nginx/requests")).expect("its log");
    text.lines()
        .filter(|line| !line.starts_with("/absent") && !line.starts_with("/favicon"))
        .map(str::to_owned)
        .collect()
}

/// Waits for the server.
const UNTIL_READY: &str =
    "until curl --silent --insecure --output /dev/null https://browser.rig/absent; do sleep 0.1; done\n";

/// Shows the page in a browser that trusts what a command prints.
fn browse(run: Run<'_>, root: &str) -> Outcome {
    let script = format!(
        "set -e; store=sql:$HOME/.pki/nssdb; mkdir -p ~/.pki/nssdb; certutil -d $store -N --empty-password
        {root} > root.pem; certutil -d $store -A -t C -n root -i root.pem; {UNTIL_READY}
        timeout --kill-after 1 50 chromium --headless --no-sandbox --disable-gpu --no-first-run \\
            --user-data-dir=$HOME/profile --virtual-time-budget=5000 --dump-dom https://browser.rig/ 2> errors ||
            {{ tail errors; exit 1; }}"
    );
    run.bash(&script).succeeded()
}

fn terminated(world: &World) -> Run<'_> {
    let policy = "version: 1\nallow:\n  browser.rig:\n    - transform: [{ headers: { x-rig: \"${secrets.KEY}\" } }]\n\
                  secrets: { KEY: { env: RIG_KEY } }\n";
    world.run().policy(policy).env("RIG_KEY", CANARY)
}

#[test]
fn chromium_shows_a_page_and_does_without_http_3() {
    let is_there = |program: &&str| Command::new(program).arg("--version").output().is_ok();
    if !is_root() {
        return skipped("Chromium: the wide world takes root");
    }
    if !["chromium", "certutil", "nginx"].iter().all(is_there) {
        return skipped("Chromium: chromium, certutil or nginx is not installed");
    }
    let world = World::best();
    let _server = serve(&world, 3);
    let parts = ["/", "/data.json?1", "/data.json?2", "/data.json?3", "/image.svg", "/script.js", "/style.css"];
    let whole = "<title>page script image style 1 2 3 end</title>";

    let outcome = browse(world.run().allow("browser.rig"), &format!("cat {}", world.ca().file().display()));
    assert!(outcome.stdout.contains(whole), "{outcome:#?}");
    let spliced = received(&world);
    assert_eq!(BTreeSet::from_iter(&spliced), BTreeSet::from_iter(&parts.map(|path| format!("{path} HTTP/2.0 -"))));
    // Of HTTP/3 it knows from the answers alone, which nobody reads here; it is refused, and comes back at once.
    outcome.assert_denied("no-name", &[("protocol", "udp"), ("address", OPAQUE), ("port", "443")]);

    // The root is the last of the bundle.
    let outcome = browse(terminated(&world), "tac $SSL_CERT_FILE | sed '/BEGIN/q' | tac");
    assert!(outcome.stdout.contains(whole), "{outcome:#?}");
    let terminated = received(&world).split_off(spliced.len());
    let parts = parts.map(|path| format!("{path} HTTP/2.0 {CANARY}"));
    assert_eq!(BTreeSet::from_iter(&terminated), BTreeSet::from_iter(&parts));
    assert_eq!(outcome.verdicts(&[("protocol", "udp")]), [""; 0], "it is not even told of HTTP/3");
}

#[test]
fn no_request_is_lost_with_a_connection_that_its_upstream_ends() {
    if !is_root() {
        return skipped("nginx: the wide world takes root");
    }
    if Command::new("nginx").arg("-v").output().is_err() {
        return skipped("nginx: it is not installed");
    }
    let world = World::best();
    let _server = serve(&world, 20);
    let script = format!(
        "{UNTIL_READY}curl --silent --show-error --max-time 50 --http2 --parallel --parallel-max 8 \\
            --write-out '%{{http_code}}\\n' --output /dev/null 'https://browser.rig/data.json?[1-200]' | sort | uniq -c"
    );
    let outcome = terminated(&world).bash(&script).succeeded();
    assert_eq!(outcome.stdout.trim(), "200 200", "{outcome:#?}");
    let received = received(&world);
    assert_eq!((received.len(), BTreeSet::from_iter(&received).len()), (200, 200), "each came once: {received:?}");
}
