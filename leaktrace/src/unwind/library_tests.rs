//! Loading: from the store, built, shared, in the background; of files that are none.

use super::*;
use std::io::{Seek as _, Write as _};
use std::sync::mpsc;

fn source(path: &str) -> Source {
    let file = File::open(path).unwrap();
    let key = TableKey::of(&file).unwrap();
    Source {
        file,
        name: path.to_owned(),
        key,
    }
}

fn library_of_own() -> (tempfile::TempDir, Library) {
    let directory = tempfile::tempdir().unwrap();
    let library = Library::new(Some(directory.path().join("unwind")));
    (directory, library)
}

const THIS: &str = "/proc/self/exe";

#[test]
fn a_file_is_loaded_once_and_shared() {
    let library = Library::new(None);
    let tables = library.load_all(vec![source(THIS), source("/bin/sh"), source(THIS)]);
    let tables: Vec<Arc<Table>> = tables.into_iter().map(Result::unwrap).collect();
    assert!(Arc::ptr_eq(&tables[0], &tables[2]));
    assert!(!Arc::ptr_eq(&tables[0], &tables[1]));
    let again = library.load_all(vec![source(THIS)]).remove(0).unwrap();
    assert!(Arc::ptr_eq(&tables[0], &again));
    assert_eq!(library.load_all(Vec::new()).len(), 0);
}

#[test]
fn a_second_run_reads_what_the_first_has_kept() {
    let (directory, library) = library_of_own();
    let built = library.load_all(vec![source(THIS)]).remove(0).unwrap();
    let kept: Vec<_> = fs::read_dir(directory.path().join("unwind")).unwrap().collect();
    assert_eq!(kept.len(), 1);
    let second = Library::new(Some(directory.path().join("unwind")));
    assert_eq!(second.load_all(vec![source(THIS)]).remove(0).unwrap(), built);
    // A damaged one is built again, and kept again.
    let path = kept[0].as_ref().unwrap().path();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let third = Library::new(Some(directory.path().join("unwind")));
    assert_eq!(third.load_all(vec![source(THIS)]).remove(0).unwrap(), built);
    assert_eq!(fs::read(&path).unwrap(), whole);
}

#[test]
fn a_request_is_answered_from_another_thread() {
    let library = Library::new(None);
    let (sender, receiver) = mpsc::channel();
    let here = thread::current().id();
    library.request(source(THIS), move |loaded| {
        sender.send((loaded, thread::current().id())).unwrap();
    });
    let (loaded, there) = receiver.recv().unwrap();
    assert!(loaded.unwrap().rows.len() > 100);
    assert_ne!(here, there);
}

#[test]
fn a_file_without_a_table_is_an_error_that_names_it() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"#!/bin/sh\n").unwrap();
    let key = TableKey::of(&file).unwrap();
    assert!(matches!(key, TableKey::Inode { size_bytes: 10, .. }));
    let position = file.stream_position().unwrap();
    let name = "a script".to_owned();
    let loaded = Library::new(None).load_all(vec![Source { file, name, key }]);
    let message = loaded[0].as_ref().unwrap_err().to_string();
    assert!(
        message.contains("a script") && message.lines().count() == 1,
        "{message}"
    );
    assert_eq!(position, 10);
}

#[test]
fn the_key_of_a_linked_file_is_its_build_id() {
    let key = source("/bin/sh").key;
    let TableKey::BuildId { id, size_bytes } = &key else {
        panic!("{key}");
    };
    assert_eq!(id.len(), 20);
    assert_eq!(*size_bytes, fs::metadata("/bin/sh").unwrap().len());
    assert!(
        key.to_string()
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
    );
}

#[test]
fn the_vdso_has_a_table() {
    let table = Library::vdso().unwrap();
    assert!(table.rows.len() > 1 && table.bias(0x7fff_0000, 0) == Some(0x7fff_0000));
}

#[test]
fn the_cache_is_where_the_user_has_such_things() {
    let with = |cache: Option<&str>, home: Option<&str>| {
        cache_dir(|name| match name {
            "XDG_CACHE_HOME" => cache.map(OsString::from),
            _ => home.map(OsString::from),
        })
    };
    let own = Some(PathBuf::from("/root/.cache/leaktrace/unwind"));
    assert_eq!(with(None, Some("/root")), own);
    assert_eq!(with(Some("relative"), Some("/root")), own);
    assert_eq!(
        with(Some("/c"), Some("/root")),
        Some(PathBuf::from("/c/leaktrace/unwind"))
    );
    assert_eq!(with(None, None), None);
}
