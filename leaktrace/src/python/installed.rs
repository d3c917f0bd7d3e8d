//! For tests: the Pythons that are installed, and programs that run in them.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use super::{
    discover::Place,
    keys::KeySlots,
    offsets::Offsets,
    runtime::{self, Interpreter, Runtime},
    version::Version,
};
use crate::probe::process;

/// An interpreter.
#[derive(Debug)]
pub(super) struct Installed {
    pub(super) version: Version,
    /// The program.
    pub(super) program: PathBuf,
    /// The file that the interpreter is in, the program itself or a library.
    pub(super) object: PathBuf,
}

/// Those that can be followed. What is below pyenv's root is asked itself for its version and its files.
pub(super) fn installed() -> Vec<Installed> {
    let pyenv = std::env::var_os("PYENV_ROOT").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".pyenv"),
        PathBuf::from,
    );
    let below = std::fs::read_dir(pyenv.join("versions"))
        .into_iter()
        .flatten()
        .flatten();
    below
        .map(|version| version.path().join("bin/python3"))
        .chain([PathBuf::from("/usr/bin/python3")])
        .filter(|program| program.exists())
        .filter_map(ask)
        .filter(|python| Offsets::of_version(python.version).is_some())
        .collect()
}

fn ask(program: PathBuf) -> Option<Installed> {
    const QUESTION: &str = "import sys, sysconfig, os; v = sysconfig.get_config_var
print(*sys.version_info[:3], sep='.')
print(os.path.join(v('LIBDIR'), v('INSTSONAME')) if v('Py_ENABLE_SHARED') else os.path.realpath(sys.executable))";
    let said = Command::new(&program).args(["-c", QUESTION]).output().ok()?;
    let said = String::from_utf8(said.stdout).ok()?;
    let (version, object) = said.trim().split_once('\n')?;
    Some(Installed {
        version: Version::of_text(version)?,
        program,
        object: object.into(),
    })
}

/// A program that runs in one.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) child: Child,
    pub(super) runtime: Runtime,
    pub(super) offsets: Offsets,
    pub(super) bias: u64,
    pub(super) keys: Option<KeySlots>,
}

impl Running {
    /// Starts a script and waits until it writes a line; it should then wait itself, for its input to end.
    pub(super) fn start(python: &Installed, script: &str) -> Self {
        let mut child = Command::new(&python.program)
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(!line.is_empty(), "{python:?}");
        let mut found = None;
        let mut keys = None;
        for mapping in process::mappings(child.id()).unwrap() {
            let Some(path) = mapping.path.as_ref().filter(|_| mapping.executable) else {
                continue;
            };
            let facts = runtime::of_file(std::fs::File::open(path).unwrap(), path).unwrap();
            keys = keys.or(facts.keys);
            if let Some(Interpreter::CPython(runtime)) = facts.interpreter {
                let bias = runtime.bias(mapping.start, mapping.offset).unwrap();
                found = Some((Arc::unwrap_or_clone(runtime), bias));
            }
        }
        let (runtime, bias) = found.unwrap();
        Self {
            child,
            offsets: runtime.offsets.unwrap(),
            runtime,
            bias,
            keys,
        }
    }

    pub(super) const fn place(&self) -> Place<'_> {
        Place {
            runtime: &self.runtime,
            offsets: &self.offsets,
            bias: self.bias,
            keys: self.keys,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ended = self.child.wait();
    }
}
