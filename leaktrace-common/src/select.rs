//! Which processes are targets, where they are not named one by one: the kernel side decides at each `exec`, and what
//! is forked is what its parent is.

/// Kinds of what a process is chosen by, a bit each.
pub mod kind {
    /// Its name: the 16 bytes of `comm`.
    pub const COMM: u32 = 1;
    /// The real user that runs it.
    pub const USER: u32 = 2;
    /// A control group that it is in, or is below.
    pub const CGROUP: u32 = 4;
    /// Its process id; only to leave one out.
    pub const PID: u32 = 8;
}

/// What it means that a process has a property, a bit each.
pub mod verdict {
    /// It is wanted as far as this kind goes.
    pub const WANTED: u32 = 1;
    /// It is left out, whatever else holds.
    pub const LEFT_OUT: u32 = 2;
}

/// A property that a process can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Property {
    /// One of [`kind`].
    pub kind: u32,
    /// Of control groups: the hierarchy, as in [`Rules::hierarchies`]; else 0.
    pub hierarchy: u32,
    /// The name's bytes with zeros behind them; or a number and 0: a user, a process, the inode of a control group's
    /// folder.
    pub value: [u64; 2],
}

impl Property {
    /// A name, of which the kernel keeps 15 bytes.
    pub fn comm(name: &[u8]) -> Self {
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().take(15).zip(name) {
            *to = *from;
        }
        let (low, high) = bytes.split_at(8);
        let word = |bytes: &[u8]| {
            bytes
                .iter()
                .rev()
                .fold(0, |word, &byte| word << 8 | u64::from(byte))
        };
        Self {
            kind: kind::COMM,
            hierarchy: 0,
            value: [word(low), word(high)],
        }
    }

    /// A number.
    pub const fn number(kind: u32, hierarchy: u32, number: u64) -> Self {
        Self {
            kind,
            hierarchy,
            value: [number, 0],
        }
    }
}

/// How many hierarchies of control groups a selection can ask about.
pub const HIERARCHIES_MAX: usize = 2;

/// The unified hierarchy (version 2) among [`Rules::hierarchies`], where those of version 1 go by the number of their
/// controller (`enum cgroup_subsys_id`).
pub const UNIFIED: u32 = 0xff;

/// No hierarchy.
pub const NO_HIERARCHY: u32 = u32::MAX;

/// What a process must be to become a target by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Rules {
    /// Not 0 where processes become targets by themselves.
    pub on: u64,
    /// Kinds of which a process must have a property that is wanted; none: all processes are.
    pub required: u32,
    /// Kinds that have to be looked at.
    pub looked_at: u32,
    /// The hierarchies whose control groups are asked about.
    pub hierarchies: [u32; HIERARCHIES_MAX],
    /// Where the kernel keeps what is asked.
    pub offsets: TaskOffsets,
}

/// Offsets in the running kernel's structures, from its BTF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TaskOffsets {
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// `task_struct.signal`
    pub task_signal: u32,
    /// `signal_struct.live`: its threads that have not begun to end.
    pub signal_live: u32,
    /// `task_struct.cgroups`
    pub task_cgroups: u32,
    /// `css_set.subsys`: for each controller the state of the group that the task is in.
    pub css_set_subsys: u32,
    /// `css_set.dfl_cgrp`: its group in the unified hierarchy.
    pub css_set_unified: u32,
    /// `cgroup_subsys_state.cgroup`
    pub css_cgroup: u32,
    /// `cgroup_subsys_state.parent`
    pub css_parent: u32,
    /// `cgroup.self`: the state of the group itself, by which its parent is found.
    pub cgroup_self: u32,
    /// `cgroup.kn`: its folder.
    pub cgroup_kn: u32,
    /// `kernfs_node.id`: the inode number of the folder.
    pub kn_id: u32,
}

impl Rules {
    /// Only user space makes targets.
    pub const NONE: Self = Self {
        on: 0,
        required: 0,
        looked_at: 0,
        hierarchies: [NO_HIERARCHY; HIERARCHIES_MAX],
        offsets: TaskOffsets {
            task_tgid: 0,
            task_mm: 0,
            task_signal: 0,
            signal_live: 0,
            task_cgroups: 0,
            css_set_subsys: 0,
            css_set_unified: 0,
            css_cgroup: 0,
            css_parent: 0,
            cgroup_self: 0,
            cgroup_kn: 0,
            kn_id: 0,
        },
    };
}

const _: () = assert!(size_of::<Property>() == 24);
const _: () = assert!(size_of::<Rules>() == 72);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_its_first_15_bytes() {
        let name = Property::comm(b"postgres");
        assert_eq!(name.value, [u64::from_le_bytes(*b"postgres"), 0]);
        assert_eq!(
            Property::comm(b"a-name-of-more-than-15-bytes"),
            Property::comm(b"a-name-of-more-")
        );
        assert_eq!(Property::comm(b"nginx").value[0].to_le_bytes(), *b"nginx\0\0\0");
    }
}
