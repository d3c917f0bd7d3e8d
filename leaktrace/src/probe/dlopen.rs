//! Where a process would find a library that it loads by name: what dlopen(3) says, in its order, as far as that can be
//! told from outside.
//!
//! All files that may be meant, not the first alone: which of them it is may hang on a `DT_RUNPATH` of whoever calls, and
//! a file that is never mapped costs nothing. Paths are those of the process, whose root may be another one than ours.
//! Must not know what is in the files.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read as _,
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use memchr::memmem;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

/// Where loaders look without being told, by distribution.
const DEFAULT_FOLDERS: &[&str] = &[
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];

/// A file that may be meant.
#[derive(Debug)]
pub struct Candidate {
    /// Its path as `/proc/PID/maps` will have it once it is mapped, links resolved.
    pub path: PathBuf,
    /// Open for reading.
    pub file: File,
}

/// The files that process `pid` may load under a name, those it would take first, first. `beside` are folders to which
/// loaders are led by other means than those that are looked at.
pub fn candidates(pid: u32, name: &str, beside: &[&str]) -> Vec<Candidate> {
    let Some(root) = Root::of(pid) else {
        return Vec::new();
    };
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    let cache = root.read(Path::new("/etc/ld.so.cache")).unwrap_or_default();
    let in_folders = |folders: &[&str]| -> Vec<PathBuf> {
        let folders = folders.iter().map(Path::new);
        folders.map(|folder| folder.join(name)).collect()
    };
    let paths = library_path(&environment)
        .map(|one| folder.join(one).join(name))
        .chain(of_cache(&cache, name.as_bytes()))
        .chain(in_folders(DEFAULT_FOLDERS))
        .chain(in_folders(beside));
    let mut found: Vec<Candidate> = Vec::new();
    for path in paths {
        let Some(file) = root.open(&path) else { continue };
        let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or(path);
        if found.iter().all(|known| known.path != path) {
            found.push(Candidate { path, file });
        }
    }
    found
}

/// The root of a process's file system.
struct Root(File);

impl Root {
    fn of(pid: u32) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
        let root = rustix::fs::openat(CWD, format!("/proc/{pid}/root"), flags, Mode::empty()).ok()?;
        Some(Self(File::from(root)))
    }

    /// Opens a file as the process would: absolute links on the way begin at its root.
    fn open(&self, path: &Path) -> Option<File> {
        // What is no file, such as a pipe, must not hold up who opens it.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = rustix::fs::openat2(&self.0, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
        let file = File::from(opened.ok()?);
        file.metadata().is_ok_and(|facts| facts.is_file()).then_some(file)
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(path)?.read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }
}

/// The folders of `LD_LIBRARY_PATH`, from an environment as `/proc/PID/environ` has it. An empty one is the working
/// folder.
fn library_path(environment: &[u8]) -> impl Iterator<Item = &Path> {
    let value = environment
        .split(|byte| *byte == 0)
        .find_map(|variable| variable.strip_prefix(b"LD_LIBRARY_PATH="))
        .unwrap_or_default();
    value
        .split(|byte| matches!(byte, b':' | b';'))
        .filter(|_| !value.is_empty())
        .map(|folder| Path::new(OsStr::from_bytes(folder)))
}

/// What the newer form of `/etc/ld.so.cache` begins with. It may follow the older form.
const CACHE_MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
/// `struct cache_file_new` and `struct file_entry_new` of glibc (`sysdeps/generic/dl-cache.h`, 2.41), in bytes.
const CACHE_HEAD_BYTES: usize = 48;
const CACHE_ENTRY_BYTES: usize = 24;
/// `FLAG_X8664_LIB64`, of what is in `FLAG_REQUIRED_MASK`.
const CACHE_X86_64: u32 = 0x0300;
const CACHE_REQUIRED: u32 = 0xff00;

/// The paths that the loader's cache has for a name.
fn of_cache(cache: &[u8], name: &[u8]) -> Vec<PathBuf> {
    let begin = memmem::find(cache, CACHE_MAGIC).unwrap_or(cache.len());
    let cache = cache.get(begin..).unwrap_or_default();
    let number = |at: usize| -> Option<u32> {
        let bytes = cache.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    // Distances are from the magic on.
    let string = |at: u32| cache.get(at as usize..)?.split(|byte| *byte == 0).next();
    let entries = number(CACHE_MAGIC.len()).unwrap_or_default() as usize;
    let path_of = |entry: usize| {
        let at = entry
            .checked_mul(CACHE_ENTRY_BYTES)?
            .checked_add(CACHE_HEAD_BYTES)?;
        let is_it = number(at)? & CACHE_REQUIRED == CACHE_X86_64 && string(number(at + 4)?)? == name;
        is_it.then(|| string(number(at + 8)?)).flatten()
    };
    // A damaged count ends where the file does.
    (0..entries.min(cache.len() / CACHE_ENTRY_BYTES))
        .filter_map(path_of)
        .map(|path| PathBuf::from(OsStr::from_bytes(path)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(entries: &[(u32, &str, &str)]) -> Vec<u8> {
        let mut strings = Vec::new();
        let mut table = Vec::new();
        let strings_at = CACHE_HEAD_BYTES + entries.len() * CACHE_ENTRY_BYTES;
        for (flags, key, value) in entries {
            let mut place = |text: &str| {
                let at = (strings_at + strings.len()) as u32;
                strings.extend(text.as_bytes());
                strings.push(0);
                at
            };
            let (key, value) = (place(key), place(value));
            for word in [*flags, key, value, 0, 0, 0] {
                table.extend(word.to_le_bytes());
            }
        }
        let mut bytes = CACHE_MAGIC.to_vec();
        bytes.extend((entries.len() as u32).to_le_bytes());
        bytes.extend((strings.len() as u32).to_le_bytes());
        bytes.resize(CACHE_HEAD_BYTES, 0);
        bytes.extend(table);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn the_loaders_cache_is_read_with_and_without_its_older_form() {
        let entries = [
            (0x0003, "libcuda.so.1", "/lib32/libcuda.so.1"),
            (0x0303, "libcuda.so.1", "/opt/a/libcuda.so.1"),
            (0x0303, "libcudart.so.12", "/opt/a/libcudart.so.12"),
            (0x0303, "libcuda.so.1", "/opt/b/libcuda.so.1"),
        ];
        let plain = cache(&entries);
        let older = [b"ld.so-1.7.0\0\0\0\0\0".to_vec(), plain.clone()].concat();
        for bytes in [&plain, &older] {
            assert_eq!(
                of_cache(bytes, b"libcuda.so.1"),
                [
                    PathBuf::from("/opt/a/libcuda.so.1"),
                    PathBuf::from("/opt/b/libcuda.so.1")
                ]
            );
        }
        assert!(of_cache(&plain, b"libcuda.so").is_empty());
    }

    #[test]
    fn a_damaged_cache_is_an_empty_one() {
        let mut bytes = cache(&[(0x0303, "libcuda.so.1", "/lib/libcuda.so.1")]);
        bytes[CACHE_MAGIC.len()..][..4].fill(0xff);
        assert_eq!(of_cache(&bytes, b"libcuda.so.1").len(), 1);
        bytes[CACHE_HEAD_BYTES + 4..][..8].fill(0xff);
        assert!(of_cache(&bytes, b"libcuda.so.1").is_empty());
        for end in 0..bytes.len() {
            of_cache(&bytes[..end], b"libcuda.so.1");
        }
        assert!(of_cache(b"", b"x").is_empty());
    }

    #[test]
    fn folders_come_from_the_environment() {
        let folders = |environment: &'static [u8]| library_path(environment).collect::<Vec<_>>();
        let both = folders(b"A=1\0LD_LIBRARY_PATH=/a:/b;c:\0X=LD_LIBRARY_PATH=/no\0");
        assert_eq!(
            both,
            [Path::new("/a"), Path::new("/b"), Path::new("c"), Path::new("")]
        );
        assert!(folders(b"LD_LIBRARY_PATH=\0").is_empty());
        assert!(folders(b"LD_LIBRARY_PATH_64=/a\0").is_empty());
    }

    #[test]
    fn what_is_loaded_is_found_by_its_name() {
        let pid = std::process::id();
        let mapped = super::super::process::mappings(pid).unwrap();
        let libc = |path: &Path| path.file_name().is_some_and(|name| name == "libc.so.6");
        let Some(wanted) = mapped
            .iter()
            .find(|mapping| mapping.path.as_deref().is_some_and(libc))
        else {
            eprintln!("NOT TESTED: this C library is not glibc's, install libc6");
            return;
        };
        use std::os::unix::fs::MetadataExt as _;
        let found = candidates(pid, "libc.so.6", &[]);
        let is_it = |one: &Candidate| one.file.metadata().unwrap().ino() == wanted.inode;
        assert!(found.iter().any(is_it), "{found:?}");
        assert!(candidates(pid, "no-such-library.so.1", &["/nowhere"]).is_empty());
    }

    #[test]
    fn links_begin_at_the_root_of_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let lib = directory.path().join("lib");
        fs::create_dir(&lib).unwrap();
        fs::write(lib.join("real.so"), "x").unwrap();
        std::os::unix::fs::symlink("/lib/real.so", lib.join("name.so")).unwrap();
        let root = Root(File::open(directory.path()).unwrap());
        assert_eq!(root.read(Path::new("/lib/name.so")).unwrap(), b"x");
        assert!(root.open(Path::new("/lib")).is_none());
        assert!(root.open(Path::new("/lib/none.so")).is_none());
    }
}
