//! Placeholders in queries and bodies, however these are cut: what is replaced, how it is written, and what stays.

use super::super::Secret;
use super::*;

const TEXT: &str = "ph-one_0123456789/x";
const VALUE: &str = "v\"1\\&=+# \u{e9}%\n.";

fn name(text: &str) -> SecretName {
    SecretName::new(text).unwrap()
}

fn secrets(value: &[u8]) -> Secrets {
    let secrets = Secrets::default();
    secrets.insert(name("KEY"), Secret::new(Zeroizing::new(value.to_vec())));
    secrets
}

/// What becomes of a body in these pieces; `!` for a value that cannot be had.
fn replaced(media_type: &str, pieces: &[&[u8]], value: &[u8]) -> String {
    let key = name("KEY");
    let mut replacer = Replacer::new(Some(media_type), [(&key, TEXT)].into_iter(), &secrets(value));
    let mut out = Vec::new();
    for piece in pieces {
        for piece in replacer.feed(Bytes::copy_from_slice(piece)) {
            match piece {
                Piece::Text(text) | Piece::Value(text) => out.extend_from_slice(&text),
                Piece::Missing => out.push(b'!'),
            }
        }
    }
    out.extend_from_slice(&replacer.finish());
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn a_value_is_written_as_the_body_writes_what_stands_in_it() {
    const FORM: &str = "v%221%5C%26%3D%2B%23%20%C3%A9%25%0A.";
    const JSON: &str = "v\\\"1\\\\&=+# \u{e9}%\\u000A.";
    for (media_type, before, written) in [
        ("text/plain", TEXT.to_owned(), VALUE),
        ("", TEXT.to_owned(), VALUE),
        ("application/x-www-form-urlencoded", TEXT.to_owned(), FORM),
        ("Application/X-WWW-Form-URLencoded; charset=UTF-8", TEXT.replace('/', "%2F").replace('_', "%5f"), FORM),
        ("application/json", TEXT.to_owned(), JSON),
        ("application/vnd.api+json;charset=utf-8", TEXT.replace('/', "\\/").replace('-', "\\u002d"), JSON),
        ("application/x-ndjson", TEXT.to_owned(), JSON),
    ] {
        let body = format!("a={before}&b={before}");
        let expected = format!("a={written}&b={written}");
        assert_eq!(replaced(media_type, &[body.as_bytes()], VALUE.as_bytes()), expected, "{media_type}");
        let (bytes, most) = (body.as_bytes(), body.len());
        for cut in 0..most {
            let pieces = [&bytes[..cut], &bytes[cut..]];
            assert_eq!(replaced(media_type, &pieces, VALUE.as_bytes()), expected, "{media_type}, cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(replaced(media_type, &single, VALUE.as_bytes()), expected, "{media_type}, byte by byte");
    }
}

#[test]
fn any_other_spelling_and_what_only_begins_like_one_stay() {
    let twice = TEXT.replace('_', "%255f");
    let escaped = TEXT.replace('_', "%5f");
    let unicode = TEXT.replace('_', "\\u005f");
    for (media_type, text) in [
        ("application/x-www-form-urlencoded", twice.as_str()),
        ("application/x-www-form-urlencoded", &unicode),
        ("application/x-www-form-urlencoded", "ph-one_0123456789%2"),
        ("application/x-www-form-urlencoded", "ph-ph-one%zz%"),
        ("application/json", &escaped),
        ("application/json", &unicode.replace('\\', "\\\\")),
        ("application/json", "ph-one\\u00"),
        ("application/json", "\\q\\"),
        ("text/plain", &escaped),
        ("text/plain", &unicode),
        ("text/plain", &TEXT[..TEXT.len() - 1]),
        ("text/plain", ""),
    ] {
        let single: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(replaced(media_type, &single, b"value"), text, "{media_type}: {text}");
    }
    let again = format!("ph-{TEXT}");
    assert_eq!(replaced("text/plain", &[again.as_bytes()], b"value"), "ph-value");
}

#[test]
fn a_value_that_cannot_be_had_or_written_is_told_and_too_many_are_left() {
    assert_eq!(replaced("application/json", &[TEXT.as_bytes()], b"\xff"), "!");
    assert_eq!(replaced("application/x-www-form-urlencoded", &[TEXT.as_bytes()], b"\xff\0"), "%FF%00");
    let key = name("KEY");
    let mut replacer = Replacer::new(None, [(&key, TEXT)].into_iter(), &Secrets::default());
    assert_eq!(replacer.feed(Bytes::from_static(TEXT.as_bytes())), [Piece::Missing]);
    let many = TEXT.repeat(limits::PLACEHOLDER_TIMES + 1);
    let out = replaced("text/plain", &[many.as_bytes()], b"v");
    assert_eq!(out, format!("{}{TEXT}", "v".repeat(limits::PLACEHOLDER_TIMES)));
}

#[test]
fn a_value_that_what_follows_would_change_is_not_written() {
    for value in ["secret%", "secret%4", "secret%25", "secret\\", "secret\\x4", "secret&", "secret&#6", "secret&amp"] {
        let body = format!("{TEXT}1");
        for media_type in ["text/plain", "application/json", "application/x-www-form-urlencoded"] {
            assert_eq!(replaced(media_type, &[body.as_bytes()], value.as_bytes()), "!1", "{value} in {media_type}");
        }
        let parts = Text(vec![Part::Secret(name("KEY")), Part::Literal("1".to_owned())]);
        let refused = query(&parts, &secrets(value.as_bytes()));
        assert_eq!(refused.unwrap_err(), InjectError::Unfinished(name("KEY")), "{value}");
    }
}

#[test]
fn behind_what_would_be_read_together_with_its_beginning_nothing_is_replaced() {
    let key = name("KEY");
    for before in
        ["%", "%4", "a=%", "\\", "\\u", "\\u004", "\\\\", "\\x4", "&#", "&#6", "&#x", "%25", "\u{e9}", "%C3", "%81"]
    {
        let body = format!("{before}{TEXT}");
        for media_type in ["text/plain", "application/x-www-form-urlencoded", "application/json"] {
            assert_eq!(replaced(media_type, &[body.as_bytes()], b"4abc"), body, "{media_type}: {before}");
            let single: Vec<&[u8]> = body.as_bytes().chunks(1).collect();
            assert_eq!(replaced(media_type, &single, b"4abc"), body, "{media_type}: {before}");
        }
        assert_eq!(parts(&body, [(&key, TEXT)].into_iter()), None, "{before}");
    }
    for before in ["=", "\"", " ", "%20", "%7E", "\\n", "a\u{e9} ", "u004", "&x=", TEXT] {
        let body = format!("{before}{TEXT}");
        let expected = body.replace(TEXT, "4abc");
        assert_eq!(replaced("text/plain", &[body.as_bytes()], b"4abc"), expected, "{before}");
        assert!(parts(&body, [(&key, TEXT)].into_iter()).is_some(), "{before}");
    }
    for (charset, is_read) in [
        ("utf-8", true),
        ("\"UTF-8\"", true),
        ("us-ascii", true),
        ("iso-2022-jp", false),
        ("utf-16", false),
        ("", false),
    ] {
        let media_type = format!("application/json; charset={charset}");
        assert_eq!(replaced(&media_type, &[TEXT.as_bytes()], b"v") == "v", is_read, "{charset}");
    }
    for media_type in ["text/plain; charset=utf-8; Charset=utf-7", "text/plain; charset*=utf-8''utf-7"] {
        assert_eq!(replaced(media_type, &[TEXT.as_bytes()], b"v"), TEXT, "{media_type}");
    }
    // UTF-16, as readers of JSON know it without being told; of a part, the parts before it say nothing.
    let wide = format!("{{\0\"\0{TEXT}\"\0}}\0");
    for media_type in ["application/json", "text/plain"] {
        assert_eq!(replaced(media_type, &[wide.as_bytes()], b"v"), wide, "{media_type}");
    }
    // The mark of UTF-16, and letters that change their meaning.
    for before in [&b"\xfe\xffaa"[..], b"\xff\xfeaa", b"\x1b$Baa", b"\x1b"] {
        let body = [before, TEXT.as_bytes()].concat();
        assert_eq!(replaced("text/plain", &[&body], b"v"), String::from_utf8_lossy(&body), "{}", before.escape_ascii());
    }
    let part = |text: &str| format!("\r\n--b\r\n\r\n{text}");
    let parts = [part(&wide), part(TEXT), part("\0"), part(TEXT)].concat();
    let expected = [part(&wide), part("v"), part("\0"), part("v")].concat();
    assert_eq!(replaced("multipart/form-data; boundary=b", &[parts.as_bytes()], b"v"), expected);
}

#[test]
fn of_a_multipart_body_only_what_parts_hold_is_replaced() {
    let body = format!(
        "{TEXT}\r\n--b0\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{TEXT}\"\r\n\r\n{TEXT}\r\n--b0\r\n\
         X-{TEXT}: 1\r\n\r\na{TEXT}b\r\n--b0--\r\n"
    );
    let expected = body.replace(&format!("\r\n\r\n{TEXT}"), "\r\n\r\nV").replace(&format!("a{TEXT}b"), "aVb");
    for media_type in ["multipart/form-data; boundary=b0", "multipart/mixed; charset=utf-8; Boundary=\"b0\""] {
        assert_eq!(replaced(media_type, &[body.as_bytes()], b"V"), expected, "{media_type}");
        let single: Vec<&[u8]> = body.as_bytes().chunks(1).collect();
        assert_eq!(replaced(media_type, &single, b"V"), expected, "{media_type}, byte by byte");
    }
    let long = format!("multipart/form-data; boundary={}", "b".repeat(BOUNDARY + 1));
    for media_type in ["multipart/form-data", "multipart/form-data; boundary=other", &long] {
        assert_eq!(replaced(media_type, &[body.as_bytes()], b"V"), body, "{media_type}");
    }
}

/// Whatever another reader takes for a part's head, or for a text in another coding.
#[test]
fn of_a_multipart_body_nothing_is_replaced_that_may_be_read_in_another_way() {
    let whole = |head: &str, within: &str| format!("--b\r\n{head}\r\n\r\n{within}\r\n--b--\r\n");
    let inner = format!("x\n--b\nContent-Disposition: form-data; filename=\"{TEXT}\"\n\nx");
    let file = format!("--c\r\nContent-Disposition: file; filename=\"{TEXT}\"\r\n\r\nx\r\n--c--");
    let long = format!("X: {}", "x".repeat(PART_HEAD));
    for (head, within, is_replaced) in [
        ("Content-Type: text/plain; charset=utf-8", TEXT, true),
        ("Content-Transfer-Encoding: 8bit", TEXT, true),
        ("content-transfer-encoding:binary", TEXT, true),
        ("X: 1", &*inner, false),
        ("X: 1", &inner.replace('\n', "\r"), false),
        ("Content-Type: multipart/mixed; boundary=c", &file, false),
        ("Content-Type:\r\n Multipart/Mixed; boundary=c", &file, false),
        ("Content-Type: multipart/mixed; boundary=c; x=--b", &file, false),
        ("Content-Type: message/rfc822", TEXT, false),
        ("Content-Type: text/plain; charset=iso-2022-jp", TEXT, false),
        ("Content-Type: text/plain;\r\n\tCharset=\"utf-7\"", TEXT, false),
        ("Content-Transfer-Encoding: quoted-printable", TEXT, false),
        ("Content-Transfer-Encoding:\r\n base64", TEXT, false),
        ("Content-Encoding: deflate", TEXT, false),
        (&long, TEXT, false),
    ] {
        let body = whole(head, within);
        let expected = if is_replaced { body.replace(TEXT, "V") } else { body.clone() };
        let single: Vec<&[u8]> = body.as_bytes().chunks(1).collect();
        for pieces in [&[body.as_bytes()][..], &single] {
            assert_eq!(replaced("multipart/form-data; boundary=b", pieces, b"V"), expected, "{head}: {within}");
        }
    }
    let body = whole("X: 1", TEXT);
    for parameters in [
        "boundary=b; boundary=c",
        "boundary=c; boundary=b",
        "boundary=b; boundary*=utf-8''c",
        "boundary*0=b",
        "boundary=\"b",
        "boundary=\"\\b\"",
        "boundary=\"b \"",
        "boundary=\"\"",
        "x=\";boundary=c\";boundary=b",
        "boundary=b, multipart/form-data; boundary=c",
    ] {
        let media_type = format!("multipart/form-data; {parameters}");
        assert_eq!(replaced(&media_type, &[body.as_bytes()], b"V"), body, "{media_type}");
    }
}

#[test]
fn a_query_gets_its_values_escaped_and_no_longer_than_a_head() {
    let (key, other) = (name("KEY"), name("OTHER"));
    let texts = [(&key, TEXT), (&other, "ph-two-0123456789")];
    let parts = |query: &str| parts(query, texts.iter().copied());
    let query = format!("a={TEXT}&b={}&c", TEXT.replace('/', "%2f").replace('-', "%2D"));
    let found = parts(&query).unwrap();
    assert_eq!(found.iter().filter(|part| matches!(part, Part::Secret(name) if *name == key)).count(), 2);
    let written = super::query(&Text(found), &secrets(b"1&x=2 +#%.")).unwrap();
    assert_eq!(String::from_utf8_lossy(&written), "a=1%26x%3D2%20%2B%23%25.&b=1%26x%3D2%20%2B%23%25.&c");
    assert_eq!(parts("a=b&c"), None);
    assert_eq!(parts(&TEXT.replace('/', "%252f")), None);
    let missing = super::query(&Text(parts("ph-two-0123456789").unwrap()), &secrets(b"x"));
    assert_eq!(missing.unwrap_err(), InjectError::Missing(other.clone()));
    let long = super::query(&Text(parts(&query).unwrap()), &secrets(&vec![b'x'; limits::HEAD_BYTES]));
    assert_eq!(long.unwrap_err(), InjectError::TooLong);
}

#[test]
fn every_byte_of_a_value_stands_in_the_query_and_is_read_back() {
    let value: Vec<u8> = (0..=255).collect();
    let text = Text(vec![Part::Literal("a=".to_owned()), Part::Secret(name("KEY")), Part::Literal("&b".to_owned())]);
    let query = super::query(&text, &secrets(&value)).unwrap();
    let (mut rest, mut read) = (query.strip_prefix(b"a=").unwrap().strip_suffix(b"&b").unwrap(), Vec::new());
    while !rest.is_empty() {
        let Read::Byte(byte, length) = Manner::Form.read(rest) else { panic!("it is cut") };
        read.push(byte);
        rest = &rest[length..];
    }
    assert_eq!(read, value);
}
