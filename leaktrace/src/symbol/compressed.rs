//! The symbols that a stripped object carries compressed (`.gnu_debugdata`, `MiniDebugInfo` of Fedora and its
//! kin): an ELF file of function symbols, in xz (GDB manual, "Debugging information in a special section").

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt as _;

use lzma_rust2::XzReader;
use rustix::fs::{MemfdFlags, memfd_create};

/// Sections of this kind are some megabytes at most; a larger one is no honest one.
const COMPRESSED_BYTES_MAX: u64 = 64 << 20;

/// What may come out of it: a bound on what a target can make leaktrace keep.
const SYMBOLS_BYTES_MAX: u64 = 256 << 20;

/// The decoder's dictionary; `xz -9` asks for 64 MiB.
const DICTIONARY_KIB_MAX: u32 = 128 << 10;

/// The symbols, as an ELF file in memory. The section is at `offset` of the file and has `size_bytes`.
///
/// # Errors
/// When it is not xz, is damaged, or exceeds a bound.
pub(super) fn decompress(file: &File, offset: u64, size_bytes: u64) -> io::Result<File> {
    if size_bytes > COMPRESSED_BYTES_MAX {
        return Err(too_large());
    }
    let section = Section {
        file,
        offset,
        left: size_bytes,
    };
    let mut reader = XzReader::new_mem_limit(section, false, DICTIONARY_KIB_MAX).take(SYMBOLS_BYTES_MAX + 1);
    let mut symbols = File::from(memfd_create("leaktrace-symbols", MemfdFlags::CLOEXEC)?);
    let mut buffer = vec![0; 1 << 16];
    let mut written = 0;
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            return Ok(symbols);
        }
        written += read as u64;
        if written > SYMBOLS_BYTES_MAX {
            return Err(too_large());
        }
        symbols.write_all(&buffer[..read])?;
    }
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "compressed symbols are too large")
}

/// Part of a file; leaves the position of the descriptor alone.
struct Section<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_xz_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"no xz at all, and long enough for a header of it")
            .unwrap();
        assert!(decompress(&file, 0, 48).is_err());
        assert!(decompress(&file, 40, 8).is_err());
        assert!(decompress(&file, 1000, 8).is_err());
        assert!(decompress(&file, 0, u64::MAX).is_err());
    }
}
