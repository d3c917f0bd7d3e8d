//! Control groups that processes are chosen by: which hierarchies are asked about, and which groups a process is in.
//!
//! Must not know what is wanted.

use std::{collections::HashMap, os::unix::fs::MetadataExt as _, path::Path};

use leaktrace_common::select::{Property, UNIFIED, kind};

use crate::{
    container::{
        cgroup::{Cgroup, Hierarchy, parse_memberships},
        hierarchies::{CgroupError, Hierarchies},
    },
    kernel::btf::{self, BtfError},
};

/// The hierarchies that are asked about.
#[derive(Debug)]
pub(super) struct Groups {
    hierarchies: Hierarchies,
    /// With the numbers that the kernel side knows them by.
    asked: Vec<(Hierarchy, u32)>,
    /// The inodes of a group's folder and of those above it, from the inside out; as they have been found.
    known: HashMap<(u32, String), Vec<u64>>,
}

impl Groups {
    /// Nothing asked about yet.
    pub(super) fn new(hierarchies: Hierarchies) -> Self {
        Self {
            hierarchies,
            asked: Vec::new(),
            known: HashMap::new(),
        }
    }

    /// The group that somebody means by a path.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub(super) fn resolve(&self, path: &Path) -> Result<Cgroup, CgroupError> {
        self.hierarchies.resolve(&path.to_string_lossy())
    }

    /// Of the groups of a container, one in each hierarchy, that in a hierarchy which is asked about already; else the unified
    /// one, or one of a controller that the kernel side can ask about.
    pub(super) fn best_of(&self, groups: &[Cgroup]) -> Option<Cgroup> {
        let is_asked = |group: &&Cgroup| self.asked.iter().any(|(asked, _)| *asked == group.hierarchy);
        let unified = || groups.iter().find(|group| group.hierarchy == Hierarchy::V2);
        let any = || groups.iter().find(|group| number_of(&group.hierarchy).is_ok());
        // A runtime that manages version 1 may leave the unified tree alone: its group there is empty.
        let v1 = any().filter(|group| group.hierarchy != Hierarchy::V2 && has_processes(group));
        let found = groups.iter().find(is_asked).or(v1).or_else(unified).or_else(any);
        found.cloned()
    }

    /// Asks about a hierarchy from now on: its place among those asked about, and its number.
    ///
    /// # Errors
    /// [`BtfError`] where this kernel has no such controller.
    pub(super) fn ask_about(&mut self, hierarchy: &Hierarchy) -> Result<(usize, u32), BtfError> {
        if let Some(index) = self.asked.iter().position(|(asked, _)| asked == hierarchy) {
            return Ok((index, self.asked[index].1));
        }
        let number = number_of(hierarchy)?;
        self.asked.push((hierarchy.clone(), number));
        Ok((self.asked.len() - 1, number))
    }

    /// The groups that a process is in, of those hierarchies.
    pub(super) fn of_pid(&mut self, pid: u32) -> Vec<Property> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let mut properties = Vec::new();
        for membership in parse_memberships(&text) {
            let asked = self
                .asked
                .iter()
                .find(|(asked, _)| *asked == membership.hierarchy);
            let Some(&(_, number)) = asked.filter(|_| !membership.removed) else {
                continue;
            };
            let inodes = self
                .known
                .entry((number, membership.path))
                .or_insert_with_key(|(_, path)| {
                    let group = self.hierarchies.find(&membership.hierarchy, path);
                    group
                        .map(|group| inodes_up_from(&group.folder))
                        .unwrap_or_default()
                });
            properties.extend(
                inodes
                    .iter()
                    .map(|&inode| Property::number(kind::CGROUP, number, inode)),
            );
        }
        properties
    }
}

/// Number of a hierarchy on the kernel side. One that several controllers share goes by the first of them.
fn number_of(hierarchy: &Hierarchy) -> Result<u32, BtfError> {
    match hierarchy.controllers().next() {
        None => Ok(UNIFIED),
        Some(controller) => btf::controller(controller),
    }
}

fn has_processes(group: &Cgroup) -> bool {
    std::fs::read_to_string(group.folder.join("cgroup.procs")).is_ok_and(|pids| !pids.is_empty())
}

/// The inodes of a folder and of those above it in the same file system.
fn inodes_up_from(folder: &Path) -> Vec<u64> {
    let Some(device) = folder.metadata().ok().map(|facts| facts.dev()) else {
        return Vec::new();
    };
    folder
        .ancestors()
        .map_while(|folder| folder.metadata().ok().filter(|facts| facts.dev() == device))
        .map(|facts| facts.ino())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_have_their_numbers_and_those_above_a_folder_end_with_its_file_system() {
        assert_eq!(number_of(&Hierarchy::V2).unwrap(), UNIFIED);
        // Named hierarchies have no controller, and so no number.
        assert!(number_of(&Hierarchy::V1("name=systemd".to_owned())).is_err());
        let inner = tempfile::tempdir().unwrap();
        let folder = inner.path().join("a/b");
        std::fs::create_dir_all(&folder).unwrap();
        let inodes = inodes_up_from(&folder);
        assert_eq!(inodes[0], folder.metadata().unwrap().ino());
        assert_eq!(inodes[1], inner.path().join("a").metadata().unwrap().ino());
        assert_eq!(inodes_up_from(&inner.path().join("gone")), [] as [u64; 0]);
    }
}
