//! AWS's own clients, with placeholders alone, against a server that verifies what they sign; the key is exeat's.

use std::path::PathBuf;

use super::python::{Service, inside, with_aws};
use crate::support::exeat::{Outcome, Run, is_root};
use crate::support::world::World;
use crate::support::{eventually, skipped};

/// A service, and the world that it is in.
struct Rig {
    world: World,
    python: &'static str,
    service: Service,
    /// Keys that it knows, each as `credential_process` prints it.
    keys: Vec<String>,
}

impl Rig {
    fn new() -> Option<Self> {
        if !is_root() {
            skipped("AWS: the wide world takes root");
            return None;
        }
        let Some(python) = with_aws() else {
            skipped("AWS: its clients cannot be installed");
            return None;
        };
        let world = World::best();
        let service = Service::start(&world, python, &["s3.rig"], "s3_server");
        let keys = service.aside("keys").expect("keys").lines().map(str::to_owned).collect();
        Some(Self { world, python, service, keys })
    }

    /// A sandbox whose rules sign with what the file `key` holds.
    fn run(&self, key: &str) -> (Run<'_>, PathBuf) {
        let run = self.world.run().file("key", key);
        let file = run.folder().join("key");
        let policy = format!(
            "version: 1
allow: {{ s3.rig: [{{ sign: {{ aws: {{ credentials: AWS, services: [s3, sts] }} }} }}] }}
secrets: {{ AWS: {{ file: {}, to: [s3.rig], shape: {{ prefix: AKIA, length: 20 }} }} }}
placeholders: {{ AWS_ACCESS_KEY_ID: AWS, AWS_SECRET_ACCESS_KEY: AWS }}
",
            file.display()
        );
        (run.policy(&policy), file)
    }

    /// Which of a key's requests arrived, by what the log says of them.
    fn arrived(&self, key: &str, what: &str) -> usize {
        let id = field(key, "AccessKeyId");
        self.service.log().lines().filter(|line| line.contains(&id) && line.contains(what)).count()
    }

    /// Nothing of a key is where anybody here can see it.
    fn assert_hidden(&self, outcome: &Outcome) {
        for key in &self.keys {
            for part in ["AccessKeyId", "SecretAccessKey"] {
                for text in [&outcome.stdout, &outcome.stderr, &outcome.audit] {
                    assert!(!text.contains(&field(key, part)), "{part}: {outcome:#?}");
                }
            }
        }
    }
}

fn field(key: &str, name: &str) -> String {
    let key: serde_json::Value = serde_json::from_str(key).expect("JSON");
    key.get(name).and_then(serde_json::Value::as_str).expect("a key").to_owned()
}

#[test]
fn aws_clients_do_what_they_do_with_placeholders_alone() {
    let Some(rig) = Rig::new() else { return };
    let (run, _) = rig.run(&rig.keys[0]);
    let outcome = inside(run, rig.python, "s3_client").succeeded();
    let expected = "part b'mal'\nlist ['a b/\u{fc}+=(1)~.txt']\nlarge True\nurl verified\nurl verified\ncp True\n\
                    ls [['10', 'one'], ['9000000', 'two']]\nsts arn:aws:iam::123456789012:user/first\n\
                    wrong signature-refused\nother signature-refused\n";
    assert_eq!(outcome.stdout, expected, "{}\n{}", outcome.stderr, rig.service.log());
    rig.assert_hidden(&outcome);
    for payload in ["hash 200", "STREAMING-UNSIGNED-PAYLOAD-TRAILER 200", "presigned 200", "- 200"] {
        assert!(rig.arrived(&rig.keys[0], payload) > 0, "{payload}: {}", rig.service.log());
    }
    assert!(!rig.service.log().contains("nobody"), "{}", rig.service.log());
    outcome.assert_denied("signature-refused", &[("name", "s3.rig")]);
    outcome.assert_allowed(&[("name", "s3.rig"), ("injected", "[\"authorization\"]")]);
}

/// The server is one that tells: what is signed with a wrong key is refused by it.
#[test]
fn a_server_that_verifies_refuses_another_key() {
    let Some(rig) = Rig::new() else { return };
    let wrong = rig.keys[0].replace(&field(&rig.keys[0], "SecretAccessKey"), "anotherKeyThanTheServerKnows");
    let (run, _) = rig.run(&wrong);
    let outcome = inside(run, rig.python, "s3_rotation");
    assert!(outcome.stderr.contains("SignatureDoesNotMatch"), "{outcome:#?}");
    assert!(rig.arrived(&rig.keys[0], "403") > 0, "{}", rig.service.log());
}

#[test]
fn a_key_that_is_rotated_meanwhile_fails_no_request() {
    let Some(rig) = Rig::new() else { return };
    let (run, file) = rig.run(&rig.keys[0]);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(eventually(|| rig.arrived(&rig.keys[0], "PUT") > 3), "{}", rig.service.log());
            let next = file.with_extension("next");
            std::fs::write(&next, &rig.keys[1]).expect("a file");
            std::fs::rename(next, &file).expect("a file");
        });
        inside(run, rig.python, "s3_rotation").succeeded()
    });
    assert_eq!(outcome.stdout, "all True\n", "{outcome:#?}");
    assert!(rig.arrived(&rig.keys[1], "PUT") > 3, "{}", rig.service.log());
    rig.assert_hidden(&outcome);
}

/// A role is taken at the server's STS with a key that the environment has, and what that gives signs.
#[cfg(feature = "aws")]
#[test]
fn what_sts_gives_for_a_role_signs() {
    let Some(rig) = Rig::new() else { return };
    let policy = format!(
        "version: 1
allow: {{ s3.rig: [{{ sign: {{ aws: {{ credentials: AWS, services: [s3] }} }} }}] }}
secrets:
  AWS:
    aws:
      assumeRole: {{ roleArn: 'arn:aws:iam::123456789012:role/rig' }}
      region: us-east-1
      sts: https://{}
      ca: {}
    to: [s3.rig]
    shape: {{ prefix: AKIA, length: 20 }}
placeholders: {{ AWS_ACCESS_KEY_ID: AWS, AWS_SECRET_ACCESS_KEY: AWS }}
",
        Service::ADDRESS,
        rig.world.ca().file().display()
    );
    let key = &rig.keys[0];
    let run = rig.world.run().policy(&policy).env("AWS_ACCESS_KEY_ID", &field(key, "AccessKeyId"));
    let run = run.env("AWS_SECRET_ACCESS_KEY", &field(key, "SecretAccessKey"));
    let outcome = inside(run, rig.python, "s3_rotation").succeeded();
    assert_eq!(outcome.stdout, "all True\n", "{outcome:#?}\n{}", rig.service.log());
    rig.assert_hidden(&outcome);
    // The key that is known took the role, and signed nothing else.
    assert_eq!(rig.arrived(key, "POST / "), 1, "{}", rig.service.log());
    assert_eq!(rig.arrived(key, "PUT"), 0, "{}", rig.service.log());
}
