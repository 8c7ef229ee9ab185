//! The ways in which a text may write one byte: as it stands, or escaped as URLs, JSON, source code or HTML do.
//!
//! An escape may itself have been escaped in the same way, once or a few times over (`%2541`, `\\u0041`, `&amp;#65;`).
//! Escapes of different kinds inside one another are not read.

/// How often an escape may have been escaped again.
const LAYERS: usize = 3;
/// Digits of a character reference, leading zeros included.
const REFERENCE_DIGITS: usize = 8;

/// The longest reference to a character by its name.
const LONGEST_NAME: &str = "&equals;";

/// In how many ways the beginning of a text may be read: as it stands, as what an escape means, and between these as
/// what is left of one once it was read in part.
const WAYS: usize = 2 + LAYERS;

/// One way to read the beginning of a text: the byte that is meant, and how many bytes say it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// What is meant.
    pub(super) byte: u8,
    /// How long that is written.
    length: u8,
}

/// Every reading of the beginning of a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Readings {
    /// As it stands first, then the more is read the later.
    found: [Reading; WAYS],
    /// How many of them there are.
    ways: usize,
    /// The text ends where an escape may not be over yet.
    pub(super) is_cut: bool,
}

impl Reading {
    pub(super) fn length(self) -> usize {
        usize::from(self.length)
    }
}

impl Readings {
    pub(super) fn iter(self) -> impl Iterator<Item = Reading> {
        self.found.into_iter().take(self.ways)
    }

    fn add(&mut self, byte: u8, length: usize) {
        if let (Some(free), Ok(length)) = (self.found.get_mut(self.ways), u8::try_from(length)) {
            *free = Reading { byte, length };
            self.ways += 1;
        }
    }
}

/// Reads the beginning of a text in every way.
pub(super) fn readings(text: &[u8]) -> Readings {
    let mut all = Readings::default();
    let Some((&first, rest)) = text.split_first() else { return Readings { is_cut: true, ..all } };
    all.add(first, 1);
    match first {
        b'%' => percent(rest, &mut all),
        b'\\' => backslash(rest, &mut all),
        b'&' => ampersand(rest, &mut all),
        b'+' => all.add(b' ', 1),
        _ => {}
    }
    all
}

/// What a text may begin with that one step is not read from as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// An escape that names one of [`NAMED`], or what is no escape and such a byte itself.
    Name,
    /// The break of a line, as it stands or named.
    Break,
    /// All else: an escape by number, of an escape, or that the text cuts.
    Code,
}

/// What [`Mark::Name`] may mean.
pub(super) const NAMED: &[u8] = b"\x08\x0c\t\"'/`\\&<>+ =";

/// What a text begins with, if that is one of `%`, `\\`, `&`, `+`, CR and LF.
///
/// Texts without values are full of these, and what kind comes next nobody foresees: so it does not branch.
pub(super) fn mark(text: &[u8]) -> Mark {
    /// What its first byte may make of a text, and its second; it is what both say.
    const FIRST: [u8; 256] = table(
        [0; 256],
        &[(b"%", CODE), (b"\r\n", BREAK), (b"\\", CODE_BY_LETTER | BREAK_BY_LETTER), (b"&", CODE_BY_REFERENCE)],
    );
    const SECOND: [u8; 256] = table(
        [CODE | BREAK; 256],
        &[(b"ux01234567\\", CODE_BY_LETTER), (b"rn", BREAK_BY_LETTER), (b"#", CODE_BY_REFERENCE)],
    );
    const CODE: u8 = 1;
    const CODE_BY_LETTER: u8 = 2;
    const CODE_BY_REFERENCE: u8 = 4;
    const BREAK: u8 = 8;
    const BREAK_BY_LETTER: u8 = 16;
    /// Of less the text may cut a name, also one that is escaped once.
    const LENGTH: usize = LONGEST_NAME.len() + "amp;".len();
    let Some([first, second, a, b, c, after, ..]) = text.first_chunk::<LENGTH>() else { return Mark::Code };
    let look = |table: &[u8; 256], byte: u8| table.get(usize::from(byte)).copied().unwrap_or(CODE);
    let kinds = look(&FIRST, *first) & look(&SECOND, *second);
    let is_again = (*first == b'&')
        & (u32::from_be_bytes([*second, *a, *b, *c]) == u32::from_be_bytes(*b"amp;"))
        & ((*after == b'#') | (*after == b'a'));
    if (kinds & (CODE | CODE_BY_LETTER | CODE_BY_REFERENCE) != 0) | is_again {
        Mark::Code
    } else if kinds & (BREAK | BREAK_BY_LETTER) != 0 {
        Mark::Break
    } else {
        Mark::Name
    }
}

/// By byte, what is said of it besides what is said of all.
#[expect(clippy::indexing_slicing, reason = "by byte, and when it is compiled")]
const fn table(all: [u8; 256], mut some: &[(&[u8], u8)]) -> [u8; 256] {
    let mut table = all;
    while let [(bytes, kind), rest @ ..] = some {
        let mut bytes = *bytes;
        while let [byte, more @ ..] = bytes {
            table[*byte as usize] |= *kind;
            bytes = more;
        }
        some = rest;
    }
    table
}

/// RFC 3986 §2.1, after the `%`.
fn percent(rest: &[u8], all: &mut Readings) {
    let layers = layers(rest, b"25");
    let skipped = 2 * layers;
    (1..=layers).for_each(|layer| all.add(b'%', 1 + 2 * layer));
    match rest.get(skipped..).unwrap_or_default() {
        [high, low, ..] => {
            if let (Some(high), Some(low)) = (hex(*high), hex(*low)) {
                all.add(16 * high + low, skipped + 3);
            }
        }
        digits => all.is_cut = digits.iter().all(u8::is_ascii_hexdigit),
    }
}

/// JSON (RFC 8259 §7), and what C, JavaScript and Python have beyond it, after the first backslash.
fn backslash(rest: &[u8], all: &mut Readings) {
    const RUN: usize = (1 << LAYERS) - 1;
    let run = rest.iter().take(RUN).take_while(|byte| **byte == b'\\').count();
    // A run of backslashes stands for half as many, or a quarter.
    (1..=LAYERS).map(|layer| 1 << layer).filter(|length| *length <= 1 + run).for_each(|length| all.add(b'\\', length));
    let escaped = rest.get(run..).unwrap_or_default();
    let Some((&letter, digits)) = escaped.split_first() else { return all.is_cut = true };
    let (digits, before, count, radix) = match letter {
        b'u' if digits.first() == Some(&b'{') => return braced(digits, 2 + run, all),
        b'u' => (digits, 2 + run, 4, 16),
        b'x' => (digits, 2 + run, 2, 16),
        b'0'..=b'7' => (escaped, 1 + run, 3, 8),
        b'b' => return all.add(0x08, 2 + run),
        b'f' => return all.add(0x0c, 2 + run),
        b'n' => return all.add(b'\n', 2 + run),
        b'r' => return all.add(b'\r', 2 + run),
        b't' => return all.add(b'\t', 2 + run),
        b'"' | b'\'' | b'/' | b'`' => return all.add(letter, 2 + run),
        _ => return,
    };
    match number(digits, count, radix) {
        Ok(Some(byte)) => all.add(byte, before + count),
        Ok(None) => {}
        Err(Cut) => all.is_cut = true,
    }
}

/// `\u{41}`: the braces and what is between them.
fn braced(text: &[u8], before: usize, all: &mut Readings) {
    let digits = text.get(1..).unwrap_or_default();
    let length = digits.iter().take(REFERENCE_DIGITS).take_while(|byte| byte.is_ascii_hexdigit()).count();
    match (digits.get(length), number(digits, length, 16)) {
        (Some(b'}'), Ok(Some(byte))) if length > 0 => all.add(byte, before + length + 2),
        (None, _) => all.is_cut = length < REFERENCE_DIGITS,
        _ => {}
    }
}

/// A character reference of HTML or XML, after the `&`.
fn ampersand(rest: &[u8], all: &mut Readings) {
    const NAMES: [&[u8]; 9] = [b"amp;", b"lt;", b"gt;", b"quot;", b"apos;", b"sol;", b"plus;", b"equals;", b"nbsp;"];
    let layers = layers(rest, b"amp;");
    let skipped = 4 * layers;
    (1..=layers).for_each(|layer| all.add(b'&', 1 + 4 * layer));
    let name = rest.get(skipped..).unwrap_or_default();
    let (byte, length) = match name {
        [b'#', reference @ ..] => return numbered(reference, skipped + 2, all),
        [b'l', b't', b';', ..] => (b'<', 3),
        [b'g', b't', b';', ..] => (b'>', 3),
        [b'a', b'm', b'p', b';', ..] => (b'&', 4),
        [b's', b'o', b'l', b';', ..] => (b'/', 4),
        [b'q', b'u', b'o', b't', b';', ..] => (b'"', 5),
        [b'a', b'p', b'o', b's', b';', ..] => (b'\'', 5),
        [b'p', b'l', b'u', b's', b';', ..] => (b'+', 5),
        [b'n', b'b', b's', b'p', b';', ..] => (b' ', 5),
        [b'e', b'q', b'u', b'a', b'l', b's', b';', ..] => (b'=', 7),
        _ => {
            all.is_cut = name.len() < LONGEST_NAME.len() - 1 && NAMES.iter().any(|text| text.starts_with(name));
            return;
        }
    };
    all.add(byte, 1 + skipped + length);
}

/// `65;` or `x41;`, the semicolon perhaps left out.
fn numbered(reference: &[u8], before: usize, all: &mut Readings) {
    let (digits, radix, mark) = match reference.split_first() {
        None => return all.is_cut = true,
        Some((b'x' | b'X', digits)) => (digits, 16, 1),
        Some(_) => (reference, 10, 0),
    };
    let is_digit = |byte: &&u8| char::from(**byte).is_digit(radix);
    let length = digits.iter().take(REFERENCE_DIGITS).take_while(is_digit).count();
    let end = digits.get(length);
    if end.is_none() && length < REFERENCE_DIGITS {
        return all.is_cut = true;
    }
    if let Ok(Some(byte)) = number(digits, length, radix)
        && length > 0
    {
        all.add(byte, before + mark + length + usize::from(end == Some(&b';')));
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

fn layers<const LENGTH: usize>(text: &[u8], again: &[u8; LENGTH]) -> usize {
    text.as_chunks().0.iter().take(LAYERS).take_while(|chunk| *chunk == again).count()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn a_mark_says_what_a_text_may_begin_with(
            first in prop::sample::select(vec!["%", "\\", "&", "&amp;", "+", "\r", "\n", "&quot;", "\\\\"]),
            rest in "([%\\\\&+;#={}\"/a-zA0-9]|amp;|lt;|plus;|equals?;?|quo|#x4|25|u00){0,9}",
        ) {
            let text = format!("{first}{rest}");
            let readings = readings(text.as_bytes());
            let may_mean: &[u8] = match mark(text.as_bytes()) {
                Mark::Name => NAMED,
                Mark::Break => b"\r\n",
                Mark::Code => return Ok(()),
            };
            prop_assert!(!readings.is_cut, "{}", text);
            let escaped = readings.iter().skip(1);
            prop_assert!(escaped.into_iter().all(|reading| may_mean.contains(&reading.byte)), "{}", text);
        }
    }

    fn read(text: &str) -> (Vec<(u8, usize)>, bool) {
        let readings = readings(text.as_bytes());
        (readings.iter().map(|reading| (reading.byte, reading.length())).collect(), readings.is_cut)
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
            assert_eq!(found.last(), Some(&(byte, text.len())), "{text}");
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
    fn an_escape_of_an_escape_is_also_read_in_part() {
        assert_eq!(read("%25254az").0, [(b'%', 1), (b'%', 3), (b'%', 5), (b'J', 7)]);
        assert_eq!(read("&amp;amp;lt;z").0, [(b'&', 1), (b'&', 5), (b'&', 9), (b'<', 12)]);
        assert_eq!(read("\\\\\\\\u0041z").0, [(b'\\', 1), (b'\\', 2), (b'\\', 4), (b'A', 9)]);
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
