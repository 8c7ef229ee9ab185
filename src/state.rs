//! What survives a restart: records by name, each sealed, in one file.
//!
//! A record is bytes to this module. It may hold credentials, so it is sealed with AES-256-GCM under the host's key,
//! bound to its name and to the version of the store: nobody who can write to the file can make one record pass for
//! another, or an older layout for a newer one. (Whoever can put an older copy of the whole file back brings an older
//! state back: keep the state directory to the daemon.)
//!
//! - `INVARIANT`: what [`Store::put`] or [`Store::remove`] returned from is on the disk, whole, also after a crash.
//! - `INVARIANT`: a store that is damaged, foreign or of another version is refused, and its file is left as it is.

use std::error::Error;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, RandomizedNonceKey};
use redb::{Database, ReadOnlyDatabase, ReadableDatabase, ReadableTable, TableDefinition};
use zeroize::Zeroizing;

/// Which layout records have; one more for every change that an older exeat could not read.
const VERSION: u64 = 1;
/// Sealed records by name.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
/// What tells ours from other files of the same format.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("exeat");
/// Names of [`META`].
const VERSION_ENTRY: &str = "version";
/// A sealed word, by which another host's key is told from damage.
const PROOF_ENTRY: &str = "proof";
/// Names of records never look like this.
const PROOF_NAME: &str = "\u{0}proof";

/// What its holder alone serves a state directory by. It is one open file, which can be in the hands of two processes
/// while the one hands over to the other: it is free when the last of them has closed it, however it ended.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes the lock whose file is at this path, and makes the file where there is none.
    ///
    /// # Errors
    /// Another process has it, or the file cannot be opened.
    pub fn take(path: &Path) -> Result<Self, StateError> {
        let failed = |error| StateError::new(path, Fault::Lock(error));
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = opened.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StateError::new(path, Fault::Taken)),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// A lock that another process has handed over.
    #[must_use]
    pub fn handed_over(file: OwnedFd) -> Self {
        Self(file.into())
    }

    /// The same lock once more, for another process.
    ///
    /// # Errors
    /// No more descriptors are to be had.
    pub fn again(&self) -> io::Result<OwnedFd> {
        self.0.try_clone().map(OwnedFd::from)
    }
}

/// The key that seals a store: 32 bytes.
pub struct Key(RandomizedNonceKey);

/// Bytes of a [`Key`].
const KEY_BYTES: usize = 32;

impl Key {
    /// Reads a key file, which only its owner may read; makes one where there is none.
    ///
    /// # Errors
    /// It cannot be read or made, others may read it, or it is no key.
    pub fn of_file(path: &Path) -> Result<Self, StateError> {
        let failed = |error| StateError::new(path, Fault::Key(error));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(file) => make_key(file).map_err(failed)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
        let mut file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if found.mode() & 0o077 != 0 {
            return Err(StateError::new(path, Fault::KeyIsOpen(found.mode() & 0o777)));
        }
        Self::read(path, &mut file)
    }

    /// Reads a key that the service manager hands over (`LoadCredential=`), whose permissions are its own.
    ///
    /// # Errors
    /// It cannot be read, or is no key.
    pub fn of_credential(path: &Path) -> Result<Self, StateError> {
        let mut file = File::open(path).map_err(|error| StateError::new(path, Fault::Key(error)))?;
        Self::read(path, &mut file)
    }

    fn read(path: &Path, file: &mut File) -> Result<Self, StateError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES + 1]);
        let mut length = 0;
        loop {
            let room = bytes.get_mut(length..).unwrap_or_default();
            match file.read(room).map_err(|error| StateError::new(path, Fault::Key(error)))? {
                0 => break,
                more => length += more,
            }
        }
        let key = bytes.get(..length).filter(|key| key.len() == KEY_BYTES);
        let sealing = key.and_then(|key| RandomizedNonceKey::new(&AES_256_GCM, key).ok());
        sealing.map(Self).ok_or_else(|| StateError::new(path, Fault::NoKey))
    }

    fn seal(&self, name: &str, record: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = record.to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(bound(name)), &mut sealed).ok()?;
        sealed.extend_from_slice(nonce.as_ref());
        Some(sealed)
    }

    fn open(&self, name: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (sealed, nonce) = sealed.split_last_chunk::<{ aws_lc_rs::aead::NONCE_LEN }>()?;
        let mut record = Zeroizing::new(sealed.to_vec());
        let length = self.0.open_in_place(nonce.into(), Aad::from(bound(name)), &mut record).ok()?.len();
        record.truncate(length);
        Some(record)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

fn make_key(mut file: File) -> io::Result<()> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    aws_lc_rs::rand::fill(&mut *key).map_err(|_| io::Error::other("no random numbers are to be had"))?;
    file.write_all(&*key)?;
    file.sync_all()
}

/// What a record is bound to.
fn bound(name: &str) -> Vec<u8> {
    let mut bound = VERSION.to_be_bytes().to_vec();
    bound.extend_from_slice(name.as_bytes());
    bound
}

/// A record's name, and the record.
pub type Record = (String, Zeroizing<Vec<u8>>);

/// The store.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    key: Key,
    database: Database,
}

impl Store {
    /// Opens the store in `path`, or makes one where there is no file. Another process cannot open it meanwhile.
    ///
    /// # Errors
    /// It is another process's now, damaged, foreign, of another version, or sealed with another key.
    pub fn open(path: &Path, key: Key) -> Result<Self, StateError> {
        let failed = |error: redb::Error| StateError::new(path, Fault::of(error));
        let exists = fs::metadata(path).is_ok_and(|found| found.len() > 0);
        if exists {
            look(path, &key).map_err(|fault| StateError::new(path, fault))?;
        }
        let database = if exists { Database::open(path) } else { Database::create(path) };
        let database = database.map_err(|error| failed(error.into()))?;
        let store = Self { path: path.to_owned(), key, database };
        if !exists {
            store.begin()?;
        }
        Ok(store)
    }

    /// Marks a new store as ours.
    fn begin(&self) -> Result<(), StateError> {
        let proof = self.sealed(PROOF_NAME, b"exeat")?;
        self.write(|transaction| {
            let mut meta = transaction.open_table(META)?;
            meta.insert(VERSION_ENTRY, VERSION.to_be_bytes().as_slice())?;
            meta.insert(PROOF_ENTRY, proof.as_slice())?;
            transaction.open_table(RECORDS)?;
            Ok(())
        })
    }

    /// Puts a record, in place of one of that name. It takes a disk's time: not for a thread that serves flows.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn put(&self, name: &str, record: &[u8]) -> Result<(), StateError> {
        let sealed = self.sealed(name, record)?;
        self.write(|transaction| {
            transaction.open_table(RECORDS)?.insert(name, sealed.as_slice())?;
            Ok(())
        })
    }

    /// Removes a record, if there is one.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        self.write(|transaction| {
            transaction.open_table(RECORDS)?.remove(name)?;
            Ok(())
        })
    }

    /// Every record, in order of name.
    ///
    /// # Errors
    /// One cannot be read, or was not sealed by us under its name; then none is given.
    pub fn all(&self) -> Result<Vec<Record>, StateError> {
        let sealed = self.read().map_err(|error| self.fault(Fault::of(error)))?;
        let open = |(name, sealed): (String, Vec<u8>)| match self.key.open(&name, &sealed) {
            Some(record) => Ok((name, record)),
            None => Err(self.fault(Fault::Record(name))),
        };
        sealed.into_iter().map(open).collect()
    }

    fn read(&self) -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
        let records = self.database.begin_read()?.open_table(RECORDS)?;
        let mut read = Vec::new();
        for entry in records.iter()? {
            let (name, sealed) = entry?;
            read.push((name.value().to_owned(), sealed.value().to_vec()));
        }
        Ok(read)
    }

    fn write(&self, change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>) -> Result<(), StateError> {
        let written = self.database.begin_write().map_err(redb::Error::from).and_then(|transaction| {
            change(&transaction)?;
            Ok(transaction.commit()?)
        });
        written.map_err(|error| self.fault(Fault::of(error)))
    }

    fn sealed(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, StateError> {
        self.key.seal(name, record).ok_or_else(|| self.fault(Fault::Seal))
    }

    fn fault(&self, fault: Fault) -> StateError {
        StateError::new(&self.path, fault)
    }
}

/// Looks whether a store is ours, without writing to its file. One that a crash left is looked at in a copy, for
/// opening mends it.
fn look(path: &Path, key: &Key) -> Result<(), Fault> {
    match ReadOnlyDatabase::open(path).map_err(redb::Error::from) {
        Ok(database) => check(&database, key),
        Err(redb::Error::RepairAborted) => {
            let copy = path.with_extension("look");
            fs::copy(path, &copy).map_err(|error| Fault::Database(redb::Error::Io(error)))?;
            let looked = Database::open(&copy).map_err(|error| Fault::of(error.into()));
            let looked = looked.and_then(|database| check(&database, key));
            // It is made anew when it is needed again.
            let _ = fs::remove_file(&copy);
            looked
        }
        Err(error) => Err(Fault::of(error)),
    }
}

fn check(database: &impl ReadableDatabase, key: &Key) -> Result<(), Fault> {
    let entry = |name: &str| -> Result<Option<Vec<u8>>, redb::Error> {
        let meta = database.begin_read()?.open_table(META)?;
        Ok(meta.get(name)?.map(|entry| entry.value().to_vec()))
    };
    match (entry(VERSION_ENTRY), entry(PROOF_ENTRY)) {
        (Err(redb::Error::TableDoesNotExist(_)), _) | (Ok(None), _) => Err(Fault::Foreign),
        (Err(error), _) | (Ok(_), Err(error)) => Err(Fault::of(error)),
        (Ok(Some(version)), _) if version != VERSION.to_be_bytes() => Err(Fault::Version),
        (Ok(Some(_)), Ok(proof)) => {
            let opened = proof.and_then(|proof| key.open(PROOF_NAME, &proof));
            if opened.is_some_and(|word| *word == b"exeat") { Ok(()) } else { Err(Fault::OtherKey) }
        }
    }
}

/// What is wrong with a store or its key.
#[derive(Debug)]
pub struct StateError {
    path: PathBuf,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Lock(io::Error),
    Key(io::Error),
    KeyIsOpen(u32),
    NoKey,
    OtherKey,
    Seal,
    Taken,
    HandedOver,
    Foreign,
    Version,
    Record(String),
    Database(redb::Error),
}

impl Fault {
    fn of(error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen => Self::Taken,
            redb::Error::UpgradeRequired(_) => Self::Version,
            error => Self::Database(error),
        }
    }
}

impl StateError {
    fn new(path: &Path, fault: Fault) -> Self {
        Self { path: path.to_owned(), fault }
    }

    /// A store that this process has let another have.
    #[must_use]
    pub fn handed_over(path: &Path) -> Self {
        Self::new(path, Fault::HandedOver)
    }

    /// Whether another process has it now, which may end.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        matches!(self.fault, Fault::Taken)
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.fault {
            Fault::Lock(_) => write!(f, "the lock {path} cannot be opened"),
            Fault::Key(_) => write!(f, "the key {path} cannot be read or made"),
            Fault::KeyIsOpen(mode) => {
                write!(f, "the key {path} can be read by others (mode {mode:o}); `chmod 600` it, or replace it")
            }
            Fault::NoKey => write!(f, "{path} is no key: a key has {KEY_BYTES} bytes"),
            Fault::OtherKey => write!(f, "the store {path} was sealed with another key; it is left as it is"),
            Fault::Seal => write!(f, "a record for {path} cannot be sealed"),
            Fault::Taken => write!(f, "{path} is in use by another process"),
            Fault::HandedOver => write!(f, "another process has taken {path} over; ask that one"),
            Fault::Foreign => write!(f, "{path} is no store of exeat's; it is left as it is"),
            Fault::Version => write!(f, "the store {path} is of another version of exeat; it is left as it is"),
            Fault::Record(name) => {
                write!(f, "the record `{name}` in {path} is damaged or not ours; the store is left as it is")
            }
            Fault::Database(_) => write!(f, "the store {path} cannot be used; it is left as it is"),
        }
    }
}

impl Error for StateError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.fault {
            Fault::Lock(error) | Fault::Key(error) => Some(error),
            Fault::Database(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
