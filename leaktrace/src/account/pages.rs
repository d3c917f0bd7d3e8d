//! Which pages of a stretch are there: `/proc/PID/pagemap`, for what smaps does not tell: parts of a mapping, since the
//! kernel makes neighbours one, and blocks that may never have been touched.
//!
//! Must not know why it is asked.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use super::PAGE_BYTES;

/// `PM_PRESENT` and `PM_SWAP` (`fs/proc/task_mmu.c`). The zero page counts as present here and as nothing in smaps.
const HAS_PAGE: u64 = 1 << 63 | 1 << 62;

/// Bytes of an entry.
const ENTRY_BYTES: u64 = 8;

/// Entries that are read at a time: 32 MiB of addresses. The kernel takes the mmap lock for 2 MiB each (`pagemap_read`).
const CHUNK: usize = 8192;

/// The pages of a process.
pub trait Pages {
    /// Bytes of `start..end` that are there, resident or in swap: a part of a page is. None where that is not known.
    fn held_bytes(&mut self, start: u64, end: u64) -> Option<u64>;
}

/// The pages of a process that runs, so far as a limit allows.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
    buffer: Vec<u8>,
    /// Bytes of the file that may still be read.
    left_bytes: u64,
    /// Bytes of addresses that were not looked at.
    unseen_bytes: u64,
    /// Whether a read has failed.
    has_failed: bool,
}

impl Pagemap {
    /// What may be read in one look at a process: 64 MiB tell of 32 GiB.
    pub const LIMIT_BYTES: u64 = 64 << 20;

    /// Opens it for one look.
    ///
    /// # Errors
    /// The process has ended, or may not be looked at.
    pub fn open(pid: u32, limit_bytes: u64) -> io::Result<Self> {
        Ok(Self {
            file: File::open(format!("/proc/{pid}/pagemap"))?,
            buffer: Vec::new(),
            left_bytes: limit_bytes,
            unseen_bytes: 0,
            has_failed: false,
        })
    }

    /// Bytes of addresses that were asked for and not looked at.
    pub const fn unseen_bytes(&self) -> u64 {
        self.unseen_bytes
    }

    /// Whether a read has failed: the process has ended, and nothing of this look is to be relied on.
    pub const fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Reads the entries of these pages.
    fn count(&mut self, first: u64, after: u64, mut each: impl FnMut(u64)) -> io::Result<()> {
        let mut page = first;
        self.buffer.resize(CHUNK * ENTRY_BYTES as usize, 0);
        while page < after {
            let entries = (after - page).min(CHUNK as u64);
            let buffer = &mut self.buffer[..(entries * ENTRY_BYTES) as usize];
            self.file.read_exact_at(buffer, page * ENTRY_BYTES)?;
            for (index, entry) in buffer.as_chunks::<8>().0.iter().enumerate() {
                if u64::from_ne_bytes(*entry) & HAS_PAGE != 0 {
                    each(page + index as u64);
                }
            }
            page += entries;
        }
        Ok(())
    }
}

impl Pages for Pagemap {
    fn held_bytes(&mut self, start: u64, end: u64) -> Option<u64> {
        if start >= end {
            return Some(0);
        }
        let (first, after) = (start / PAGE_BYTES, end.div_ceil(PAGE_BYTES));
        let cost = (after - first) * ENTRY_BYTES;
        if cost > self.left_bytes {
            self.unseen_bytes = self.unseen_bytes.saturating_add(end - start);
            return None;
        }
        self.left_bytes -= cost;
        let mut held = 0;
        let counted = self.count(first, after, |page| {
            held += end.min((page + 1) * PAGE_BYTES) - start.max(page * PAGE_BYTES);
        });
        self.has_failed |= counted.is_err();
        counted.ok().map(|()| held)
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::getpid;

    use super::*;

    #[test]
    fn only_what_was_touched_is_there() {
        const LENGTH: usize = 8 << 20;
        let mut memory: Vec<u8> = Vec::with_capacity(LENGTH);
        let start = (memory.as_ptr() as u64).next_multiple_of(PAGE_BYTES);
        // Of huge pages there would be more.
        memory.resize(2 << 20, 1);
        let mut pages = Pagemap::open(getpid().as_raw() as u32, Pagemap::LIMIT_BYTES).expect("pagemap");
        let touched = pages.held_bytes(start, start + (1 << 20));
        assert_eq!(touched, Some(1 << 20));
        assert_eq!(pages.held_bytes(start + 100, start + 5000), Some(4900));
        let end = start + LENGTH as u64 - PAGE_BYTES;
        assert!(pages.held_bytes(start, end) < Some(LENGTH as u64 - PAGE_BYTES));
        assert_eq!(pages.held_bytes(end, start), Some(0));
        assert_eq!(pages.unseen_bytes(), 0);
        drop(memory);
    }

    #[test]
    fn a_process_that_has_ended_has_no_pages() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .expect("sleep");
        let mut pages = Pagemap::open(child.id(), Pagemap::LIMIT_BYTES).expect("pagemap");
        assert!(pages.held_bytes(PAGE_BYTES, 2 * PAGE_BYTES).is_some());
        assert!(!pages.has_failed());
        child.kill().expect("it runs");
        child.wait().expect("it has ended");
        assert_eq!(pages.held_bytes(PAGE_BYTES, 2 * PAGE_BYTES), None);
        assert!(pages.has_failed());
    }

    #[test]
    fn there_is_an_end_to_what_is_read() {
        let mut pages = Pagemap::open(std::process::id(), 3 * ENTRY_BYTES).expect("pagemap");
        assert!(pages.held_bytes(PAGE_BYTES, 3 * PAGE_BYTES).is_some());
        assert_eq!(pages.held_bytes(PAGE_BYTES, 3 * PAGE_BYTES), None);
        assert!(pages.held_bytes(PAGE_BYTES, 2 * PAGE_BYTES).is_some());
        assert_eq!(pages.unseen_bytes(), 2 * PAGE_BYTES);
    }
}
