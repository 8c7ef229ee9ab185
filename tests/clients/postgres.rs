//! `psql` against PostgreSQL, both as they are packaged.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;

use nix::unistd::User;
use tempfile::TempDir;

use crate::support::exeat::{Outcome, Run, is_root};
use crate::support::world::{Server, World};
use crate::support::{eventually, skipped};

/// A cluster that speaks TLS at `allowed.rig:5432`, with one user who needs no password.
struct Cluster {
    /// Ends before its folder goes.
    _server: Server,
    programs: PathBuf,
    folder: TempDir,
}

impl Cluster {
    fn start(world: &World) -> Option<Self> {
        let programs = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path().join("bin"));
        let programs = programs.max()?;
        let user = User::from_name("postgres").ok()??;
        let folder = tempfile::Builder::new().prefix("exeat-postgres-").tempdir().expect("a folder");
        let give = |path: &std::path::Path, mode| {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("permissions");
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("root may give files away");
        };
        give(folder.path(), 0o700);
        let (certificate, key) = world.ca().pair(&["allowed.rig"]);
        for (name, text) in [("certificate.pem", certificate), ("key.pem", key)] {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("a file");
            give(&path, 0o600);
        }
        let cluster = Self { programs, _server: world.serve(&["true"]), folder };
        let data = cluster.at("data");
        world.command(&cluster.command("initdb", &["-D", &data, "--auth=trust", "--no-sync", "-U", "rig"]));
        std::fs::write(format!("{data}/pg_hba.conf"), "host all all all trust\n").expect("a file");
        let settings = format!(
            "listen_addresses='203.0.113.10'\nunix_socket_directories=''\nfsync=off\nssl=on\n\
             ssl_cert_file='{}'\nssl_key_file='{}'\n",
            cluster.at("certificate.pem"),
            cluster.at("key.pem")
        );
        std::fs::write(format!("{data}/postgresql.auto.conf"), settings).expect("a file");
        let server = world.serve(&cluster.command("postgres", &["-D", &data]));
        let ready = || std::fs::read_to_string(format!("{data}/postmaster.pid")).is_ok_and(|it| it.contains("ready"));
        assert!(eventually(ready), "it starts");
        Some(Self { _server: server, ..cluster })
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    fn command<'a>(&'a self, program: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
        let path: &'a str = Box::leak(self.programs.join(program).to_str().expect("UTF-8").into());
        [&["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", path], arguments].concat()
    }

    /// Whether the server grants TLS from now on.
    fn grant_tls(&self, world: &World, grant: bool) {
        let file = self.at("data/postgresql.auto.conf");
        let settings = std::fs::read_to_string(&file).expect("its settings");
        let (from, to) = if grant { ("ssl=off", "ssl=on") } else { ("ssl=on", "ssl=off") };
        std::fs::write(&file, settings.replace(from, to)).expect("a file");
        let data = self.at("data");
        world.command(&self.command("pg_ctl", &["-D", &data, "reload", "--silent"]));
    }
}

/// What `psql` tells: whether it is inside TLS, or how it failed.
fn psql(run: Run<'_>, connection: &str) -> Outcome {
    let query = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    let connection = format!("user=rig dbname=postgres connect_timeout=20 {connection}");
    run.command(["psql", "--no-psqlrc", "-tAc", query, connection.as_str()])
}

#[test]
fn psql_speaks_tls_with_whom_it_names_or_not_at_all() {
    if !is_root() {
        return skipped("PostgreSQL: the wide world takes root");
    }
    let world = World::best();
    let Some(cluster) = Cluster::start(&world) else {
        return skipped("PostgreSQL: it is not installed");
    };
    let root = world.ca().file().to_str().expect("UTF-8").to_owned();
    let allowed = || world.run().allow("allowed.rig");
    let verified = psql(allowed(), &format!("host=allowed.rig sslmode=verify-full sslrootcert={root}")).succeeded();
    assert_eq!(verified.stdout, "t\n");
    verified.assert_allowed(&[("name", "allowed.rig"), ("port", "5432"), ("route", "splice"), ("protocol", "tls")]);
    assert_eq!(psql(allowed(), "host=allowed.rig sslmode=prefer").succeeded().stdout, "t\n");

    // In clear there is no name, and what is refused inside TLS is not tried in clear with more success.
    psql(allowed(), "host=allowed.rig sslmode=disable").exited(2).assert_denied("no-name", &[("port", "5432")]);
    let evil = psql(allowed(), "host=evil.rig hostaddr=203.0.113.10 sslmode=prefer").exited(2);
    evil.assert_denied("no-rule", &[("name", "evil.rig")]);
    evil.assert_denied("no-name", &[("port", "5432")]);
    let nameless = psql(allowed(), "host=allowed.rig sslmode=require sslsni=0").exited(2);
    nameless.assert_denied("no-name", &[("protocol", "tls")]);

    // HTTP is judged request by request; this is none.
    let rules = "version: 1\nallow: { allowed.rig: [ { match: { method: [GET] } } ] }\n";
    psql(world.run().policy(rules), "host=allowed.rig sslmode=require").exited(2).assert_denied("not-http", &[]);
    // What a rule hands on as it is, is.
    let opaque = "version: 1\nallow: { allowed.rig: [ { opaque: { ports: [5432] } } ] }\n";
    let relayed = psql(world.run().policy(opaque), "host=allowed.rig sslmode=disable").succeeded();
    assert_eq!(relayed.stdout, "f\n");

    cluster.grant_tls(&world, false);
    for mode in ["require", "prefer"] {
        let refused = || psql(allowed(), &format!("host=allowed.rig sslmode={mode}"));
        assert!(eventually(|| refused().code() == 2), "{mode}");
        let outcome = refused().exited(2);
        assert!(outcome.audit.contains("the PostgreSQL upstream refuses TLS"), "{outcome:#?}");
    }
    cluster.grant_tls(&world, true);
}
