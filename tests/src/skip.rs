//! What happens when this machine lacks something that a test needs: never silence.
//!
//! Root and BPF are needed by every test and their absence fails it. A missing compiler, library or
//! server skips the test with a line `SKIPPED: TEST: WHY` on stderr and in the file named by
//! `LEAKTRACE_SKIP_LOG`; with `LEAKTRACE_SKIP=never` in the environment it fails the test.

use std::{fs::OpenOptions, io::Write as _, path::PathBuf};

/// Something that this machine lacks: a sentence that names it and what to install.
#[derive(Clone, Debug)]
pub struct Missing(pub String);

/// Says that the running test is skipped, and why.
pub fn skip(why: &str) {
    assert!(
        std::env::var_os("LEAKTRACE_SKIP").is_none_or(|value| value != "never"),
        "this machine cannot run the test, and LEAKTRACE_SKIP=never forbids to skip it: {why}"
    );
    let thread = std::thread::current();
    let line = format!("SKIPPED: {}: {why}\n", thread.name().unwrap_or("?"));
    // Not by `eprintln!`, which the test runner would swallow.
    let mut written = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("LEAKTRACE_SKIP_LOG").map(PathBuf::from) {
        let log = OpenOptions::new().create(true).append(true).open(&path);
        written = written.and(log.and_then(|mut log| log.write_all(line.as_bytes())));
    }
    written.expect("a skipped test must be reported");
}

/// What is there, or a skip.
pub fn unless_missing<T>(what: Result<T, Missing>) -> Option<T> {
    match what {
        Ok(what) => Some(what),
        Err(Missing(why)) => {
            skip(&why);
            None
        }
    }
}

/// Finds a program in PATH and in the places where Debian keeps servers.
///
/// # Errors
/// When it is not there.
pub fn program(name: &str, package: &str) -> Result<PathBuf, Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Missing(format!("no {name} on this machine; install {package}")))
}

/// Finds a shared library by its file name.
///
/// # Errors
/// When it is not there.
pub fn library(file: &str, package: &str) -> Result<PathBuf, Missing> {
    [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/local/lib",
    ]
    .iter()
    .map(|directory| PathBuf::from(directory).join(file))
    .find(|candidate| candidate.exists())
    .ok_or_else(|| Missing(format!("no {file} on this machine; install {package}")))
}
