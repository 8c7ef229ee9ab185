//! F, as far as a first injection goes: the right credential, once, to the right origin, and to nobody in clear.

use super::client::{assert_answer, attack};
use crate::support::world::World;

const POLICY: &str = "
version: 1
allow:
  allowed.rig:
    - match: { method: [GET] }
      transform: [{ headers: { X-Api-Key: \"${secrets.KEY}\" } }]
    - response: { statusCode: 418, contentType: text/plain, body: no }
secrets:
  KEY: { file: KEYFILE }
";

const KEY: &str = "canary-pae9chohn8ie";

/// F57: the sandbox sends the injected header itself, in several spellings; exactly ours arrives.
#[test]
fn f57_the_client_sends_the_injected_header_too() {
    World::each(|world| {
        let run = world.run().file("key", format!("{KEY}\n"));
        let policy = POLICY.replace("KEYFILE", run.folder().join("key").to_str().expect("UTF-8"));
        let outcome = attack(
            world,
            run.policy(&policy),
            "
own = 'x-api-key: mine\\r\\nX-API-KEY: other\\r\\n'
tls('get', ALLOWED, 443, 'allowed.rig', request('allowed.rig', extra=own))
tls('hop', ALLOWED, 443, 'allowed.rig', request('allowed.rig', extra='Connection: x-api-key\\r\\n'))
tls('post', ALLOWED, 443, 'allowed.rig', request('allowed.rig', method='POST', extra='Content-Length: 0\\r\\n'))",
        );
        assert_answer(&outcome, "get", &["HTTP/1.1 200"]);
        assert_answer(&outcome, "post", &["HTTP/1.1 418"]);
        let requests = world.allowed.https.requests();
        assert!(!requests.is_empty() && requests.iter().all(|r| r.header("x-api-key") == [KEY]), "{requests:#?}");
        outcome.assert_allowed(&[("route", "terminate"), ("method", "GET")]);
        outcome.assert_allowed(&[("route", "respond"), ("method", "POST")]);
        for text in [&outcome.stdout, &outcome.stderr, &outcome.audit] {
            assert!(!text.contains(KEY), "{outcome:#?}");
        }
    });
}

/// F64: an upstream whose certificate is not that name's gets no request and no credential.
#[test]
fn f64_an_unverified_upstream_gets_nothing() {
    World::each_wide(|world| {
        let run = world.run().file("key", KEY);
        // Whoever dials `allowed.rig` comes out at `evil.rig`, whose certificate says so.
        let wide = world.wide.as_ref().expect("the wide world");
        wide.names.set("allowed.rig", &[world.evil.address.into()]);
        let policy = POLICY.replace("KEYFILE", run.folder().join("key").to_str().expect("UTF-8"));
        let script = "tls('get', ALLOWED, 443, 'allowed.rig', request('allowed.rig'))";
        let outcome = attack(world, run.policy(&policy), script);
        assert_answer(&outcome, "get", &["HTTP/1.1 502"]);
        assert!(world.evil.https.connections() > 0, "it was dialled");
        assert_eq!(world.evil.https.inner(), "", "a request was sent");
    });
}
