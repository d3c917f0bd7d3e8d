//! Whether a process's interpreter is where and as its file says: a thread's state is followed from `_PyRuntime` to the
//! names of its code, and from the thread's key back to the state. Only what is found so is believed. Must not know how a
//! process is found, nor what is done with the answer.

use leaktrace_common::python as kernel;

use super::{
    keys::{KEYS_MAX, KeySlots},
    memory::{Memory, MemoryError},
    offsets::Offsets,
    runtime::Runtime,
};

/// Bytes of `_PyRuntime` that are searched for the key where it is not where it should be.
const SEARCHED_BYTES: u64 = 4096;

/// The process runs meanwhile: how often what does not fit is looked at before that is believed.
const LOOKS: u32 = 3;

/// Interpreters, and threads of each, that are looked at.
const STATES_MAX: usize = 256;

/// Frames of a thread that are looked at for one that has a code object.
const FRAMES_MAX: usize = 8;

/// Bytes of a type's name that are compared.
const NAME_BYTES: usize = 16;

/// Where an interpreter is.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// What its file says.
    pub runtime: &'a Runtime,
    /// Its offsets.
    pub offsets: &'a Offsets,
    /// What to add to the file's addresses, modulo 2^64.
    pub bias: u64,
    /// How the process's C library keeps values under keys, if that is known.
    pub keys: Option<KeySlots>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// It is as expected.
    Verified {
        /// Where the key of the thread state is in `_PyRuntime`.
        key: u32,
        /// How values are kept under keys.
        keys: KeySlots,
    },
    /// It has no thread state yet, or has none any more: nothing can be said.
    NotRunning,
    /// It is not as expected, for this reason.
    Refused(String),
}

/// A thread state.
#[derive(Clone, Copy, Debug)]
struct State {
    address: u64,
    /// Its thread pointer.
    thread: u64,
}

impl Place<'_> {
    /// `_PyRuntime` in the process.
    const fn runtime_address(&self) -> u64 {
        self.runtime.address.wrapping_add(self.bias)
    }

    /// What the kernel side needs for an image of the process. Without a [`Discovery`] what should hold is taken for
    /// granted, so that a program is followed from its start; `None` if that does not say enough.
    pub fn interpreter(&self, image: u16, found: Option<(u32, KeySlots)>) -> Option<kernel::Interpreter> {
        let (key, keys) = match found {
            Some(found) => found,
            None => (self.offsets.runtime.key, self.keys?),
        };
        let runtime = self.runtime_address();
        let mut interpreter = kernel::Interpreter {
            state: kernel::Interpreter::of_image(image),
            key: runtime.wrapping_add(key.into()),
            current: self
                .offsets
                .runtime
                .current
                .map_or(0, |current| runtime.wrapping_add(current.into())),
            code_begin: self.runtime.code.start.wrapping_add(self.bias),
            code_end: self.runtime.code.end.wrapping_add(self.bias),
            keys: keys.offset,
            key_stride: keys.stride,
            keys_indirect: keys.indirect.into(),
            ..kernel::Interpreter::NONE
        };
        self.offsets.put_into(&mut interpreter);
        Some(interpreter)
    }

    /// Looks into the process.
    pub fn discover(&self, memory: &impl Memory) -> Discovery {
        let mut last = Discovery::NotRunning;
        for _ in 0..LOOKS {
            last = self.look(memory);
            if !matches!(last, Discovery::Refused(_)) {
                break;
            }
        }
        last
    }

    fn look(&self, memory: &impl Memory) -> Discovery {
        let states = match self.states(memory) {
            Ok(states) if states.is_empty() => return Discovery::NotRunning,
            Ok(states) => states,
            Err(reason) => return Discovery::Refused(reason),
        };
        if let Err(reason) = self.check_frames(memory, &states) {
            return Discovery::Refused(reason);
        }
        if let Some((key, keys)) = self.find_key(memory, &states) {
            return Discovery::Verified { key, keys };
        }
        // Thread states are made before the key is.
        let initialized = self.runtime_address() + u64::from(self.offsets.runtime.initialized);
        if memory.u32(initialized) == Ok(0) {
            return Discovery::NotRunning;
        }
        Discovery::Refused(self.no_key(memory))
    }

    /// All thread states.
    fn states(&self, memory: &impl Memory) -> Result<Vec<State>, String> {
        let (interpreters, threads) = (&self.offsets.interpreter, &self.offsets.thread);
        let lost = |error: MemoryError| format!("its thread states are not where they should be: {error}");
        let mut states = Vec::new();
        let head = self.runtime_address() + u64::from(self.offsets.runtime.interpreters);
        let mut interpreter = memory.u64(head).map_err(lost)?;
        for _ in 0..STATES_MAX {
            if interpreter == 0 {
                break;
            }
            let mut thread = memory
                .u64(interpreter.wrapping_add(interpreters.threads.into()))
                .map_err(lost)?;
            for _ in 0..STATES_MAX {
                if thread == 0 {
                    break;
                }
                let at = |offset: u16| memory.u64(thread.wrapping_add(offset.into())).map_err(lost);
                if at(threads.interpreter)? != interpreter {
                    return Err("its thread states do not lead back to their interpreter".to_owned());
                }
                // One that no thread has taken yet has no id (`bind_tstate` in Python/pystate.c, from 3.12 on).
                match at(threads.id)? {
                    0 => {}
                    id => states.push(State {
                        address: thread,
                        thread: id,
                    }),
                }
                thread = at(threads.next)?;
            }
            interpreter = memory
                .u64(interpreter.wrapping_add(interpreters.next.into()))
                .map_err(lost)?;
        }
        Ok(states)
    }

    /// The key under which a thread finds its state, and how.
    fn find_key(&self, memory: &impl Memory, states: &[State]) -> Option<(u32, KeySlots)> {
        let expected = self.offsets.runtime.key;
        // From there on in both directions: the key is often 0, and other words are like that. In every version it
        // begins where a pointer could.
        let end = self.runtime.size_bytes.min(SEARCHED_BYTES) as u32;
        let mut offsets: Vec<u32> = (0..end).step_by(8).collect();
        offsets.sort_by_key(|offset| offset.abs_diff(expected));
        [expected]
            .into_iter()
            .chain(offsets)
            .find_map(|offset| Some((offset, self.verify_key(memory, states, offset)?)))
    }

    /// Whether the two words at an offset are a key under which a thread has its state. A thread that runs in several
    /// interpreters has one of its states there.
    fn verify_key(&self, memory: &impl Memory, states: &[State], offset: u32) -> Option<KeySlots> {
        let key = self.key_at(memory, offset)?;
        let has = |keys: &KeySlots, state: &State| keys.value(memory, state.thread, key) == state.address;
        match self.keys {
            Some(keys) => states.iter().any(|state| has(&keys, state)).then_some(keys),
            None => states
                .iter()
                .find_map(|state| KeySlots::search(memory, state.thread, key, state.address)),
        }
    }

    /// The key at an offset, if there is one: a `Py_tss_t`, of which the first word says that the second is set.
    fn key_at(&self, memory: &impl Memory, offset: u32) -> Option<u32> {
        let words = memory
            .u64(self.runtime_address().wrapping_add(offset.into()))
            .ok()?;
        let key = (words >> 32) as u32;
        (words as u32 == 1 && key < KEYS_MAX).then_some(key)
    }

    fn no_key(&self, memory: &impl Memory) -> String {
        match (self.keys, self.key_at(memory, self.offsets.runtime.key)) {
            (Some(keys), Some(key)) if !keys.reaches(key) => {
                format!(
                    "its threads have their states under key {key}, which is not kept in the threads themselves"
                )
            }
            _ => "no key leads from a thread to its state".to_owned(),
        }
    }

    /// Whether the frames of the threads lead to code objects. A thread that runs meanwhile may show anything, so one that
    /// does is enough; threads without frames say nothing.
    fn check_frames(&self, memory: &impl Memory, states: &[State]) -> Result<(), String> {
        let mut wrong = None;
        for state in states {
            match self.check_thread(memory, *state) {
                Some(true) => return Ok(()),
                Some(false) => wrong = Some(state.address),
                None => {}
            }
        }
        wrong.map_or(Ok(()), |address| {
            Err(format!(
                "the frames of the thread with its state at {address:#x} have no code objects where they should be"
            ))
        })
    }

    /// Whether a thread's innermost frame that is one of Python's has a code object; `None` if there is none.
    fn check_thread(&self, memory: &impl Memory, state: State) -> Option<bool> {
        let (thread, frames) = (&self.offsets.thread, &self.offsets.frame);
        let at = |address: u64, offset: u16| memory.u64(address.wrapping_add(offset.into()));
        let mut frame = at(state.address, thread.frame).ok()?;
        if let Some(offset) = thread.structure_frame {
            frame = at(frame, offset).ok()?;
        }
        for _ in 0..FRAMES_MAX {
            if frame == 0 {
                return None;
            }
            let Ok(code) = at(frame, frames.code) else {
                return Some(false);
            };
            match self.is_code(memory, code & !7) {
                Some(is_code) => return Some(is_code),
                None => frame = at(frame, frames.previous).ok()?,
            }
        }
        None
    }

    /// Whether there is a code object, its names and its line table at an address; `None` for what stands there in a
    /// frame that marks an entry from C: None, or a code object without a name (3.12).
    fn is_code(&self, memory: &impl Memory, address: u64) -> Option<bool> {
        let types = &self.offsets.types;
        let at = |address: u64, offset: u16| memory.u64(address.wrapping_add(offset.into()));
        let is = |object: u64, name: &[u8]| {
            at(object, types.object_type)
                .and_then(|object_type| at(object_type, types.name))
                .and_then(|found| memory.c_string(found, NAME_BYTES))
                .is_ok_and(|found| found == name)
        };
        if is(address, b"NoneType") {
            return None;
        }
        let code = &self.offsets.code;
        let member = |offset: u16, name: &[u8]| at(address, offset).is_ok_and(|object| is(object, name));
        Some(
            is(address, b"code")
                && member(code.filename, b"str")
                && member(code.name, b"str")
                && code.qualname.is_none_or(|offset| member(offset, b"str"))
                && member(code.line_table, b"bytes"),
        )
    }
}

#[cfg(test)]
#[path = "discover_tests.rs"]
mod tests;
