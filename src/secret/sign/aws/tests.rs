//! The values of AWS's own pages and of its published test suite: "Signature Calculations for the Authorization
//! Header" and "Authenticating Requests: Using Query Parameters" of the S3 API reference, and `aws-sig-v4-test-suite`.

use proptest::prelude::*;

use super::*;
use crate::secret::Secret;

const SUITE_ID: &str = "AKIDEXAMPLE";
const SUITE_KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const S3_ID: &str = "AKIAIOSFODNN7EXAMPLE";
const S3_KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn name(text: &str) -> SecretName {
    SecretName::new(text).unwrap()
}

fn rule(token: bool) -> AwsSigning {
    let session_token = token.then(|| name("TOKEN"));
    let keys = AwsKeys::Parts { access_key: name("ID"), secret_key: name("KEY"), session_token };
    AwsSigning { keys, regions: Vec::new(), services: Vec::new(), passes_others: false }
}

/// Texts by the name of their secret.
type Texts<'a> = &'a [(&'static str, &'a str)];

/// What a sandbox holds, or what it holds that for.
fn texts<'a>(id: &'a str, key: &'a str, token: &'a str) -> [(&'static str, &'a str); 3] {
    [("ID", id), ("KEY", key), ("TOKEN", token)]
}

fn held(texts: &[(&'static str, &str)]) -> Placeholders {
    Placeholders::of(texts.iter().map(|(secret, text)| (name(secret), (*text).to_owned())).collect())
}

fn secrets(texts: &[(&'static str, &str)]) -> Secrets {
    let secrets = Secrets::default();
    for (secret, text) in texts {
        secrets.insert(name(secret), Secret::new(Zeroizing::new(text.as_bytes().to_vec())));
    }
    secrets
}

/// A request, as text: method and target, fields, body.
#[derive(Debug, Clone)]
struct Sample {
    method: &'static str,
    target: String,
    host: &'static str,
    headers: HeaderMap,
}

impl Sample {
    fn new(method: &'static str, host: &'static str, target: &str, fields: &[(&'static str, &str)]) -> Self {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields.iter().map(field) {
            headers.append(name, value);
        }
        Self { method, target: target.to_owned(), host, headers }
    }

    /// Signed by AWS's key of a page.
    fn signed(self, id: &str, scope: &str, names: &str, signature: &str) -> Self {
        let value = format!(
            "{AWS_ALGORITHM} Credential={id}/{scope}/aws4_request, SignedHeaders={names}, Signature={signature}"
        );
        self.authorized(&value)
    }

    fn authorized(mut self, value: &str) -> Self {
        self.headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        self
    }

    fn head(&self) -> Head<'_> {
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&*self.target, None),
        };
        Head { method: self.method, path, query, host: self.host, headers: &self.headers }
    }

    /// What is sent for it by a rule, to a sandbox that holds the one for the other.
    fn resigned(
        &self,
        rule: &AwsSigning,
        (holds, real): (Texts<'_>, Texts<'_>),
        body: &[u8],
    ) -> Result<Self, SignFault> {
        let claim = Claim::read(&self.head(), rule, &held(holds), &secrets(real))?.ok_or(SignFault::Unsigned)?;
        let hash = (claim.body() == Body::Whole).then(|| sha256(body));
        let spelling = claim.verify(&self.head(), hash.as_deref())?;
        let signed = claim.sign(&self.head(), hash.as_deref(), spelling)?;
        let mut sent = self.clone();
        for (name, value) in &signed.fields {
            sent.headers.remove(name);
            sent.headers.extend(value.clone().map(|value| (name.clone(), value)));
        }
        if let Some(query) = &signed.query {
            sent.target = format!("{}?{}", self.head().path, &**query);
        }
        Ok(sent)
    }
}

fn suite(method: &'static str, target: &str, fields: &[(&'static str, &str)], names: &str, signature: &str) -> Sample {
    let date = [("x-amz-date", "20150830T123600Z")];
    let fields: Vec<_> = fields.iter().copied().chain(date).collect();
    let sample = Sample::new(method, "example.amazonaws.com", target, &fields);
    sample.signed(SUITE_ID, "20150830/us-east-1/service", names, signature)
}

fn s3(method: &'static str, target: &str, fields: &[(&'static str, &str)], names: &str, signature: &str) -> Sample {
    let date = [("x-amz-date", "20130524T000000Z")];
    let fields: Vec<_> = fields.iter().copied().chain(date).collect();
    let sample = Sample::new(method, "examplebucket.s3.amazonaws.com", target, &fields);
    sample.signed(S3_ID, "20130524/us-east-1/s3", names, signature)
}

const PLAIN: &str = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";

#[test]
fn signatures_are_those_of_the_published_suite() {
    let usual = "host;x-amz-date";
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let trimmed = [("my-header1", "value1"), ("my-header2", "\"a   b   c\"")];
    let samples = [
        (suite("GET", "/", &[], usual, PLAIN), ""),
        (suite("GET", "/example/..", &[], usual, PLAIN), ""),
        (suite("GET", "//", &[], usual, PLAIN), ""),
        (suite("GET", "/./", &[], usual, PLAIN), ""),
        (
            suite(
                "GET",
                "/?Param2=value2&Param1=value1",
                &[],
                usual,
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            "",
        ),
        (
            suite("GET", "/%E1%88%B4", &[], usual, "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
            "",
        ),
        (suite("POST", "/", &[], usual, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"), ""),
        (
            suite(
                "POST",
                "/",
                &form,
                "content-type;host;x-amz-date",
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
            "Param1=value1",
        ),
        (
            suite(
                "GET",
                "/",
                &trimmed,
                "host;my-header1;my-header2;x-amz-date",
                "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
            ),
            "",
        ),
    ];
    let key = texts(SUITE_ID, SUITE_KEY, "");
    for (sample, body) in samples {
        let sent = sample.resigned(&rule(false), (&key, &key), body.as_bytes());
        assert_eq!(sent.unwrap_or_else(|fault| panic!("{sample:?}: {fault}")).headers, sample.headers);
        assert_eq!(sample.resigned(&rule(false), (&key, &key), b"another").err(), Some(SignFault::Wrong));
    }
}

#[test]
fn signatures_are_those_of_the_pages_of_s3() {
    let content = ("x-amz-content-sha256", EMPTY);
    let put = [
        ("date", "Fri, 24 May 2013 00:00:00 GMT"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("x-amz-content-sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"),
    ];
    let usual = "host;x-amz-content-sha256;x-amz-date";
    let samples = [
        s3(
            "GET",
            "/test.txt",
            &[("range", "bytes=0-9"), content],
            "host;range;x-amz-content-sha256;x-amz-date",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        s3(
            "PUT",
            "/test%24file.text",
            &put,
            "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        s3("GET", "/?lifecycle", &[content], usual, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        s3(
            "GET",
            "/?max-keys=2&prefix=J",
            &[content],
            usual,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ];
    let key = texts(S3_ID, S3_KEY, "");
    for sample in samples {
        let sent = sample.resigned(&rule(false), (&key, &key), b"");
        assert_eq!(sent.unwrap_or_else(|fault| panic!("{sample:?}: {fault}")).headers, sample.headers);
    }
    let url = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
               &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
               &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
               &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
    let sample = Sample::new("GET", "examplebucket.s3.amazonaws.com", url, &[]);
    let sent = sample.resigned(&rule(false), (&key, &key), b"");
    assert_eq!(sent.unwrap_or_else(|fault| panic!("{fault}")).target, url);
}

/// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD` and the same with a trailer, as the S3 API reference has them.
#[test]
fn pieces_are_signed_as_on_the_pages_of_s3() {
    let key = texts(S3_ID, S3_KEY, "");
    let pieces = |signatures: [&str; 3]| {
        let [one, two, last] = signatures;
        let (first, second) = ("a".repeat(65536), "a".repeat(1024));
        format!(
            "10000;chunk-signature={one}\r\n{first}\r\n400;chunk-signature={two}\r\n{second}\r\n\
             0;chunk-signature={last}\r\n"
        )
    };
    let whole = pieces([
        "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    ]) + "\r\n";
    let trailed = pieces([
        "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
        "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
        "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
    ]) + "x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:\
          d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n";
    let names = "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;\
                 x-amz-storage-class";
    let names_trailed = format!("{names};x-amz-trailer").replace("content-length;host", "host");
    for (payload, fields, names, seed, body) in [
        (
            CHUNKS,
            vec![("content-length", "66824")],
            names,
            "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
            whole,
        ),
        (
            CHUNKS_TRAILER,
            vec![("x-amz-trailer", "x-amz-checksum-crc32c")],
            &*names_trailed,
            "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e",
            trailed,
        ),
    ] {
        let more = [
            ("content-encoding", "aws-chunked"),
            ("x-amz-decoded-content-length", "66560"),
            ("x-amz-content-sha256", payload),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ];
        let fields: Vec<_> = fields.into_iter().chain(more).collect();
        let sample =
            Sample { host: "s3.amazonaws.com", ..s3("PUT", "/examplebucket/chunkObject.txt", &fields, names, seed) };
        let claim = Claim::read(&sample.head(), &rule(false), &held(&key), &secrets(&key)).unwrap().unwrap();
        let has_trailer = payload == CHUNKS_TRAILER;
        assert_eq!(claim.body(), Body::Chunked(has_trailer));
        let spelling = claim.verify(&sample.head(), None).unwrap_or_else(|fault| panic!("{payload}: {fault}"));
        let signed = claim.sign(&sample.head(), None, spelling).unwrap();
        let mut chunks = claim.chunks(&signed, has_trailer);
        let mut sent = Vec::new();
        for piece in body.as_bytes().chunks(1000) {
            let out = chunks.feed(&bytes::Bytes::copy_from_slice(piece));
            sent.extend_from_slice(&out.unwrap_or_else(|fault| panic!("{payload}: {fault}")));
        }
        chunks.finish().unwrap();
        assert_eq!(String::from_utf8(sent).unwrap(), body, "{payload}");
    }
}

const USUAL: &str = "host;x-amz-content-sha256;x-amz-date";
const LIFECYCLE: &str = "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543";
const SCOPE: &str = "20130524/us-east-1/s3";

/// A request of the pages of S3, whose key is what a sandbox holds, with more fields.
fn with(fields: &[(&'static str, &str)]) -> Sample {
    let mut sample = s3("GET", "/?lifecycle", &[("x-amz-content-sha256", EMPTY)], USUAL, LIFECYCLE);
    for (name, value) in &Sample::new("GET", "", "", fields).headers {
        sample.headers.append(name, value.clone());
    }
    sample
}

fn refused(sample: &Sample, rule: &AwsSigning) -> Option<SignFault> {
    let (key, real) = (texts(S3_ID, S3_KEY, "held-token"), texts("AKIDREAL", "real-key", "real-token"));
    sample.resigned(rule, (&key, &real), b"").err()
}

#[test]
fn what_is_not_signed_with_the_placeholder_is_refused() {
    assert_eq!(refused(&with(&[]), &rule(false)), None);
    // The target, the host, a header.
    for sample in [
        Sample { target: "/?acl".to_owned(), ..with(&[]) },
        Sample { target: "/x?lifecycle".to_owned(), ..with(&[]) },
        Sample { method: "PUT", ..with(&[]) },
        Sample { host: "other.s3.amazonaws.com", ..with(&[]) },
        with(&[("x-amz-date", "20130524T000000Z")]),
        with(&[]).signed(S3_ID, SCOPE, USUAL, &LIFECYCLE.replace('f', "0")),
        with(&[]).signed(S3_ID, "20130524/us-east-2/s3", USUAL, LIFECYCLE),
    ] {
        assert!(
            matches!(refused(&sample, &rule(false)), Some(SignFault::Wrong | SignFault::Doubled)),
            "{sample:?}: {:?}",
            refused(&sample, &rule(false))
        );
    }
    let mut bare = with(&[]);
    bare.headers.remove(AUTHORIZATION);
    assert_eq!(refused(&bare, &rule(false)), Some(SignFault::Unsigned));
    assert_eq!(refused(&bare.authorized("Bearer x"), &rule(false)), Some(SignFault::Unsigned));
    assert_eq!(
        refused(&with(&[]).signed("AKIDREAL", SCOPE, USUAL, LIFECYCLE), &rule(false)),
        Some(SignFault::OtherKey)
    );
    let query = "X-Amz-Signature=1";
    assert_eq!(refused(&Sample { target: format!("/?{query}"), ..with(&[]) }, &rule(false)), Some(SignFault::Doubled));
    assert_eq!(refused(&with(&[("authorization", "Bearer x")]), &rule(false)), Some(SignFault::Doubled));
    assert_eq!(
        refused(&with(&[]).signed(S3_ID, SCOPE, "host;x-amz-date;x-missing", LIFECYCLE), &rule(false)),
        Some(SignFault::Header(HeaderName::from_static("x-missing")))
    );
}

#[test]
fn what_cannot_be_read_is_refused() {
    for value in [
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=x",
        "AWS4-HMAC-SHA256-PAYLOAD Credential=x",
        "AWS4-HMAC-SHA256 Credential=a/b/c/d, SignedHeaders=host, Signature=1",
        "AWS4-HMAC-SHA256 Credential=a/20130524/b/c/aws4_request, SignedHeaders=host, Signature=1, Signature=1",
        "AWS4-HMAC-SHA256 Credential=a/20130524/b/c/aws4_request, SignedHeaders=x-amz-date, Signature=1",
        "AWS4-HMAC-SHA256 Credential=a/20130524/b/c/aws4_request, SignedHeaders=x;host, Signature=1",
        "AWS4-HMAC-SHA256 Credential=a/20130524/b/c/aws4_request, SignedHeaders=host;host, Signature=1",
        "AWS4-HMAC-SHA256 Credential=a/20130525/b/c/aws4_request, SignedHeaders=host, Signature=1",
        "AWS4-HMAC-SHA256 Credential=a/20130524/b\u{20}c/d/aws4_request, SignedHeaders=host, Signature=1",
        "AWS4-HMAC-SHA256 Credential=a/20130524/b/c/aws4_request, SignedHeaders=host, Signature=1, More=x",
    ] {
        let fault = refused(&with(&[]).authorized(value), &rule(false));
        assert!(matches!(fault, Some(SignFault::Malformed(_) | SignFault::Doubled)), "{value}: {fault:?}");
    }
}

#[test]
fn what_the_rule_does_not_sign_is_refused_or_passes() {
    // What the rule does not sign.
    let region = AwsSigning { regions: vec!["eu-west-1".to_owned()], ..rule(false) };
    assert_eq!(refused(&with(&[]), &region), Some(SignFault::Region("us-east-1".to_owned())));
    let service = AwsSigning { services: vec!["sts".to_owned()], ..rule(false) };
    assert_eq!(refused(&with(&[]), &service), Some(SignFault::Service("s3".to_owned())));
    for token in ["held-token", "another"] {
        assert_eq!(refused(&with(&[("x-amz-security-token", token)]), &rule(false)), Some(SignFault::Token));
    }
    assert_eq!(refused(&with(&[("x-amz-security-token", "another")]), &rule(true)), Some(SignFault::Token));
    let strange = s3("GET", "/", &[("x-amz-content-sha256", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD")], USUAL, "1");
    assert_eq!(refused(&strange, &rule(false)), Some(SignFault::Payload));
    let (key, real) = (texts(S3_ID, S3_KEY, "held-token"), texts("AKIDREAL", "real-key", "real-token"));
    // What passes where the rule says so is what no placeholder signed, and nothing else.
    let passing = AwsSigning { passes_others: true, ..rule(false) };
    let read =
        |sample: &Sample| Claim::read(&sample.head(), &passing, &held(&key), &secrets(&real)).map(|it| it.is_some());
    let mut bare = with(&[]);
    bare.headers.remove(AUTHORIZATION);
    assert_eq!(read(&bare), Ok(false));
    assert_eq!(read(&with(&[]).signed("AKIDOTHER", SCOPE, USUAL, LIFECYCLE)), Ok(false));
    assert_eq!(read(&with(&[])), Ok(true));
    assert!(read(&with(&[("authorization", "Bearer x")])).is_err());
}

#[test]
fn a_key_that_cannot_be_had_signs_nothing() {
    let key = texts(S3_ID, S3_KEY, "");
    let content = ("x-amz-content-sha256", EMPTY);
    let sample = s3("GET", "/", &[content], "host;x-amz-content-sha256;x-amz-date", "1");
    let refused = |rule: &AwsSigning, real: &[(&'static str, &str)]| sample.resigned(rule, (&key, real), b"").err();
    assert_eq!(refused(&rule(false), &[("ID", "AKID")]), Some(SignFault::Missing(name("KEY"))));
    assert_eq!(refused(&rule(false), &[("KEY", "k")]), Some(SignFault::Missing(name("ID"))));
    assert_eq!(refused(&rule(true), &[("ID", "AKID"), ("KEY", "k")]), Some(SignFault::Missing(name("TOKEN"))));
    for id in ["", "AK ID", "AKID/x", "AKID,Signature=1", "AKID\r\nx: y"] {
        assert_eq!(refused(&rule(false), &[("ID", id), ("KEY", "k")]), Some(SignFault::NoKey(name("ID"))), "{id}");
    }
    let whole = AwsSigning { keys: AwsKeys::Whole(name("ID")), ..rule(false) };
    for text in ["AKID", "{}", "{\"AccessKeyId\": \"AKID\"}", "{\"AccessKeyId\": 1, \"SecretAccessKey\": \"k\"}"] {
        assert_eq!(refused(&whole, &[("ID", text)]), Some(SignFault::NoKey(name("ID"))), "{text}");
    }
}

/// A client's signature, made in the plainest way.
fn sign(sample: &Sample, id: &str, key: &str, names: &[&str], payload: &str) -> Sample {
    let scope = Scope {
        text: "20260102/eu-west-1/s3/aws4_request".to_owned(),
        date: "20260102".to_owned(),
        region: "eu-west-1".to_owned(),
        service: "s3".to_owned(),
    };
    let headers: Vec<HeaderName> = names.iter().map(|name| name.parse().unwrap()).collect();
    let spelling = Spelling { path: PathSpelling::AsSent, recoded: true };
    let head = sample.head();
    let canonical = canonical(&head, &headers, payload, spelling, head.query.unwrap_or_default()).unwrap();
    let hash = sha256(canonical.as_bytes());
    let text = format!("{AWS_ALGORITHM}\n20260102T030405Z\n{}\n{hash}", scope.text);
    let signature = hex(hmac::sign(&signing_key(key, &scope), text.as_bytes()).as_ref());
    sample.clone().signed(id, "20260102/eu-west-1/s3", &names.join(";"), &signature)
}

proptest! {
    /// What is sent is signed with the key: whoever verifies it with that finds it right, and of what the sandbox held
    /// there is nothing left.
    #[test]
    fn whatever_was_signed_with_the_placeholder_is_signed_with_the_key(
        path in "(/[a-zA-Z0-9%20._~!$()*+,;:@=-]{0,9}){1,4}",
        query in "([a-zA-Z]{1,4}=[a-zA-Z0-9._~%2F-]{0,6}){0,1}(&[a-zA-Z]{1,4}(=[a-zA-Z0-9]{0,6})?){0,3}",
        value in "[ -~]{0,30}",
        has_token in any::<bool>(),
        sends_token in any::<bool>(),
    ) {
        let target = format!("{path}?{query}");
        let mut fields =
            vec![("x-amz-date", "20260102T030405Z"), ("x-amz-content-sha256", UNSIGNED), ("x-amz-meta", value.trim())];
        let mut names = vec!["host", "x-amz-content-sha256", "x-amz-date", "x-amz-meta"];
        if has_token && sends_token {
            fields.push(("x-amz-security-token", "held-token"));
            names.push("x-amz-security-token");
        }
        let sample = Sample::new("GET", "bucket.s3.test", &target, &fields);
        let (holds, real) = (texts("AKIDHELD", "held-key", "held-token"), texts("AKIDREAL", "real-key", "real-token"));
        let asked = sign(&sample, "AKIDHELD", "held-key", &names, UNSIGNED);
        let sent = asked.resigned(&rule(has_token), (&holds, &real), b"").unwrap();
        let shown = format!("{:?}", sent.headers.values().map(|value| value.to_str().unwrap()).collect::<Vec<_>>());
        prop_assert!(!shown.contains("held-") && !shown.contains("AKIDHELD"), "{}", shown);
        prop_assert_eq!(sent.headers.contains_key(SECURITY_TOKEN), has_token);
        let again = sent.resigned(&rule(has_token), (&real, &holds), b"").unwrap();
        prop_assert!(again.headers.contains_key(AUTHORIZATION));
        if has_token == sends_token {
            prop_assert_eq!(again.headers, asked.headers);
        }
    }

    #[test]
    fn nothing_that_claims_to_be_signed_is_a_panic(value in "\\PC{0,200}", query in "[!-~]{0,200}") {
        let key = texts(S3_ID, S3_KEY, "");
        for text in [value.clone(), format!("{AWS_ALGORITHM} {value}")] {
            let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) else { continue };
            let mut sample = Sample::new("GET", "a.test", &format!("/?{query}"), &[("x-amz-date", "20130524T000000Z")]);
            sample.headers.insert(AUTHORIZATION, value);
            prop_assert!(sample.resigned(&rule(false), (&key, &key), b"").is_err());
        }
    }
}

#[test]
fn a_url_keeps_its_order_and_gets_the_token() {
    let (holds, real) = (texts("AKIDHELD", "held-key", "held-token"), texts("AKIDREAL", "real-key", "real/token=="));
    let scope = Scope {
        text: "20260102/eu-west-1/s3/aws4_request".to_owned(),
        date: "20260102".to_owned(),
        region: "eu-west-1".to_owned(),
        service: "s3".to_owned(),
    };
    let unsigned = |id: &str, token: &str| {
        format!(
            "b=2&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={id}%2F20260102%2Feu-west-1%2Fs3%2Faws4_request\
             &X-Amz-Date=20260102T030405Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host{token}&a=1"
        )
    };
    let signed = |query: String, key: &str| {
        let head = Head { method: "GET", path: "/o", query: Some(&query), host: "h.test", headers: &HeaderMap::new() };
        let spelling = Spelling { path: PathSpelling::AsSent, recoded: true };
        let canonical = canonical(&head, &[HOST], UNSIGNED, spelling, &query).unwrap();
        let text = format!("{AWS_ALGORITHM}\n20260102T030405Z\n{}\n{}", scope.text, sha256(canonical.as_bytes()));
        let signature = hex(hmac::sign(&signing_key(key, &scope), text.as_bytes()).as_ref());
        format!("/o?{query}&X-Amz-Signature={signature}")
    };
    let asked = Sample::new(
        "GET",
        "h.test",
        &signed(unsigned("AKIDHELD", "&X-Amz-Security-Token=held-token"), "held-key"),
        &[],
    );
    let sent = asked.resigned(&rule(true), (&holds, &real), b"").unwrap();
    assert_eq!(sent.target, signed(unsigned("AKIDREAL", "&X-Amz-Security-Token=real%2Ftoken%3D%3D"), "real-key"));
    let asked = Sample::new("GET", "h.test", &signed(unsigned("AKIDHELD", ""), "held-key"), &[]);
    let sent = asked.resigned(&rule(true), (&holds, &real), b"").unwrap();
    assert!(sent.target.ends_with("&X-Amz-Security-Token=real%2Ftoken%3D%3D"), "{}", sent.target);
    assert!(sent.resigned(&rule(true), (&real, &holds), b"").is_ok(), "{}", sent.target);
    let twice = format!("{}&X-Amz-Credential=x", asked.target);
    let twice = Sample::new("GET", "h.test", &twice, &[]);
    assert_eq!(twice.resigned(&rule(true), (&holds, &real), b"").err(), Some(SignFault::Doubled));
    let escaped = Sample::new("GET", "h.test", &asked.target.replace("X-Amz-Credential", "X-Amz-Credentia%6c"), &[]);
    assert!(escaped.resigned(&rule(true), (&holds, &real), b"").is_err());
}
