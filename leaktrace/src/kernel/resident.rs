//! Whose resident memory has changed, as the kernel notes it: one program and one map, of the same object as all others.
//!
//! Must not know what is made of it.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    EbpfLoader,
    maps::{Map, MapData},
    programs::{RawTracePoint, raw_trace_point::RawTracePointLink},
};
use leaktrace_common::{config::Config, select::Rules};

use super::{
    btf,
    object::{LoadError, OBJECT, chain},
    sys::{self, PodConfig},
};

/// Maps that are large from the start and that the program does not use: aya makes them all, and they go again as soon as
/// it is attached.
const UNUSED: [&str; 14] = [
    "THREADS",
    "SITES",
    "STACKS",
    "UNWIND_ROWS",
    "UNWIND_PAGES",
    "UNWIND_RULES",
    "UNWIND_MAPPINGS",
    "UNWIND_LAYOUTS",
    "RAW_STACKS",
    "PYTHON_INTERPRETERS",
    "PYTHON_PARTS",
    "PYTHON_NEW",
    "GPU_LIVE",
    "GPU_MAPPINGS",
];

/// The program, attached. Dropping it detaches it.
#[derive(Debug)]
pub struct Resident {
    map: OwnedFd,
    _link: RawTracePointLink,
}

impl Resident {
    /// Loads and attaches it. The map has room for `processes`.
    ///
    /// # Errors
    /// [`LoadError`]: for want of the kernel's types, too.
    pub fn attach(processes: u32) -> Result<Self, LoadError> {
        let offsets = btf::task_offsets().map_err(|error| LoadError::Maps(error.to_string()))?;
        let config = PodConfig(Config {
            rules: Rules {
                offsets,
                ..Rules::NONE
            },
            ..Config::ALL
        });
        let mut loader = EbpfLoader::new();
        loader
            .override_global("CONFIG", &config, true)
            .map_max_entries("RESIDENT", processes);
        for name in UNUSED {
            loader.map_max_entries(name, 1);
        }
        let mut ebpf = loader
            .load(OBJECT)
            .map_err(|error| LoadError::Maps(chain(&error)))?;
        let attach = |ebpf: &mut aya::Ebpf| -> Result<RawTracePointLink, String> {
            let program = ebpf.program_mut("resident_memory").ok_or("no such program")?;
            let program = <&mut RawTracePoint>::try_from(program).map_err(|error| chain(&error))?;
            program.load().map_err(|error| chain(&error))?;
            let link = program.attach("rss_stat").map_err(|error| chain(&error))?;
            program.take_link(link).map_err(|error| chain(&error))
        };
        let link = attach(&mut ebpf).map_err(|reason| LoadError::Tracepoint {
            name: "rss_stat",
            reason,
        })?;
        let map = match ebpf.map("RESIDENT") {
            Some(Map::HashMap(data)) => descriptor(data),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Self {
            map: map.map_err(|error| LoadError::Maps(format!("no map RESIDENT: {error}")))?,
            _link: link,
        })
    }

    /// The processes whose memory has changed since the last call, by their own doing. A change while this runs is either
    /// told now or the next time.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub fn take(&self) -> io::Result<Vec<u32>> {
        let mut changed = Vec::new();
        sys::map_for_each(self.map.as_fd(), |tgid: &u32, _: &u32| changed.push(*tgid))?;
        // What changes between the two is read after them.
        sys::map_delete_all(self.map.as_fd(), &changed)?;
        Ok(changed)
    }
}

fn descriptor(data: &MapData) -> io::Result<OwnedFd> {
    data.fd().as_fd().try_clone_to_owned()
}
