//! What the kernel side knows of Python: the interpreter of each process, written through memory that is shared with it,
//! and the frames that it has met. Must not know what an interpreter is made of, nor what a frame is called.

use std::{
    io,
    mem::offset_of,
    os::fd::{AsFd as _, OwnedFd},
    sync::atomic::{Ordering, fence},
};

use aya::maps::{MapData, RingBuf};
use leaktrace_common::python::{Interpreter, NewPart, PythonFrame, PythonPart};

use super::{
    object::{KernelSide, LoadError},
    sys::{self, MappedArray},
};

/// The interpreters, as those see them who find them. A slot is that of the process's layout; whoever gives one beyond
/// the end has a bug.
pub trait Interpreters: std::fmt::Debug {
    /// Makes an interpreter that of a slot. The kernel side takes it for its image alone.
    fn publish(&mut self, slot: u32, interpreter: &Interpreter);

    /// A slot has none from now on.
    fn clear(&mut self, slot: u32);
}

/// Those of the loaded kernel side.
#[derive(Debug)]
pub struct MappedInterpreters(MappedArray<Interpreter>);

impl MappedInterpreters {
    /// Maps them.
    ///
    /// # Errors
    /// [`LoadError::Maps`] when the object lacks them or they cannot be mapped.
    pub fn new(kernel: &KernelSide) -> Result<Self, LoadError> {
        const NAME: &str = "PYTHON_INTERPRETERS";
        let failed = |error: io::Error| LoadError::Maps(format!("mapping {NAME} into memory: {error}"));
        let elements = kernel.max_entries(NAME)? as usize;
        let array = MappedArray::new(kernel.map(NAME)?.as_fd(), elements).map_err(failed)?;
        Ok(Self(array))
    }
}

impl Interpreters for MappedInterpreters {
    fn publish(&mut self, slot: u32, interpreter: &Interpreter) {
        // The kernel side may read at any time, and takes nothing of what it reads while there is no state.
        self.clear(slot);
        let rest = Interpreter {
            state: Interpreter::NONE.state,
            ..*interpreter
        };
        self.0.write(slot as usize, &[rest]);
        let state = offset_of!(Interpreter, state);
        self.0.store_u64(slot as usize, state, interpreter.state);
    }

    fn clear(&mut self, slot: u32) {
        let state = offset_of!(Interpreter, state);
        self.0.store_u64(slot as usize, state, Interpreter::NONE.state);
        fence(Ordering::SeqCst);
    }
}

/// The table of parts, and what is new in it.
pub struct Parts {
    table: OwnedFd,
    new: RingBuf<MapData>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

impl Parts {
    /// Takes the ring out of the object.
    ///
    /// # Errors
    /// [`LoadError::Maps`] when the object lacks one of them.
    pub fn new(kernel: &mut KernelSide) -> Result<Self, LoadError> {
        let table = kernel.map("PYTHON_PARTS")?;
        let ring = kernel.ebpf.take_map("PYTHON_NEW");
        let ring = ring.ok_or_else(|| LoadError::Maps("no map PYTHON_NEW".to_owned()))?;
        let new = RingBuf::try_from(ring).map_err(|error| LoadError::Maps(error.to_string()))?;
        Ok(Self { table, new })
    }

    /// A descriptor of its own that can be read when there are new parts.
    ///
    /// # Errors
    /// That of dup(2).
    pub fn wake(&self) -> io::Result<OwnedFd> {
        self.new.as_fd().try_clone_to_owned()
    }

    /// The next new part, without waiting.
    pub fn take_new(&mut self) -> Option<NewPart> {
        let item = self.new.next()?;
        sys::from_bytes(&item)
    }

    /// See [`PartTable::get`].
    ///
    /// # Errors
    /// As there.
    pub fn get(&self, key: u64) -> io::Result<Option<PythonPart>> {
        sys::map_lookup(self.table.as_fd(), &key)
    }
}

/// The table of parts alone, for whoever makes stacks of them.
#[derive(Debug)]
pub struct PartTable(OwnedFd);

impl PartTable {
    /// Opens it.
    ///
    /// # Errors
    /// [`LoadError::Maps`] when the object lacks it.
    pub fn new(kernel: &KernelSide) -> Result<Self, LoadError> {
        kernel.map("PYTHON_PARTS").map(Self)
    }

    /// A part; `None` if it is not there any more.
    ///
    /// # Errors
    /// The errno of bpf(2).
    pub fn get(&self, key: u64) -> io::Result<Option<PythonPart>> {
        sys::map_lookup(self.0.as_fd(), &key)
    }

    /// All Python frames of a stack, innermost first, and whether that is all of them: a part may be gone.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn stack(&self, outermost: u64) -> io::Result<(Vec<PythonFrame>, bool)> {
        collect(outermost, |key| self.get(key))
    }

    /// Forgets parts.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn remove(&self, keys: &[u64]) -> io::Result<()> {
        sys::map_delete_all(self.0.as_fd(), keys)
    }
}

/// The frames of a part that have meaning.
pub fn frames(part: &PythonPart) -> &[PythonFrame] {
    let len = (part.len as usize).min(part.frames.len());
    &part.frames[..len]
}

/// Follows the parts from the outermost inwards.
fn collect(
    outermost: u64,
    mut get: impl FnMut(u64) -> io::Result<Option<PythonPart>>,
) -> io::Result<(Vec<PythonFrame>, bool)> {
    let mut parts = Vec::new();
    let mut key = outermost;
    let mut is_whole = true;
    // A damaged chain must not hold anybody up.
    while key != 0 && parts.len() < PARTS_MAX {
        let Some(part) = get(key)? else {
            is_whole = false;
            break;
        };
        key = part.inner;
        parts.push(part);
    }
    let frames = parts.iter().rev().flat_map(frames).copied().collect();
    Ok((frames, is_whole))
}

/// Parts of the longest stack.
const PARTS_MAX: usize = (leaktrace_common::python::PYTHON_FRAMES_MAX as usize)
    .div_ceil(leaktrace_common::python::PART_FRAMES)
    + 1;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use leaktrace_common::python::PART_FRAMES;

    use super::*;

    fn part(inner: u64, codes: &[u64]) -> PythonPart {
        let mut part = PythonPart {
            inner,
            len: codes.len() as u32,
            pad: 0,
            frames: [PythonFrame::default(); PART_FRAMES],
        };
        for (frame, code) in part.frames.iter_mut().zip(codes) {
            frame.code = *code;
        }
        part
    }

    #[test]
    fn parts_are_put_together_from_the_inside_out() {
        let parts = HashMap::from([
            (1, part(0, &[0x10, 0x20])),
            (2, part(1, &[0x30])),
            (3, part(9, &[0x40])),
            (4, part(4, &[0x50])),
        ]);
        let codes = |key| {
            let (frames, is_whole) = collect(key, |key| Ok(parts.get(&key).copied())).unwrap();
            let codes: Vec<u64> = frames.iter().map(|frame| frame.code).collect();
            (codes, is_whole)
        };
        assert_eq!(codes(2), (vec![0x10, 0x20, 0x30], true));
        assert_eq!(codes(0), (Vec::new(), true));
        // The part within is gone: what is left are the outer frames.
        assert_eq!(codes(3), (vec![0x40], false));
        // A chain that leads to itself ends.
        assert_eq!(codes(4).0.len(), PARTS_MAX);
        let long = PythonPart {
            len: u32::MAX,
            ..part(0, &[])
        };
        assert_eq!(frames(&long).len(), PART_FRAMES);
    }

    #[test]
    fn a_slot_is_written_with_its_state_last_and_cleared() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let mut interpreters = MappedInterpreters(MappedArray::new(file.as_fd(), 8).unwrap());
        let interpreter = Interpreter {
            state: Interpreter::of_image(3),
            key: 0x1234,
            ..Interpreter::NONE
        };
        interpreters.publish(7, &interpreter);
        assert_eq!(interpreters.0.read(7), interpreter);
        interpreters.clear(7);
        assert_eq!(interpreters.0.read(7).state, 0);
    }
}
