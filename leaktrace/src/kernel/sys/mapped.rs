//! Arrays of the kernel side that are mapped into this process.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use super::Plain;

/// An array of the kernel side's in this process's memory: user space writes it by plain stores, and the kernel
/// side may read at any time.
#[derive(Debug)]
pub struct MappedArray<T: Plain> {
    base: NonNull<T>,
    len: usize,
    mapped_bytes: usize,
}

impl<T: Plain> MappedArray<T> {
    /// Maps the first `len` elements. Those of the map itself must be multiples of 8 bytes, or the kernel rounds each
    /// of them up (`array_map_alloc` in kernel/bpf/arraymap.c, 6.1).
    ///
    /// # Errors
    /// The errno of mmap(2): EINVAL also when the array is shorter, EACCES when it is not `BPF_F_MMAPABLE`.
    pub fn new(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let page_bytes = rustix::param::page_size();
        let mapped_bytes = len
            .checked_mul(size_of::<T>())
            .and_then(|bytes| bytes.checked_next_multiple_of(page_bytes))
            .filter(|&bytes| bytes > 0)
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping, where the kernel likes.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self {
            base,
            len,
            mapped_bytes,
        })
    }

    /// How many elements there are.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Writes elements from `index` on.
    ///
    /// # Panics
    /// Beyond the end of the array.
    pub fn write(&mut self, index: usize, items: &[T]) {
        let end = index.checked_add(items.len());
        assert!(
            end.is_some_and(|end| end <= self.len),
            "write beyond a mapped array"
        );
        for (position, item) in (index..).zip(items) {
            // SAFETY: within the mapping, as just checked. Volatile, because the kernel reads it.
            unsafe { self.base.add(position).write_volatile(*item) };
        }
    }

    /// Reads an element.
    ///
    /// # Panics
    /// Beyond the end of the array.
    pub fn read(&self, index: usize) -> T {
        assert!(index < self.len, "read beyond a mapped array");
        // SAFETY: within the mapping, and any bytes are a value.
        unsafe { self.base.add(index).read_volatile() }
    }

    /// Stores a word at `offset` bytes into an element, at once and after all that was written before.
    ///
    /// # Panics
    /// Beyond the end of the array or of the element, or where the word is not aligned.
    pub fn store_u64(&self, index: usize, offset: usize, value: u64) {
        let word = self.field(index, offset, size_of::<u64>()).cast::<u64>();
        // SAFETY: within the mapping and aligned, as just checked; shared with the kernel alone.
        unsafe { AtomicU64::from_ptr(word.as_ptr()) }.store(value, Ordering::Release);
    }

    /// The same for half a word.
    ///
    /// # Panics
    /// As [`Self::store_u64`].
    pub fn store_u32(&self, index: usize, offset: usize, value: u32) {
        let word = self.field(index, offset, size_of::<u32>()).cast::<u32>();
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(word.as_ptr()) }.store(value, Ordering::Release);
    }

    /// Reads 32 bits of an element at once, `offset` bytes into it; what the kernel side wrote before them is seen as well.
    ///
    /// # Panics
    /// As [`Self::store_u64`].
    pub fn load_u32(&self, index: usize, offset: usize) -> u32 {
        let word = self.field(index, offset, size_of::<u32>()).cast::<u32>();
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(word.as_ptr()) }.load(Ordering::Acquire)
    }

    fn field(&self, index: usize, offset: usize, size_bytes: usize) -> NonNull<u8> {
        let in_element = offset
            .checked_add(size_bytes)
            .is_some_and(|end| end <= size_of::<T>());
        assert!(index < self.len && in_element, "store beyond a mapped array");
        let offset_bytes = index * size_of::<T>() + offset;
        assert!(
            offset_bytes.is_multiple_of(size_bytes),
            "store across words of a mapped array"
        );
        // SAFETY: within the mapping, as just checked.
        unsafe { self.base.cast::<u8>().add(offset_bytes) }
    }
}

impl<T: Plain> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing borrowed from it is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped_bytes) };
    }
}

/// A page of a file in this process's memory, to be looked at by its address alone: reading it would be fatal where the
/// file has been cut short.
#[derive(Debug)]
pub struct MappedPage {
    base: NonNull<libc::c_void>,
}

impl MappedPage {
    /// Maps the first page. It is in memory as soon as it is mapped, if the file has one and it can be read.
    ///
    /// # Errors
    /// The errno of mmap(2).
    pub fn first_of(file: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a new mapping, where the kernel likes; nobody reads it.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                rustix::param::page_size(),
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_POPULATE,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base })
    }

    /// Where it is.
    pub fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }
}

impl Drop for MappedPage {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing is borrowed from it.
        unsafe { libc::munmap(self.base.as_ptr(), rustix::param::page_size()) };
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        os::{fd::AsFd as _, unix::fs::FileExt as _},
    };

    use leaktrace_common::unwind;

    use super::*;

    fn array(len: usize) -> (MappedArray<unwind::CodeMapping>, File) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 10).unwrap();
        (MappedArray::new(file.as_fd(), len).unwrap(), file)
    }

    #[test]
    fn what_is_written_to_a_mapped_array_is_in_the_file() {
        let (mut array, file) = array(100);
        let mapping = unwind::CodeMapping {
            begin: 7,
            kind: 9,
            ..unwind::CodeMapping::default()
        };
        array.write(98, &[mapping; 2]);
        array.store_u64(97, 8, 0x1122_3344_5566_7788);
        array.store_u32(97, 36, 5);
        assert_eq!(array.load_u32(97, 36), 5);
        assert_eq!(array.read(99), mapping);
        assert_eq!(
            (array.read(97).end, array.read(97).kind),
            (0x1122_3344_5566_7788, 5)
        );
        let mut word = [0; 8];
        file.read_exact_at(&mut word, 98 * 40).unwrap();
        assert_eq!(u64::from_ne_bytes(word), 7);
    }

    #[test]
    fn nothing_is_written_beyond_a_mapped_array() {
        let out_of_bounds = |f: &dyn Fn(&mut MappedArray<unwind::CodeMapping>)| {
            let (mut array, _file) = array(100);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(&mut array))).is_err()
        };
        let mapping = unwind::CodeMapping::default();
        assert!(out_of_bounds(&|array| array.write(99, &[mapping; 2])));
        assert!(out_of_bounds(&|array| array.write(usize::MAX, &[mapping])));
        assert!(out_of_bounds(&|array| assert_eq!(array.read(100), mapping)));
        assert!(out_of_bounds(&|array| array.store_u64(100, 0, 1)));
        assert!(out_of_bounds(&|array| array.store_u64(0, 40, 1)));
        assert!(out_of_bounds(&|array| array.store_u64(0, 36, 1)));
        assert!(out_of_bounds(&|array| array.store_u64(0, usize::MAX, 1)));
        assert!(out_of_bounds(&|array| array.store_u32(0, 2, 1)));
        assert!(out_of_bounds(&|array| assert_eq!(array.load_u32(100, 0), 0)));
        assert!(!out_of_bounds(&|array| array.write(100, &[])));
    }

    #[test]
    fn an_array_without_elements_or_too_large_for_memory_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        assert!(MappedArray::<u64>::new(file.as_fd(), 0).is_err());
        assert!(MappedArray::<u64>::new(file.as_fd(), usize::MAX).is_err());
    }
}
