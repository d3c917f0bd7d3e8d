//! Control groups of the test's own, of version 1 and 2, as far as this machine has mounted them.
//!
//! Must not know what runs in them. A group that still has processes when it is dropped stays behind, so
//! it is made before they are.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{skip::Missing, target::Target, wait};

/// Which of the kernel's two interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The hierarchy of a controller: memory.
    One,
    /// The unified hierarchy.
    Two,
}

/// A control group, removed when it is dropped.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes one right below the root of its hierarchy.
    ///
    /// # Errors
    /// When this machine has no such hierarchy mounted.
    pub fn make(version: Version) -> Result<Self, Missing> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("leaktrace-test-{}-{count}", std::process::id());
        let root = mount_point(version)?;
        Ok(Self::at(root.join(name)))
    }

    /// Makes one below this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self::at(self.0.join(name))
    }

    fn at(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Its folder, as an argument.
    pub fn argument(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }

    /// Its path within the hierarchy.
    pub fn inner(&self) -> String {
        let name = self.0.file_name().expect("it has a name");
        format!("/{}", name.to_string_lossy())
    }

    /// Starts a program that is in it from before its `exec`.
    pub fn start(&self, program: &Path, arguments: &[&str]) -> Target {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(self.0.join("cgroup.procs"))
            .arg(program)
            .args(arguments);
        Target::spawn(&mut command)
    }

    /// Moves a process into it.
    pub fn add(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("a process can be moved");
    }

    /// Removes it, which it must be empty for.
    pub fn remove(self) {
        // The kernel takes a moment after the last process has been waited for.
        wait::until("the removal of a control group", || fs::remove_dir(&self.0).ok());
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It may have been removed, or a test may have failed with a process in it.
        drop(fs::remove_dir(&self.0));
    }
}

fn mount_point(version: Version) -> Result<PathBuf, Missing> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc can be read");
    let found = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_, at, kind, options) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let is_it = match version {
            Version::One => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
            Version::Two => kind == "cgroup2",
        };
        is_it.then(|| PathBuf::from(at))
    });
    found.ok_or_else(|| {
        Missing(match version {
            Version::One => "no control groups of version 1 are mounted (controller memory)".to_owned(),
            Version::Two => "no control groups of version 2 are mounted".to_owned(),
        })
    })
}
