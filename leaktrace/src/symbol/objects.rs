//! The files that are mapped into traced processes, each held open.
//!
//! An open file outlives its name, its container and the process that mapped it: what has been seen
//! once can be symbolized for the rest of the run. Must not know processes or address spaces.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::content::Content;
use super::debug_file::{descriptor_path, hexadecimal};

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
}

/// A file could not be taken into the table.
#[derive(Debug, thiserror::Error)]
#[error("fstat of the mapped file {} failed: {source}; its addresses are shown as path+0xoffset", path.display())]
pub struct ObjectError {
    /// The file, as the process sees it.
    path: PathBuf,
    source: io::Error,
}

/// The table: one entry a file, however many names and processes map it.
#[derive(Debug, Default)]
pub struct Objects {
    all: Vec<Arc<Object>>,
    by_inode: HashMap<(u64, u64), ObjectId>,
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
        let metadata = file.metadata().map_err(|source| ObjectError {
            path: path_in_process.to_owned(),
            source,
        })?;
        let (device, inode) = (metadata.dev(), metadata.ino());
        // The table holds every file of it open, so an inode number cannot come to mean another file.
        if let Some(id) = self.find(device, inode) {
            return Ok(id);
        }
        let is_elf = starts_as_elf(&file);
        let content = if is_elf { Content::read(&file) } else { None };
        let build_id = content.as_ref().and_then(|content| content.build_id.as_deref());
        let build_id = build_id.map(hexadecimal);
        let id = ObjectId(self.all.len() as u32);
        if let Some(build_id) = &build_id {
            self.by_build_id.entry(build_id.clone()).or_insert(id);
        }
        self.all.push(Arc::new(Object {
            path_in_process: path_in_process.to_owned(),
            file,
            device,
            inode,
            build_id,
            is_elf,
            root,
            content,
        }));
        self.by_inode.insert((device, inode), id);
        Ok(id)
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
        self.by_inode.get(&(device, inode)).copied()
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
mod tests {
    use super::*;

    fn open(path: &Path) -> File {
        File::open(path).unwrap()
    }

    #[test]
    fn one_file_under_two_names_is_one_object() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&first, "text").unwrap();
        fs::hard_link(&first, &second).unwrap();
        let mut objects = Objects::new();
        let id = objects.insert(&first, open(&first)).unwrap();
        assert_eq!(objects.insert(&second, open(&second)).unwrap(), id);
        assert_eq!(objects.len(), 1);
        let object = objects.get(id).unwrap();
        assert!(!object.is_elf && object.build_id.is_none());
        assert_eq!(objects.find(object.device, object.inode), Some(id));
        assert_eq!(objects.get(ObjectId(1)).map(|object| object.inode), None);
    }

    #[test]
    fn path_falls_back_to_the_descriptor_when_the_name_leads_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lib.so");
        fs::write(&path, "old").unwrap();
        let mut objects = Objects::new();
        let id = objects.insert(&path, open(&path)).unwrap();
        assert_eq!(objects.get(id).unwrap().usable_path(), path);

        fs::write(folder.path().join("new"), "new").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        let usable = objects.get(id).unwrap().usable_path();
        assert_ne!(usable, path);
        assert_eq!(fs::read_to_string(&usable).unwrap(), "old");
        assert_ne!(objects.insert(&path, open(&path)).unwrap(), id);

        fs::remove_file(&path).unwrap();
        assert_eq!(fs::read_to_string(usable).unwrap(), "old");
    }

    #[test]
    fn an_empty_file_is_no_elf_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty");
        fs::write(&path, "").unwrap();
        let mut objects = Objects::new();
        let id = objects.insert(&path, open(&path)).unwrap();
        assert!(!objects.get(id).unwrap().is_elf);
    }
}
