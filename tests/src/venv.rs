//! Python environments with packages from `PyPI`, made on demand, once: kept under `target/fixtures` in a folder named by
//! the interpreter and the packages.
//!
//! Must not know what the packages are for.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::{fixtures::target_directory, skip::Missing};

/// The interpreter of an environment of `python` with `packages`, each as pip takes it (`numpy>=1.24`).
///
/// # Errors
/// When there is no such interpreter, it cannot make environments, or pip cannot get a package: what it said.
pub fn with(python: &Path, packages: &[&str]) -> Result<PathBuf, Missing> {
    if !python.exists() {
        return Err(Missing(format!("no {}; install python3", python.display())));
    }
    let version = said(&run(Command::new(python).arg("--version")));
    let mut hasher = DefaultHasher::new();
    (python, packages, &version).hash(&mut hasher);
    let directory = target_directory()
        .join("fixtures")
        .join(format!("venv-{:016x}", hasher.finish()));
    fs::create_dir_all(&directory).expect("the folder for an environment can be made");
    // Suites run in parallel, as threads and as processes: one of them installs, the others wait.
    let lock = File::create(directory.join("lock")).expect("the lock of an environment can be made");
    lock.lock().expect("the lock of an environment can be taken");
    let (environment, whole) = (directory.join("venv"), directory.join("whole"));
    if !whole.exists() {
        install(python, packages, &environment)?;
        File::create(&whole).expect("an environment can be marked as whole");
    }
    // Not canonical: an environment's interpreter is a link, and its own name is how it knows where it lives.
    let environment = environment.canonicalize().expect("the environment is there");
    Ok(environment.join("bin/python"))
}

fn install(python: &Path, packages: &[&str], environment: &Path) -> Result<(), Missing> {
    let made = run(Command::new(python)
        .args(["-m", "venv", "--clear"])
        .arg(environment));
    if !made.status.success() {
        return Err(Missing(format!(
            "{} makes no environment; install python3-venv: {}",
            python.display(),
            said(&made)
        )));
    }
    let installed = run(Command::new(environment.join("bin/python"))
        .args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:"])
        .args(packages));
    if !installed.status.success() {
        return Err(Missing(format!(
            "pip does not get {}; it needs PyPI or an index that PIP_INDEX_URL names: {}",
            packages.join(", "),
            said(&installed)
        )));
    }
    Ok(())
}

fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"))
}

/// Its last line: what a tool that fails ends with.
fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    text.trim_end().lines().next_back().unwrap_or_default().to_owned()
}
