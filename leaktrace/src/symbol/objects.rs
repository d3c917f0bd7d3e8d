//! The files that are mapped into traced processes, each held open.
//!
//! An open file outlives its name, its container and the process that mapped it: what has been seen
//! once can be symbolized for the rest of the run. An object is what the kernel sets probes on: a file that two containers
//! have of one image is one object. Must not know processes or address spaces.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::beneath::{self, Facts};
use super::content::Content;
use super::debug_file::{descriptor_path, hexadecimal};

pub use super::beneath::is_layered;
pub use super::mappings::ObjectId;

/// A mapped file.
#[derive(Debug)]
pub struct Object {
    /// Its path as the process saw it that first mapped it; it need not exist any more, or not here.
    pub path_in_process: PathBuf,
    /// Open for reading.
    pub file: File,
    /// Device number, as `stat` gives it.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// GNU build id, hexadecimal.
    pub build_id: Option<String>,
    /// Whether it starts as an ELF file does.
    pub is_elf: bool,
    /// Root of the file system in which its path was found, where that is not leaktrace's own.
    pub root: Option<Arc<File>>,
    /// What its headers say; none if they cannot be read.
    pub(super) content: Option<Content>,
    facts: Facts,
}

/// What two files have in common that are one beneath; others may as well.
type Likeness = (u64, Option<String>);

/// A file could not be taken into the table.
#[derive(Debug, thiserror::Error)]
#[error("fstat of the mapped file {} failed: {source}; its addresses are shown as path+0xoffset", path.display())]
pub struct ObjectError {
    /// The file, as the process sees it.
    path: PathBuf,
    source: io::Error,
}

/// The table: one entry a file, however many names, mounts and processes map it.
#[derive(Debug, Default)]
pub struct Objects {
    all: Vec<Arc<Object>>,
    /// By device and inode, with what was seen of the file under these numbers: on overlayfs several lead to one object.
    by_inode: HashMap<(u64, u64), (ObjectId, Facts)>,
    /// Those that may be one file beneath, by size and build id.
    by_likeness: HashMap<Likeness, Vec<ObjectId>>,
    by_build_id: HashMap<String, ObjectId>,
}

impl Objects {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of the file; it is taken into the table if it is not there yet.
    pub fn insert(&mut self, path_in_process: &Path, file: File) -> Result<ObjectId, ObjectError> {
        self.insert_below(path_in_process, file, None)
    }

    /// The same for a file of another root than leaktrace's own: that of a container.
    pub fn insert_below(
        &mut self,
        path_in_process: &Path,
        file: File,
        root: Option<Arc<File>>,
    ) -> Result<ObjectId, ObjectError> {
        let facts = Facts::of(&file).map_err(|source| ObjectError {
            path: path_in_process.to_owned(),
            source,
        })?;
        let key = (facts.device, facts.inode);
        if let Some(id) = self.known_as(key, &file, &facts) {
            return Ok(id);
        }
        let is_elf = starts_as_elf(&file);
        let content = if is_elf { Content::read(&file) } else { None };
        let build_id = content.as_ref().and_then(|content| content.build_id.as_deref());
        let build_id = build_id.map(hexadecimal);
        let likeness = (facts.size_bytes, build_id.clone());
        if let Some(id) = self.one_with(&likeness, &file, &facts) {
            self.by_inode.insert(key, (id, facts));
            return Ok(id);
        }
        let id = ObjectId(self.all.len() as u32);
        if let Some(build_id) = &build_id {
            self.by_build_id.entry(build_id.clone()).or_insert(id);
        }
        self.by_likeness.entry(likeness).or_default().push(id);
        self.all.push(Arc::new(Object {
            path_in_process: path_in_process.to_owned(),
            file,
            device: facts.device,
            inode: facts.inode,
            build_id,
            is_elf,
            root,
            content,
            facts,
        }));
        self.by_inode.insert(key, (id, facts));
        Ok(id)
    }

    /// The object that has been seen under this device and inode, if that still means it.
    ///
    /// The table holds its files open, so that these numbers cannot come to mean another file. Only of a file of overlayfs
    /// it may be the one beneath that is held.
    fn known_as(&mut self, key: (u64, u64), file: &File, facts: &Facts) -> Option<ObjectId> {
        let (id, earlier) = self.by_inode.get(&key)?;
        let id = *id;
        let known = self.all.get(id.0 as usize)?;
        if !beneath::is_still(file, facts, earlier, &known.file) {
            return None;
        }
        self.by_inode.insert(key, (id, *facts));
        Some(id)
    }

    /// The object that is the same file beneath.
    fn one_with(&self, likeness: &Likeness, file: &File, facts: &Facts) -> Option<ObjectId> {
        let alike = self.by_likeness.get(likeness)?;
        let is_one = |id: &ObjectId| {
            let other = self.get(*id);
            other.is_some_and(|other| beneath::is_one((file, facts), (&other.file, &other.facts)))
        };
        alike.iter().copied().find(is_one)
    }

    /// The first object with the same build id: the same code, whatever file and container it is in. The
    /// object itself where it has none.
    pub fn first_alike(&self, id: ObjectId) -> ObjectId {
        let build_id = self.get(id).and_then(|object| object.build_id.as_ref());
        build_id
            .and_then(|build_id| self.by_build_id.get(build_id))
            .copied()
            .unwrap_or(id)
    }

    /// The number of the file with this device and inode, as `stat` gives them.
    pub fn find(&self, device: u64, inode: u64) -> Option<ObjectId> {
        self.by_inode.get(&(device, inode)).map(|(id, _)| *id)
    }

    /// The file with this number.
    pub fn get(&self, id: ObjectId) -> Option<&Object> {
        self.all.get(id.0 as usize).map(|object| &**object)
    }

    /// The same, to be kept.
    pub fn share(&self, id: ObjectId) -> Option<Arc<Object>> {
        self.all.get(id.0 as usize).map(Arc::clone)
    }

    /// How many files there are.
    pub const fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl Object {
    /// The address, in the object's own numbering, of the byte at an offset of the file.
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        self.content.as_ref()?.address_of(offset)
    }

    /// A path by which any library of this process opens this very file: its own path where that
    /// still leads to it (separate debug files are found beside it), else that of the open descriptor.
    pub fn usable_path(&self) -> PathBuf {
        let leads_here =
            |metadata: &fs::Metadata| (metadata.dev(), metadata.ino()) == (self.device, self.inode);
        if self.path_in_process.is_absolute()
            && fs::metadata(&self.path_in_process).is_ok_and(|metadata| leads_here(&metadata))
        {
            self.path_in_process.clone()
        } else {
            descriptor_path(&self.file)
        }
    }
}

fn starts_as_elf(file: &File) -> bool {
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0).is_ok() && magic == *b"\x7fELF"
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
