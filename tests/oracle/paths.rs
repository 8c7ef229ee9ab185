//! A path's second reading, pass by pass, as an origin that decodes too often would come to it (POLICY §3 "Path").

/// Percent-decoding to a fixed point, then parameters, slashes and dots. The engine reads overlong UTF-8 of ASCII, too.
pub(crate) fn fully_decoded(path: &str) -> Vec<u8> {
    if path == "*" {
        return b"*".to_vec();
    }
    let mut bytes = path.as_bytes().to_vec();
    loop {
        let next = shortened(&unescaped(&bytes));
        if next == bytes {
            return resolved(&bytes);
        }
        bytes = next;
    }
}

/// One pass of percent-decoding.
pub(crate) fn unescaped(bytes: &[u8]) -> Vec<u8> {
    let hex = |byte: u8| "0123456789abcdef".find(char::from(byte).to_ascii_lowercase());
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let digits = match bytes[at..] {
            [b'%', high, low, ..] => hex(high).zip(hex(low)),
            _ => None,
        };
        match digits {
            Some((high, low)) => {
                out.push(u8::try_from(16 * high + low).expect("two digits"));
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

/// One pass over overlong forms: two, three or four bytes that spell a number below 128.
fn shortened(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (length, mut number) = match bytes[at] {
            lead @ 0xc0..=0xdf => (2, u32::from(lead) - 0xc0),
            lead @ 0xe0..=0xef => (3, u32::from(lead) - 0xe0),
            lead @ 0xf0..=0xf7 => (4, u32::from(lead) - 0xf0),
            _ => (1, 128),
        };
        let rest = bytes.get(at + 1..at + length).unwrap_or_default();
        let whole = rest.len() + 1 == length && rest.iter().all(|byte| (0x80..0xc0).contains(byte));
        for byte in rest {
            number = number * 64 + (u32::from(*byte) & 0x3f);
        }
        if whole && number < 128 {
            out.push(u8::try_from(number).expect("below 128"));
            at += length;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

fn resolved(path: &[u8]) -> Vec<u8> {
    let slashed: Vec<u8> = path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect();
    let segments: Vec<&[u8]> = slashed.split(|byte| *byte == b'/').collect();
    let names: Vec<&[u8]> = segments
        .iter()
        .map(|segment| &segment[..segment.iter().position(|byte| *byte == b';').unwrap_or(segment.len())])
        .collect();
    let mut kept: Vec<&[u8]> = Vec::new();
    for name in &names {
        if *name == b".." {
            kept.pop();
        } else if !name.is_empty() && *name != b"." {
            kept.push(name);
        }
    }
    let last = names.last().copied().unwrap_or_default();
    let mut out = Vec::new();
    for name in &kept {
        out.push(b'/');
        out.extend(*name);
    }
    if kept.is_empty() || last.is_empty() || last == b"." || last == b".." {
        out.push(b'/');
    }
    out
}
