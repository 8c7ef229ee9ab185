//! Buffers to read into, which a thread lends for as long as something is in them.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use crate::limits;

/// Buffers that a thread keeps for its next reads.
const POOLED: usize = 8;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// [`limits::RELAY_BYTES`] to read into, given back when it is dropped. It may hold what another flow read: a
/// [`tokio::io::ReadBuf`] over it lends only what was read anew.
#[derive(Debug)]
pub(super) struct Buffer(Box<[u8]>);

impl Buffer {
    /// One of this thread's.
    pub(super) fn borrow() -> Self {
        let pooled = POOL.with_borrow_mut(Vec::pop);
        Self(pooled.unwrap_or_else(|| vec![0; limits::RELAY_BYTES].into_boxed_slice()))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // A thread that ends keeps none.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < POOLED {
                pool.push(buffer);
            }
        });
    }
}
