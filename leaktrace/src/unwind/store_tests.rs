//! What is written is read, and nothing else is believed.

use super::*;
use leaktrace_common::unwind::{Row, Rule};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use crate::unwind::table::Segment;

fn key(size_bytes: u64) -> TableKey {
    TableKey::BuildId {
        id: Box::from([0xab; 20]),
        size_bytes,
    }
}

fn table() -> Table {
    Table {
        segments: vec![Segment {
            file_offset: 0x1000,
            address: 0x2000,
            size_bytes: 0x300,
        }],
        first_page: 0,
        page_rows: vec![0, 2, 2, 3],
        rows: vec![Row::new(0, 0), Row::new(0x20, 1), Row::new(0, 1)],
        rules: vec![
            Rule::default(),
            Rule {
                cfa_offset: -70_000,
                rbp_offset: -16,
                cfa: 2,
                rbp: 1,
            },
        ],
        text_bytes: 0x300,
    }
}

/// A store in a directory that does not exist yet.
fn store() -> (tempfile::TempDir, PathBuf, Store) {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("leaktrace/unwind");
    let store = Store::open(&path).unwrap();
    (parent, path, store)
}

#[test]
fn a_table_is_read_as_it_was_kept() {
    let (_parent, path, store) = store();
    assert_eq!(store.load(&key(1)), None);
    store.save(&key(1), &table()).unwrap();
    assert_eq!(store.load(&key(1)), Some(table()));
    assert_eq!(store.load(&key(2)), None);
    store.save(&key(1), &Table::default()).unwrap();
    let again = Store::open(&path).unwrap();
    // An empty one has no first page and is not believed.
    assert_eq!(again.load(&key(1)), None);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
}

#[test]
fn only_the_user_can_read_it() {
    let (parent, path, store) = store();
    store.save(&key(1), &table()).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&parent.path().join("leaktrace")), 0o700);
    assert_eq!(mode(&path.join(file_name(&key(1)))), 0o600);
}

#[test]
fn a_damaged_file_is_not_believed() {
    let (_parent, path, store) = store();
    store.save(&key(1), &table()).unwrap();
    let file = path.join(file_name(&key(1)));
    let whole = fs::read(&file).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&file, &damaged).unwrap();
        assert_eq!(store.load(&key(1)), None, "byte {at}");
        fs::write(&file, &whole[..at]).unwrap();
        assert_eq!(store.load(&key(1)), None, "{at} bytes");
    }
    fs::write(&file, [whole.as_slice(), &[0]].concat()).unwrap();
    assert_eq!(store.load(&key(1)), None);
    fs::write(&file, &whole).unwrap();
    assert_eq!(store.load(&key(1)), Some(table()));
}

#[test]
fn a_sound_checksum_over_nonsense_is_not_believed() {
    let mut broken = table();
    broken.rows[1] = Row::new(0x20, 7);
    assert_eq!(format::decode(&format::encode(&broken)), None);
    assert_eq!(format::decode(&format::encode(&table())), Some(table()));
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let (_parent, path, store) = store();
    for size_bytes in 1..=3 {
        store.save(&key(size_bytes), &table()).unwrap();
    }
    let file_bytes = fs::metadata(path.join(file_name(&key(1)))).unwrap().len();
    let set_used = |size_bytes, seconds| {
        let file = fs::File::options()
            .write(true)
            .open(path.join(file_name(&key(size_bytes))))
            .unwrap();
        let used_at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        file.set_modified(used_at).unwrap();
    };
    set_used(1, 100);
    set_used(2, 300);
    set_used(3, 200);
    // Used once more, by being read.
    assert!(store.load(&key(1)).is_some());
    store.trim(2 * file_bytes).unwrap();
    let left = [1, 2, 3].map(|size_bytes| path.join(file_name(&key(size_bytes))).exists());
    assert_eq!(left, [true, true, false]);
    store.trim(0).unwrap();
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
}

#[test]
fn a_directory_that_others_can_write_to_is_not_used() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("unwind");
    fs::create_dir(&path).unwrap();
    for mode in [0o777, 0o770, 0o1777] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(Store::open(&path).is_err(), "{mode:o}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(Store::open(&path).is_ok());
    assert!(Store::open(Path::new("relative/unwind")).is_err());
    assert!(Store::open(&path.join("../unwind")).is_err());
}

#[test]
fn a_link_that_others_may_have_made_is_not_followed() {
    let parent = tempfile::tempdir().unwrap();
    let (own, shared) = (parent.path().join("own"), parent.path().join("shared"));
    fs::create_dir(&own).unwrap();
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    symlink(&own, shared.join("unwind")).unwrap();
    symlink(&own, parent.path().join("link")).unwrap();
    assert!(Store::open(&shared.join("unwind")).is_err());
    assert!(Store::open(&shared.join("unwind/below")).is_err());
    // One's own may be.
    assert!(Store::open(&parent.path().join("link/below")).is_ok());
    let (_parent, path, store) = store();
    symlink(own.join("elsewhere"), path.join(file_name(&key(1)))).unwrap();
    assert_eq!(store.load(&key(1)), None);
    store.save(&key(1), &table()).unwrap();
    assert!(!own.join("elsewhere").exists());
}
