//! Living interpreters of every version that is installed, and memory that is not theirs.

use super::*;
use crate::python::{
    installed::{self, Running},
    memory::{Process, fake::Fake},
};

/// Two threads in Python, one of which sleeps without the lock, and a subinterpreter where that is easily had.
const SCRIPT: &str = "
import sys, threading
try:
    import _interpreters as interpreters
except ImportError:
    try:
        import _xxsubinterpreters as interpreters
    except ImportError:
        interpreters = None
if interpreters:
    other = interpreters.create()
stop = threading.Event()
thread = threading.Thread(target=stop.wait)
thread.start()
print('ready', flush=True)
sys.stdin.read()
stop.set()
thread.join()
";

fn running() -> Vec<(installed::Installed, Running)> {
    let installed = installed::installed();
    if installed.is_empty() {
        eprintln!("SKIPPED: no Python below PYENV_ROOT, ~/.pyenv or /usr/bin");
    }
    installed
        .into_iter()
        .map(|python| {
            let running = Running::start(&python, SCRIPT);
            (python, running)
        })
        .collect()
}

#[test]
fn every_version_is_verified_at_the_key_of_its_table() {
    for (python, running) in running() {
        let place = running.place();
        let memory = Process::new(running.child.id());
        assert_eq!(place.keys, Some(KeySlots::GLIBC), "{python:?}");
        let expected = Discovery::Verified {
            key: running.offsets.runtime.key,
            keys: KeySlots::GLIBC,
        };
        assert_eq!(place.discover(&memory), expected, "{python:?}");
        // Both threads have their state under the key.
        let states = place.states(&memory).unwrap();
        let key = place.key_at(&memory, running.offsets.runtime.key).unwrap();
        let with_key = states
            .iter()
            .filter(|state| KeySlots::GLIBC.value(&memory, state.thread, key) == state.address)
            .count();
        assert_eq!(with_key, 2, "{python:?}: {states:x?}");
        for state in &states {
            assert_ne!(place.check_thread(&memory, *state), Some(false), "{python:?}");
        }
    }
}

#[test]
fn a_key_that_has_moved_is_found_and_so_is_a_c_library_without_a_name() {
    for (python, mut running) in running() {
        let memory = Process::new(running.child.id());
        let right = running.offsets.runtime.key;
        running.offsets.runtime.key = right + 16;
        running.keys = None;
        let found = running.place().discover(&memory);
        let Discovery::Verified { key, keys } = found else {
            panic!("{python:?}: {found:?}");
        };
        assert_eq!(keys, KeySlots::GLIBC, "{python:?}");
        // Other words may be the same, and then do as well.
        let value = |offset| running.place().key_at(&memory, offset);
        assert_eq!(value(key), value(right), "{python:?}");
    }
}

#[test]
fn what_is_not_as_it_should_be_is_refused() {
    for (python, mut running) in running() {
        let memory = Process::new(running.child.id());
        let refused = |running: &Running| match running.place().discover(&memory) {
            Discovery::Refused(reason) => reason,
            other => panic!("{python:?}: {other:?}"),
        };
        let right = running.offsets;
        running.offsets.thread.interpreter += 8;
        assert!(refused(&running).contains("lead back"));
        running.offsets = right;
        running.offsets.code.line_table = right.code.name;
        assert!(refused(&running).contains("code objects"));
        running.offsets = right;
        running.offsets.thread.id = right.thread.next;
        assert!(refused(&running).contains("key"));
    }
}

#[test]
fn an_interpreter_that_has_not_begun_is_not_refused() {
    let Some(python) = installed::installed().pop() else {
        eprintln!("SKIPPED: no Python below PYENV_ROOT, ~/.pyenv or /usr/bin");
        return;
    };
    let running = Running::start(&python, "import sys; print(flush=True); sys.stdin.read()");
    let memory = Fake::default();
    memory.put(running.place().runtime_address(), &[0; 4096]);
    assert_eq!(running.place().discover(&memory), Discovery::NotRunning);
    let nothing = running.place().discover(&Fake::default());
    assert!(matches!(nothing, Discovery::Refused(_)), "{nothing:?}");
}

#[test]
fn the_kernel_side_is_told_addresses_of_the_process() {
    for (_, running) in running() {
        let place = running.place();
        let told = place.interpreter(3, None).unwrap();
        assert_eq!(told.state, 4);
        assert_eq!(
            told.key,
            place.runtime_address() + u64::from(running.offsets.runtime.key)
        );
        assert_eq!(told.current != 0, running.offsets.version.minor <= 11);
        assert!(told.code_begin < told.code_end);
        assert_eq!((told.keys, told.key_stride, told.keys_indirect), (0x318, 16, 0));
        let unknown = Place { keys: None, ..place };
        assert_eq!(unknown.interpreter(3, None), None);
        assert!(unknown.interpreter(3, Some((8, KeySlots::GLIBC))).is_some());
    }
}
