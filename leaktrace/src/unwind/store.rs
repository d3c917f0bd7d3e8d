//! Tables kept on disk between runs: one file each, in a directory that belongs to the user.
//!
//! It is only a cache: whatever is wrong with the directory or a file in it means that a table is built again. Must
//! not know how tables are built.

mod directory;
mod format;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use self::directory::Entry;
use super::library::TableKey;
use super::table::Table;

/// Bytes of all files together. Those of one system's programs and libraries take some MiB.
const SIZE_BYTES_MAX: u64 = 256 << 20;

/// The largest file that is read. A GiB of code takes 13 MiB.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A directory of tables.
#[derive(Debug)]
pub struct Store {
    directory: OwnedFd,
    /// Distinguishes files that are being written.
    writes: AtomicU64,
}

impl Store {
    /// Opens the directory, and makes it if need be.
    ///
    /// # Errors
    /// When it cannot be made or read, or somebody else could write to it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let store = Self {
            directory: directory::open_own(path)?,
            writes: AtomicU64::new(0),
        };
        store.trim(SIZE_BYTES_MAX)?;
        Ok(store)
    }

    /// The table of a file, if it is there and whole.
    pub fn load(&self, key: &TableKey) -> Option<Table> {
        let name = file_name(key);
        let bytes = match directory::read(&self.directory, &name, FILE_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::debug!("cached unwind table {name}: {error}; it is built again");
                }
                return None;
            }
        };
        let table = format::decode(&bytes);
        if table.is_none() {
            tracing::debug!("cached unwind table {name} is damaged or of another version; it is built again");
        }
        table
    }

    /// Keeps a table.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, key: &TableKey, table: &Table) -> io::Result<()> {
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let unfinished = format!("{}.{number}.new", std::process::id());
        directory::write(
            &self.directory,
            &unfinished,
            &file_name(key),
            &format::encode(table),
        )
    }

    /// Removes the files that were not used for longest, until the others fit.
    fn trim(&self, size_bytes_max: u64) -> io::Result<()> {
        let mut entries = directory::entries(&self.directory)?;
        let mut size_bytes: u64 = entries.iter().map(|entry| entry.size_bytes).sum();
        entries.sort_unstable_by_key(|entry| entry.used_at);
        for Entry {
            name,
            size_bytes: freed_bytes,
            ..
        } in entries
        {
            if size_bytes <= size_bytes_max {
                break;
            }
            directory::remove(&self.directory, &name)?;
            size_bytes -= freed_bytes;
        }
        Ok(())
    }
}

/// One of another version has another name, so that two of leaktrace's versions do not undo each other's work.
fn file_name(key: &TableKey) -> String {
    format!("{key}.{}", format::VERSION)
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
