//! The compiled kernel side: embedded, its maps made by aya.
//!
//! Its uprobe programs are loaded by [`super::programs`]; aya's own are not used: see [`super::sys`].

use std::{
    collections::HashSet,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData},
    programs::RawTracePoint,
};
use aya_obj::Object;
use leaktrace_common::config::Config;

use super::{
    caps::AttachKind,
    programs::{Loader, Programs},
    sys::{self, PodConfig},
    tables::Room,
};

/// The object, checked in and embedded; aligned as the parser needs it.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!("../../../leaktrace-ebpf/prebuilt/leaktrace.bpf.o");

/// Why the kernel side could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// aya refused the object or the kernel one of its maps.
    #[error(
        "cannot load leaktrace's maps into the kernel: {0}; `leaktrace doctor` tells what this kernel lacks"
    )]
    Maps(String),
    /// The kernel refused a program.
    #[error(
        "the kernel refused the program {program}: {source}; please report this with the output of `leaktrace doctor` and of the run with -v"
    )]
    Program {
        /// Its name.
        program: &'static str,
        /// The errno of bpf(2).
        source: std::io::Error,
        /// The verifier's words.
        log: String,
    },
    /// A raw tracepoint could not be attached.
    #[error("cannot attach to the tracepoint {name}: {reason}; run as root or with CAP_BPF and CAP_PERFMON")]
    Tracepoint {
        /// Its name.
        name: &'static str,
        /// aya's words.
        reason: String,
    },
}

/// What every tier of the live table is made after.
///
/// Made from the same definition and BTF as the table's template: up to some kernel after 6.1 a map of
/// maps refuses one that has no BTF where its template has (`kernel/bpf/map_in_map.c`, 6.1:
/// `bpf_map_meta_equal` compares `timer_off`, which comes from the BTF).
#[derive(Debug)]
pub struct TierTemplate {
    definition: aya_obj::Map,
    btf: Option<OwnedFd>,
}

impl TierTemplate {
    /// Makes a tier for `max_blocks`.
    ///
    /// # Errors
    /// [`LoadError::Maps`].
    pub fn create(&self, max_blocks: u32) -> Result<MapData, LoadError> {
        let mut definition = self.definition.clone();
        definition.set_max_entries(max_blocks);
        MapData::create(definition, "LIVE_TIER", self.btf.as_ref().map(OwnedFd::as_fd))
            .map_err(|error| LoadError::Maps(chain(&error)))
    }
}

/// The loaded kernel side. Dropping it removes everything from the kernel.
#[derive(Debug)]
pub struct KernelSide {
    /// Maps and tracepoints.
    pub ebpf: Ebpf,
    /// Uprobe programs.
    pub programs: Programs,
}

/// Loads maps and programs. Nothing is attached yet. `room` is that for unwind tables and layouts.
///
/// # Errors
/// [`LoadError`].
pub fn load(config: Config, kind: AttachKind, room: Room) -> Result<(KernelSide, TierTemplate), LoadError> {
    let config = PodConfig(config);
    let log_level: u8 = if tracing::enabled!(tracing::Level::DEBUG) {
        0xff
    } else {
        0
    };
    let ebpf = EbpfLoader::new()
        .override_global("CONFIG", &config, true)
        .override_global("AYA_LOG_LEVEL", &log_level, false)
        .map_max_entries("UNWIND_ROWS", room.row_chunks)
        .map_max_entries("UNWIND_MAPPINGS", room.mappings)
        .load(OBJECT)
        .map_err(|error| LoadError::Maps(chain(&error)))?;
    let (loader, tier) = parse(&ebpf, kind)?;
    let programs = Programs::load(loader)?;
    Ok((KernelSide { ebpf, programs }, tier))
}

/// Prepares the uprobe programs: another look at the same bytes, with the maps that aya has made.
fn parse(ebpf: &Ebpf, kind: AttachKind) -> Result<(Loader, TierTemplate), LoadError> {
    let fail = |error: &dyn std::fmt::Display| LoadError::Maps(error.to_string());
    let mut object = Object::parse(OBJECT).map_err(|error| fail(&error))?;
    let btf = match aya::features().btf() {
        Some(features) => object
            .fixup_and_sanitize_btf(features)
            .map_err(|error| fail(&error))?
            .map(|btf| sys::load_btf(&btf.to_bytes()))
            .transpose()
            .map_err(|error| fail(&error))?,
        None => None,
    };
    let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let definitions = std::mem::take(&mut object.maps);
    let maps = definitions.iter().filter_map(|(name, definition)| {
        let data = ebpf.map(name).and_then(map_data)?;
        Some((name.as_str(), data.fd().as_fd().as_raw_fd(), definition))
    });
    object.relocate_maps(maps, &text).map_err(|error| fail(&error))?;
    object.relocate_calls(&text).map_err(|error| fail(&error))?;
    object.sanitize_functions(aya::features());
    let definition = definitions
        .get("LIVE")
        .and_then(aya_obj::Map::inner)
        .ok_or_else(|| LoadError::Maps("no definition of the live table's tiers".to_owned()))?;
    let template = TierTemplate {
        definition,
        btf: btf
            .as_ref()
            .map(OwnedFd::try_clone)
            .transpose()
            .map_err(|error| fail(&error))?,
    };
    Ok((Loader { object, btf, kind }, template))
}

/// The data of those kinds of map that the object has.
const fn map_data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::ArrayOfMaps(data)
        | Map::HashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data) => Some(data),
        _ => None,
    }
}

impl KernelSide {
    /// Descriptor of a map by its name.
    ///
    /// # Errors
    /// [`LoadError::Maps`] when the object has none of that name.
    pub fn map(&self, name: &'static str) -> Result<OwnedFd, LoadError> {
        self.ebpf
            .map(name)
            .and_then(map_data)
            .ok_or_else(|| LoadError::Maps(format!("no map {name}")))?
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| LoadError::Maps(error.to_string()))
    }

    /// How many elements a map has room for.
    ///
    /// # Errors
    /// [`LoadError::Maps`] when the object has none of that name, or the kernel does not say.
    pub fn max_entries(&self, name: &'static str) -> Result<u32, LoadError> {
        self.ebpf
            .map(name)
            .and_then(map_data)
            .ok_or_else(|| LoadError::Maps(format!("no map {name}")))?
            .info()
            .map(|info| info.max_entries())
            .map_err(|error| LoadError::Maps(chain(&error)))
    }

    /// Attaches the tracepoints: from here on exec and thread ends of targets are followed, and where processes become
    /// targets by themselves, their forks.
    ///
    /// # Errors
    /// [`LoadError::Tracepoint`].
    pub fn attach_tracepoints(&mut self, selects: bool) -> Result<(), LoadError> {
        let forks = selects.then_some(("process_fork", "sched_process_fork"));
        self.attach_to(forks)?;
        self.attach_to([
            ("process_exec", "sched_process_exec"),
            ("thread_exit", "sched_process_exit"),
        ])
    }

    fn attach_to(
        &mut self,
        tracepoints: impl IntoIterator<Item = (&'static str, &'static str)>,
    ) -> Result<(), LoadError> {
        for (program, name) in tracepoints {
            let attached = self
                .ebpf
                .program_mut(program)
                .ok_or_else(|| format!("no program {program}"))
                .and_then(|program| <&mut RawTracePoint>::try_from(program).map_err(|error| chain(&error)))
                .and_then(|program| {
                    program.load().map_err(|error| chain(&error))?;
                    program.attach(name).map_err(|error| chain(&error))
                });
            attached.map_err(|reason| LoadError::Tracepoint { name, reason })?;
        }
        Ok(())
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    // The kernel's verifier speaks in many lines; the first is enough for a sentence.
    text.lines().next().unwrap_or_default().to_owned()
}
