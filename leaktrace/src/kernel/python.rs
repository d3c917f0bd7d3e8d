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
}

/// The frames of a part that have meaning.
pub fn frames(part: &PythonPart) -> &[PythonFrame] {
    let len = (part.len as usize).min(part.frames.len());
    &part.frames[..len]
}

#[cfg(test)]
mod tests {
    use leaktrace_common::python::PART_FRAMES;

    use super::*;

    #[test]
    fn a_length_that_makes_no_sense_leads_no_further_than_the_part() {
        let long = PythonPart {
            inner: 0,
            len: u32::MAX,
            pad: 0,
            frames: [PythonFrame::default(); PART_FRAMES],
        };
        assert_eq!(frames(&long).len(), PART_FRAMES);
        assert_eq!(frames(&PythonPart { len: 3, ..long }).len(), 3);
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
