//! Interpreters that are installed, as they are and stripped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::*;
use crate::python::installed;

fn cpython(data: &[u8], path: &Path) -> Runtime {
    match of_bytes(data, path).unwrap().interpreter {
        Some(Interpreter::CPython(runtime)) => Arc::unwrap_or_clone(runtime),
        other => panic!("{}: {other:?}", path.display()),
    }
}

/// A copy without any symbols but those of the dynamic linker.
fn stripped(path: &Path, folder: &Path) -> Vec<u8> {
    let copy = folder.join("stripped");
    let strip = Command::new("strip").arg("-o").arg(&copy).arg(path).status();
    assert!(strip.unwrap().success(), "{}", path.display());
    fs::read(copy).unwrap()
}

/// Files with an interpreter in them, with its version.
fn installed() -> Vec<(Version, PathBuf)> {
    let all: Vec<_> = installed::installed()
        .into_iter()
        .map(|python| (python.version, python.object))
        .collect();
    if all.is_empty() {
        eprintln!("SKIPPED: no Python below PYENV_ROOT, ~/.pyenv or /usr/bin");
    }
    all
}

#[test]
fn every_interpreter_is_found_with_its_version_and_code() {
    for (version, path) in installed() {
        let runtime = cpython(&fs::read(&path).unwrap(), &path);
        assert_eq!(runtime.version, Some(version), "{}", path.display());
        assert!(runtime.offsets.is_some() && runtime.why_not().is_none());
        assert!(!runtime.evaluator.is_empty());
        for part in &runtime.evaluator {
            assert!(runtime.code.contains(&part.start) && part.end <= runtime.code.end);
            assert!(runtime.evaluates(part.start) && runtime.evaluates(part.end - 1));
            assert!(!runtime.evaluates(part.end));
        }
    }
}

#[test]
fn a_stripped_copy_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for (version, path) in installed() {
        let mut whole = cpython(&fs::read(&path).unwrap(), &path);
        let bare = cpython(&stripped(&path, folder.path()), &path);
        // Nothing jumps to the few bytes that compilers make of what cannot happen, and they call nothing.
        whole.evaluator.retain(|part| part.end - part.start >= 16);
        assert_eq!(bare, whole, "{version}");
    }
}

#[test]
fn the_version_needs_no_name() {
    let folder = tempfile::tempdir().unwrap();
    for (version, path) in installed() {
        let bare = cpython(&stripped(&path, folder.path()), Path::new("embedding"));
        assert_eq!(bare.version, Some(version));
    }
}

#[test]
fn what_the_interpreter_says_of_itself_is_what_its_headers_say() {
    for (version, path) in installed().into_iter().filter(|(version, _)| version.minor >= 13) {
        let runtime = cpython(&fs::read(&path).unwrap(), &path);
        assert_eq!(runtime.offsets, Offsets::of_version(version), "{version}");
    }
}

#[test]
fn other_interpreters_are_known_by_name_and_other_files_have_none() {
    let own = fs::read("/proc/self/exe").unwrap();
    let of = |name: &str| of_bytes(&own, Path::new(name)).unwrap().interpreter;
    assert_eq!(of("/opt/libpypy3.10-c.so"), Some(Interpreter::Other("PyPy")));
    assert_eq!(of("libpythonvm.so"), Some(Interpreter::Other("GraalPy")));
    assert_eq!(of("/bin/python3"), None);
    assert!(of_bytes(b"no ELF file", Path::new("x")).is_err());
}
