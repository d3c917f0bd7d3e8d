//! The Python interpreter of each traced process: found among what it maps, proved on the living process, and told to the
//! kernel side.
//!
//! Must not know what an interpreter's memory looks like: that is `python`.

use std::sync::Arc;

use super::{process::Traced, python::note_older_memory, set::TracedSet};
use crate::{
    kernel::{clock::now_ns, python::Interpreters},
    python::{
        code::Interpreted,
        codes::Codes,
        discover::{Discovery, Place},
        keys::KeySlots,
        memory::Process,
        offsets::Offsets,
        runtime::{Interpreter, Runtime},
        version::Version,
    },
    report::model::State,
    symbol::objects::ObjectId,
};

/// How soon a process that has just mapped its interpreter is looked at again, and how seldom one that has had it for
/// long and has not begun to run it: nanoseconds. The time between doubles.
const AGAIN_NS: (u64, u64) = (5_000_000, 1_000_000_000);

/// How often an interpreter that is not as expected is looked at: while it starts it may be half made.
const REFUSALS_MAX: u32 = 8;

/// Whether what a file says of its interpreter is true of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It has not begun to run Python; what the file says is taken for granted.
    Expected,
    /// It is.
    Verified,
    /// Stacks stay native, for this reason.
    Native(String),
}

/// The interpreter of a program image.
#[derive(Clone, Debug)]
pub struct Known {
    /// What it is called.
    pub name: &'static str,
    /// Its version, where the file says it.
    pub version: Option<Version>,
    /// The file that it is in.
    pub object: ObjectId,
    /// What to add to the file's addresses, modulo 2^64.
    pub bias: u64,
    /// What the file says; `None` for what is not CPython.
    pub runtime: Option<Arc<Runtime>>,
    /// Whether that is true of the process.
    pub proof: Proof,
    keys: Option<KeySlots>,
    /// Where the key was found, once verified.
    key: Option<u32>,
    refusals: u32,
    /// Its code objects can be read.
    reads_code: bool,
    again_ns: u64,
    wait_ns: u64,
}

impl Known {
    /// Where everything is, as far as its frames can be followed.
    pub fn offsets(&self) -> Option<&Offsets> {
        self.runtime
            .as_ref()
            .filter(|_| self.why_native().is_none())?
            .offsets
            .as_ref()
    }

    /// Whether stacks have Python frames.
    pub fn stacks(&self) -> bool {
        self.offsets().is_some()
    }

    /// Whether those have lines. Without the global lock, from 3.14 on, each thread runs a copy of the code, which is not
    /// where the code object is (Include/cpython/code.h, `co_tlbc`).
    pub fn lines(&self) -> bool {
        self.offsets()
            .is_some_and(|offsets| !offsets.free_threaded || offsets.version.minor < 14)
    }

    /// Bytes of its arenas; 0 where it has none.
    pub fn arena_bytes(&self) -> u64 {
        let offsets = self.runtime.as_ref().and_then(|runtime| runtime.offsets);
        offsets.map_or(0, |offsets| offsets.arena_bytes())
    }

    /// Why stacks stay native, if they do.
    pub fn why_native(&self) -> Option<&str> {
        match &self.proof {
            Proof::Native(why) => Some(why),
            Proof::Expected | Proof::Verified => None,
        }
    }

    /// Address of `_PyRuntime` in the process.
    pub fn runtime_address(&self) -> Option<u64> {
        let runtime = self.runtime.as_ref()?;
        Some(runtime.address.wrapping_add(self.bias))
    }

    /// Whether an address of the process is in the code that runs Python's.
    pub fn evaluates(&self, address: u64) -> bool {
        let runtime = self.runtime.as_ref();
        runtime.is_some_and(|runtime| runtime.evaluates(address.wrapping_sub(self.bias)))
    }

    /// Name and version.
    pub fn title(&self) -> String {
        self.version.map_or_else(
            || self.name.to_owned(),
            |version| format!("{} {version}", self.name),
        )
    }

    const fn is_settled(&self) -> bool {
        match self.proof {
            Proof::Expected => false,
            Proof::Verified => true,
            Proof::Native(_) => self.refusals == 0 || self.refusals >= REFUSALS_MAX,
        }
    }

    /// Looks into the process, and says what the kernel side is to know: nothing if stacks stay native.
    fn look(&mut self, pid: u32, image: u16) -> Option<leaktrace_common::python::Interpreter> {
        let runtime = Arc::clone(self.runtime.as_ref()?);
        let place = Place {
            runtime: &runtime,
            offsets: runtime.offsets.as_ref()?,
            bias: self.bias,
            keys: self.keys,
        };
        match place.discover(&Process::new(pid)) {
            Discovery::Verified { key, keys } => {
                tracing::debug!(
                    "pid {pid}: the key of thread states is at _PyRuntime+{key}, values at {keys:?}"
                );
                self.proof = Proof::Verified;
                self.key = Some(key);
                self.keys = Some(keys);
            }
            Discovery::NotRunning => self.proof = Proof::Expected,
            Discovery::Refused(why) => {
                tracing::debug!("pid {pid}: {} is not followed: {why}", self.title());
                self.refusals += 1;
                self.proof = Proof::Native(why);
                return None;
            }
        }
        place.interpreter(image, self.key.zip(self.keys))
    }

    /// Notes when to look again.
    const fn put_off(&mut self, now_ns: u64) {
        let twice = 2 * self.wait_ns;
        self.wait_ns = if twice < AGAIN_NS.0 {
            AGAIN_NS.0
        } else if twice > AGAIN_NS.1 {
            AGAIN_NS.1
        } else {
            twice
        };
        self.again_ns = now_ns + self.wait_ns;
    }
}

impl TracedSet {
    /// Follows Python from now on.
    pub fn follow_python(&mut self, interpreters: Box<dyn Interpreters>, codes: Codes) {
        self.interpreters = Some(interpreters);
        self.codes = codes;
    }

    /// Finds the interpreter among what a process maps, once, and tells the kernel side.
    pub(super) fn find_interpreter(&mut self, traced: &mut Traced) {
        if self.interpreters.is_none() {
            return;
        }
        if traced.interpreter().is_none() {
            let Some(known) = self.interpreter_in(traced) else {
                return;
            };
            *traced.interpreter_mut() = Some(known);
            self.prove(traced);
            self.say(traced);
        } else if traced.interpreter().is_some_and(|known| !known.is_settled()) {
            // Its C library may have come meanwhile.
            self.prove(traced);
        }
    }

    /// Looks again at interpreters that had not begun to run.
    pub fn settle_interpreters(&mut self) {
        let now_ns = now_ns();
        let is_due = |traced: &&Traced| {
            let known = traced.interpreter();
            traced.state == State::Running
                && known.is_some_and(|known| !known.is_settled() && known.again_ns <= now_ns)
        };
        let due: Vec<u32> = self
            .processes
            .values()
            .filter(is_due)
            .map(|traced| traced.pid)
            .collect();
        for pid in due {
            if let Some(mut traced) = self.processes.remove(&pid) {
                self.prove(&mut traced);
                self.processes.insert(pid, traced);
            }
        }
    }

    /// The kernel side knows of no interpreter in a process any more.
    pub(super) fn clear_interpreter(&mut self, pid: u32) {
        let slot = self.unwinder.as_ref().and_then(|unwinder| unwinder.slot(pid));
        if let (Some(interpreters), Some(slot)) = (&mut self.interpreters, slot) {
            interpreters.clear(slot);
        }
    }

    /// The first interpreter among the mappings of the image that runs; CPython before others, which may bring a part
    /// of it along.
    fn interpreter_in(&mut self, traced: &Traced) -> Option<Known> {
        let (_, mappings) = traced.of_image(traced.image());
        let mut other = None;
        for mapping in mappings.iter().filter(|mapping| mapping.executable) {
            let Some(object) = mapping.object else { continue };
            let facts = self.catalog.python(object);
            let known = |name| Known {
                name,
                version: None,
                object,
                bias: 0,
                runtime: None,
                proof: Proof::Expected,
                keys: None,
                key: None,
                refusals: 0,
                reads_code: false,
                again_ns: 0,
                wait_ns: 0,
            };
            match &facts.interpreter {
                Some(Interpreter::CPython(runtime)) => {
                    let bias = runtime.bias(mapping.start, mapping.file_offset)?;
                    return Some(Known {
                        version: runtime.version,
                        bias,
                        runtime: Some(Arc::clone(runtime)),
                        proof: runtime.why_not().map_or(Proof::Expected, Proof::Native),
                        ..known("CPython")
                    });
                }
                Some(Interpreter::Other(name)) => {
                    let proof = Proof::Native(format!(
                        "{name} keeps no frames that can be followed from outside"
                    ));
                    other = Some(Known { proof, ..known(name) });
                }
                None => {}
            }
        }
        other
    }

    /// How the C library of a process keeps what threads have under their keys.
    fn keys_in(&mut self, traced: &Traced) -> Option<KeySlots> {
        let (_, mappings) = traced.of_image(traced.image());
        let mut objects = mappings
            .iter()
            .filter(|mapping| mapping.executable)
            .filter_map(|mapping| mapping.object);
        objects.find_map(|object| self.catalog.python(object).keys)
    }

    /// Compares the interpreter with its process, and tells the kernel side.
    fn prove(&mut self, traced: &mut Traced) {
        let keys = self.keys_in(traced);
        let (pid, image) = (traced.pid, traced.image());
        let slot = self.unwinder.as_ref().and_then(|unwinder| unwinder.slot(pid));
        let Some(known) = traced.interpreter_mut() else {
            return;
        };
        if known.is_settled() {
            return;
        }
        if let Some(why) = &self.no_frames {
            known.proof = Proof::Native(why.clone());
            return;
        }
        known.keys = known.keys.or(keys);
        known.put_off(now_ns());
        let Some(slot) = slot else {
            known.proof = Proof::Native(
                "stacks are walked by frame pointers; see 'leaktrace doctor' for what unwind tables need"
                    .to_owned(),
            );
            return;
        };
        let told = known.look(pid, image);
        let is_first = told.is_some() && !known.reads_code;
        if is_first && let Some(offsets) = known.offsets() {
            // Before the kernel side knows of it, so that the first of its frames find it.
            let interpreted = Interpreted {
                offsets: *offsets,
                code_type: None,
            };
            self.codes.publish(pid, image, interpreted);
            known.reads_code = true;
        }
        if let Some(interpreters) = &mut self.interpreters {
            match told {
                Some(interpreter) => interpreters.publish(slot, &interpreter),
                None => interpreters.clear(slot),
            }
            if is_first {
                note_older_memory(traced);
            }
        }
    }

    /// What this build of the interpreter allows, for who asks for more.
    fn say(&self, traced: &Traced) {
        let Some(known) = traced.interpreter() else { return };
        let (pid, title) = (traced.pid, known.title());
        let path = self.catalog.name(known.object);
        if let Some(why) = known.why_native() {
            tracing::info!("pid {pid}: {title} in {path}: native stacks only: {why}");
        } else {
            let lines = if known.lines() {
                "with lines"
            } else {
                "without lines"
            };
            let arenas = match known.arena_bytes() >> 10 {
                0 => "no arenas".to_owned(),
                kibibytes => format!("arenas of {kibibytes} KiB"),
            };
            let parts = known
                .runtime
                .as_ref()
                .map_or(0, |runtime| runtime.evaluator.len());
            tracing::info!(
                "pid {pid}: {title} in {path}: Python frames {lines}, {arenas}, evaluated in {parts} stretches of code"
            );
        }
    }
}

#[cfg(test)]
#[path = "interpreters_tests.rs"]
mod tests;
