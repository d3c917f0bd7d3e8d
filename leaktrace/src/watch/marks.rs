//! Whose memory has changed, by the kernel's marks, so that no others are read.
//!
//! Must not know how the kernel makes them, nor what is read.

use super::processes::{Changed, Dirty};
use crate::kernel::{object::LoadError, resident::Resident};

/// Processes that can be marked between two looks. With more, all are looked at.
const ROOM: u32 = 8192;

/// Every so many looks, all are looked at: what others do to a process's memory, as the kernel does by reclaiming it, is
/// not marked.
const ALL_EVERY: u64 = 12;

/// The kernel's marks.
#[derive(Debug)]
pub struct Marks {
    resident: Resident,
    looks: u64,
}

impl Marks {
    /// From here on changes are marked.
    ///
    /// # Errors
    /// [`LoadError`] when the kernel cannot.
    pub fn begin() -> Result<Self, LoadError> {
        let resident = Resident::attach(ROOM)?;
        Ok(Self { resident, looks: 0 })
    }
}

impl Dirty for Marks {
    fn take(&mut self) -> Changed {
        self.looks += 1;
        match self.resident.take() {
            Ok(marked)
                if (marked.len() as u64) < u64::from(ROOM) && !self.looks.is_multiple_of(ALL_EVERY) =>
            {
                Changed::Only(marked.into_iter().collect())
            }
            Ok(_) => Changed::Any,
            Err(error) => {
                tracing::debug!("the kernel's marks cannot be read: {error}");
                Changed::Any
            }
        }
    }
}
