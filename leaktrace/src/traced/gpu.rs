//! Functions of GPU memory, in whatever a process maps, and the driver's library before it is mapped: a program often
//! loads it long after its start, and its first calls follow at once. A probe is on the file, so the kernel has it in
//! place as soon as the process maps that.
//!
//! Must not know which functions these are, nor what they do.

use std::collections::BTreeSet;

use super::{host::Part, process::Traced, set::TracedSet};
use crate::{
    probe::{
        attach::{ALL, AttachError, Links},
        cuda,
        dlopen::{self, Candidate},
        elf::{Function, Scan},
        gear::Gear,
        process as proc,
    },
    symbol::objects::ObjectId,
};

/// The driver's library, under the name by which the runtime library and all others load it.
const DRIVER: &str = "libcuda.so.1";

/// Folders that images and drivers of NVIDIA have it in and to which programs are led by `LD_LIBRARY_PATH`, by a
/// configuration of the loader's, or by a `DT_RUNPATH`: of containers, of packages for newer drivers, of WSL 2, of `NixOS`.
const DRIVER_FOLDERS: &[&str] = &[
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    "/usr/local/cuda/compat",
    "/usr/lib/wsl/lib",
    "/run/opengl-driver/lib",
];

/// What is probed in a process for the memory of GPUs.
#[derive(Debug, Default)]
pub struct Gpu {
    /// Objects whose probes are in place.
    placed: BTreeSet<ObjectId>,
    /// Those that are or were probed, and mapped.
    probed: BTreeSet<ObjectId>,
    /// Those that cannot be probed: said once.
    refused: BTreeSet<ObjectId>,
    /// C libraries whose `exit` is not probed: as long as nothing else is.
    c_libraries: BTreeSet<ObjectId>,
    /// All C libraries so far.
    met: BTreeSet<ObjectId>,
}

impl Gpu {
    /// The objects that are or were probed in the process, without those that it has never mapped.
    pub fn probed(&self) -> impl Iterator<Item = ObjectId> {
        self.probed.iter().copied()
    }

    /// No probe is in place any more.
    pub(super) fn release(&mut self) {
        self.placed.clear();
        self.refused.clear();
        self.c_libraries.clear();
        self.met.clear();
    }
}

impl TracedSet {
    /// Probes what an object has of it in a process that maps it, once. Whether memory may have gone unseen until now. An
    /// object that cannot be probed is left out, and the report says so.
    pub(super) fn probe_gpu(&mut self, traced: &mut Traced, object: ObjectId, scan: &Scan) -> bool {
        if scan.exit.is_some() && self.catalog.follows_gpu() && traced.gpu.met.insert(object) {
            traced.gpu.c_libraries.insert(object);
            self.place_exits(traced);
        }
        if scan.gpu.functions.is_empty() {
            return false;
        }
        let is_new = !traced.gpu.placed.contains(&object);
        if !self.place_gpu(traced, object, scan) {
            return false;
        }
        if traced.gpu.probed.insert(object) {
            self.log(traced.pid, object, scan, Gear::Gpu);
        }
        let of_memory = |call| cuda::row_of(call).is_some_and(cuda::Row::is_of_memory);
        is_new && scan.gpu.functions.iter().any(|function| of_memory(function.call))
    }

    /// Probes the driver's library in a process that does not map it, wherever it may come from. The report does not
    /// count it until it is mapped.
    pub(super) fn probe_driver_ahead(&mut self, traced: &mut Traced) {
        if !self.catalog.follows_gpu() || self.maps_driver(traced) {
            return;
        }
        for Candidate { path, file } in dlopen::candidates(traced.pid, DRIVER, DRIVER_FOLDERS) {
            let Some(object) = self.catalog.of_file(traced.pid, &path, file) else {
                continue;
            };
            if traced.gpu.placed.contains(&object) {
                continue;
            }
            let Some(scan) = self
                .catalog
                .scanned(object)
                .filter(|scan| !scan.gpu.functions.is_empty())
            else {
                continue;
            };
            if self.place_gpu(traced, object, &scan) {
                tracing::info!(
                    "pid {}: {}: {} functions probed ahead of its being mapped",
                    traced.pid,
                    path.display(),
                    scan.gpu.functions.len()
                );
            }
        }
    }

    fn maps_driver(&self, traced: &Traced) -> bool {
        let (_, mappings) = traced.of_image(traced.image());
        let objects = mappings.iter().filter_map(|mapping| mapping.object);
        let is_driver =
            |scan: &Scan| scan.soname.as_deref() == Some(DRIVER) && !scan.gpu.functions.is_empty();
        objects
            .filter_map(|object| self.catalog.scan(object))
            .any(|scan| is_driver(&scan))
    }

    /// Whether the probes of an object are in place now. They are never paused: GPU memory is asked for seldom.
    fn place_gpu(&mut self, traced: &mut Traced, object: ObjectId, scan: &Scan) -> bool {
        if traced.gpu.placed.contains(&object) {
            return true;
        }
        if traced.gpu.refused.contains(&object) {
            return false;
        }
        match self.links_never_paused(traced.pid, object, Part::Of(Gear::Gpu), &scan.gpu.functions) {
            Ok(links) => {
                if let Some(links) = links {
                    traced.keep(object, Gear::Gpu, None, links);
                }
                traced.gpu.placed.insert(object);
                self.place_exits(traced);
                true
            }
            Err(error) => {
                traced.gpu.refused.insert(object);
                if proc::is_alive(traced.pid) {
                    let error = error.of_object(self.catalog.name(object));
                    let warning = format!("GPU memory goes unseen there: {error}");
                    tracing::warn!("{warning}");
                    self.warnings.push(warning);
                }
                false
            }
        }
    }

    /// Probes functions of an object in a process; no links where they are probed for all.
    fn links_never_paused(
        &mut self,
        pid: u32,
        object: ObjectId,
        part: Part,
        functions: &[Function],
    ) -> Result<Option<Links>, AttachError> {
        let for_all = self.is_for_all(object);
        if for_all && self.host.has(object, part) {
            return Ok(None);
        }
        let path = self.catalog.usable_path(object).unwrap_or_default();
        let links = self
            .attacher
            .attach(&path, if for_all { ALL } else { pid }, functions)?;
        if for_all {
            self.host.keep(object, part, None, links);
            return Ok(None);
        }
        Ok(Some(links))
    }

    /// Probes `exit` of the C libraries of a process that uses a GPU, or may: what ends from there on ends with the
    /// process.
    fn place_exits(&mut self, traced: &mut Traced) {
        if traced.gpu.placed.is_empty() {
            return;
        }
        for object in std::mem::take(&mut traced.gpu.c_libraries) {
            let Some(exit) = self.catalog.scan(object).and_then(|scan| scan.exit.clone()) else {
                continue;
            };
            match self.links_never_paused(traced.pid, object, Part::Exit, &[exit]) {
                Ok(Some(links)) => traced.keep(object, Gear::Gpu, None, links),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!("GPU memory that lives at exit may be reported as freed: {error}");
                }
            }
        }
    }
}
