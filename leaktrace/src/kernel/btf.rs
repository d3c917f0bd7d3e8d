//! Where the running kernel keeps what return probes have replaced, and a thread's thread pointer: offsets of a few
//! members, from its BTF.
//!
//! Read by hand, in one pass over the types (format: kernel, Documentation/bpf/btf.rst): aya-obj keeps the members of
//! its types to itself, btf-rs is under the LGPL, and btfparse takes 230 ms to build all 130 000 types of which eight
//! members are wanted; this takes 3 ms, most of it the reading of the file. Must not know what the offsets are for.

use std::{fs, io};

use leaktrace_common::{select::TaskOffsets, unwind::ReturnProbes};

/// The running kernel's types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The kernel's types do not say where something is.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file could not be read.
    #[error("cannot read {VMLINUX}: {0}; a kernel with CONFIG_DEBUG_INFO_BTF has it")]
    Unreadable(io::Error),
    /// It is not what the format says.
    #[error("{VMLINUX} is not readable as BTF at byte {0}; please report this with the kernel's version")]
    Broken(usize),
    /// This kernel has no such member.
    #[error("this kernel has no {0}")]
    Missing(String),
}

/// Where the running kernel keeps replaced return addresses.
///
/// # Errors
/// [`BtfError`].
pub fn return_probes() -> Result<ReturnProbes, BtfError> {
    let bytes = fs::read(VMLINUX).map_err(BtfError::Unreadable)?;
    find_return_probes(&Types::parse(&bytes)?)
}

/// Where the running kernel keeps a thread's thread pointer: offset of `thread.fsbase` in its `task_struct`
/// (`arch/x86/kernel/process_64.c`, `do_arch_prctl_64` and `copy_thread`: it is up to date for a running thread too, but
/// for one that sets the register by an instruction of its own, which no libc does).
///
/// # Errors
/// [`BtfError`].
pub fn thread_pointer() -> Result<u32, BtfError> {
    let bytes = fs::read(VMLINUX).map_err(BtfError::Unreadable)?;
    Types::parse(&bytes)?.offset_of("task_struct", &["thread", "fsbase"])
}

/// Where the running kernel keeps what processes are chosen by.
///
/// # Errors
/// [`BtfError`].
pub fn task_offsets() -> Result<TaskOffsets, BtfError> {
    let bytes = fs::read(VMLINUX).map_err(BtfError::Unreadable)?;
    let types = Types::parse(&bytes)?;
    Ok(TaskOffsets {
        task_tgid: types.offset_of("task_struct", &["tgid"])?,
        task_mm: types.offset_of("task_struct", &["mm"])?,
        task_signal: types.offset_of("task_struct", &["signal"])?,
        signal_live: types.offset_of("signal_struct", &["live"])?,
        task_cgroups: types.offset_of("task_struct", &["cgroups"])?,
        css_set_subsys: types.offset_of("css_set", &["subsys"])?,
        css_set_unified: types.offset_of("css_set", &["dfl_cgrp"])?,
        css_cgroup: types.offset_of("cgroup_subsys_state", &["cgroup"])?,
        css_parent: types.offset_of("cgroup_subsys_state", &["parent"])?,
        cgroup_self: types.offset_of("cgroup", &["self"])?,
        cgroup_kn: types.offset_of("cgroup", &["kn"])?,
        kn_id: types.offset_of("kernfs_node", &["id"])?,
    })
}

/// Number of a controller of control groups (version 1) in the running kernel: `memory`, `cpu`, `blkio`.
///
/// # Errors
/// [`BtfError::Missing`] where this kernel was built without it.
pub fn controller(name: &str) -> Result<u32, BtfError> {
    let bytes = fs::read(VMLINUX).map_err(BtfError::Unreadable)?;
    // Its one name that is not that of the hierarchy (include/linux/cgroup_subsys.h, block/blk-cgroup.c).
    let name = if name == "blkio" { "io" } else { name };
    Types::parse(&bytes)?.value_of("cgroup_subsys_id", &format!("{name}_cgrp_id"))
}

fn find_return_probes(types: &Types<'_>) -> Result<ReturnProbes, BtfError> {
    Ok(ReturnProbes {
        task_utask: types.offset_of("task_struct", &["utask"])?,
        utask_instances: types.offset_of("uprobe_task", &["return_instances"])?,
        instance_stack: types.offset_of("return_instance", &["stack"])?,
        instance_address: types.offset_of("return_instance", &["orig_ret_vaddr"])?,
        instance_next: types.offset_of("return_instance", &["next"])?,
        task_mm: types.offset_of("task_struct", &["mm"])?,
        mm_xol_area: types.offset_of("mm_struct", &["uprobes_state", "xol_area"])?,
        xol_vaddr: types.offset_of("xol_area", &["vaddr"])?,
    })
}

/// Kinds of types (include/uapi/linux/btf.h).
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
    pub(super) const LAST: u32 = 19;
}

const MAGIC: u16 = 0xeb9f;
/// Bytes of `struct btf_type` and of `struct btf_member`.
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;
/// Structures within structures and names of names that are followed.
const DEPTH_MAX: u32 = 16;

/// The types of a BTF file.
struct Types<'a> {
    bytes: &'a [u8],
    /// Where the names begin.
    strings: usize,
    /// Where each type begins; the first has number 1.
    starts: Vec<u32>,
}

/// The head of a type.
struct Type {
    name: u32,
    kind: u32,
    /// Members, values, parameters: what it has many of.
    count: usize,
    /// Whether the members' offsets share their word with the sizes of bit fields.
    packed: bool,
    /// The type it refers to, for those that refer to one.
    target: u32,
}

impl<'a> Types<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let mut types = Self {
            bytes,
            strings: 0,
            starts: Vec::new(),
        };
        let head = types.word(0)?;
        // What is not of this machine's byte order does not have this magic either.
        if head as u16 != MAGIC {
            return Err(BtfError::Broken(0));
        }
        let header_bytes = types.word(4)? as usize;
        let section = |offset: u32| header_bytes.saturating_add(offset as usize);
        let mut at = section(types.word(8)?);
        let end = at.saturating_add(types.word(12)? as usize);
        types.strings = section(types.word(16)?);
        while at < end {
            let start = u32::try_from(at).ok().ok_or(BtfError::Broken(at))?;
            types.starts.push(start);
            at += types.size_bytes(at)?;
        }
        Ok(types)
    }

    fn word(&self, at: usize) -> Result<u32, BtfError> {
        let word = self.bytes.get(at..).and_then(<[u8]>::first_chunk);
        word.map(|word| u32::from_ne_bytes(*word))
            .ok_or(BtfError::Broken(at))
    }

    fn read(&self, at: usize) -> Result<Type, BtfError> {
        let info = self.word(at + 4)?;
        Ok(Type {
            name: self.word(at)?,
            kind: info >> 24 & 0x1f,
            count: (info & 0xffff) as usize,
            packed: info >> 31 != 0,
            target: self.word(at + 8)?,
        })
    }

    /// Bytes of the type that begins here, with all it has.
    fn size_bytes(&self, at: usize) -> Result<usize, BtfError> {
        let head = self.read(at)?;
        let rest = match head.kind {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION => MEMBER_BYTES * head.count,
            kind::ENUM | kind::FUNC_PROTO => 8 * head.count,
            kind::DATASEC | kind::ENUM64 => 12 * head.count,
            1..=kind::LAST => 0,
            // The length of what a later kernel adds is not known.
            _ => return Err(BtfError::Broken(at)),
        };
        Ok(TYPE_BYTES + rest)
    }

    fn is_named(&self, name: u32, wanted: &str) -> bool {
        let text = self.bytes.get(self.strings.saturating_add(name as usize)..);
        text.and_then(|text| text.strip_prefix(wanted.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }

    /// Bytes from the start of a structure to the member that the path leads to.
    fn offset_of(&self, structure: &str, path: &[&str]) -> Result<u32, BtfError> {
        for &start in &self.starts {
            let head = self.read(start as usize)?;
            if head.kind != kind::STRUCT || !self.is_named(head.name, structure) {
                continue;
            }
            if let Some(bytes) = self.follow(start as usize, path)? {
                return Ok(bytes);
            }
        }
        Err(BtfError::Missing(format!("{structure}.{}", path.join("."))))
    }

    /// The number that an enumeration gives a name.
    fn value_of(&self, enumeration: &str, wanted: &str) -> Result<u32, BtfError> {
        for &start in &self.starts {
            let start = start as usize;
            let head = self.read(start)?;
            if head.kind != kind::ENUM || !self.is_named(head.name, enumeration) {
                continue;
            }
            for index in 0..head.count {
                let at = start + TYPE_BYTES + 8 * index;
                if self.is_named(self.word(at)?, wanted) {
                    return self.word(at + 4);
                }
            }
        }
        Err(BtfError::Missing(format!("{wanted} in {enumeration}")))
    }

    fn follow(&self, mut start: usize, path: &[&str]) -> Result<Option<u32>, BtfError> {
        let mut bytes = 0;
        for (index, name) in path.iter().enumerate() {
            let Some((offset, target)) = self.member(start, name, DEPTH_MAX)? else {
                return Ok(None);
            };
            bytes += offset;
            if index + 1 < path.len() {
                match self.structure(target)? {
                    Some(inner) => start = inner,
                    None => return Ok(None),
                }
            }
        }
        Ok(Some(bytes))
    }

    /// Offset in bytes and type of a member, also of a structure without a name within this one.
    fn member(&self, start: usize, wanted: &str, depth: u32) -> Result<Option<(u32, u32)>, BtfError> {
        let head = self.read(start)?;
        for index in 0..head.count {
            let at = start + TYPE_BYTES + MEMBER_BYTES * index;
            let (name, target) = (self.word(at)?, self.word(at + 4)?);
            let bits = self.word(at + 8)? & if head.packed { 0xff_ffff } else { u32::MAX };
            if self.is_named(name, wanted) {
                return Ok(Some((bits / 8, target)));
            }
            if depth > 0
                && self.is_named(name, "")
                && let Some(inner) = self.structure(target)?
                && let Some((offset, target)) = self.member(inner, wanted, depth - 1)?
            {
                return Ok(Some((bits / 8 + offset, target)));
            }
        }
        Ok(None)
    }

    /// Where the structure or union begins that the type is, under whatever name.
    fn structure(&self, number: u32) -> Result<Option<usize>, BtfError> {
        let mut number = number;
        for _ in 0..DEPTH_MAX {
            let Some(&start) = self.starts.get((number as usize).wrapping_sub(1)) else {
                return Ok(None);
            };
            let head = self.read(start as usize)?;
            match head.kind {
                kind::STRUCT | kind::UNION => return Ok(Some(start as usize)),
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    number = head.target;
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types by hand: `struct outer { u64 a; union { u64 b; struct { u64 c; inner_t d; }; }; }` and
    /// `typedef const struct inner { u64 e; u64 f; } inner_t`.
    fn sample() -> Vec<u8> {
        let names = b"\0outer\0a\0b\0c\0d\0inner\0e\0f\0inner_t\0u64\0";
        let name = |wanted: &str| {
            let wanted = format!("{wanted}\0");
            let found =
                (1..names.len()).find(|&at| names[at - 1] == 0 && names[at..].starts_with(wanted.as_bytes()));
            found.unwrap() as u32
        };
        let head = |name: u32, kind: u32, count: u32, last: u32| vec![name, kind << 24 | count, last];
        let types: Vec<u32> = [
            // 1
            [head(name("u64"), kind::INT, 0, 8), vec![64]].concat(),
            // 2
            [
                head(name("inner"), kind::STRUCT, 2, 16),
                vec![name("e"), 1, 0, name("f"), 1, 64],
            ]
            .concat(),
            // 3
            head(0, kind::CONST, 0, 2),
            // 4
            head(name("inner_t"), kind::TYPEDEF, 0, 3),
            // 5, with sizes of bit fields beside the offsets
            [
                head(0, kind::STRUCT | 0x80, 2, 24),
                vec![name("c"), 1, 0, name("d"), 4, 0xff00_0000 | 64],
            ]
            .concat(),
            // 6
            [head(0, kind::UNION, 2, 24), vec![name("b"), 1, 0, 0, 5, 0]].concat(),
            // 7
            [
                head(name("outer"), kind::STRUCT, 2, 32),
                vec![name("a"), 1, 0, 0, 6, 64],
            ]
            .concat(),
        ]
        .concat();
        let types_bytes = types.len() as u32 * 4;
        let header = [
            u32::from(MAGIC) | 1 << 16,
            24,
            0,
            types_bytes,
            types_bytes,
            names.len() as u32,
        ];
        let words = header.iter().chain(&types).flat_map(|word| word.to_ne_bytes());
        words.chain(names.iter().copied()).collect()
    }

    #[test]
    fn members_are_found_in_structures_without_a_name_and_under_other_names() {
        let bytes = sample();
        let types = Types::parse(&bytes).unwrap();
        assert_eq!(types.starts.len(), 7);
        assert_eq!(types.offset_of("outer", &["a"]).unwrap(), 0);
        assert_eq!(types.offset_of("outer", &["b"]).unwrap(), 8);
        assert_eq!(types.offset_of("outer", &["c"]).unwrap(), 8);
        assert_eq!(types.offset_of("outer", &["d"]).unwrap(), 16);
        assert_eq!(types.offset_of("outer", &["d", "f"]).unwrap(), 24);
        let missing = types.offset_of("outer", &["d", "g"]).unwrap_err().to_string();
        assert!(missing.starts_with("this kernel has no outer.d.g"), "{missing}");
        assert!(types.offset_of("inner_t", &["e"]).is_err());
        assert!(types.offset_of("outer", &["a", "e"]).is_err());
    }

    #[test]
    fn broken_types_are_an_error_wherever_they_end() {
        let bytes = sample();
        for end in 0..bytes.len() - 40 {
            let found = Types::parse(&bytes[..end]).and_then(|types| types.offset_of("outer", &["d", "f"]));
            assert!(found.is_err(), "{end}");
        }
        let mut looped = bytes;
        // The const points at itself.
        let at = 24 + 16 + 36;
        looped[at + 8..at + 12].copy_from_slice(&3_u32.to_ne_bytes());
        let types = Types::parse(&looped).unwrap();
        assert!(types.offset_of("outer", &["d", "f"]).is_err());
    }

    #[test]
    fn the_running_kernel_says_where_return_addresses_are() {
        if !fs::exists(VMLINUX).unwrap_or(false) {
            return;
        }
        let found = return_probes().unwrap();
        // All but `return_instance.next`, which was the first member of none so far, may be anywhere.
        assert_ne!(found.task_utask, found.task_mm);
        assert!(found.task_utask > 0 && found.task_mm > 0 && found.instance_next > 0);
        assert_ne!(found.instance_stack, found.instance_address);
        assert!(thread_pointer().unwrap() > 0);
    }
}
