//! What the kernel says of control groups: the text of `/proc/PID/cgroup` and of `/proc/PID/mountinfo`, read.
//!
//! Pure: it must not look at any file, and it must not know containers.

use std::{
    ffi::OsString,
    fmt,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

/// A tree of control groups.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hierarchy {
    /// The one tree of version 2.
    V2,
    /// A tree of version 1, by its controllers as `/proc/PID/cgroup` names them: `memory`, `cpu,cpuacct`, `name=systemd`.
    V1(String),
}

impl Hierarchy {
    /// The controllers of a tree of version 1; none for version 2.
    pub fn controllers(&self) -> impl Iterator<Item = &str> {
        let names = match self {
            Self::V2 => "",
            Self::V1(names) => names,
        };
        names.split(',').filter(|name| !name.is_empty())
    }
}

impl fmt::Display for Hierarchy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V2 => f.write_str("v2"),
            Self::V1(names) => write!(f, "v1 {names}"),
        }
    }
}

/// Where a process is in one hierarchy: a line of `/proc/PID/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Membership {
    /// The tree.
    pub hierarchy: Hierarchy,
    /// Path in it, as the reader's cgroup namespace has it: what lies outside of that begins with `/..`.
    pub path: String,
    /// The group has been removed and the process still counts as in it.
    pub removed: bool,
}

/// A control group that exists.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cgroup {
    /// The tree it is in.
    pub hierarchy: Hierarchy,
    /// Path in that tree, with a slash in front; as far as it can be seen from here.
    pub path: String,
    /// Number of its folder: the kernel's own id of it within its tree (`kernfs_node.id`, which `stat` shows whole where
    /// inode numbers have 64 bits, include/linux/kernfs.h, 5.5).
    pub inode: u64,
    /// The folder, as it is found from here.
    pub folder: PathBuf,
}

/// A mounted tree of control groups: a line of `mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The tree.
    pub hierarchy: Hierarchy,
    /// Which group of the tree is mounted, as the reader's cgroup namespace has it: `/`, `/docker/...`, `/../..`.
    pub root: String,
    /// Where.
    pub point: PathBuf,
}

/// Reads `/proc/PID/cgroup`. Lines of another form are left out.
///
/// Each is `ID:CONTROLLERS:PATH`; version 2 has id 0 and no controllers (`proc_cgroup_show` in
/// kernel/cgroup/cgroup.c, 6.12). A path may have colons of its own, no newlines.
pub fn parse_memberships(text: &str) -> Vec<Membership> {
    text.lines().filter_map(parse_membership).collect()
}

fn parse_membership(line: &str) -> Option<Membership> {
    let mut fields = line.splitn(3, ':');
    let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let hierarchy = match (id, controllers) {
        ("0", "") => Hierarchy::V2,
        (_, "") => return None,
        (_, names) => Hierarchy::V1(names.to_owned()),
    };
    let (path, removed) = path
        .strip_suffix(" (deleted)")
        .map_or((path, false), |path| (path, true));
    path.starts_with('/').then(|| Membership {
        hierarchy,
        path: path.to_owned(),
        removed,
    })
}

/// The mounted trees in the text of `mountinfo`; `below` is put before their points, for those of another process's
/// file system (`/proc/1/root`).
pub fn parse_mounts(mountinfo: &[u8], below: &Path) -> Vec<Mount> {
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(|line| parse_mount(line, below))
        .collect()
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - TYPE SOURCE SUPER_OPTIONS`, proc(5).
fn parse_mount(line: &[u8], below: &Path) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let root = fields.nth(3)?;
    let point = fields.next()?;
    let mut behind = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = behind.next()?;
    let options = behind.nth(1).unwrap_or_default();
    let hierarchy = match kind {
        b"cgroup2" => Hierarchy::V2,
        b"cgroup" => Hierarchy::V1(controllers(std::str::from_utf8(options).ok()?)),
        _ => return None,
    };
    let point = PathBuf::from(OsString::from_vec(unescaped(point)));
    Some(Mount {
        hierarchy,
        root: String::from_utf8(unescaped(root)).ok()?,
        point: below.join(point.strip_prefix("/").ok()?),
    })
}

/// The controllers among the options of a mount of version 1; what else there can be is in `cgroup1_fs_parameters` of
/// kernel/cgroup/cgroup-v1.c (6.12).
fn controllers(options: &str) -> String {
    let is_controller = |option: &&str| {
        let flags = [
            "rw",
            "ro",
            "all",
            "none",
            "noprefix",
            "xattr",
            "clone_children",
            "cpuset_v2_mode",
            "favordynmods",
            "nofavordynmods",
            "seclabel",
        ];
        !flags.contains(option) && (!option.contains('=') || option.starts_with("name="))
    };
    let names: Vec<&str> = options.split(',').filter(is_controller).collect();
    names.join(",")
}

/// `mountinfo` writes space, tab, newline and backslash as three octal digits (`mangle` in `fs/proc_namespace.c`, 6.12).
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|_| first == b'\\');
        let code = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    bytes
}

/// A path in a hierarchy as a cgroup namespace shows it: how far above the namespace's root it begins, and its names from
/// there on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relative<'a> {
    /// How many `..` it begins with.
    pub ups: usize,
    /// The names after them.
    pub names: Vec<&'a str>,
}

impl<'a> Relative<'a> {
    /// Takes a path apart.
    pub fn new(path: &'a str) -> Self {
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        let ups = names.iter().take_while(|name| **name == "..").count();
        Self {
            ups,
            names: names[ups..].to_vec(),
        }
    }

    /// The names that lead from a mount's root to this path. `above` are those from the mount's root down to the root of
    /// the namespace, where the mount begins higher than that. None for a path that is not below the mount.
    pub fn below(&self, mount: &Self, above: &[String]) -> Option<Vec<String>> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        if mount.ups == self.ups {
            return self.names.strip_prefix(&*mount.names).map(owned);
        }
        if mount.ups < self.ups || !mount.names.is_empty() {
            return None;
        }
        let mut names = above.get(..mount.ups - self.ups)?.to_vec();
        names.extend(owned(&self.names));
        Some(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(names: &str) -> Hierarchy {
        Hierarchy::V1(names.to_owned())
    }

    #[test]
    fn lines_of_both_versions_are_read() {
        let text = "12:cpu,cpuacct:/docker/ab\n1:name=systemd:/docker/ab\n0::/docker/ab\nnonsense\n7::/x\n";
        let read: Vec<_> = parse_memberships(text)
            .into_iter()
            .map(|line| (line.hierarchy, line.path))
            .collect();
        let path = "/docker/ab".to_owned();
        assert_eq!(
            read,
            [
                (v1("cpu,cpuacct"), path.clone()),
                (v1("name=systemd"), path.clone()),
                (Hierarchy::V2, path)
            ]
        );
        assert_eq!(
            v1("cpu,cpuacct").controllers().collect::<Vec<_>>(),
            ["cpu", "cpuacct"]
        );
        assert_eq!(Hierarchy::V2.controllers().count(), 0);
    }

    #[test]
    fn a_path_may_have_colons_and_its_group_may_be_gone() {
        let read = parse_memberships("0::/system.slice/x.slice:cri-containerd:ab (deleted)\n");
        assert_eq!(read[0].path, "/system.slice/x.slice:cri-containerd:ab");
        assert!(read[0].removed);
        assert!(!parse_memberships("0::/../x\n")[0].removed);
    }

    #[test]
    fn mounts_of_both_versions_are_found_among_others() {
        let text = b"22 1 254:0 / / rw - ext4 /dev/vda rw\n\
            30 22 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
            31 22 0:27 / /sys/fs/cgroup/systemd rw - cgroup none rw,xattr,release_agent=/a,name=systemd\n\
            32 22 0:28 /docker/ab /sys/fs/cgroup/cpu\\040x ro master:3 - cgroup cgroup rw,cpu,cpuacct\n\
            33 22 0:29 /../.. /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let mounts = parse_mounts(text, Path::new("/"));
        let named: Vec<_> = mounts
            .iter()
            .map(|mount| (&mount.hierarchy, &*mount.root, mount.point.to_str().unwrap()))
            .collect();
        assert_eq!(
            named,
            [
                (&v1("memory"), "/", "/sys/fs/cgroup/memory"),
                (&v1("name=systemd"), "/", "/sys/fs/cgroup/systemd"),
                (&v1("cpu,cpuacct"), "/docker/ab", "/sys/fs/cgroup/cpu x"),
                (&Hierarchy::V2, "/../..", "/sys/fs/cgroup/unified"),
            ]
        );
        let below = parse_mounts(text, Path::new("/proc/1/root"));
        assert_eq!(below[0].point, Path::new("/proc/1/root/sys/fs/cgroup/memory"));
    }

    #[test]
    fn broken_mountinfo_is_left_out() {
        for line in [
            "",
            "1 2 3",
            "30 22 0:26 / /x rw cgroup cgroup",
            "30 22 0:26 / x rw - cgroup2 a b",
        ] {
            assert_eq!(parse_mounts(line.as_bytes(), Path::new("/")), []);
        }
        assert_eq!(unescaped(b"a\\134b\\9\\04"), b"a\\b\\9\\04");
    }

    #[test]
    fn a_path_is_found_below_the_mount_that_shows_it() {
        let below = |path, root, above: &[&str]| {
            let above: Vec<String> = above.iter().map(|&name| name.to_owned()).collect();
            let names = Relative::new(path).below(&Relative::new(root), &above);
            names.map(|names| names.join("/"))
        };
        assert_eq!(below("/docker/a/b", "/", &[]).as_deref(), Some("docker/a/b"));
        assert_eq!(below("/docker/a/b", "/docker/a", &[]).as_deref(), Some("b"));
        assert_eq!(below("/docker/c", "/docker/a", &[]), None);
        // In a cgroup namespace of its own: another container beside it, seen through the host's mount.
        assert_eq!(below("/../c", "/", &[]), None);
        assert_eq!(
            below("/../c", "/../..", &["docker", "a"]).as_deref(),
            Some("docker/c")
        );
        assert_eq!(
            below("/x", "/../..", &["docker", "a"]).as_deref(),
            Some("docker/a/x")
        );
        assert_eq!(
            below("/../../s", "/../..", &["docker", "a"]).as_deref(),
            Some("s")
        );
        assert_eq!(below("/../c", "/../..", &[]), None);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_readers_fail(text in "\\PC*") {
            parse_memberships(&text);
            parse_mounts(text.as_bytes(), Path::new("/"));
            Relative::new(&text);
        }
    }
}
