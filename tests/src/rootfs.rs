//! Root file systems for containers, put together from this machine's own files: a shell, a C library, and
//! the programs of a test with all that they need.
//!
//! Must not know what becomes of them: `containers` makes images of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{
    fixtures::target_directory,
    skip::{self, Missing},
};

/// Where musl looks for its dynamic linker, which is its C library as well.
const MUSL_LINKER: &str = "lib/ld-musl-x86_64.so.1";

/// What Debian's musl-gcc links with.
const MUSL_LIBRARY: &str = "/usr/lib/x86_64-linux-musl/libc.so";

/// What a container's shell and its small programs are: busybox, by these names.
const APPLETS: [&str; 6] = ["sh", "cat", "chroot", "kill", "mkdir", "sleep"];

/// A folder that grows into a root file system; removed with it.
pub struct Rootfs {
    folder: TempDir,
}

impl Rootfs {
    /// One with a shell and no C library.
    ///
    /// # Errors
    /// When there is no busybox on this machine.
    pub fn bare() -> Result<Self, Missing> {
        let busybox = skip::program("busybox", "busybox-static")?;
        let this = Self {
            folder: temporary("rootfs"),
        };
        // Where runtimes mount things; a runtime makes what is missing, but not in every image.
        for folder in ["bin", "dev", "etc", "proc", "sys", "tmp", "lib"] {
            fs::create_dir_all(this.at(folder)).expect("a folder of a root can be made");
        }
        this.with_program(&busybox, "bin/busybox");
        for applet in APPLETS {
            let link = this.at("bin").join(applet);
            std::os::unix::fs::symlink("busybox", link).expect("a link of a root can be made");
        }
        fs::write(this.at("etc/passwd"), "root:x:0:0::/:/bin/sh\n").expect("a file of a root can be written");
        Ok(this)
    }

    /// One with the C library of this machine.
    ///
    /// # Errors
    /// As [`Self::bare`].
    pub fn glibc() -> Result<Self, Missing> {
        let this = Self::bare()?;
        // Whatever is linked with the C library and with nothing else.
        this.libraries_of(Path::new("/usr/bin/env"));
        Ok(this)
    }

    /// One with musl, and no other C library.
    ///
    /// # Errors
    /// When there is no musl on this machine; as [`Self::bare`].
    pub fn musl() -> Result<Self, Missing> {
        let this = Self::bare()?;
        let library = Path::new(MUSL_LIBRARY);
        if !library.exists() {
            return Err(Missing(format!(
                "no {MUSL_LIBRARY} on this machine; install musl"
            )));
        }
        this.with_file(library, MUSL_LINKER);
        Ok(this)
    }

    /// Adds a program and the shared libraries it needs, at `to`, a path below the root.
    pub fn with_program(&self, program: &Path, to: &str) -> &Self {
        self.with_file(program, to);
        self.libraries_of(program);
        self
    }

    /// Adds a file at `to`, a path below the root.
    pub fn with_file(&self, file: &Path, to: &str) -> &Self {
        let to = self.at(to);
        let parent = to.parent().expect("a file is in a folder");
        fs::create_dir_all(parent).expect("a folder of a root can be made");
        // By a process of its own, as in `fixtures::copy`; links are followed, modes kept.
        let copied = Command::new("cp")
            .args(["-L", "--preserve=mode"])
            .arg(file)
            .arg(&to)
            .status();
        assert!(
            copied.expect("cp starts").success(),
            "{} cannot be copied to {}",
            file.display(),
            to.display()
        );
        self
    }

    /// Adds the shared libraries that a program of this machine needs, where it looks for them.
    pub fn libraries_of(&self, program: &Path) -> &Self {
        let output = Command::new("ldd").arg(program).output().expect("ldd starts");
        // Static programs and those of musl: ldd fails, and there is nothing to be added.
        for library in String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(library)
        {
            let below = library.strip_prefix('/').expect("ldd prints absolute paths");
            if !self.at(below).exists() {
                self.with_file(Path::new(library), below);
            }
        }
        self
    }

    /// Adds a folder of this machine with all that is in it, at the same path.
    pub fn with_folder(&self, folder: &Path) -> &Self {
        let below = folder.strip_prefix("/").expect("an absolute path");
        let to = self.path().join(below);
        let parent = to.parent().expect("it is below the root");
        fs::create_dir_all(parent).expect("a folder of a root can be made");
        // Links may lead out of it: what they mean is what is wanted.
        let copied = Command::new("cp")
            .args(["-rL", "--preserve=mode"])
            .arg(folder)
            .arg(parent)
            .status();
        assert!(
            copied.expect("cp starts").success(),
            "{} cannot be copied",
            folder.display()
        );
        self
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// All of it as a tar archive, in `folder`.
    pub fn archive(&self, folder: &Path) -> PathBuf {
        let archive = folder.join("rootfs.tar");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(self.path()).arg("-cf").arg(&archive).arg(".");
        assert!(tar.status().expect("tar starts").success(), "{tar:?} failed");
        archive
    }

    fn at(&self, below: &str) -> PathBuf {
        self.path().join(below)
    }
}

/// The file in a line of ldd's: `libc.so.6 => /lib/libc.so.6 (0x...)`, or `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn library(line: &str) -> Option<&str> {
    let (_, file) = line.split_once("=>").unwrap_or(("", line));
    let (file, _) = file.trim().split_once(" (0x")?;
    file.starts_with('/').then_some(file)
}

/// A temporary folder on the disk of the build: where `/tmp` is in memory, overlayfs behaves otherwise.
pub fn temporary(prefix: &str) -> TempDir {
    let parent = target_directory().join("tmp");
    fs::create_dir_all(&parent).expect("the folder for temporary files can be made");
    let parent = parent.canonicalize().expect("the folder is there");
    let folder = tempfile::Builder::new().prefix(prefix).tempdir_in(parent);
    let folder = folder.expect("a temporary folder can be made");
    // Users of containers must be able to reach it.
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("a temporary folder can be opened to all");
    folder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ldd() {
        assert_eq!(
            library("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)"),
            Some("/lib/x86_64-linux-gnu/libc.so.6")
        );
        assert_eq!(
            library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"),
            Some("/lib64/ld-linux-x86-64.so.2")
        );
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007f)"), None);
        assert_eq!(library("\tnot a dynamic executable"), None);
    }
}
