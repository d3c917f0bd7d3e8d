//! Where the debug information of an object is on this machine, when the object itself has none: the
//! places that distributions use, in the order in which gdb looks at them (GDB manual, "Debugging
//! Information in Separate Files"); each in the target's file system first, then in ours.
//!
//! A file is taken when its build id is the object's, or, where one of them has none, when its checksum
//! is the one in the object's link. Must not know symbols or servers.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::content::Content;
use super::objects::Object;

/// Below it, distributions put the debug files of their packages.
const DEBUG_FOLDER: &str = "usr/lib/debug";

/// An open debug file.
#[derive(Debug)]
pub(super) struct DebugFile {
    file: File,
    /// What it says of itself.
    pub(super) content: Content,
}

impl DebugFile {
    /// Takes an open file that is the debug file of this build id.
    pub(super) fn of_build_id(file: File, build_id: &[u8]) -> Option<Self> {
        let content = Content::read(&file)?;
        (content.build_id.as_deref() == Some(build_id)).then_some(Self { file, content })
    }

    /// A path that leads to it for as long as this lives.
    pub(super) fn path(&self) -> PathBuf {
        descriptor_path(&self.file)
    }
}

/// The path of an open file.
pub(super) fn descriptor_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The debug file of an object, if there is one on this machine.
pub(super) fn find(object: &Object, content: &Content) -> Option<DebugFile> {
    let roots = [object.root.as_deref().map(Root::Target), Some(Root::Ours)];
    let mut roots = roots.into_iter().flatten();
    roots.find_map(|root| by_build_id(root, content).or_else(|| by_link(root, object, content)))
}

/// A file system to look in.
#[derive(Clone, Copy)]
enum Root<'a> {
    /// That of the process which mapped the object, held open.
    Target(&'a File),
    Ours,
}

impl Root<'_> {
    /// Opens a regular file at a path relative to the root. What the target has put there may be anything:
    /// a pipe must not block, and a link must not lead out of its file system.
    fn open(self, path: &Path) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = match self {
            Self::Target(root) => {
                rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
            }
            Self::Ours => rustix::fs::openat(CWD, Path::new("/").join(path), flags, Mode::empty()),
        };
        let file = File::from(opened.ok()?);
        file.metadata().ok()?.is_file().then_some(file)
    }
}

fn by_build_id(root: Root<'_>, content: &Content) -> Option<DebugFile> {
    let build_id = content.build_id.as_deref()?;
    let file = root.open(&build_id_path(build_id)?)?;
    let found = DebugFile::of_build_id(file, build_id)?;
    found.content.has_debug_info.then_some(found)
}

/// `usr/lib/debug/.build-id/ab/cdef.debug`.
fn build_id_path(build_id: &[u8]) -> Option<PathBuf> {
    let text = hexadecimal(build_id);
    // Two digits name the folder; of a shorter id there is nothing left for the file.
    let (folder, name) = text.split_at_checked(2).filter(|(_, name)| !name.is_empty())?;
    Some(Path::new(DEBUG_FOLDER).join(format!(".build-id/{folder}/{name}.debug")))
}

/// The digits of a build id.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits
        .filter_map(|digit| char::from_digit(u32::from(digit), 16))
        .collect()
}

/// Beside the object, in `.debug` beside it, and in the same folder below that of debug files.
fn by_link(root: Root<'_>, object: &Object, content: &Content) -> Option<DebugFile> {
    let link = content.debug_link.as_ref()?;
    let folder = object.path_in_process.parent()?;
    // `/bin` is a link to `/usr/bin`, and packages name their files by the one or the other.
    let canonical = folder.canonicalize().ok().filter(|canonical| canonical != folder);
    let folders = [Some(folder.to_owned()), canonical];
    let places = folders.into_iter().flatten().flat_map(|folder| {
        let below = folder.strip_prefix("/").unwrap_or(&folder).to_owned();
        [
            below.clone(),
            below.join(".debug"),
            Path::new(DEBUG_FOLDER).join(below),
        ]
    });
    places
        .filter_map(|place| root.open(&place.join(&link.name)))
        .find_map(|file| {
            let found = Content::read(&file)?;
            let matches = match (&found.build_id, &content.build_id) {
                (Some(found), Some(wanted)) => found == wanted,
                _ => crc(&file) == Some(link.crc),
            };
            // A link may name the object itself.
            (matches && found.has_debug_info).then_some(DebugFile { file, content: found })
        })
}

/// The checksum of a whole file, as `.gnu_debuglink` has it.
fn crc(mut file: &File) -> Option<u32> {
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    file.rewind().ok()?;
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hasher.finalize()),
            read => hasher.update(&buffer[..read]),
        }
    }
}
