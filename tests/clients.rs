//! Clients that nobody here wrote, doing what they are for: through spliced and terminated flows, over HTTP/1.1 and
//! HTTP/2, in both worlds.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod support;

mod clients {
    mod aws;
    mod browser;
    mod certificates;
    mod java;
    mod models;
    mod names;
    mod postgres;
    mod proxies;
    mod python;
    mod services;
    mod ssh;
    mod udp;
}

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::exeat::{Run, is_root};
use support::world::World;

/// The site as it stands; its TLS goes through unread.
fn spliced(world: &World) -> Run<'_> {
    let root = world.ca().file().to_owned();
    // The sandbox has no reason to trust the rig's root in the loopback world.
    world.run().allow("allowed.rig").env("RIG_ROOT", root.to_str().expect("UTF-8"))
}

/// The site terminated, every request with a header of ours.
fn terminated(world: &World) -> Run<'_> {
    let policy = "version: 1\nallow:\n  allowed.rig:\n    - transform: [{ headers: { x-rig: \"${secrets.KEY}\" } }]\n\
                  secrets: { KEY: { env: RIG_KEY } }\n";
    world.run().policy(policy).env("RIG_KEY", "canary-ohphie4eigoh")
}

/// What the origin received: HTTP version and our header of each request.
fn received(world: &World) -> Vec<(String, String)> {
    let requests = world.allowed.https.requests();
    requests.iter().map(|request| (request.version.clone(), request.header("x-rig").join(","))).collect()
}

#[test]
fn curl_over_both_versions() {
    World::each(|world| {
        for version in ["--http1.1", "--http2"] {
            terminated(world).curl([version, "--fail", "https://allowed.rig/"]).succeeded();
            spliced(world).curl([version, "--fail", "--insecure", "https://allowed.rig/"]).succeeded();
        }
        let received = received(world);
        assert_eq!(received.len(), 4, "{received:?}");
        assert!(received.iter().step_by(2).all(|(_, header)| header == "canary-ohphie4eigoh"), "{received:?}");
        assert_eq!((&*received[1].0, &*received[3].0), ("HTTP/1.1", "HTTP/2.0"), "splicing changes nothing");
    });
}

#[test]
fn bodies_of_any_size_arrive_whole() {
    World::each(|world| {
        let body: Vec<u8> = (0..8_000_000_u32).map(|n| (n % 251) as u8).collect();
        world.publish("big", &body);
        for (run, insecure) in [(terminated(world), "--fail"), (spliced(world), "--insecure")] {
            let run = run.stdin(body.clone());
            let upload =
                "curl --silent --show-error --max-time 120 $1 --data-binary @- https://allowed.rig/echo > /dev/null";
            let download = "curl --silent --show-error --max-time 120 $1 https://allowed.rig/big | sha256sum";
            let outcome = run.command(["bash", "-ec", &format!("{upload}; {download}"), "bash", insecure]).succeeded();
            let local = world.command(&["sha256sum", world.folder().join("files/big").to_str().expect("UTF-8")]);
            assert_eq!(outcome.stdout.split(' ').next(), local.split(' ').next());
        }
        let uploads: Vec<_> = world.allowed.https.requests().into_iter().filter(|r| r.method == "POST").collect();
        assert!(uploads.len() == 2 && uploads.iter().all(|upload| upload.body == body), "{} uploads", uploads.len());
    });
}

#[test]
fn python_urllib() {
    World::each(|world| {
        let program = "import urllib.request as u; print(u.urlopen('https://allowed.rig/', timeout=30).status)";
        assert_eq!(terminated(world).python(program).succeeded().stdout, "200\n");
        assert_eq!(received(world)[0].1, "canary-ohphie4eigoh");
    });
}

#[test]
fn node_fetch() {
    World::each(|world| {
        let program = "fetch('https://allowed.rig/').then(async (r) => console.log(r.status, (await r.json()).method))";
        assert_eq!(terminated(world).command(["node", "-e", program]).succeeded().stdout, "200 GET\n");
        assert_eq!(received(world)[0].1, "canary-ohphie4eigoh");
    });
}

#[test]
fn git_clones_over_https() {
    World::each(|world| {
        let files = world.folder().join("files");
        std::fs::create_dir_all(&files).expect("a folder");
        world.command(&[
            "bash",
            "-ec",
            "cd $0; export GIT_CONFIG_GLOBAL=/dev/null
             git init --quiet work; cd work; echo content > file; git add file
             git -c user.name=rig -c user.email=rig@rig commit --quiet --message first
             git clone --quiet --bare . ../repository.git; git -C ../repository.git update-server-info",
            files.to_str().expect("UTF-8"),
        ]);
        let clone =
            "target=$(mktemp -d); git clone --quiet https://allowed.rig/repository.git $target/r && cat $target/r/file";
        assert_eq!(terminated(world).bash(clone).succeeded().stdout, "content\n");
        assert!(received(world).iter().all(|(_, header)| header == "canary-ohphie4eigoh"));
    });
}

/// The server is git's own (`git http-backend`), the password a placeholder, asked for by a 401 and sent as `Basic`.
#[test]
fn git_pushes_with_a_placeholder_for_its_password() {
    let key = format!("ghp_{}", "c4NarY".repeat(6));
    World::each(|world| {
        let files = world.folder().join("files");
        std::fs::create_dir_all(&files).expect("a folder");
        let bare =
            "cd $0; git init --quiet --bare --initial-branch main r.git; git -C r.git config http.receivepack true";
        world.command(&["bash", "-ec", bare, files.to_str().expect("UTF-8")]);
        let run = world.run().file("key", &key);
        let path = run.folder().join("key").display().to_string();
        let run = run.policy(&format!(
            "version: 1\nallow: {{ allowed.rig: [] }}\nplaceholders: {{ GIT_TOKEN: KEY }}\n\
             secrets: {{ KEY: {{ file: {path}, to: [allowed.rig], headers: [authorization] }} }}\n"
        ));
        let outcome = run
            .bash(
                "set -e; cd $(mktemp -d); git init --quiet --initial-branch main .; echo content > file; git add file
                 git -c user.name=rig -c user.email=rig@rig commit --quiet --message first
                 git push --quiet https://x-access-token:$GIT_TOKEN@allowed.rig/git/r.git main
                 git clone --quiet https://x-access-token:$GIT_TOKEN@allowed.rig/git/r.git again; cat again/file",
            )
            .succeeded();
        assert_eq!(outcome.stdout, "content\n");
        let pushed = world.command(&["git", "-C", files.join("r.git").to_str().expect("UTF-8"), "log", "--format=%s"]);
        assert_eq!(pushed, "first\n");
        let requests = world.allowed.https.requests();
        let sent: Vec<_> = requests.iter().flat_map(|request| request.header("authorization")).collect();
        let basic = format!("Basic {}", STANDARD.encode(format!("x-access-token:{key}")));
        assert!(sent.len() > 3 && sent.iter().all(|value| *value == basic), "{sent:?}");
        for text in [&outcome.stdout, &outcome.stderr, &outcome.audit] {
            assert!(!text.contains(&key), "{outcome:#?}");
        }
    });
}

#[test]
fn openssl_verifies_our_leaf() {
    World::each(|world| {
        let connect = "openssl s_client -connect allowed.rig:443 -servername allowed.rig -verify_hostname allowed.rig \
                       -verify_return_error -CAfile $SSL_CERT_FILE < /dev/null";
        let outcome = terminated(world).bash(connect).succeeded();
        assert!(outcome.stdout.contains("Verification: OK"), "{outcome:#?}");
        let connect = connect.replace("$SSL_CERT_FILE", "$RIG_ROOT");
        let outcome = spliced(world).bash(&connect).succeeded();
        assert!(outcome.stdout.contains("the rig's root"), "spliced TLS shows the origin's own certificate");
    });
}

#[test]
fn bash_speaks_http_by_hand() {
    World::each(|world| {
        let script = "exec 3<> /dev/tcp/allowed.rig/80
            printf 'GET /bash HTTP/1.1\\r\\nHost: allowed.rig\\r\\nConnection: close\\r\\n\\r\\n' >&3
            read -r -t 30 status <&3; echo $status";
        let outcome = world.run().allow("allowed.rig").bash(script).succeeded();
        assert!(outcome.stdout.starts_with("HTTP/1.1 200"), "{outcome:#?}");
        assert_eq!(world.allowed.http.requests()[0].uri, "/bash");
    });
}

#[test]
fn more_connections_than_a_login_shell_has_descriptors() {
    // The origins live in this process, and need as many.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("a limit may be raised to its ceiling");
    let world = World::best();
    // Each takes two descriptors of ours; the command keeps the limit that its user set.
    let program = format!(
        "import collections, resource, socket
assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 1024
ask = b'GET / HTTP/1.1\\r\\nHost: allowed.rig\\r\\n\\r\\n'
held = [socket.create_connection(('{}', 80), timeout=50) for _ in range(900)]
for client in held:
    client.sendall(ask)
print(dict(collections.Counter(client.recv(12).decode() for client in held)))",
        world.allowed.address
    );
    let limited = ["bash", "-c", "ulimit -Sn 1024 && exec \"$@\"", "bash"];
    let outcome = world.run().allow("allowed.rig").under(limited).python(&program).succeeded();
    assert_eq!(outcome.stdout, "{'HTTP/1.1 200': 900}\n", "{}", outcome.stderr);
}

#[test]
fn a_limit_of_locked_memory_is_told_of_and_met() {
    World::each(|world| {
        let unlocked = |limit: &'static str| {
            let keep = ["setpriv", "--bounding-set=-ipc_lock"];
            let limited = ["prlimit", limit];
            let wrapper = keep.iter().filter(|_| is_root()).chain(&limited);
            let run = terminated(world).under(wrapper).curl(["--fail", "https://allowed.rig/"]).succeeded();
            run.stderr.matches("cannot be locked").count()
        };
        assert_eq!([unlocked("--memlock=0:0"), unlocked("--memlock=65536:65536")], [1, 0]);
        let received = received(world);
        assert!(received.iter().all(|(_, header)| header == "canary-ohphie4eigoh"), "{received:?}");
        assert_eq!(received.len(), 2);
    });
}

#[test]
fn a_name_that_does_not_exist_is_no_denial() {
    World::each_wide(|world| {
        let script = "curl --silent --show-error --max-time 30 http://absent.rig/; echo code $?
            curl --silent --show-error --max-time 30 -i --connect-to absent.rig:80:203.0.113.66:80 http://absent.rig/";
        let outcome = world.run().allow("absent.rig").bash(script).succeeded();
        assert!(outcome.stdout.contains("code 6\n"), "could not resolve: {outcome:#?}");
        assert!(outcome.stdout.contains("HTTP/1.1 502"), "{outcome:#?}");
        assert!(outcome.stdout.to_lowercase().contains("exeat-error:"), "{outcome:#?}");
        assert!(outcome.verdicts(&[("verdict", "deny")]).is_empty(), "{outcome:#?}");
        world.evil.assert_untouched();
    });
}

#[test]
fn the_system_resolver_answers() {
    World::each(|world| {
        let script =
            "getent ahosts allowed.rig | head -1 | cut -d' ' -f1; getent ahosts evil.rig | head -1 | cut -d' ' -f1";
        let outcome = world.run().allow("allowed.rig").bash(script).succeeded();
        let answers: Vec<&str> = outcome.stdout.lines().collect();
        assert!(!answers.is_empty() && !answers[0].starts_with("127."), "{outcome:#?}");
        if world.wide.is_some() {
            assert!(answers[0] == "203.0.113.10" || answers[0] == "2a0e:5ca1:ab1e::10", "{answers:?}");
        }
    });
}
