//! Whether two open files are one file beneath: the same layer of an image in two containers.
//!
//! A file of overlayfs has another device in each mount, and after a change of its attributes it is another file under the
//! same number (it is copied up into the layer that can be written; Documentation/filesystems/overlayfs.rst, 6.12). What
//! counts is where its pages are. Must not know objects nor processes.

use std::{fs::File, io, os::unix::fs::MetadataExt as _};

use crate::kernel::pages;

/// `OVERLAYFS_SUPER_MAGIC`, include/uapi/linux/magic.h.
const OVERLAYFS: u64 = 0x794c_7630;

/// Whether another file may be beneath an open one.
pub fn is_layered(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|facts| facts.f_type as u64 == OVERLAYFS)
}

/// What is compared of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// As `stat` gives them.
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size_bytes: u64,
    modified_ns: i128,
    /// When anything of it changed last, its place in the layers included.
    changed_ns: i128,
    /// Whether another file may be beneath it.
    pub(super) is_layered: bool,
}

impl Facts {
    /// # Errors
    /// The errno of fstat(2).
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            is_layered: is_layered(file),
        })
    }
}

/// Whether a file is still the one that was seen under its device and inode, `earlier`, and is `known` beneath. Without
/// proof that it is another one it is.
pub(super) fn is_still(file: &File, facts: &Facts, earlier: &Facts, known: &File) -> bool {
    let is_certain = !facts.is_layered || facts.changed_ns == earlier.changed_ns;
    is_certain || pages::are_shared(file, known) != Some(false)
}

/// Whether two files are one beneath.
///
/// Where the kernel does not tell whose their pages are, two files of overlayfs are one if all that it passes on from the
/// file beneath is the same: inode (where the layers are on one file system), size and both times to the nanosecond.
pub(super) fn is_one(a: (&File, &Facts), b: (&File, &Facts)) -> bool {
    let ((a_file, a), (b_file, b)) = (a, b);
    let may_be = (a.is_layered || b.is_layered) && a.size_bytes == b.size_bytes;
    let is_like = || {
        let passed_on = |facts: &Facts| (facts.inode, facts.modified_ns, facts.changed_ns);
        a.is_layered && b.is_layered && passed_on(a) == passed_on(b)
    };
    may_be && pages::are_shared(a_file, b_file).unwrap_or_else(is_like)
}
