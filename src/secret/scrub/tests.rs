//! Every echo, cut in every place.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::super::Secret;
use super::form::Walk;
use super::{Passage, Scrubber};
use crate::limits;

const VALUE: &str = "ghp_Zq8s/W2+x7Rt5=Lk9";

fn scrubber(values: &[&str]) -> Arc<Scrubber> {
    let values: Vec<Secret> =
        values.iter().map(|value| Secret::new(Zeroizing::new(value.as_bytes().to_vec()))).collect();
    Arc::new(Scrubber::new(&values))
}

fn through(scrubber: &Arc<Scrubber>, pieces: &[&[u8]]) -> (String, usize) {
    let mut passage: Passage = scrubber.passage();
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&passage.feed(Bytes::copy_from_slice(piece)));
    }
    out.extend_from_slice(&passage.finish());
    (String::from_utf8(out).unwrap(), passage.found())
}

fn base64(text: &str, alphabet: &[u8; 64]) -> String {
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let number = chunk.iter().chain(&[0, 0]).take(3).fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        for place in 0..=chunk.len() {
            out.push(char::from(alphabet[number >> (18 - 6 * place) & 63]));
        }
        out.push_str(&"==="[..3 - chunk.len()]);
    }
    out
}

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const FOR_URLS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn each(text: &str, mut write: impl FnMut(&mut String, u8)) -> String {
    let mut out = String::new();
    text.bytes().for_each(|byte| write(&mut out, byte));
    out
}

/// A value as origins echo it.
fn echoes(value: &str) -> Vec<String> {
    let escaped = |byte: u8| !byte.is_ascii_alphanumeric();
    let percent = each(value, |out, byte| match byte {
        byte if escaped(byte) => write!(out, "%{byte:02X}").unwrap(),
        byte => out.push(byte.into()),
    });
    let mut all = vec![
        value.to_owned(),
        value.chars().rev().collect(),
        each(value, |out, byte| write!(out, "{byte:02x}").unwrap()),
        each(value, |out, byte| write!(out, "{byte:02X}").unwrap()),
        each(value, |out, byte| write!(out, "%{byte:02x}").unwrap()),
        percent.replace('%', "%25"),
        percent,
        each(value, |out, byte| write!(out, "\\u{byte:04x}").unwrap()),
        each(value, |out, byte| write!(out, "\\\\u{byte:04X}").unwrap()),
        each(value, |out, byte| write!(out, "\\x{byte:02x}").unwrap()),
        each(value, |out, byte| write!(out, "\\{byte:03o}").unwrap()),
        each(value, |out, byte| write!(out, "&#{byte};").unwrap()),
        each(value, |out, byte| write!(out, "&#x{byte:x};").unwrap()),
        each(value, |out, byte| write!(out, "&amp;#{byte};").unwrap()),
        value.replace('/', "\\/"),
        value.replace('/', "&sol;").replace('+', "&plus;"),
        base64(value, STANDARD).replace('/', "\\/"),
        base64(value, STANDARD).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D"),
    ];
    for before in ["", "u", "us", "usr:"] {
        all.extend([STANDARD, FOR_URLS].map(|alphabet| base64(&format!("{before}{value}:x"), alphabet)));
    }
    let lines = base64(&format!("a{value}b"), STANDARD);
    for broken in ["\n", "\r\n", "\\n", "\\r\\n"] {
        all.extend(
            [2, 3, 7].map(|width| {
                lines.as_bytes().chunks(width).map(String::from_utf8_lossy).collect::<Vec<_>>().join(broken)
            }),
        );
    }
    all
}

/// What is left of an echo to whoever knows how it was made: nothing but what goes before and after.
fn is_struck(echo: &str, out: &str) -> bool {
    // Base64 shares a character with its neighbours at each end.
    let marks = out.matches('*').count();
    out.len() == echo.len()
        && marks > 0
        && out.len() - marks <= 14
        && out.trim_matches(|c| c != '*').chars().all(|c| c == '*')
}

#[test]
fn an_echo_is_struck_out_however_it_is_written_and_cut() {
    let scrubber = scrubber(&["another-value", VALUE]);
    for echo in echoes(VALUE) {
        let text = format!("{{\"a\": \"{echo}\"}}\n");
        let (whole, found) = through(&scrubber, &[text.as_bytes()]);
        let struck = whole.strip_prefix("{\"a\": \"").and_then(|rest| rest.strip_suffix("\"}\n"));
        assert!(struck.is_some_and(|struck| is_struck(&echo, struck)), "{echo}: {whole}");
        assert!(found > 0, "{echo}");
        assert_eq!(scrubber.strike(text.as_bytes()).unwrap(), whole.as_bytes(), "{echo}");
        for cut in 1..text.len() {
            let (pieces, found) = through(&scrubber, &[&text.as_bytes()[..cut], &text.as_bytes()[cut..]]);
            assert_is_as_good(&pieces, &whole, &text);
            assert!(found > 0, "{echo} cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_is_as_good(&through(&scrubber, &bytes).0, &whole, &text);
    }
}

/// In pieces, up to three steps of a value may have passed before it was known for one.
fn assert_is_as_good(pieces: &str, whole: &str, text: &str) {
    assert_eq!(pieces.len(), text.len());
    let mut more = 0;
    for ((in_pieces, at_once), before) in pieces.bytes().zip(whole.bytes()).zip(text.bytes()) {
        if in_pieces != at_once {
            assert_eq!((in_pieces, at_once), (before, b'*'), "{pieces:?} for {whole:?}");
            more += 1;
        }
    }
    // The longest spelling of a step here is `&amp;#103;`, and of the step after the last the beginning may be there.
    assert!(more <= (limits::SCRUB_UNHELD + 1) * 10, "{pieces:?} for {whole:?}");
}

#[test]
fn what_holds_no_value_passes_as_it_is_and_at_once() {
    let scrubber = scrubber(&[VALUE]);
    for text in ["", "ghp", "ghp_Zq8s/W2+x7Rt5=Lk8", "%67%68", "\\u0067", "&", "100%", "a+b", "\r\n", "Z2hwX1p"] {
        let mut passage = scrubber.passage();
        let mut out = passage.feed(Bytes::copy_from_slice(text.as_bytes())).to_vec();
        out.extend_from_slice(&passage.finish());
        assert_eq!(out, text.as_bytes(), "{text}");
        assert_eq!((passage.found(), scrubber.strike(text.as_bytes())), (0, None), "{text}");
    }
    for text in ["data: {\"text\": \"ghp_Zq8\"}\n\n", "ends in g", "ends in gh", "and in ghp", "and in %67%6"] {
        let mut passage = scrubber.passage();
        assert_eq!(passage.feed(Bytes::copy_from_slice(text.as_bytes())), text.as_bytes(), "nothing waits");
    }
}

#[test]
fn the_beginning_of_a_value_waits_and_its_better_part_never_passes() {
    let scrubber = scrubber(&[VALUE]);
    let mut passage = scrubber.passage();
    assert_eq!(passage.feed("a ghp_".into()), "a ");
    assert_eq!(passage.feed("Zq".into()), "");
    assert_eq!(passage.feed("no".into()), "ghp_Zqno");
    assert_eq!(passage.feed(format!("b{}", &VALUE[..5]).into()), "b");
    assert_eq!(passage.finish(), &VALUE[..5], "too little to know it by");
    assert_eq!(passage.found(), 0);
    let mut passage = scrubber.passage();
    assert_eq!(passage.feed(VALUE[..15].to_owned().into()), "");
    assert_eq!(passage.finish(), "*".repeat(15), "a text may end in the middle of a value");
    assert_eq!(passage.found(), 1);
}

#[test]
fn values_inside_and_over_one_another_are_struck_out_whole() {
    let scrubber = scrubber(&["abcabc", "abcabcdef", "cabcab"]);
    for (text, expected) in [
        ("-abcabcdef-", "-*********-"),
        ("-abcabcde-", "-******de-"),
        ("-abcabcabc-", "-*********-"),
        ("-abcabcab-", "-********-"),
    ] {
        assert_eq!(through(&scrubber, &[text.as_bytes()]).0, expected, "{text}");
        for cut in 5..text.len() {
            let (out, _) = through(&scrubber, &[&text.as_bytes()[..cut], &text.as_bytes()[cut..]]);
            assert_eq!(out, expected, "{text} cut at {cut}");
        }
    }
}

#[test]
fn short_values_are_not_searched_for() {
    assert!(scrubber(&["abcde"]).is_idle());
    assert!(!scrubber(&["abcdef"]).is_idle());
    assert_eq!(through(&scrubber(&[]), &[b"abcdef"]), ("abcdef".to_owned(), 0));
}

#[test]
fn many_values_are_searched_for_at_once() {
    let values: Vec<String> = (0..200).map(|number| format!("value-{number:03}-{}", number * 7919)).collect();
    let all: Vec<&str> = values.iter().map(String::as_str).collect();
    let scrubber = scrubber(&all);
    for value in &values {
        let echo = base64(&format!("x{value}y"), STANDARD);
        let (out, _) = through(&scrubber, &[format!("{value} {echo}").as_bytes()]);
        assert!(out.starts_with(&"*".repeat(value.len())) && is_struck(&echo, &out[value.len() + 1..]), "{out}");
    }
}

#[test]
fn a_value_that_looks_escaped_is_struck_out_where_it_is_escaped_again() {
    for (value, echo) in [
        ("abcdef%4a.xyz", "abcdef%254a.xyz"),
        ("abcdef%4a.xyz", "abcdef%25254a.xyz"),
        ("abcdef+%20x", "abcdef%2B%2520x"),
        ("abc\\u0041def", "abc\\\\u0041def"),
        ("abc\\\\def", "abc\\\\\\\\def"),
        ("abc&lt;def", "abc&amp;lt;def"),
        ("abc&amp;def", "abc&amp;amp;def"),
    ] {
        let struck = scrubber(&[value]).strike(echo.as_bytes());
        assert_eq!(struck, Some(b"*".repeat(echo.len())), "{value} as {echo}");
    }
}

/// Where every form is found, and is cut, that is gone along from every place.
fn all_walks(scrubber: &Scrubber, text: &[u8]) -> Vec<(usize, usize, Walk)> {
    let from =
        |start| scrubber.forms.iter().enumerate().map(move |(number, form)| (start, number, form.walk(&text[start..])));
    (0..text.len()).flat_map(from).filter(|(.., walk)| *walk != Walk::Nowhere).collect()
}

/// The same from where the sieve lets it through.
fn sifted_walks(scrubber: &Scrubber, text: &[u8]) -> Vec<(usize, usize, Walk)> {
    let mut walks = Vec::new();
    // A value may be too short to have forms, without the newline at its end.
    scrubber.sieve.iter().for_each(|sieve| {
        sieve.each(text, |start, which| {
            for form in which.pick(&scrubber.forms) {
                let number = scrubber.forms.iter().position(|other| std::ptr::eq(other, form)).expect("one of them");
                walks.push((start, number, form.walk(&text[start..])));
            }
        })
    });
    walks.retain(|(.., walk)| *walk != Walk::Nowhere);
    walks.sort_unstable_by_key(|(start, number, _)| (*start, *number));
    walks.dedup();
    walks
}

/// A value, or the end of one, of bytes that mean something to those who escape and those who read.
fn odd() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![prop::sample::select(b"%\\&+\r\n=/\"#;xu01234567aAmMpPgG \0\xff".to_vec()), any::<u8>()];
    prop::collection::vec(byte, limits::SCRUB_SHORTEST..12)
}

fn named(byte: u8) -> Vec<u8> {
    match byte {
        b'"' => b"&quot;".to_vec(),
        b'&' => b"&amp;".to_vec(),
        b'=' => b"&equals;".to_vec(),
        b'+' => b"&plus;".to_vec(),
        b' ' => b"+".to_vec(),
        b'\n' => b"\\n".to_vec(),
        b'/' | b'\\' => vec![b'\\', byte],
        other => vec![other],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn the_sieve_lets_every_form_through(
        // Some are more than vectors look for.
        values in prop_oneof![4 => prop::collection::vec(odd(), 1..14), 1 => prop::collection::vec(odd(), 22..24)],
        parts in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..40_usize, 0..90_usize, "[ -~\r\n]{0,70}"),
            0..6,
        ),
    ) {
        let secrets: Vec<Secret> = values.iter().map(|value| Secret::new(Zeroizing::new(value.clone()))).collect();
        let mut scrubber = Scrubber::new(&secrets);
        let mut text = Vec::new();
        for (which, how, length, between) in parts {
            let value = which.get(&values);
            // Some of it escaped, some not, and not always to its end.
            let echo = value.iter().enumerate().flat_map(|(at, byte)| match (how + at) % (2 + how % 7) {
                0 => vec![*byte],
                1 => named(*byte),
                2 => format!("%{byte:02x}").into_bytes(),
                3 => format!("\\\\u{byte:04x}").into_bytes(),
                4 => format!("&amp;#{byte};").into_bytes(),
                5 => format!("&amp;amp;#{byte};").into_bytes(),
                _ => [base64(&String::from_utf8_lossy(value), STANDARD).as_bytes(), b"\\r\\n"].concat(),
            });
            text.extend(echo.take(length));
            text.extend_from_slice(between.as_bytes());
        }
        let all = all_walks(&scrubber, &text);
        prop_assert_eq!(&sifted_walks(&scrubber, &text), &all);
        scrubber.sieve.iter_mut().for_each(|sieve| sieve.forget_vectors());
        prop_assert_eq!(&sifted_walks(&scrubber, &text), &all);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_text_keeps_all_but_the_values(
        parts in prop::collection::vec(prop_oneof![
            3 => "[ -~\n]{0,20}".prop_map(|text| (text, false)),
            1 => (0..40_usize).prop_map(|which| { let all = echoes(VALUE); (all[which % all.len()].clone(), true) }),
        ], 0..8),
        cuts in prop::collection::vec(1..50_usize, 0..20),
    ) {
        let scrubber = scrubber(&[VALUE]);
        let text: String = parts.iter().map(|(text, _)| text.as_str()).collect();
        let whole = through(&scrubber, &[text.as_bytes()]).0;
        let mut rest = text.as_bytes();
        let mut pieces = Vec::new();
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        let out = through(&scrubber, &pieces).0;
        prop_assert_eq!(out.len(), text.len());
        prop_assert!(echoes(VALUE).iter().all(|echo| !out.contains(echo.as_str()) && !whole.contains(echo.as_str())));
        prop_assert_eq!(scrubber.strike(whole.as_bytes()), None, "nothing is left to find");
        let mut place = 0;
        for (part, is_value) in &parts {
            if !is_value && !part.is_empty() {
                let kept = whole[place..place + part.len()].bytes().zip(part.bytes());
                // A value may begin in what stands before it, by what that escapes or encodes.
                let changed = kept.filter(|(after, before)| after != before).count();
                prop_assert!(changed <= 4, "{:?} became {:?}", text, whole);
            }
            place += part.len();
        }
    }

    #[test]
    fn nothing_is_struck_out_of_other_texts(text in "[ -~\r\n]{0,200}", cut in 0..200_usize) {
        let scrubber = scrubber(&["Zq8sW2x7Rt5Lk9Vb3Nm6", "sk-proj-0123456789"]);
        let at = cut.min(text.len());
        let (out, found) = through(&scrubber, &[&text.as_bytes()[..at], &text.as_bytes()[at..]]);
        prop_assert_eq!((out, found), (text, 0));
    }
}
