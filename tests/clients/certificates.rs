//! `nginx` as it is packaged, which asks who calls, and `curl`, which does not know.

use std::path::Path;
use std::process::Command;

use crate::support::exeat::{Run, is_root};
use crate::support::skipped;
use crate::support::world::{OPAQUE, Server, World};

const POLICY: &str = "version: 1\nstrict: true\nallow: [mutual.rig, asking.rig]\n";

/// Two names at one address: the one wants a certificate, the other asks for one.
fn serve(world: &World) -> Server {
    let folder = world.folder().join("nginx");
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).expect("a file");
        folder.join(name).display().to_string()
    };
    let (certificate, key) = world.ca().pair(&["mutual.rig", "asking.rig"]);
    let (certificate, key) = (file("certificate.pem", &certificate), file("key.pem", &key));
    let server = |name: &str, verify: &str| {
        format!(
            "server {{ listen {OPAQUE}:443 ssl http2; server_name {name}; ssl_certificate {certificate};\n\
             ssl_certificate_key {key}; ssl_client_certificate {}; ssl_verify_client {verify};\n\
             location / {{ return 200 \"$ssl_client_verify $ssl_client_fingerprint\\n\"; }} }}\n",
            world.ca().file().display()
        )
    };
    let folder = folder.display();
    let settings = format!(
        "daemon off; master_process off; pid {folder}/pid; error_log {folder}/log; events {{}}\n\
         http {{ access_log off; client_body_temp_path {folder}/1; proxy_temp_path {folder}/2;\n\
         fastcgi_temp_path {folder}/3; uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;\n{}{}}}\n",
        server("mutual.rig", "on"),
        server("asking.rig", "optional"),
    );
    let settings = file("nginx.conf", &settings);
    let wide = world.wide.as_ref().expect("the wide world");
    for name in ["mutual.rig", "asking.rig"] {
        wide.names.set(name, &[OPAQUE.parse().expect("an address")]);
    }
    world.serve(&["nginx", "-c", &settings])
}

fn write(folder: &Path, pair: &(String, String)) {
    std::fs::write(folder.join("client.key"), &pair.1).expect("a file");
    std::fs::write(folder.join("client.pem"), &pair.0).expect("a file");
}

fn showing<'w>(world: &'w World, pair: &(String, String)) -> Run<'w> {
    let run = world.run().policy(POLICY).file("client.pem", &pair.0).file("client.key", &pair.1);
    let folder = run.folder().display().to_string();
    run.options(["--client-certificate", &format!("mutual.rig:{folder}/client.pem:{folder}/client.key")])
}

#[test]
fn an_origin_is_shown_the_certificate_that_its_name_has() {
    if !is_root() {
        return skipped("client certificates: the wide world takes root");
    }
    if Command::new("nginx").arg("-v").output().is_err() {
        return skipped("client certificates: nginx is not installed");
    }
    let world = World::best();
    let _server = serve(&world);
    let (first, second) = (world.ca().pair(&["first.rig"]), world.ca().pair(&["second.rig"]));
    // Until it is ready, there is a 502.
    let ask = "ask() { curl --silent --max-time 20 \"$@\"; }\n\
               until ask --fail --output /dev/null https://asking.rig/; do sleep 0.1; done\n";
    let bare =
        world.run().policy(POLICY).bash(&format!("{ask}ask https://mutual.rig/ | grep -o '<center>No required.*sent'"));
    assert_eq!(bare.succeeded().stdout, "<center>No required SSL certificate was sent\n");

    let script = format!(
        "{ask}first=$(ask https://mutual.rig/); echo $first; ask --http1.1 https://mutual.rig/; ask https://asking.rig/
        cat client.key; echo shown
        until second=$(ask https://mutual.rig/); [[ $second = SUCCESS* && $second != \"$first\" ]]; do sleep 0.1; done
        echo $second; echo changed
        until ask --include https://mutual.rig/ | grep -o 'the certificate that the upstream is shown cannot be had'
        do sleep 0.1; done | head -1"
    );
    let running = showing(&world, &first).start(["bash", "-c", &script]);
    running.says("shown\n");
    write(running.folder(), &second);
    running.says("changed\n");
    std::fs::write(running.folder().join("client.key"), "no key").expect("a file");
    let outcome = running.wait().succeeded();
    let lines: Vec<_> = outcome.stdout.lines().collect();
    let [one, again, other, "shown", two, "changed", refused] = lines.as_slice() else { panic!("{outcome:#?}") };
    assert!(one.starts_with("SUCCESS ") && one == again, "{outcome:#?}");
    assert!(two.starts_with("SUCCESS ") && one != two, "no kept connection outlives its certificate: {outcome:#?}");
    assert_eq!(other.trim(), "NONE", "nobody else is shown it");
    assert!(refused.contains("cannot be had") && outcome.audit.contains("cannot be had"), "{outcome:#?}");
}
