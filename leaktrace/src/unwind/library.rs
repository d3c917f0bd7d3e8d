//! Loads tables. Stub.

use std::{fs::File, path::PathBuf, sync::Arc};

use super::table::Table;

/// Key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TableKey {
    /// Build id.
    BuildId(String),
    /// The file.
    File {
        /// Device.
        device: u64,
        /// Inode.
        inode: u64,
        /// Modified.
        mtime_ns: i128,
        /// Size.
        size_bytes: u64,
    },
}

/// A file to load from.
#[derive(Debug)]
pub struct Source {
    /// Open.
    pub file: File,
    /// Name.
    pub name: String,
    /// Key.
    pub key: TableKey,
}

/// No table.
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct LoadError;

/// Loads.
#[derive(Debug)]
pub struct Library;

impl Library {
    /// New.
    pub fn new(_cache: Option<PathBuf>) -> Self {
        Self
    }

    /// All.
    pub fn load_all(&self, sources: Vec<Source>) -> Vec<Result<Arc<Table>, LoadError>> {
        sources.iter().map(|_| Err(LoadError)).collect()
    }

    /// One.
    pub fn request(
        &self,
        _source: Source,
        then: impl FnOnce(Result<Arc<Table>, LoadError>) + Send + 'static,
    ) {
        then(Err(LoadError));
    }

    /// Of the vdso.
    pub fn vdso(&self) -> Result<Arc<Table>, LoadError> {
        Err(LoadError)
    }
}

/// Where.
pub fn default_cache_dir() -> Option<PathBuf> {
    None
}
