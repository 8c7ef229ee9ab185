//! Who an attachment is: what nothing else on this host will ever be (HOUSE §2).
//!
//! Paths, process ids, names and addresses are given again to others; a policy, a pin, a pool or a secret that went by
//! one of these could reach another sandbox.
//!
//! - `INVARIANT`: two identities are equal only if they are of one namespace or interface, within one boot.

use std::fmt;
use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::BorrowedFd;
use std::str::FromStr;

use crate::sys;

/// An attachment's identity. As text: `BOOT/NAMESPACE` or `BOOT/NAMESPACE/INTERFACE`, the boot's id as the kernel
/// writes it, the cookie of the network namespace and the interface's number in decimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AttachmentId {
    boot: String,
    namespace: u64,
    interface: Option<NonZeroU32>,
}

/// Bytes of a boot's id: a UUID in its usual form.
const BOOT_BYTES: usize = 36;

impl AttachmentId {
    /// Of the network namespace that a socket is in.
    ///
    /// # Errors
    /// The kernel's (before Linux 5.14: `ENOPROTOOPT`).
    pub fn of_namespace(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let boot = boot(text.trim_end()).ok_or_else(|| io::Error::other("the boot's id has another form"))?;
        Ok(Self { boot, namespace: sys::netns_cookie(socket)?, interface: None })
    }

    /// Of an interface in that namespace.
    pub(super) fn with_interface(self, index: u32) -> Self {
        Self { interface: NonZeroU32::new(index), ..self }
    }
}

fn boot(text: &str) -> Option<String> {
    let legal = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-');
    (text.len() == BOOT_BYTES && text.bytes().all(legal)).then(|| text.to_owned())
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.boot, self.namespace)?;
        self.interface.map_or(Ok(()), |index| write!(f, "/{index}"))
    }
}

/// The text is no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnId;

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an attachment's identity is BOOT/NAMESPACE or BOOT/NAMESPACE/INTERFACE")
    }
}

impl std::error::Error for NotAnId {}

impl FromStr for AttachmentId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let mut parts = text.split('/');
        let id = Self {
            boot: parts.next().and_then(boot).ok_or(NotAnId)?,
            namespace: parts.next().and_then(|cookie| cookie.parse().ok()).ok_or(NotAnId)?,
            interface: parts.next().map(str::parse).transpose().map_err(|_| NotAnId)?,
        };
        // One spelling for each: `+7` or `007` is another text, and could not be what was written.
        if parts.next().is_none() && id.to_string() == text { Ok(id) } else { Err(NotAnId) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "0b9ff6a1-9d6c-4a24-8a4e-31c0b3a0c8ff";

    #[test]
    fn an_identity_is_read_as_it_was_written() {
        for text in [format!("{BOOT}/4097"), format!("{BOOT}/18446744073709551615/7")] {
            let id: AttachmentId = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
        }
        for broken in ["", "/", "7/7", "4097/7/7"].map(str::to_owned).into_iter().chain(
            ["", "/", "/x", "/7/0", "/7/", "/7/8/9", "/+7", "/007", "/7/+8", "/18446744073709551616", "/-1"]
                .map(|rest| format!("{BOOT}{rest}")),
        ) {
            assert_eq!(broken.parse::<AttachmentId>(), Err(NotAnId), "{broken}");
        }
    }

    #[test]
    fn each_part_tells_two_apart() {
        let ids = [
            format!("{BOOT}/7"),
            format!("{BOOT}/8"),
            format!("{BOOT}/7/1"),
            format!("{BOOT}/7/2"),
            format!("{}/7", BOOT.replace('0', "1")),
        ];
        let ids = ids.map(|text| text.parse::<AttachmentId>().unwrap());
        for (at, one) in ids.iter().enumerate() {
            assert_eq!(ids.iter().filter(|other| *other == one).count(), 1, "{at}");
        }
    }
}
