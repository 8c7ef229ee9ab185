//! The ways in which a text may write one byte: as it stands, or escaped as URLs, JSON, source code or HTML do.
//!
//! An escape may itself have been escaped in the same way, once or a few times over (`%2541`, `\\u0041`, `&amp;#65;`).
//! Escapes of different kinds inside one another are not read.

/// How often an escape may have been escaped again.
const LAYERS: usize = 3;
/// Digits of a character reference, leading zeros included.
const REFERENCE_DIGITS: usize = 8;

/// One way to read the beginning of a text: the byte that is meant, and how many bytes say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// What is meant.
    pub(super) byte: u8,
    /// How long that is written.
    pub(super) length: usize,
}

/// Every reading of the beginning of a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Readings {
    /// As it stands, and escaped.
    pub(super) found: [Option<Reading>; 2],
    /// The text ends where an escape may not be over yet.
    pub(super) is_cut: bool,
}

/// What an escape at the beginning of a text is.
enum Escape {
    Is(Reading),
    Cut,
    No,
}

/// Reads the beginning of a text in every way.
pub(super) fn readings(text: &[u8]) -> Readings {
    let Some((&first, rest)) = text.split_first() else { return Readings { is_cut: true, ..Readings::default() } };
    let plain = Some(Reading { byte: first, length: 1 });
    let escape = match first {
        b'%' => percent(rest),
        b'\\' => backslash(rest),
        b'&' => ampersand(rest),
        b'+' => Escape::Is(Reading { byte: b' ', length: 1 }),
        _ => Escape::No,
    };
    match escape {
        Escape::Is(reading) => Readings { found: [plain, Some(reading)], is_cut: false },
        Escape::Cut => Readings { found: [plain, None], is_cut: true },
        Escape::No => Readings { found: [plain, None], is_cut: false },
    }
}

/// RFC 3986 §2.1, after the `%`.
fn percent(rest: &[u8]) -> Escape {
    let layers = layers(rest, b"25");
    let skipped = 2 * layers;
    let Some(digits) = rest.get(skipped..) else { return Escape::No };
    match digits {
        [high, low, ..] => match (hex(*high), hex(*low)) {
            (Some(high), Some(low)) => Escape::Is(Reading { byte: 16 * high + low, length: skipped + 3 }),
            // What looked like layers ends in a `%` that is meant.
            _ if layers > 0 => Escape::Is(Reading { byte: b'%', length: skipped + 1 }),
            _ => Escape::No,
        },
        _ if digits.iter().all(u8::is_ascii_hexdigit) => Escape::Cut,
        _ if layers > 0 => Escape::Is(Reading { byte: b'%', length: skipped + 1 }),
        _ => Escape::No,
    }
}

/// JSON (RFC 8259 §7), and what C, JavaScript and Python have beyond it, after the first backslash.
fn backslash(rest: &[u8]) -> Escape {
    const RUN: usize = (1 << LAYERS) - 1;
    let run = rest.iter().take(RUN).take_while(|byte| **byte == b'\\').count();
    let Some(escaped) = rest.get(run..) else { return Escape::No };
    let is = |byte, length: usize| Escape::Is(Reading { byte, length: 1 + run + length });
    let coded =
        |digits: &[u8], before: usize, count: usize, radix: u32| number(digits, count, radix).map(|n| (n, before));
    let Some((&letter, digits)) = escaped.split_first() else { return Escape::Cut };
    let code = match letter {
        b'u' if digits.first() == Some(&b'{') => return braced(digits, 2 + run),
        b'u' => coded(digits, 1, 4, 16),
        b'x' => coded(digits, 1, 2, 16),
        b'0'..=b'7' => coded(escaped, 0, 3, 8),
        b'b' => return is(0x08, 1),
        b'f' => return is(0x0c, 1),
        b'n' => return is(b'\n', 1),
        b'r' => return is(b'\r', 1),
        b't' => return is(b'\t', 1),
        b'"' | b'\'' | b'/' | b'`' => return is(letter, 1),
        // A run of backslashes stands for half as many, or fewer.
        _ if run > 0 => return Escape::Is(Reading { byte: b'\\', length: 1 + run }),
        _ => return Escape::No,
    };
    match code {
        Ok((Some(byte), before)) => is(
            byte,
            before
                + if letter == b'u' {
                    4
                } else if letter == b'x' {
                    2
                } else {
                    3
                },
        ),
        Ok((None, _)) => Escape::No,
        Err(Cut) => Escape::Cut,
    }
}

/// `\u{41}`: the braces and what is between them.
fn braced(text: &[u8], before: usize) -> Escape {
    let digits = text.get(1..).unwrap_or_default();
    let length = digits.iter().take(REFERENCE_DIGITS).take_while(|byte| byte.is_ascii_hexdigit()).count();
    match (digits.get(length), number(digits, length, 16)) {
        (Some(b'}'), Ok(Some(byte))) if length > 0 => Escape::Is(Reading { byte, length: before + length + 2 }),
        (None, _) if length < REFERENCE_DIGITS => Escape::Cut,
        _ => Escape::No,
    }
}

/// A character reference of HTML or XML, after the `&`.
fn ampersand(rest: &[u8]) -> Escape {
    const NAMED: [(&[u8], u8); 9] = [
        (b"amp;", b'&'),
        (b"lt;", b'<'),
        (b"gt;", b'>'),
        (b"quot;", b'"'),
        (b"apos;", b'\''),
        (b"sol;", b'/'),
        (b"plus;", b'+'),
        (b"equals;", b'='),
        (b"nbsp;", b' '),
    ];
    let layers = layers(rest, b"amp;");
    let skipped = 4 * layers;
    let Some(name) = rest.get(skipped..) else { return Escape::No };
    if let Some(reference) = name.strip_prefix(b"#") {
        return numbered(reference, skipped + 2);
    }
    for (text, byte) in NAMED {
        if name.starts_with(text) {
            return Escape::Is(Reading { byte, length: 1 + skipped + text.len() });
        }
    }
    let is_cut = name.len() < 7 && NAMED.iter().any(|(text, _)| text.starts_with(name));
    match (is_cut, layers) {
        (true, _) => Escape::Cut,
        (false, 0) => Escape::No,
        (false, _) => Escape::Is(Reading { byte: b'&', length: 1 + skipped }),
    }
}

/// `65;` or `x41;`, the semicolon perhaps left out.
fn numbered(reference: &[u8], before: usize) -> Escape {
    let (digits, radix, mark) = match reference.split_first() {
        None => return Escape::Cut,
        Some((b'x' | b'X', digits)) => (digits, 16, 1),
        Some(_) => (reference, 10, 0),
    };
    let is_digit = |byte: &&u8| char::from(**byte).is_digit(radix);
    let length = digits.iter().take(REFERENCE_DIGITS).take_while(is_digit).count();
    let end = digits.get(length);
    if end.is_none() && length < REFERENCE_DIGITS {
        return Escape::Cut;
    }
    match number(digits, length, radix) {
        Ok(Some(byte)) if length > 0 => {
            Escape::Is(Reading { byte, length: before + mark + length + usize::from(end == Some(&b';')) })
        }
        _ => Escape::No,
    }
}

/// The text ended before the number did.
struct Cut;

/// A number of so many digits, if it is that of an ASCII character.
fn number(text: &[u8], count: usize, radix: u32) -> Result<Option<u8>, Cut> {
    let digits = text.get(..count).unwrap_or(text);
    let mut value: u32 = 0;
    for digit in digits {
        match char::from(*digit).to_digit(radix) {
            Some(digit) => value = value.saturating_mul(radix).saturating_add(digit),
            None => return Ok(None),
        }
    }
    if digits.len() < count {
        return Err(Cut);
    }
    Ok(u8::try_from(value).ok().filter(u8::is_ascii))
}

fn layers(text: &[u8], again: &[u8]) -> usize {
    text.chunks(again.len()).take(LAYERS).take_while(|chunk| *chunk == again).count()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<(u8, usize)>, bool) {
        let Readings { found, is_cut } = readings(text.as_bytes());
        (found.into_iter().flatten().map(|reading| (reading.byte, reading.length)).collect(), is_cut)
    }

    #[test]
    fn a_byte_is_read_as_it_stands_and_in_every_escape() {
        for (text, byte) in [
            ("%41", b'A'),
            ("%2f", b'/'),
            ("%2F", b'/'),
            ("%2541", b'A'),
            ("%25252541", b'A'),
            ("\\u0041", b'A'),
            ("\\\\u0041", b'A'),
            ("\\u{41}", b'A'),
            ("\\x41", b'A'),
            ("\\101", b'A'),
            ("\\\"", b'"'),
            ("\\/", b'/'),
            ("\\n", b'\n'),
            ("&#65;", b'A'),
            ("&#065;", b'A'),
            ("&#x41;", b'A'),
            ("&#X41;", b'A'),
            ("&amp;#65;", b'A'),
            ("&lt;", b'<'),
            ("&amp;quot;", b'"'),
        ] {
            let follows = format!("{text}z");
            let (found, is_cut) = read(&follows);
            assert_eq!(found.get(1), Some(&(byte, text.len())), "{text}");
            assert!(!is_cut, "{text}");
            assert_eq!(found[0], (text.as_bytes()[0], 1), "{text}");
        }
        assert_eq!(read("+z"), (vec![(b'+', 1), (b' ', 1)], false));
        assert_eq!(read("az"), (vec![(b'a', 1)], false));
        assert_eq!(read("&#65z").0[1], (b'A', 4), "browsers forgive a missing semicolon");
        assert_eq!(read("%25z").0[1], (b'%', 3));
        assert_eq!(read("&amp;z").0[1], (b'&', 5));
        assert_eq!(read("\\\\z").0[1], (b'\\', 2));
    }

    #[test]
    fn what_is_no_escape_is_read_as_it_stands_alone() {
        for text in ["%4z", "%zz", "\\qz", "&z", "&#z", "&#xz", "&#300;", "\\u00e9z", "\\777z", "&foo;z", "\\u{}z"] {
            assert_eq!(read(text), (vec![(text.as_bytes()[0], 1)], false), "{text}");
        }
    }

    #[test]
    fn an_escape_that_the_text_cuts_is_known_for_one() {
        for text in ["%", "%4", "%25", "%254", "\\", "\\u", "\\u004", "\\u{4", "\\x4", "\\10", "\\\\", "&", "&am", "&#"]
        {
            assert!(read(text).1, "{text}");
        }
        for text in ["&#6", "&#x", "&#x4", "&amp;", "&amp;#", "", "%2525"] {
            assert!(read(text).1, "{text}");
        }
    }
}
