//! Memory of another process, read while that runs: what is read together need not have been there together.
//!
//! Must not know what lies in it.

use std::{fmt::Debug, fs, io::IoSliceMut};

use nix::{
    errno::Errno,
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid,
};

/// Pieces of one system call: `UIO_MAXIOV` (include/uapi/linux/uio.h).
const PIECES_MAX: usize = 1024;

/// Memory is mapped, or is not, in pages of this size, in bytes.
const PAGE_BYTES: u64 = 4096;

/// Memory could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Nothing that can be read is mapped in all of the range.
    #[error("cannot read {len_bytes} bytes of memory at {address:#x}; nothing is mapped there any more")]
    Unmapped {
        /// First address of what was wanted.
        address: u64,
        /// How much was wanted.
        len_bytes: usize,
    },
    /// The process has ended.
    #[error("cannot read memory of process {pid}: it has ended; `pgrep -a NAME` lists the running ones")]
    Ended {
        /// The process.
        pid: u32,
    },
    /// The process may not be looked into.
    #[error("cannot read memory of process {pid}: {source}; run leaktrace as root or with CAP_SYS_PTRACE")]
    Refused {
        /// The process.
        pid: u32,
        /// The kernel's word.
        source: Errno,
    },
}

/// A stretch of memory to be read with others.
#[derive(Debug)]
pub struct Piece<'a> {
    /// Its first address.
    pub address: u64,
    /// Where it goes; its length is what is read.
    pub into: &'a mut [u8],
    /// Whether all of it has been read; without that `into` has no meaning.
    pub done: bool,
}

impl<'a> Piece<'a> {
    /// Not read yet.
    pub const fn new(address: u64, into: &'a mut [u8]) -> Self {
        Self {
            address,
            into,
            done: false,
        }
    }
}

/// Memory of a 64-bit process, little-endian.
pub trait Memory: Debug {
    /// Fills the whole buffer.
    ///
    /// # Errors
    /// [`MemoryError`]; what the buffer then has, has no meaning.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError>;

    /// Reads many pieces, each whole or not at all, and sets in each whether it was read.
    fn read_many(&self, pieces: &mut [Piece<'_>]) {
        for piece in pieces {
            piece.done = self.read(piece.address, piece.into).is_ok();
        }
    }

    /// The byte at an address.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn u8(&self, address: u64) -> Result<u8, MemoryError> {
        let mut bytes = [0; 1];
        self.read(address, &mut bytes)?;
        Ok(bytes[0])
    }

    /// The 16-bit number at an address.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn u16(&self, address: u64) -> Result<u16, MemoryError> {
        let mut bytes = [0; 2];
        self.read(address, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    /// The 32-bit number at an address.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn u32(&self, address: u64) -> Result<u32, MemoryError> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// The 64-bit number, or address, at an address.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn u64(&self, address: u64) -> Result<u64, MemoryError> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The bytes at an address up to the first that is 0, without that, or `max_bytes` of them. Nothing behind the
    /// page in which they end is touched.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn c_string(&self, address: u64, max_bytes: usize) -> Result<Vec<u8>, MemoryError> {
        let mut bytes = Vec::new();
        while bytes.len() < max_bytes {
            let (at, from) = (address.saturating_add(bytes.len() as u64), bytes.len());
            let to_page_end = (PAGE_BYTES - at % PAGE_BYTES) as usize;
            bytes.resize(max_bytes.min(from + to_page_end), 0);
            self.read(at, &mut bytes[from..])?;
            if let Some(end) = memchr::memchr(0, &bytes[from..]) {
                bytes.truncate(from + end);
                break;
            }
        }
        Ok(bytes)
    }
}

/// Memory of a running process, by `process_vm_readv`: it need not stop for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pid: u32,
}

impl Process {
    /// Of the process with this number. Nothing is read or kept open, and nothing says whether there is one; a
    /// program that the process executes later is read the same way.
    pub const fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// Its number.
    pub const fn pid(self) -> u32 {
        self.pid
    }

    /// Reads pieces from the first on, and says how many bytes that were.
    fn read_from_first(self, pieces: &mut [Piece<'_>]) -> Result<usize, Errno> {
        let mut remote = Vec::with_capacity(pieces.len());
        let mut local = Vec::with_capacity(pieces.len());
        for piece in pieces {
            remote.push(RemoteIoVec {
                base: piece.address as usize,
                len: piece.into.len(),
            });
            local.push(IoSliceMut::new(piece.into));
        }
        match process_vm_readv(Pid::from_raw(self.pid as i32), &mut local, &remote) {
            // A process whose first thread has ended is read by way of another (`mm_access` in kernel/fork.c takes
            // the thread's own address space).
            Err(Errno::ESRCH) => {
                let other = other_thread(self.pid).ok_or(Errno::ESRCH)?;
                process_vm_readv(Pid::from_raw(other as i32), &mut local, &remote)
            }
            result => result,
        }
    }
}

/// A thread of a process, not the first.
fn other_thread(pid: u32) -> Option<u32> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(|&thread| thread != pid)
}

impl Memory for Process {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let (pid, len_bytes) = (self.pid, into.len());
        match self.read_from_first(&mut [Piece::new(address, into)]) {
            Ok(read_bytes) if read_bytes == len_bytes => Ok(()),
            Ok(_) | Err(Errno::EFAULT) => Err(MemoryError::Unmapped { address, len_bytes }),
            Err(Errno::ESRCH) => Err(MemoryError::Ended { pid }),
            Err(source) => Err(MemoryError::Refused { pid, source }),
        }
    }

    fn read_many(&self, pieces: &mut [Piece<'_>]) {
        for piece in &mut *pieces {
            piece.done = false;
        }
        let mut from = 0;
        while from < pieces.len() {
            let to = pieces.len().min(from + PIECES_MAX);
            let mut read_bytes = match self.read_from_first(&mut pieces[from..to]) {
                Ok(read_bytes) => read_bytes,
                // Not even the first could be read.
                Err(Errno::EFAULT) => 0,
                Err(_) => return,
            };
            // The kernel stops where it cannot read, which may be within a piece (`process_vm_rw_core` in
            // mm/process_vm_access.c).
            while from < to && pieces[from].into.len() <= read_bytes {
                read_bytes -= pieces[from].into.len();
                pieces[from].done = true;
                from += 1;
            }
            if from < to {
                from += 1;
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod fake {
    //! Memory that a test makes up.

    use std::{
        cell::{Cell, RefCell},
        collections::BTreeMap,
    };

    use super::{Memory, MemoryError, PAGE_BYTES};

    /// Pages; what a test has not put into one is some byte.
    #[derive(Debug, Default)]
    pub(crate) struct Fake {
        pages: RefCell<BTreeMap<u64, Vec<u8>>>,
        /// Pieces asked for so far.
        pub(crate) reads: Cell<usize>,
    }

    impl Fake {
        /// Writes bytes at an address, and maps the pages that they are in.
        pub(crate) fn put(&self, address: u64, bytes: &[u8]) {
            const SOMETHING: u8 = 0xa5;
            let mut pages = self.pages.borrow_mut();
            for (index, byte) in bytes.iter().enumerate() {
                let at = address.wrapping_add(index as u64);
                let page = pages
                    .entry(at / PAGE_BYTES)
                    .or_insert_with(|| vec![SOMETHING; PAGE_BYTES as usize]);
                page[(at % PAGE_BYTES) as usize] = *byte;
            }
        }

        /// Unmaps the page of an address.
        pub(crate) fn unmap(&self, address: u64) {
            self.pages.borrow_mut().remove(&(address / PAGE_BYTES));
        }

        fn byte(&self, address: u64) -> Option<u8> {
            let pages = self.pages.borrow();
            Some(pages.get(&(address / PAGE_BYTES))?[(address % PAGE_BYTES) as usize])
        }
    }

    impl Memory for Fake {
        fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
            self.reads.set(self.reads.get() + 1);
            let len_bytes = into.len();
            for (index, byte) in into.iter_mut().enumerate() {
                let at = address.checked_add(index as u64);
                *byte = at
                    .and_then(|at| self.byte(at))
                    .ok_or(MemoryError::Unmapped { address, len_bytes })?;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{fake::Fake, *};

    fn own() -> Process {
        Process::new(std::process::id())
    }

    fn address_of(bytes: &[u8]) -> u64 {
        bytes.as_ptr() as u64
    }

    #[test]
    fn numbers_are_read_at_their_addresses() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        let at = address_of(&bytes);
        assert_eq!(own().u8(at + 7), Ok(8));
        assert_eq!(own().u16(at), Ok(0x0201));
        assert_eq!(own().u32(at + 1), Ok(0x0504_0302));
        assert_eq!(own().u64(at), Ok(0x0807_0605_0403_0201));
    }

    #[test]
    fn what_is_not_mapped_is_an_error_and_the_pieces_around_it_are_read() {
        let bytes: Vec<u8> = (0..=255).collect();
        let at = address_of(&bytes);
        let mut buffers = vec![[0_u8; 4]; 3000];
        let mut pieces: Vec<Piece<'_>> = buffers
            .iter_mut()
            .enumerate()
            .map(|(index, into)| {
                Piece::new(
                    if index % 7 == 0 {
                        8
                    } else {
                        at + index as u64 % 250
                    },
                    into,
                )
            })
            .collect();
        own().read_many(&mut pieces);
        for (index, piece) in pieces.iter().enumerate() {
            assert_eq!(piece.done, index % 7 != 0, "{index}");
            assert!(
                !piece.done || piece.into[..] == bytes[index % 250..][..4],
                "{index}"
            );
        }
        assert_eq!(
            own().u64(8),
            Err(MemoryError::Unmapped {
                address: 8,
                len_bytes: 8
            })
        );
    }

    #[test]
    fn a_process_that_is_not_there_has_ended() {
        // Beyond the kernel's bound for numbers of processes (PID_MAX_LIMIT).
        let none = Process::new(1 << 23);
        assert_eq!(none.u8(8), Err(MemoryError::Ended { pid: 1 << 23 }));
        let mut byte = [0];
        let mut pieces = [Piece::new(8, &mut byte)];
        none.read_many(&mut pieces);
        assert!(!pieces[0].done);
    }

    #[test]
    fn a_string_ends_at_its_zero_or_at_the_bound() {
        let memory = Fake::default();
        let mut page = vec![b'x'; 4096];
        page[4090..].copy_from_slice(b"abcde\0");
        memory.put(0x10_0000, &page);
        assert_eq!(memory.c_string(0x10_0000 + 4090, 64), Ok(b"abcde".to_vec()));
        assert_eq!(memory.c_string(0x10_0000 + 4090, 3), Ok(b"abc".to_vec()));
        assert_eq!(
            memory.c_string(0x10_0000, 10_000).map(|text| text.len()),
            Ok(4095)
        );
        assert!(memory.c_string(0x20_0000, 64).is_err());
    }
}
