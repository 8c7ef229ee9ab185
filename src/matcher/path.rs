//! The second reading of a request's path: fully decoded (POLICY §3 "Path").
//!
//! An origin may decode a path more often than we would, drop `;parameters`, take `\` for `/`, collapse slashes and
//! resolve dots. [`fully_decoded`] does all of it, so that a rule can be asked about the most that a path may come to
//! mean. It only reads: what is forwarded is what was sent.

use std::borrow::Cow;

/// The path with percent-encoding and overlong UTF-8 undone to a fixed point, `;parameters` dropped, `\` read as `/`,
/// slashes collapsed and dot segments resolved. Borrowed if that changes nothing. Linear time.
#[must_use]
pub fn fully_decoded(path: &str) -> Cow<'_, [u8]> {
    if is_plain(path) {
        return Cow::Borrowed(path.as_bytes());
    }
    Cow::Owned(resolve(&decode(path.as_bytes())))
}

/// The byte that `%` and two such digits stand for.
pub(super) fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// Whether a path means one thing only.
fn is_plain(path: &str) -> bool {
    !path.bytes().any(|b| matches!(b, b'%' | b';' | b'\\')) && !path.contains("//") && !path.contains("/.")
}

/// Undoes percent-encoding and overlong UTF-8 until neither is left. No two such forms can overlap, so undoing each as
/// soon as it is complete reaches the same fixed point as repeated passes, in one.
fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded: Vec<u8> = Vec::with_capacity(path.len());
    for byte in path {
        decoded.push(*byte);
        while let Some((length, byte)) = form_at_the_end(&decoded) {
            decoded.truncate(decoded.len().saturating_sub(length));
            decoded.push(byte);
        }
    }
    decoded
}

/// How many of the last bytes spell another byte, and which: a percent-encoded one, or an ASCII character in two to
/// four bytes (RFC 3629 §3 forbids it).
fn form_at_the_end(bytes: &[u8]) -> Option<(usize, u8)> {
    let ascii = |high: u8, low: u8| (high & 1) << 6 | (low & 0x3f);
    if let [.., b'%', high, low] = bytes
        && let Some(byte) = hex_pair(*high, *low)
    {
        return Some((3, byte));
    }
    match bytes {
        [.., 0xf0, 0x80, high @ 0x80..=0x81, low @ 0x80..=0xbf] => Some((4, ascii(*high, *low))),
        [.., 0xe0, high @ 0x80..=0x81, low @ 0x80..=0xbf] => Some((3, ascii(*high, *low))),
        [.., high @ 0xc0..=0xc1, low @ 0x80..=0xbf] => Some((2, ascii(*high, *low))),
        _ => None,
    }
}

/// Drops parameters, empty segments and dots. A path that ended in a slash or a dot segment still ends in a slash.
fn resolve(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut open = false;
    for segment in path.split(|b| *b == b'/' || *b == b'\\') {
        let name = segment.split(|b| *b == b';').next().unwrap_or_default();
        open = matches!(name, b"" | b"." | b"..");
        match name {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            name => kept.push(name),
        }
    }
    let mut resolved = vec![b'/'];
    resolved.extend(kept.join(&b'/'));
    if open && !kept.is_empty() {
        resolved.push(b'/');
    }
    resolved
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_is_decoded_to_the_most_it_may_mean() {
        for (sent, means) in [
            ("/public/../secret", "/secret"),
            ("/public/%2e%2e/secret", "/secret"),
            ("/public/%252e%252e/secret", "/secret"),
            ("/public%2f..%2fsecret", "/secret"),
            ("/public/..;/secret", "/secret"),
            ("/public/..;x=1/secret", "/secret"),
            ("/secret;x=/public", "/secret/public"),
            ("/public\\..\\secret", "/secret"),
            ("/public/%5c../secret", "/secret"),
            ("//secret///x", "/secret/x"),
            ("/%c0%ae%c0%ae/secret", "/secret"),
            ("/public/%c0%ae%c0%ae%c0%afsecret", "/secret"),
            ("/a/%c0%a52e%c0%a52e/b", "/b"),
            ("/a/%e0%80%a5c0%ae./b", "/b"),
            ("/a/%%c0%b2e./b", "/b"),
            ("/a%e0%80%afb", "/a/b"),
            ("/a%f0%80%80%afb", "/a/b"),
            ("/%c1%b3ecret", "/secret"),
            ("/%e0%81%b3e%f0%80%81%a3ret", "/secret"),
            ("/%25%37%33ecret", "/secret"),
            ("/%2%35%37%33ecret", "/secret"),
            ("/a/./b/.", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/..", "/"),
            ("/a%zz%4", "/a%zz%4"),
            ("/a/b/", "/a/b/"),
            ("/", "/"),
            ("*", "*"),
            ("/caf%C3%A9", "/café"),
        ] {
            assert_eq!(String::from_utf8_lossy(&fully_decoded(sent)), means, "{sent}");
        }
    }

    #[test]
    fn deep_encoding_takes_linear_time() {
        let sent = format!("/%{}2e", "25".repeat(30_000));
        assert_eq!(fully_decoded(&sent).as_ref(), b"/");
    }

    /// One form at a time, the last that is left: any order comes to the same.
    fn decode_slowly(path: &[u8]) -> Vec<u8> {
        let found = (1..=path.len()).rev().find_map(|end| Some((end, form_at_the_end(&path[..end])?)));
        let Some((end, (length, byte))) = found else { return path.to_vec() };
        decode_slowly(&[&path[..end - length], &[byte], &path[end..]].concat())
    }

    proptest! {
        #[test]
        fn decoding_reaches_the_fixed_point_of_repeated_passes(path in "(/|%|2|5|3|7|e|\\.|x|%c0|%a5|%e0%80){0,40}") {
            prop_assert_eq!(decode(path.as_bytes()), decode_slowly(path.as_bytes()));
        }

        #[test]
        fn what_is_decoded_says_nothing_new_when_decoded_again(path in "/(/|%2f|%252e|%c0%a5|2e|\\.|;|a|\\\\){0,20}") {
            let once = fully_decoded(&path).into_owned();
            if let Ok(text) = std::str::from_utf8(&once) {
                let again = fully_decoded(text);
                prop_assert_eq!(again.as_ref(), once.as_slice());
            }
        }
    }
}
