//! A store that is ours, and those that are not.

use std::os::unix::fs::PermissionsExt;

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn key(&self, name: &str) -> Key {
        Key::of_file(&self.path(name)).unwrap()
    }

    fn open(&self) -> Result<Store, StateError> {
        Store::open(&self.path("state.redb"), self.key("key"))
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path("state.redb")).unwrap()
    }
}

fn records(store: &Store) -> Vec<(String, Vec<u8>)> {
    store.all().unwrap().into_iter().map(|(name, record)| (name, record.to_vec())).collect()
}

#[test]
fn what_was_put_is_there_when_it_is_opened_again() {
    let folder = Folder::new();
    let store = folder.open().unwrap();
    store.put("b", b"canary-of-b").unwrap();
    store.put("a", b"old").unwrap();
    store.put("a", b"new").unwrap();
    store.put("c", b"").unwrap();
    store.remove("c").unwrap();
    store.remove("none").unwrap();
    drop(store);
    let again = folder.open().unwrap();
    assert_eq!(records(&again), [("a".to_owned(), b"new".to_vec()), ("b".to_owned(), b"canary-of-b".to_vec())]);
    assert!(!folder.bytes().windows(6).any(|window| window == b"canary"), "records are sealed");
    let mode = fs::metadata(folder.path("key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn what_a_crash_left_is_whole() {
    let (folder, after) = (Folder::new(), Folder::new());
    let store = folder.open().unwrap();
    store.put("a", b"acknowledged").unwrap();
    // What is on the disk while the store is open is what a crash leaves.
    fs::write(after.path("state.redb"), folder.bytes()).unwrap();
    fs::copy(folder.path("key"), after.path("key")).unwrap();
    assert_eq!(records(&after.open().unwrap()), [("a".to_owned(), b"acknowledged".to_vec())]);
    assert!(!after.path("state.look").exists());
    fs::write(after.path("state.redb"), folder.bytes()).unwrap();
    fs::write(after.path("key"), [7; KEY_BYTES]).unwrap();
    assert!(after.open().unwrap_err().to_string().contains("another key"));
    assert!(after.bytes() == folder.bytes(), "the file was changed");
}

#[test]
fn a_store_has_one_process_at_a_time() {
    let folder = Folder::new();
    let _first = folder.open().unwrap();
    assert!(folder.open().unwrap_err().to_string().ends_with("is in use by another process"));
}

#[test]
fn a_lock_is_free_when_the_last_who_has_it_is_gone() {
    let folder = Folder::new();
    let take = || Lock::take(&folder.path("lock"));
    let first = take().unwrap();
    let handed_over = Lock::handed_over(first.again().unwrap());
    assert!(take().unwrap_err().is_taken());
    drop(first);
    assert!(take().unwrap_err().is_taken(), "it was handed over");
    drop(handed_over);
    drop(take().unwrap());
}

#[test]
fn a_store_that_is_not_ours_is_refused_and_left_as_it_is() {
    type Spoil = fn(&Folder);
    let cases: [(&str, Spoil, &str); 5] = [
        ("not a database", |folder| fs::write(folder.path("state.redb"), "something else").unwrap(), "cannot be used"),
        ("another key", |folder| drop(fs::write(folder.path("key"), [7; 32])), "was sealed with another key"),
        (
            "another program's database",
            |folder| {
                fs::remove_file(folder.path("state.redb")).unwrap();
                let other = Database::create(folder.path("state.redb")).unwrap();
                let transaction = other.begin_write().unwrap();
                transaction.open_table(RECORDS).unwrap().insert("a", b"x".as_slice()).unwrap();
                transaction.commit().unwrap();
            },
            "is no store of exeat's",
        ),
        (
            "a later version",
            |folder| {
                let store = folder.open().unwrap();
                let version = (VERSION + 1).to_be_bytes();
                let put = |transaction: &redb::WriteTransaction| {
                    transaction.open_table(META)?.insert(VERSION_ENTRY, version.as_slice())?;
                    Ok(())
                };
                store.write(put).unwrap();
            },
            "is of another version",
        ),
        (
            "cut short",
            |folder| fs::write(folder.path("state.redb"), &folder.bytes()[..5000]).unwrap(),
            "cannot be used",
        ),
    ];
    for (case, spoil, message) in cases {
        let folder = Folder::new();
        folder.open().unwrap().put("a", b"record").unwrap();
        spoil(&folder);
        let before = folder.bytes();
        let error = folder.open().unwrap_err();
        assert!(error.to_string().contains(message), "{case}: {error}");
        assert!(folder.bytes() == before, "{case}: the file was changed");
    }
}

#[test]
fn a_record_cannot_pass_for_another() {
    let folder = Folder::new();
    let store = folder.open().unwrap();
    store.put("a", b"for a").unwrap();
    store.put("b", b"for b").unwrap();
    let [(_, a), (_, b)] = store.read().unwrap().try_into().unwrap();
    let raw = |name: &str, sealed: &[u8]| {
        let put = |transaction: &redb::WriteTransaction| {
            transaction.open_table(RECORDS)?.insert(name, sealed)?;
            Ok(())
        };
        store.write(put).unwrap();
        store.all().map(|records| records.len()).map_err(|error| error.to_string())
    };
    assert_eq!(raw("a", &a), Ok(2));
    let mut flipped = a.clone();
    flipped[0] ^= 1;
    for sealed in [b.as_slice(), &flipped, &a[1..], b"", &[0; 12]] {
        assert!(raw("a", sealed).unwrap_err().contains("the record `a`"));
    }
}

#[test]
fn a_key_that_others_can_read_or_that_is_none_is_refused() {
    let folder = Folder::new();
    let path = folder.path("key");
    drop(folder.key("key"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(Key::of_file(&path).unwrap_err().to_string().contains("mode 640"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    for bytes in [0, 31, 33, 100] {
        fs::write(&path, vec![7; bytes]).unwrap();
        assert!(Key::of_file(&path).unwrap_err().to_string().contains("is no key"), "{bytes}");
    }
    assert!(Key::of_credential(&folder.path("none")).unwrap_err().to_string().contains("cannot be read"));
    assert_eq!(format!("{:?}", folder.key("other")), "Key");
}
