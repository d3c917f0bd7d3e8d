//! The mounted trees of control groups: finds the folder of a group that is typed, listed or that a process is in.
//!
//! Must not know containers: it asks nobody but the file system.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::cgroup::{Cgroup, Hierarchy, Membership, Mount, Relative, parse_memberships, parse_mounts};
use crate::probe::process::other_root;

/// Groups that are looked at in one tree, so that a broken one cannot hold leaktrace up. The kernel's own limit of groups
/// with a memory controller is 65535 (`MEM_CGROUP_ID_MAX` in include/linux/memcontrol.h, 6.12).
const GROUPS_MAX: usize = 100_000;

/// Names that an error shows.
const SHOWN_MAX: usize = 8;

/// The file system of the first process, where leaktrace is in a container that shares its pid namespace.
const OF_INIT: &str = "/proc/1/root";

/// A control group is not there.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No tree of control groups is mounted where leaktrace can see it.
    #[error(
        "no control groups are mounted here; mount them (mount -t cgroup2 none /sys/fs/cgroup) or, in a container, run it with -v /sys/fs/cgroup:/sys/fs/cgroup:ro"
    )]
    NoMounts,
    /// The path leads to none.
    #[error("there is no control group {path}: {} has {}; name one of those, or see systemd-cgls", .nearest.display(), listed(.there))]
    NotFound {
        /// What was typed.
        path: String,
        /// The nearest folder above that exists.
        nearest: PathBuf,
        /// Groups with that name elsewhere, else those in `nearest`, the most similar first.
        there: Vec<String>,
    },
    /// The path leads to something else.
    #[error("{path} is no control group; name a folder below {}", .mounted.display())]
    NotCgroup {
        /// What was typed.
        path: String,
        /// Where control groups are.
        mounted: PathBuf,
    },
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        "no groups in it".to_owned()
    } else {
        names.join(", ")
    }
}

/// A mounted tree.
#[derive(Clone, Debug)]
struct Tree {
    mount: Mount,
    /// The names from its root down to that of leaktrace's cgroup namespace, where it begins above that.
    above: Vec<String>,
}

/// The trees that can be seen from here.
#[derive(Clone, Debug, Default)]
pub struct Hierarchies {
    /// Those that show most come first, version 2 before version 1.
    trees: Vec<Tree>,
}

impl Hierarchies {
    /// Those mounted here, and those of the first process where it has another file system: a container often has its own
    /// part of them only.
    pub fn here() -> Self {
        let mut mounts = mounts_of("/proc/self/mountinfo", Path::new("/"));
        if other_root(1).is_some() {
            mounts.extend(mounts_of("/proc/1/mountinfo", Path::new(OF_INIT)));
        }
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::new(mounts, &parse_memberships(&own))
    }

    /// With these mounts, and with the groups that leaktrace itself is in. Mounts that cannot be looked at are left out.
    pub fn new(mut mounts: Vec<Mount>, own: &[Membership]) -> Self {
        mounts.retain(|mount| mount.point.is_dir());
        mounts.sort_by_key(|mount| {
            let root = Relative::new(&mount.root);
            let is_v1 = mount.hierarchy != Hierarchy::V2;
            (is_v1, std::cmp::Reverse(root.ups), root.names.len())
        });
        let trees = mounts
            .into_iter()
            .map(|mount| Tree {
                above: above(&mount, own).unwrap_or_default(),
                mount,
            })
            .collect();
        Self { trees }
    }

    /// The group that somebody means by a path: that of a folder below a mounted tree, or a path inside a tree. Of trees
    /// that have it, version 2 comes first if there are processes in it there.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn resolve(&self, text: &str) -> Result<Cgroup, CgroupError> {
        if self.trees.is_empty() {
            return Err(CgroupError::NoMounts);
        }
        if let Some(cgroup) = self.by_folder(Path::new(text)) {
            return Ok(cgroup);
        }
        let inside: Vec<Cgroup> = self
            .trees
            .iter()
            .filter_map(|tree| tree.cgroup(&Relative::new(text).names))
            .collect();
        let used = inside.iter().position(is_populated).unwrap_or(0);
        match inside.into_iter().nth(used) {
            Some(cgroup) => Ok(cgroup),
            None => Err(self.not_found(text)),
        }
    }

    /// A path as the file system has it, links followed: `/sys/fs/cgroup/cpu` often is one.
    fn by_folder(&self, path: &Path) -> Option<Cgroup> {
        if !path.is_absolute() {
            return None;
        }
        let as_typed = (!path.starts_with("/proc"))
            .then(|| fs::canonicalize(path).ok())
            .flatten();
        let below_init = Path::new(OF_INIT).join(path.strip_prefix("/").ok()?);
        [as_typed, Some(path.to_owned()), Some(below_init)]
            .into_iter()
            .flatten()
            .find_map(|path| {
                let of_tree = |tree: &&Tree| path.starts_with(&tree.mount.point);
                // The innermost mount: version 2 may be mounted below a folder of version 1's.
                let tree = self
                    .trees
                    .iter()
                    .filter(of_tree)
                    .max_by_key(|tree| tree.mount.point.components().count())?;
                let below = path.strip_prefix(&tree.mount.point).ok()?.to_str()?;
                tree.cgroup(&Relative::new(below).names)
            })
    }

    fn not_found(&self, text: &str) -> CgroupError {
        let path = Path::new(text);
        let wanted = Relative::new(text).names;
        // A folder below a mount, else a path inside the first tree that has some of it.
        let by_folder = self.trees.iter().find_map(|tree| {
            let below = path.strip_prefix(&tree.mount.point).ok()?;
            Some((tree, Relative::new(below.to_str()?).names))
        });
        if by_folder.is_none() && path.is_absolute() && path.exists() {
            return CgroupError::NotCgroup {
                path: text.to_owned(),
                mounted: self.trees[0].mount.point.clone(),
            };
        }
        let (nearest, rest) = match by_folder {
            Some((tree, names)) => tree.nearest(&names),
            None => self
                .trees
                .iter()
                .map(|tree| tree.nearest(&wanted))
                .min_by_key(|(_, rest)| rest.len())
                .unwrap_or_default(),
        };
        let mut there = wanted.last().map_or_else(Vec::new, |last| self.named(last));
        if there.is_empty() {
            there = folders(&nearest);
            let missing = rest.first().map_or("", String::as_str);
            there.sort_by(|a, b| {
                let likeness = |name: &str| strsim::jaro_winkler(name, missing);
                likeness(b).total_cmp(&likeness(a)).then_with(|| a.cmp(b))
            });
        }
        there.truncate(SHOWN_MAX);
        CgroupError::NotFound {
            path: text.to_owned(),
            nearest,
            there,
        }
    }

    /// Paths of the groups with this name, or of the units whose name it begins.
    fn named(&self, name: &str) -> Vec<String> {
        let mut paths = BTreeSet::new();
        self.each(|_, path, _| {
            let last = path.rsplit('/').next().unwrap_or_default();
            let unit = last.strip_prefix(name);
            if unit.is_some_and(|rest| matches!(rest, "" | ".service" | ".scope" | ".slice")) {
                paths.insert(path.to_owned());
            }
        });
        paths.into_iter().collect()
    }

    /// The groups that a process is in, as far as their folders can be seen from here.
    ///
    /// # Errors
    /// When `/proc/PID/cgroup` cannot be read.
    pub fn of_pid(&self, pid: u32) -> io::Result<Vec<Cgroup>> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        Ok(parse_memberships(&text)
            .iter()
            .filter(|line| !line.removed)
            .filter_map(|line| self.find(&line.hierarchy, &line.path))
            .collect())
    }

    /// The group with a path as `/proc/PID/cgroup` has it.
    pub fn find(&self, hierarchy: &Hierarchy, path: &str) -> Option<Cgroup> {
        let path = Relative::new(path);
        self.trees
            .iter()
            .filter(|tree| tree.mount.hierarchy == *hierarchy)
            .find_map(|tree| {
                let names = path.below(&Relative::new(&tree.mount.root), &tree.above)?;
                tree.cgroup(&names)
            })
    }

    /// The group with a path as [`Self::each`] and [`Cgroup::path`] have it.
    pub fn at(&self, hierarchy: &Hierarchy, path: &str) -> Option<Cgroup> {
        let path = Relative::new(path);
        let tree = self
            .trees
            .iter()
            .find(|tree| tree.mount.hierarchy == *hierarchy)?;
        let names = path.names.strip_prefix(&*Relative::new(&tree.mount.root).names)?;
        tree.cgroup(names)
    }

    /// Visits every group below the root of every tree: hierarchy, path, folder.
    pub fn each(&self, mut visit: impl FnMut(&Hierarchy, &str, &Path)) {
        let mut seen = BTreeSet::new();
        for tree in &self.trees {
            // Trees that show more come first.
            if !seen.insert(&tree.mount.hierarchy) {
                continue;
            }
            let mut left = GROUPS_MAX;
            let mut folders_left = vec![(tree.path_of(&[] as &[&str]), tree.mount.point.clone())];
            while let Some((path, folder)) = folders_left.pop() {
                for name in folders(&folder) {
                    if left == 0 {
                        break;
                    }
                    left -= 1;
                    let below = format!("{}/{name}", path.trim_end_matches('/'));
                    let inner = folder.join(&name);
                    visit(&tree.mount.hierarchy, &below, &inner);
                    folders_left.push((below, inner));
                }
            }
        }
    }

    /// Where the first tree is mounted.
    pub fn point(&self) -> Option<&Path> {
        self.trees.first().map(|tree| &*tree.mount.point)
    }
}

impl Tree {
    /// The group that these names lead to from the mount's root.
    fn cgroup(&self, names: &[impl AsRef<str>]) -> Option<Cgroup> {
        if names.iter().any(|name| matches!(name.as_ref(), "." | "..")) {
            return None;
        }
        let mut folder = self.mount.point.clone();
        folder.extend(names.iter().map(AsRef::as_ref));
        let facts = folder.metadata().ok().filter(fs::Metadata::is_dir)?;
        Some(Cgroup {
            hierarchy: self.mount.hierarchy.clone(),
            path: self.path_of(names),
            inode: facts.ino(),
            folder,
        })
    }

    /// The path in the hierarchy, from the highest group that can be seen.
    fn path_of(&self, names: &[impl AsRef<str>]) -> String {
        let root = Relative::new(&self.mount.root);
        let names: Vec<&str> = root
            .names
            .into_iter()
            .chain(names.iter().map(AsRef::as_ref))
            .collect();
        format!("/{}", names.join("/"))
    }

    /// The last folder on the way that exists, and the names after it.
    fn nearest(&self, names: &[&str]) -> (PathBuf, Vec<String>) {
        let there = names
            .iter()
            .scan(self.mount.point.clone(), |folder, name| {
                folder.push(name);
                Some(folder.is_dir())
            })
            .take_while(|is_there| *is_there)
            .count();
        let mut nearest = self.mount.point.clone();
        nearest.extend(&names[..there]);
        (
            nearest,
            names[there..].iter().map(|&name| name.to_owned()).collect(),
        )
    }
}

fn mounts_of(mountinfo: &str, below: &Path) -> Vec<Mount> {
    fs::read(mountinfo).map_or_else(|_| Vec::new(), |text| parse_mounts(&text, below))
}

/// Names of the folders in a folder; none where it cannot be read.
fn folders(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// The names from a mount's root down to the root of leaktrace's cgroup namespace. No text says them: they lead to the
/// group that leaktrace is in. A mount of the namespace's own root need not be there, nor to be seen where it is: a
/// container may have mounted the host's over it.
fn above(mount: &Mount, own: &[Membership]) -> Option<Vec<String>> {
    let depth = Relative::new(&mount.root).ups;
    let own = own.iter().find(|line| line.hierarchy == mount.hierarchy)?;
    let own = Relative::new(&own.path);
    if depth == 0 || own.ups > 0 {
        return None;
    }
    let inner: PathBuf = own.names.iter().collect();
    let pid = std::process::id().to_string();
    find_at_depth(&mount.point, depth, &|folder| {
        let pids = fs::read_to_string(folder.join(&inner).join("cgroup.procs"));
        pids.is_ok_and(|pids| pids.lines().any(|line| line == pid))
    })
}

/// The names that lead to such a folder so many levels below.
fn find_at_depth(folder: &Path, depth: usize, is_it: &impl Fn(&Path) -> bool) -> Option<Vec<String>> {
    if depth == 0 {
        return is_it(folder).then(Vec::new);
    }
    folders(folder).into_iter().find_map(|name| {
        let mut names = find_at_depth(&folder.join(&name), depth - 1, is_it)?;
        names.insert(0, name);
        Some(names)
    })
}

/// Whether there are processes in it or below; in version 1 only those in it can be seen at once.
pub(super) fn is_populated(cgroup: &Cgroup) -> bool {
    let read = |name: &str| fs::read_to_string(cgroup.folder.join(name)).unwrap_or_default();
    match cgroup.hierarchy {
        Hierarchy::V2 => read("cgroup.events").lines().any(|line| line == "populated 1"),
        Hierarchy::V1(_) => !read("cgroup.procs").is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two trees in a folder: version 2 at `unified`, memory of version 1 at `memory`.
    fn trees(folder: &Path, root: &str) -> Hierarchies {
        for group in [
            "unified/system.slice/nginx.service",
            "unified/docker/ab",
            "memory/docker/ab",
            "memory/docker/cd/inner",
        ] {
            fs::create_dir_all(folder.join(group)).unwrap();
        }
        fs::write(folder.join("memory/docker/ab/cgroup.procs"), "7\n").unwrap();
        let mount = |hierarchy, name| Mount {
            hierarchy,
            root: root.to_owned(),
            point: folder.join(name),
        };
        let memory = Hierarchy::V1("memory".to_owned());
        let mounts = vec![mount(memory, "memory"), mount(Hierarchy::V2, "unified")];
        Hierarchies::new(mounts, &[])
    }

    #[test]
    fn a_folder_or_a_path_inside_names_a_group() {
        let folder = tempfile::tempdir().unwrap();
        let trees = trees(folder.path(), "/");
        let of = |text: &str| {
            let cgroup = trees.resolve(text).unwrap();
            assert_eq!(cgroup.inode, cgroup.folder.metadata().unwrap().ino());
            (cgroup.hierarchy, cgroup.path)
        };
        let v1 = Hierarchy::V1("memory".to_owned());
        let nginx = (Hierarchy::V2, "/system.slice/nginx.service".to_owned());
        let typed = folder.path().join("unified/system.slice/nginx.service/");
        assert_eq!(of(typed.to_str().unwrap()), nginx);
        assert_eq!(of("system.slice/nginx.service"), nginx);
        assert_eq!(of("/system.slice/nginx.service/"), nginx);
        assert_eq!(of("docker/cd/inner"), (v1.clone(), "/docker/cd/inner".to_owned()));
        // In both trees; only there does it have a process.
        assert_eq!(of("/docker/ab"), (v1, "/docker/ab".to_owned()));
        assert_eq!(of("/docker"), (Hierarchy::V2, "/docker".to_owned()));

        std::os::unix::fs::symlink(folder.path().join("memory"), folder.path().join("m")).unwrap();
        let typed = folder.path().join("m/docker/cd");
        assert_eq!(of(typed.to_str().unwrap()).1, "/docker/cd");
    }

    #[test]
    fn an_error_names_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let trees = trees(folder.path(), "/");
        let said = |text: &str| {
            let said = trees.resolve(text).unwrap_err().to_string();
            said.replace(folder.path().to_str().unwrap(), "")
        };
        assert_eq!(
            said("/docker/xx"),
            "there is no control group /docker/xx: /unified/docker has ab; name one of those, or see systemd-cgls"
        );
        assert!(said("nginx").contains("has /system.slice/nginx.service;"));
        let typed = folder.path().join("unified/docker/abc");
        assert!(said(typed.to_str().unwrap()).contains("/unified/docker has ab;"));
        let elsewhere = tempfile::tempdir().unwrap();
        assert!(said(elsewhere.path().to_str().unwrap()).contains("is no control group"));
        assert!(trees.resolve("docker/../docker").is_err());
        let none = Hierarchies::default().resolve("/x").unwrap_err();
        assert!(none.to_string().starts_with("no control groups are mounted"));
    }

    #[test]
    fn a_mounted_part_of_a_tree_keeps_its_place_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let trees = trees(folder.path(), "/outer/x");
        let found = trees.find(&Hierarchy::V2, "/outer/x/docker/ab").unwrap();
        assert_eq!(found.path, "/outer/x/docker/ab");
        assert_eq!(found.folder, folder.path().join("unified/docker/ab"));
        assert_eq!(trees.find(&Hierarchy::V2, "/docker/ab"), None);
        let mut paths = Vec::new();
        trees.each(|_, path, _| paths.push(path.to_owned()));
        assert!(paths.contains(&"/outer/x/docker/cd/inner".to_owned()));
    }

    #[test]
    fn in_a_cgroup_namespace_the_hosts_mount_shows_the_others() {
        let folder = tempfile::tempdir().unwrap();
        trees(folder.path(), "/");
        let pids = format!("1{0}\n{0}\n", std::process::id());
        fs::write(folder.path().join("unified/docker/ab/cgroup.procs"), pids).unwrap();
        let mount = |root: &str, point: &str| Mount {
            hierarchy: Hierarchy::V2,
            root: root.to_owned(),
            point: folder.path().join(point),
        };
        let hosts = mount("/../..", "unified");
        let own = parse_memberships("0::/\n");
        // The second is the namespace's own, over which the host's is mounted; the third has none.
        for mounts in [
            vec![mount("/", "unified/docker/ab"), hosts.clone()],
            vec![mount("/", "unified"), hosts.clone()],
            vec![hosts],
        ] {
            let trees = Hierarchies::new(mounts, &own);
            let find = |path| trees.find(&Hierarchy::V2, path).map(|cgroup| cgroup.path);
            assert_eq!(find("/").as_deref(), Some("/docker/ab"));
            assert_eq!(
                find("/../../system.slice/nginx.service").as_deref(),
                Some("/system.slice/nginx.service")
            );
            assert_eq!(find("/../zz"), None);
            assert_eq!(trees.resolve("/docker/ab").unwrap().path, "/docker/ab");
        }
    }

    #[test]
    fn the_root_of_a_cgroup_namespace_is_above_the_group_that_leaktrace_is_in() {
        let folder = tempfile::tempdir().unwrap();
        trees(folder.path(), "/");
        let pids = format!("{}\n", std::process::id());
        fs::write(folder.path().join("memory/docker/cd/inner/cgroup.procs"), pids).unwrap();
        let memory = Hierarchy::V1("memory".to_owned());
        let hosts = Mount {
            hierarchy: memory.clone(),
            root: "/../..".to_owned(),
            point: folder.path().join("memory"),
        };
        let trees = Hierarchies::new(vec![hosts], &parse_memberships("4:memory:/inner\n"));
        let find = |path| trees.find(&memory, path).map(|cgroup| cgroup.path);
        assert_eq!(find("/../ab").as_deref(), Some("/docker/ab"));
        assert_eq!(find("/inner").as_deref(), Some("/docker/cd/inner"));
    }

    #[test]
    fn leaktraces_own_groups_are_found() {
        let trees = Hierarchies::here();
        let own = trees.of_pid(std::process::id()).unwrap();
        for cgroup in own {
            assert!(cgroup.folder.join("cgroup.procs").exists(), "{cgroup:?}");
        }
    }
}
