//! A record that goes on after a failure, for whoever runs too long to end at the first.

use std::io::{self, Write};

/// Passes whole lines on. Where that fails they are lost: the operator is told when that begins, and how many they were
/// when it ends. The next lines are tried again.
pub struct Enduring<W> {
    out: W,
    tell: fn(&str),
    lost: usize,
}

impl<W: Write> Enduring<W> {
    /// Passes lines on to `out`, and tells of failures with `tell`.
    pub fn new(out: W, tell: fn(&str)) -> Self {
        Self { out, tell, lost: 0 }
    }
}

impl<W: Write> Write for Enduring<W> {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        match self.out.write_all(lines).and_then(|()| self.out.flush()) {
            Ok(()) if self.lost > 0 => {
                (self.tell)(&format!("the audit record goes on; {} lines were lost", self.lost));
                self.lost = 0;
            }
            Ok(()) => {}
            Err(error) => {
                if self.lost == 0 {
                    (self.tell)(&format!("the audit record cannot be written, and lines are lost: {error}"));
                }
                self.lost += lines.iter().filter(|byte| **byte == b'\n').count();
            }
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Full for a while.
    struct Tide(std::vec::IntoIter<bool>, Vec<u8>);

    impl Write for &mut Tide {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0.next() == Some(true) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.1.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_lost_is_told_and_what_follows_is_written() {
        static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let mut tide = Tide(vec![false, true, true, false, false].into_iter(), Vec::new());
        let mut record = Enduring::new(&mut tide, |text| TOLD.lock().unwrap().push(text.to_owned()));
        for lines in ["1\n", "2\n3\n", "4\n", "5\n", "6\n"] {
            record.write_all(lines.as_bytes()).unwrap();
        }
        assert_eq!(tide.1, b"1\n5\n6\n");
        let told = TOLD.lock().unwrap();
        assert!(told.len() == 2 && told[0].contains("are lost") && told[1].contains("3 lines were lost"), "{told:?}");
    }
}
