//! A directory that belongs to the user alone, and whole files in it.
//!
//! leaktrace runs as root and may have been given the environment of somebody else: what others can write to is not
//! used, and their symbolic links are not followed. Must not know what is in the files.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use rustix::process::geteuid;

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its name.
    pub(super) name: std::ffi::CString,
    /// Its size.
    pub(super) size_bytes: u64,
    /// When it was last written or used: seconds and nanoseconds.
    pub(super) used_at: (i64, i64),
}

/// Opens a directory by its absolute path, step by step, and makes what is missing of it for the user alone.
pub(super) fn open_own(path: &Path) -> io::Result<OwnedFd> {
    if !path.is_absolute() {
        return Err(io::Error::other("its path is not absolute"));
    }
    let mut directory = step(fs::CWD, Path::new("/"), false)?;
    for component in path.components() {
        let name = match component {
            Component::RootDir | Component::CurDir => continue,
            Component::Normal(name) => Path::new(name),
            _ => return Err(io::Error::other("its path leads upwards")),
        };
        let follows_links = !check(&directory)?;
        let next = step(&directory, name, follows_links);
        directory = match next {
            Err(Errno::NOENT) => {
                fs::mkdirat(&directory, name, Mode::RWXU).or_else(|error| match error {
                    // Another leaktrace has just made it.
                    Errno::EXIST => Ok(()),
                    error => Err(error),
                })?;
                step(&directory, name, false)?
            }
            next => next?,
        };
    }
    let is_shared = check(&directory)?;
    if is_shared || fs::fstat(&directory)?.st_uid != geteuid().as_raw() {
        return Err(io::Error::other("it belongs to somebody else"));
    }
    Ok(directory)
}

fn step(parent: impl AsFd, name: &Path, follows_links: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if !follows_links {
        flags |= OFlags::NOFOLLOW;
    }
    fs::openat(parent, name, flags, Mode::empty())
}

/// Whether others can make files in a directory. One of theirs, or one in which they can replace files, is an error.
fn check(directory: &OwnedFd) -> io::Result<bool> {
    let status = fs::fstat(directory)?;
    let mode = Mode::from_raw_mode(status.st_mode);
    let is_ours = [0, geteuid().as_raw()].contains(&status.st_uid);
    let is_shared = mode.intersects(Mode::WGRP | Mode::WOTH);
    if !is_ours || (is_shared && !mode.contains(Mode::SVTX)) {
        return Err(io::Error::other("somebody else can write to its path"));
    }
    Ok(is_shared)
}

/// Reads a whole file and notes that it was used.
pub(super) fn read(directory: &OwnedFd, name: &str, size_bytes_max: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(fs::openat(directory, name, flags, Mode::empty())?);
    let size_bytes = file.metadata()?.len();
    if size_bytes > size_bytes_max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Vec::with_capacity(size_bytes as usize);
    (&file).take(size_bytes_max).read_to_end(&mut bytes)?;
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    // A medium that is read-only does not remember it.
    if let Err(error) = fs::futimens(
        &file,
        &Timestamps {
            last_access: now,
            last_modification: now,
        },
    ) {
        tracing::debug!("the use of {name} is not noted: {error}");
    }
    Ok(bytes)
}

/// Writes a file under a name of its own and renames it: a reader sees all of it or none.
pub(super) fn write(directory: &OwnedFd, unfinished: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(directory, unfinished, flags, Mode::RUSR | Mode::WUSR)?;
    let written = File::from(file)
        .write_all(bytes)
        .and_then(|()| Ok(fs::renameat(directory, unfinished, directory, name)?));
    if written.is_err() {
        // What remains is removed as a file that nobody uses.
        let _remains: rustix::io::Result<()> = fs::unlinkat(directory, unfinished, AtFlags::empty());
    }
    written
}

/// All files of a directory.
pub(super) fn entries(directory: &OwnedFd) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let status = match fs::statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => status,
            // Another leaktrace has just removed it.
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        if FileType::from_raw_mode(status.st_mode) == FileType::RegularFile {
            entries.push(Entry {
                name: entry.file_name().to_owned(),
                size_bytes: status.st_size.cast_unsigned(),
                used_at: (status.st_mtime, status.st_mtime_nsec.cast_signed()),
            });
        }
    }
    Ok(entries)
}

/// Removes a file; one that is gone is no error.
pub(super) fn remove(directory: &OwnedFd, name: &std::ffi::CStr) -> io::Result<()> {
    match fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
