//! What a process has mapped where, and which of its pages are there: as far as a sampled page fault asks for it.
//!
//! Must not know what a sample stands for.

use std::{fs::File, os::unix::fs::FileExt as _};

use crate::{
    probe::process,
    symbol::mappings::{Mapping, Mappings},
    traced::catalog::Catalog,
};

/// What memory is, by the mapping that an address lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of no file: it counts as the process's own.
    Anonymous,
    /// Of a file, or shared.
    File,
    /// Nothing is mapped there, or it was after the last look.
    Unknown,
}

/// A mapping of any kind.
#[derive(Clone, Debug)]
struct Area {
    start: u64,
    end: u64,
    anonymous: bool,
    label: String,
}

/// The address space of one process, as of the last look.
#[derive(Debug)]
pub struct Space {
    /// What is executable, and what was: stacks are walked and named by it.
    pub code: Mappings,
    areas: Vec<Area>,
    read_ns: u64,
    pagemap: Option<File>,
}

/// `PM_PRESENT` and `PM_SWAP` (`fs/proc/task_mmu.c`).
const HAS_PAGE: u64 = 1 << 63 | 1 << 62;

const PAGE_BYTES: u64 = 4096;

impl Space {
    /// Looks at a process; nothing is known of one that has ended.
    pub fn read(pid: u32, catalog: &mut Catalog, now_ns: u64) -> Self {
        let mut space = Self {
            code: Mappings::new(),
            areas: Vec::new(),
            read_ns: 0,
            pagemap: File::open(format!("/proc/{pid}/pagemap")).ok(),
        };
        space.code.set_jit_map(jit_map(pid));
        space.read_again(pid, catalog, now_ns);
        space
    }

    /// Looks once more. What was known stays where that fails: the process has ended.
    pub fn read_again(&mut self, pid: u32, catalog: &mut Catalog, now_ns: u64) {
        self.read_ns = now_ns;
        let Ok(maps) = process::mappings(pid) else { return };
        self.areas.clear();
        for mapping in maps {
            if mapping.executable {
                let object = catalog.of_mapping(pid, &mapping);
                self.code.insert(Mapping {
                    start: mapping.start,
                    end: mapping.end,
                    file_offset: mapping.offset,
                    object,
                    name: mapping
                        .path
                        .as_ref()
                        .map_or_else(|| mapping.label.clone(), |path| path.display().to_string()),
                    executable: true,
                });
            }
            self.areas.push(Area {
                start: mapping.start,
                end: mapping.end,
                anonymous: mapping.inode == 0,
                label: mapping.label,
            });
        }
    }

    /// When it was looked at last, nanoseconds.
    pub const fn read_ns(&self) -> u64 {
        self.read_ns
    }

    /// What lies at an address.
    pub fn kind(&self, address: u64) -> Kind {
        match self.area(address) {
            Some(area) if area.anonymous => Kind::Anonymous,
            Some(_) => Kind::File,
            None => Kind::Unknown,
        }
    }

    /// What the mapping at an address is called: `[heap]`, `[stack]`, a name that the program gave it, or `[anon]`.
    pub fn label(&self, address: u64) -> &str {
        match self.area(address) {
            Some(area) if !area.label.is_empty() => &area.label,
            _ => "[anon]",
        }
    }

    /// Whether there is a page at an address, in RAM or in swap. Where that cannot be asked, whether something is mapped.
    pub fn has_page(&self, address: u64) -> bool {
        let mut entry = [0; 8];
        let at = address / PAGE_BYTES * 8;
        match self
            .pagemap
            .as_ref()
            .map(|file| file.read_exact_at(&mut entry, at))
        {
            Some(Ok(())) => u64::from_ne_bytes(entry) & HAS_PAGE != 0,
            Some(Err(_)) | None => self.kind(address) == Kind::Anonymous,
        }
    }

    fn area(&self, address: u64) -> Option<&Area> {
        let after = self.areas.partition_point(|area| area.start <= address);
        let area = self.areas.get(after.checked_sub(1)?)?;
        (address < area.end).then_some(area)
    }
}

/// Where a JIT compiler in the process writes its symbols: under the pid that the process itself sees.
fn jit_map(pid: u32) -> Option<std::path::PathBuf> {
    let inner = process::inner_pid(pid)?;
    Some(format!("/proc/{pid}/root/tmp/perf-{inner}.map").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_told_apart() {
        let mut catalog = Catalog::default();
        let memory = vec![1_u8; 1 << 20];
        let space = Space::read(std::process::id(), &mut catalog, 7);
        let address = memory.as_ptr() as u64 + (512 << 10);
        assert_eq!((space.kind(address), space.read_ns()), (Kind::Anonymous, 7));
        assert!(space.has_page(address));
        let code = own_memory_is_told_apart as fn() as usize as u64;
        assert_eq!(space.kind(code), Kind::File);
        assert!(space.code.find_code(code).is_some());
        assert_eq!(space.kind(16), Kind::Unknown);
        assert!(!space.has_page(16));
    }
}
