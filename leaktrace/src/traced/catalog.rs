//! Every file that a traced process maps: held open, scanned once, shared by all processes.
//!
//! Must not know probes that are in place, nor blocks.

use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use leaktrace_common::call::Space;
use nix::sys::stat::{major, minor};

use super::slots::Slots;
use crate::{
    config::{CustomPair, Gpu, ProbeAt},
    probe::{
        elf::{self, ElfError, Function, Scan},
        gear::Group,
        process::{self, Mapping},
    },
    python::runtime,
    symbol::objects::{ObjectId, Objects, is_layered},
};

/// A file as `/proc/PID/maps` and the side-band name it: device (major, minor) and inode.
type FileKey = ((u32, u32), u64);

/// What is known of a file by its numbers.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// `None` for one that could not be taken in.
    object: Option<ObjectId>,
    /// The numbers may come to mean another file: on overlayfs they do when attributes are changed, and when the mount
    /// goes and another one takes its place.
    may_change: bool,
}

/// A custom function cannot be traced.
#[derive(Debug, thiserror::Error)]
pub enum CustomError {
    /// The object cannot be read.
    #[error(transparent)]
    Object(#[from] ElfError),
    /// The function is not there or cannot be probed safely.
    #[error("cannot trace {function} of {}: {reason}; name another function with --alloc or --free", .object.display())]
    Unusable {
        /// Its symbol.
        function: String,
        /// Where it was looked for.
        object: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The files and what is in them.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Open files, for names and for probes.
    pub objects: Objects,
    /// None for what is no sound ELF file.
    scans: HashMap<ObjectId, Option<Rc<Scan>>>,
    /// What a mapping's file is.
    known: HashMap<FileKey, Known>,
    /// Roots of file systems other than ours, by device and inode.
    roots: HashMap<(u64, u64), Arc<File>>,
    custom: Option<CustomPair>,
    /// The functions found so far.
    pub slots: Slots,
    probe_at: ProbeAt,
    gpu: Gpu,
    gpu_reservations: bool,
}

impl Catalog {
    /// With the custom functions of `--alloc` and `--free`, if any.
    pub fn new(custom: Option<CustomPair>, probe_at: ProbeAt) -> Self {
        Self {
            custom,
            probe_at,
            ..Self::default()
        }
    }

    /// The same with what is to be found of GPU memory; `reservations`: those of addresses too.
    #[must_use]
    pub const fn with_gpu(mut self, gpu: Gpu, reservations: bool) -> Self {
        self.gpu = gpu;
        self.gpu_reservations = reservations;
        self
    }

    /// Whether functions of GPU memory are looked for.
    pub fn follows_gpu(&self) -> bool {
        self.gpu != Gpu::Off
    }

    /// Looks at the object of `--object` before anything is attached: a name that it does not define would
    /// be waited for in vain.
    ///
    /// # Errors
    /// [`CustomError`].
    pub fn check_custom(&self) -> Result<(), CustomError> {
        let Some(custom) = &self.custom else { return Ok(()) };
        let scan = elf::scan_path(&custom.object, &custom.functions)?;
        for function in &custom.functions {
            let skipped = scan
                .skipped
                .iter()
                .find(|skipped| skipped.function == function.symbol);
            if let Some(skipped) = skipped.filter(|skipped| skipped.reason.is_blind()) {
                return Err(CustomError::Unusable {
                    function: function.symbol.clone(),
                    object: custom.object.clone(),
                    reason: skipped.reason.to_string(),
                });
            }
        }
        Ok(())
    }

    /// The object behind a mapping of process `pid`, opened at its first sight.
    pub fn of_mapping(&mut self, pid: u32, mapping: &Mapping) -> Option<ObjectId> {
        if mapping.inode == 0 {
            return None;
        }
        let key = (mapping.device, mapping.inode);
        let known = self.known.get(&key).copied();
        if let Some(known) = known.filter(|known| !known.may_change) {
            return known.object;
        }
        let path = mapping.path.clone().unwrap_or_default();
        match process::open_mapped(pid, mapping).or_else(|error| self.open_elsewhere(mapping).ok_or(error)) {
            Ok(file) => {
                let root = self.root_of(pid);
                self.know(key, &path, file, root)
            }
            Err(error) => {
                if let Some(known) = known {
                    return known.object;
                }
                // A process that has ended meanwhile takes its way to its files with it.
                if Path::new("/proc").join(pid.to_string()).exists() {
                    tracing::warn!(
                        "cannot open {} of process {pid}: {error}; its functions have no names",
                        path.display()
                    );
                }
                // Not remembered: the next process may let us open it.
                None
            }
        }
    }

    /// The file of a process that has ended, where others find it: under its path in leaktrace's file system, or in one of
    /// those that have been met.
    fn open_elsewhere(&self, mapping: &Mapping) -> Option<File> {
        let path = mapping.path.as_deref().filter(|_| !mapping.deleted)?;
        let is_it = |file: &File| {
            file.metadata().is_ok_and(|facts| {
                let device = (major(facts.dev()) as u32, minor(facts.dev()) as u32);
                (device, facts.ino()) == (mapping.device, mapping.inode)
            })
        };
        let roots = self.roots.values().filter_map(|root| process::below(root, path));
        std::iter::once(path.to_owned())
            .chain(roots)
            .filter_map(|path| File::open(path).ok())
            .find(is_it)
    }

    /// An object that process `pid` finds at a path and that is open here, whether it maps it or not.
    pub fn of_file(&mut self, pid: u32, path: &Path, file: File) -> Option<ObjectId> {
        let root = self.root_of(pid);
        self.add(path, file, root)
    }

    /// The object at a path of leaktrace's own file system.
    ///
    /// # Errors
    /// [`ElfError`] when it cannot be opened.
    pub fn of_path(&mut self, path: &Path) -> Result<Option<ObjectId>, ElfError> {
        let read = |source| ElfError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(read)?;
        let facts = file.metadata().map_err(read)?;
        // Linux numbers of devices fit 32 bits each.
        let key = (
            (major(facts.dev()) as u32, minor(facts.dev()) as u32),
            facts.ino(),
        );
        match self.known.get(&key).filter(|known| !known.may_change) {
            Some(known) => Ok(known.object),
            None => Ok(self.know(key, path, file, None)),
        }
    }

    /// Whether the file of a mapping has been opened before and can be no other one by now.
    pub fn is_known(&self, mapping: &Mapping) -> bool {
        let known = self.known.get(&(mapping.device, mapping.inode));
        known.is_some_and(|known| !known.may_change)
    }

    /// The devices and inodes under which mappings have named an object.
    pub fn keys_of(&self, object: ObjectId) -> impl Iterator<Item = ((u32, u32), u64)> {
        let of_object = self
            .known
            .iter()
            .filter(move |(_, known)| known.object == Some(object));
        of_object.map(|(key, _)| *key)
    }

    /// The root of a process's file system where that is not ours: debug files are looked for there too.
    fn root_of(&mut self, pid: u32) -> Option<Arc<File>> {
        let root = process::other_root(pid)?;
        let facts = root.metadata().ok()?;
        let known = self.roots.entry((facts.dev(), facts.ino()));
        Some(Arc::clone(known.or_insert_with(|| Arc::new(root))))
    }

    /// Adds a file and remembers its numbers.
    fn know(&mut self, key: FileKey, path: &Path, file: File, root: Option<Arc<File>>) -> Option<ObjectId> {
        let may_change = is_layered(&file);
        let object = self.add(path, file, root);
        self.known.insert(key, Known { object, may_change });
        object
    }

    fn add(&mut self, path: &Path, file: File, root: Option<Arc<File>>) -> Option<ObjectId> {
        let inserted = self.objects.insert_below(path, file, root);
        inserted.inspect_err(|error| tracing::warn!("{error}")).ok()
    }

    /// What is in an object; `None` for what is no sound ELF file. It is looked at here, once, and not when it is
    /// opened: that takes milliseconds, and stacks that lead through it can be walked before.
    pub fn scanned(&mut self, id: ObjectId) -> Option<Rc<Scan>> {
        if !self.scans.contains_key(&id) {
            let scan = self.make_scan(id).map(Rc::new);
            self.scans.insert(id, scan);
        }
        self.scan(id)
    }

    fn make_scan(&mut self, id: ObjectId) -> Option<Scan> {
        let object = self.objects.get(id)?;
        let path = &object.path_in_process;
        let functions = self
            .custom
            .as_ref()
            .filter(|custom| is_same(&custom.object, path))
            .map_or(&[] as &[_], |custom| &custom.functions);
        let scan = object
            .file
            .try_clone()
            .map_err(|source| ElfError::Read {
                path: path.clone(),
                source,
            })
            .and_then(|file| elf::scan_file(file, path, functions));
        match scan {
            Ok(mut scan) => {
                self.limit_gpu(&mut scan);
                if self.probe_at == ProbeAt::Entry {
                    scan.probe_entries();
                }
                for function in scan.functions_mut() {
                    self.slots.assign(id, function);
                }
                Some(scan)
            }
            Err(ElfError::NotElf { .. }) => None,
            Err(error) => {
                tracing::warn!("{error}");
                None
            }
        }
    }

    /// Leaves out what is not asked for of the functions of GPU memory.
    fn limit_gpu(&self, scan: &mut Scan) {
        if !self.follows_gpu() {
            scan.gpu = Group::default();
        } else if !self.gpu_reservations {
            let is_wanted = |function: &Function| function.shape.space != Space::Reservation;
            scan.gpu.functions.retain(is_wanted);
        }
    }

    /// What an object has to do with Python.
    pub fn python(&mut self, id: ObjectId) -> runtime::Facts {
        let scan = self.scanned(id);
        scan.map_or_else(runtime::Facts::default, |scan| scan.python.clone())
    }

    /// What was found in an object, if it has been looked at.
    pub fn scan(&self, id: ObjectId) -> Option<Rc<Scan>> {
        self.scans.get(&id).cloned().flatten()
    }

    /// A path under which the kernel finds the object's file.
    pub fn usable_path(&self, id: ObjectId) -> Option<PathBuf> {
        self.objects
            .get(id)
            .map(crate::symbol::objects::Object::usable_path)
    }

    /// Its path as processes see it.
    pub fn name(&self, id: ObjectId) -> String {
        self.objects
            .get(id)
            .map(|object| object.path_in_process.display().to_string())
            .unwrap_or_default()
    }

    /// The name of a call, the custom ones included.
    pub fn call_name(&self, call: u32) -> &str {
        let custom = self
            .custom
            .as_ref()
            .map_or(&[] as &[_], |custom| &custom.functions);
        crate::probe::allocators::call_name_with(call as u16, custom)
    }
}

/// Whether two paths are the same file, or, where one cannot be looked at, the same path.
fn is_same(wanted: &Path, path: &Path) -> bool {
    wanted == path
        || match (wanted.metadata(), path.metadata()) {
            (Ok(a), Ok(b)) => a.dev() == b.dev() && a.ino() == b.ino(),
            _ => false,
        }
}
