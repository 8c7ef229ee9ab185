//! Memory for values that are to be nowhere else: in no swap (`mlock`), in no core dump, in no forked child, and
//! zeroised when it is given back.
//!
//! Small values share pages, for a limit of locked memory counts pages and is low where nobody has raised it. A page is
//! divided into cells of one size; what is too large for any has pages of its own.
//!
//! - `INVARIANT`: a cell has one owner, and is zero when it gets another.
//! - `INVARIANT`: memory that cannot be locked holds its value all the same: a value that is there and may be swapped
//!   is better than a daemon that stops. It is counted ([`unlocked`]), and whoever waits for that is told
//!   ([`refused`]).

use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use tokio::sync::Notify;
use zeroize::Zeroize;

/// Bytes of the cells of each kind.
const CELLS: [usize; 6] = [64, 128, 256, 512, 1024, 2048];
/// Bytes that are mapped at once for cells of a kind; they stay for the cells that follow.
const SHEET: usize = 8 * 1024;

/// Cells that nobody owns, by kind.
static FREE: [Mutex<Vec<Cell>>; CELLS.len()] = [const { Mutex::new(Vec::new()) }; CELLS.len()];
static UNLOCKED: AtomicUsize = AtomicUsize::new(0);
static REFUSED: Notify = Notify::const_new();

/// Bytes that one owner alone has, in such memory.
pub struct Locked {
    start: NonNull<u8>,
    length: usize,
    home: Home,
}

/// Whose memory it is.
enum Home {
    /// A cell of this kind.
    Cell(usize),
    /// Mapped for it.
    Own { _pages: Pages },
    /// No more could be mapped: the allocator's.
    Heap,
}

/// A cell that nobody owns. All of it is zero.
struct Cell(NonNull<u8>);

// SAFETY: it is the only pointer to its cell, which any thread may write. JUSTIFICATION: pointers are not `Send`.
unsafe impl Send for Cell {}

// SAFETY: it owns its bytes alone, as a box does, and lends them by the rules of references.
// JUSTIFICATION: pointers are neither `Send` nor `Sync`.
unsafe impl Send for Locked {}
// SAFETY: as above.
unsafe impl Sync for Locked {}

/// How many bytes could not be locked, of those that are mapped.
#[must_use]
pub fn unlocked() -> usize {
    UNLOCKED.load(Ordering::Relaxed)
}

/// Ready once memory could not be locked, also if that was before; for one who waits.
pub async fn refused() {
    REFUSED.notified().await;
}

impl Locked {
    /// So many bytes that are zero.
    #[must_use]
    pub fn zero(length: usize) -> Self {
        let kind = CELLS.iter().position(|size| length <= *size);
        let found = match kind {
            Some(kind) => cell(kind).map(|Cell(start)| (start, Home::Cell(kind))),
            None => Pages::map(length).map(|pages| (pages.start, Home::Own { _pages: pages })),
        };
        let (start, home) = found.unwrap_or_else(|| {
            count_unlocked(length);
            (NonNull::from(Box::leak(vec![0; length].into_boxed_slice())).cast(), Home::Heap)
        });
        Self { start, length, home }
    }

    /// A copy of these bytes.
    #[must_use]
    pub fn copy(bytes: &[u8]) -> Self {
        let mut locked = Self::zero(bytes.len());
        locked.copy_from_slice(bytes);
        locked
    }
}

impl Deref for Locked {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` begins `length` bytes that were written (with zeros at first), are this value's alone, and
        // stay until it is dropped. JUSTIFICATION: memory that is mapped has no safe owner.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.zeroize();
        match &self.home {
            Home::Cell(kind) => free(*kind).extend([Cell(self.start)]),
            // They are unmapped as they are dropped.
            Home::Own { .. } => {}
            Home::Heap => {
                UNLOCKED.fetch_sub(self.length, Ordering::Relaxed);
                let bytes = NonNull::slice_from_raw_parts(self.start, self.length);
                // SAFETY: `zero` leaked a box of this very slice, and nobody has used these bytes since but us.
                // JUSTIFICATION: the one way to give back what `Box::leak` gave.
                drop(unsafe { Box::from_raw(bytes.as_ptr()) });
            }
        }
    }
}

/// A cell that nobody owns; `None` where no more memory can be mapped.
fn cell(kind: usize) -> Option<Cell> {
    let size = CELLS.get(kind).copied()?;
    let mut free = free(kind);
    if free.is_empty() {
        // Cells are never unmapped: many come again.
        let start = std::mem::ManuallyDrop::new(Pages::map(SHEET)?).start;
        // SAFETY: each offset is within what was mapped. JUSTIFICATION: there is no safe way to divide it.
        free.extend((0..SHEET / size).map(|number| Cell(unsafe { start.add(number * size) })));
    }
    free.pop()
}

fn free(kind: usize) -> MutexGuard<'static, Vec<Cell>> {
    let [first, ..] = &FREE;
    FREE.get(kind).unwrap_or(first).lock().unwrap_or_else(PoisonError::into_inner)
}

fn count_unlocked(bytes: usize) {
    UNLOCKED.fetch_add(bytes, Ordering::Relaxed);
    REFUSED.notify_one();
}

/// Pages that are mapped, and unmapped when they are dropped.
struct Pages {
    start: NonNull<u8>,
    length: NonZeroUsize,
    is_locked: bool,
}

impl Pages {
    /// At least so many bytes, all zero; `None` where no more can be mapped.
    fn map(length: usize) -> Option<Self> {
        let length = NonZeroUsize::new(length)?;
        let (access, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
        // SAFETY: the kernel chooses a place where nothing is. JUSTIFICATION: nix marks every mapping unsafe.
        let start = unsafe { mmap_anonymous(None, length, access, flags) }.ok()?;
        // SAFETY: the pages were mapped just now, and neither call changes what they hold in this process.
        // JUSTIFICATION: as above.
        let is_locked = unsafe {
            let kept_out = [MmapAdvise::MADV_DONTDUMP, MmapAdvise::MADV_WIPEONFORK];
            kept_out.into_iter().all(|advice| madvise(start, length.get(), advice).is_ok())
                && mlock(start, length.get()).is_ok()
        };
        if !is_locked {
            count_unlocked(length.get());
        }
        Some(Self { start: start.cast(), length, is_locked })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if !self.is_locked {
            UNLOCKED.fetch_sub(self.length.get(), Ordering::Relaxed);
        }
        // SAFETY: it was mapped with this length, and whoever had bytes of it is dropped.
        // JUSTIFICATION: as above. It fails for no pages that are mapped.
        let _ = unsafe { munmap(self.start.cast(), self.length.get()) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What the kernel says of the mapping that an address is in.
    fn flags(address: usize) -> String {
        let all = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_here = false;
        for line in all.lines() {
            if let Some((begin, end)) = line.split(' ').next().and_then(|range| range.split_once('-')) {
                let place = |text| usize::from_str_radix(text, 16).unwrap();
                is_here = (place(begin)..place(end)).contains(&address);
            } else if is_here && let Some(flags) = line.strip_prefix("VmFlags:") {
                return format!("{flags} ");
            }
        }
        panic!("nothing is mapped at {address:x}")
    }

    #[test]
    fn memory_of_any_size_is_locked_undumped_and_wiped_in_children() {
        for length in [0, 1, 40, 64, 65, 2048, 2049, 64 * 1024] {
            let bytes: Vec<u8> = (1..=255).cycle().take(length).collect();
            let locked = Locked::copy(&bytes);
            assert_eq!(*locked, bytes);
            let flags = flags(locked.as_ptr().addr());
            // Where the limit is so low that they cannot be, that is counted.
            let is_counted = unlocked() > 0 && !flags.contains(" lo ");
            assert!(flags.contains(" dd ") && flags.contains(" wf "), "{length}: {flags}");
            assert!(flags.contains(" lo ") || is_counted, "{length}: {flags}");
        }
    }

    #[test]
    fn what_is_given_back_is_zero_and_has_another_owner() {
        // Of a kind that no other test here uses.
        let locked = Locked::copy(&[7; 700]);
        let place = locked.as_ptr().addr();
        let other = Locked::copy(&[8; 700]);
        assert_ne!(place, other.as_ptr().addr());
        drop(locked);
        let again = Locked::zero(1024);
        assert_eq!((again.as_ptr().addr(), &*again), (place, &[0; 1024][..]));
        assert_eq!(*other, [8; 700]);
    }

    #[test]
    fn many_of_many_sizes_do_not_meet() {
        let kept: Vec<Locked> = (0..2000).map(|number| Locked::copy(&vec![number as u8; number * 7 % 3000])).collect();
        for (number, locked) in kept.iter().enumerate() {
            assert!(locked.len() == number * 7 % 3000 && locked.iter().all(|byte| *byte == number as u8), "{number}");
        }
    }
}
