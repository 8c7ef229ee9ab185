//! The state directory of a daemon: its lock, and its store, which is closed while another process may open it.
//!
//! - `INVARIANT`: whoever has not got the lock opens no store.
//! - `INVARIANT`: once it has let go, it opens none again.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Instant, sleep};

use super::ServeError;
use super::take_over::receiving::Estate;
use crate::config::Config;
use crate::limits;
use crate::state::{Key, Lock, StateError, Store};

/// See the module's doc.
pub(super) struct Vault {
    state: PathBuf,
    /// Handed over by the service manager, instead of one of our own.
    credential: Option<PathBuf>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    lock: Option<Lock>,
    store: Option<Arc<Store>>,
}

impl Vault {
    /// Opens a state directory, and makes it where there is none. Whoever takes it over waits until it is free.
    ///
    /// # Errors
    /// What cannot be used; another daemon may have it.
    pub(super) async fn open(config: &Config, estate: &mut Estate) -> Result<Self, ServeError> {
        let (state, credential) = (config.state.clone(), config.key.clone());
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&state);
        made.map_err(|error| ServeError::Unwritable(state.clone(), error))?;
        let take = || Lock::take(&state.join("lock"));
        let lock = match estate.lock.take() {
            Some(lock) => lock,
            None if estate.is_asked_for => once_free(take).await.map_err(ServeError::Store)?,
            None => take().map_err(ServeError::Store)?,
        };
        let vault = Self { state, credential, open: Mutex::new(Open { lock: Some(lock), store: None }) };
        vault.store().await.map_err(ServeError::Store)?;
        Ok(vault)
    }

    /// The store; opened where it was closed.
    ///
    /// # Errors
    /// It cannot be opened, or is another process's now.
    pub(super) async fn store(&self) -> Result<Arc<Store>, StateError> {
        once_free(|| {
            let mut open = self.guarded();
            if let Some(store) = &open.store {
                return Ok(Arc::clone(store));
            }
            let path = self.state.join("sandboxes.redb");
            if open.lock.is_none() {
                return Err(StateError::handed_over(&path));
            }
            let key = match &self.credential {
                Some(credential) => Key::of_credential(credential)?,
                None => Key::of_file(&self.state.join("key"))?,
            };
            Ok(Arc::clone(open.store.insert(Arc::new(Store::open(&path, key)?))))
        })
        .await
    }

    /// Closes the store. Whoever uses it has finished.
    pub(super) fn close(&self) {
        self.guarded().store = None;
    }

    /// Closes the store, and lets go of the lock.
    pub(super) fn let_go(&self) {
        *self.guarded() = Open::default();
    }

    /// Whether it has.
    pub(super) fn has_let_go(&self) -> bool {
        self.guarded().lock.is_none()
    }

    /// The lock once more, for another process.
    ///
    /// # Errors
    /// No more descriptors are to be had, or it was let go of.
    pub(super) fn lock(&self) -> io::Result<OwnedFd> {
        self.guarded().lock.as_ref().ok_or(io::ErrorKind::NotFound)?.again()
    }

    fn guarded(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a process that is ending may still have open.
async fn once_free<T>(attempt: impl Fn() -> Result<T, StateError>) -> Result<T, StateError> {
    let given_up = Instant::now() + limits::LEFT_OPEN_TIME;
    loop {
        match attempt() {
            Err(error) if error.is_taken() && Instant::now() < given_up => sleep(limits::LEFT_OPEN_REST).await,
            done => return done,
        }
    }
}
