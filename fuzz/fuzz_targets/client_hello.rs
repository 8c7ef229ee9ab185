//! No first bytes confuse the reading of them: every beginning of a readable hello is incomplete, a reading stands
//! whatever follows, and the TLS library reads no other name than we do.

#![no_main]

use exeat::flow::{Domain, Seen};
use exeat::intercept::hello::{Reading, read, read_cut};
use libfuzzer_sys::fuzz_target;
use rustls::server::Acceptor;

/// Beyond this, reading every beginning takes too long; a hello with a post-quantum key has 1.5 KiB.
const LONGEST: usize = 2048;

fuzz_target!(|input: &[u8]| {
    let input = input.get(..LONGEST).unwrap_or(input);
    check(input);
    check(&dressed(input));
});

fn check(bytes: &[u8]) {
    let mut wanted = 0;
    for length in 0..=bytes.len() {
        let _ = read_cut(&bytes[..length]);
        match read(&bytes[..length]) {
            Reading::More { at_least } => {
                assert!(at_least > length);
                wanted = at_least;
            }
            Reading::Certain(seen) => {
                assert!(length >= wanted || !matches!(seen, Seen::Tls(_)), "a hello came before it could");
                assert_eq!(read(bytes), Reading::Certain(seen.clone()), "more bytes changed the reading");
                compare(&bytes[..length], &seen);
                return;
            }
        }
    }
}

/// The library may refuse what we read, and we what it reads; never may it see another name.
fn compare(bytes: &[u8], seen: &Seen) {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let theirs = accepted.client_hello().server_name().and_then(|name| Domain::parse(name).ok());
                match seen {
                    Seen::Tls(hello) => assert_eq!(hello.sni, theirs),
                    Seen::Unreadable(_) => {}
                    other => panic!("a hello was taken for {other:?}"),
                }
                return;
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

/// A hello whose extensions are the input, cut into records of the input's choice, so that the grammar around them
/// need not be found by chance.
fn dressed(input: &[u8]) -> Vec<u8> {
    let (lengths, extensions) = input.split_at(input.len().min(4));
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1];
    message.extend(&(body.len() as u32).to_be_bytes()[1..]);
    message.extend(body);
    let mut records = Vec::new();
    let mut lengths = lengths.iter().map(|length| usize::from(*length).max(1)).chain(std::iter::repeat(1 << 14));
    let mut rest = message.as_slice();
    while !rest.is_empty() {
        let (fragment, after) = rest.split_at(rest.len().min(lengths.next().unwrap_or(1)));
        records.extend([22, 3, 1]);
        records.extend((fragment.len() as u16).to_be_bytes());
        records.extend(fragment);
        rest = after;
    }
    records
}
