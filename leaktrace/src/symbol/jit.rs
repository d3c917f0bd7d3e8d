//! Symbols that JIT compilers write to `/tmp/perf-PID.map`: one line a function, `START SIZE name`,
//! numbers hexadecimal (Linux tools/perf/Documentation/jit-interface.txt).
//!
//! Must not know which process the file belongs to.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::printable;

/// Of a larger file, the start is read: a bound on what a target can make leaktrace keep.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A file in which a symbol is looked up is read again when one of these changes.
type Stamp = (u64, u64, u64, i64, i64);

/// The functions of one map.
#[derive(Debug, Default)]
struct JitMap {
    /// Start, end, name; by start. Where two overlap, the one written later is the one in force.
    functions: Vec<(u64, u64, Arc<str>)>,
}

impl JitMap {
    fn parse(text: &[u8]) -> Self {
        let mut functions: Vec<_> = text.split(|byte| *byte == b'\n').filter_map(parse_line).collect();
        // Stable, so that of equal starts the later line comes last.
        functions.sort_by_key(|(start, _, _)| *start);
        Self { functions }
    }

    fn find(&self, address: u64) -> Option<Arc<str>> {
        let after = self.functions.partition_point(|(start, _, _)| *start <= address);
        // Functions hardly ever nest; a few steps back find the one that reaches the address.
        let candidates = self.functions[..after].iter().rev().take(8);
        let (_, _, name) = candidates.into_iter().find(|(_, end, _)| address < *end)?;
        Some(Arc::clone(name))
    }
}

/// A line that cannot be read is passed over: the process may be writing it right now.
fn parse_line(line: &[u8]) -> Option<(u64, u64, Arc<str>)> {
    let line = String::from_utf8_lossy(line);
    let mut fields = line.trim().splitn(3, ' ');
    let mut number = || {
        let field = fields.next()?;
        u64::from_str_radix(field.strip_prefix("0x").unwrap_or(field), 16).ok()
    };
    let (start, size_bytes) = (number()?, number()?);
    let name = fields.next()?.trim();
    let end = start.checked_add(size_bytes)?;
    (!name.is_empty()).then(|| (start, end, printable(name)))
}

/// The maps read so far. The last good content stays when a file is gone with its process.
#[derive(Debug, Default)]
pub struct JitMaps {
    maps: HashMap<PathBuf, (Option<Stamp>, JitMap)>,
}

impl JitMaps {
    /// None read.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the file again if it has changed. To be called once before a batch of lookups.
    pub fn refresh(&mut self, path: &Path) {
        let (stamp, map) = self.maps.entry(path.to_owned()).or_default();
        if let Some((now, text)) = read_if_changed(path, stamp.as_ref()) {
            *stamp = Some(now);
            *map = JitMap::parse(&text);
        }
    }

    /// Name of the function at the address, as last read.
    pub fn find(&self, path: &Path, address: u64) -> Option<Arc<str>> {
        self.maps.get(path)?.1.find(address)
    }
}

fn read_if_changed(path: &Path, known: Option<&Stamp>) -> Option<(Stamp, Vec<u8>)> {
    let stamp_of = |metadata: &fs::Metadata| {
        (
            metadata.dev(),
            metadata.ino(),
            metadata.size(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        )
    };
    if known.is_some_and(|known| fs::metadata(path).is_ok_and(|metadata| stamp_of(&metadata) == *known)) {
        return None;
    }
    // Anyone may put anything under this name in /tmp: a pipe must not block, a link not be followed.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .ok()?;
    let metadata = File::metadata(&file).ok()?;
    if !metadata.is_file() {
        return None;
    }
    let mut text = Vec::new();
    let read = file.take(FILE_BYTES_MAX).read_to_end(&mut text);
    if let Err(error) = read {
        tracing::debug!(path = %path.display(), %error, "JIT symbols could not be read");
        return None;
    }
    Some((stamp_of(&metadata), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_functions_and_skips_lines_it_cannot_read() {
        let map = JitMap::parse(
            b"1000 10 LazyCompile:~f /a b.js:1\n0x2000 20 g\nnonsense\n3000 zz h\n4000 10\n2000 8 g2\n\
              ffffffffffffffff 2 wraps\n5000 10 e\x1b[0m\n",
        );
        assert_eq!(map.find(0x1000).as_deref(), Some("LazyCompile:~f /a b.js:1"));
        assert_eq!(map.find(0x1010), None);
        assert_eq!(map.find(0x0fff), None);
        assert_eq!(map.find(0x2007).as_deref(), Some("g2"));
        assert_eq!(map.find(0x2008).as_deref(), Some("g"));
        assert_eq!(map.find(0x3000), None);
        assert_eq!(map.find(u64::MAX), None);
        assert_eq!(map.find(0x5001).as_deref(), Some("e\u{fffd}[0m"));
    }

    #[test]
    fn rereads_a_changed_file_and_remembers_one_that_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("perf-1.map");
        let mut maps = JitMaps::new();
        maps.refresh(&path);
        assert_eq!(maps.find(&path, 0x1000), None);
        fs::write(&path, "1000 10 first\n").unwrap();
        maps.refresh(&path);
        assert_eq!(maps.find(&path, 0x1000).as_deref(), Some("first"));
        fs::write(&path, "1000 10 first\n2000 10 second\n").unwrap();
        maps.refresh(&path);
        assert_eq!(maps.find(&path, 0x2000).as_deref(), Some("second"));
        fs::remove_file(&path).unwrap();
        maps.refresh(&path);
        assert_eq!(maps.find(&path, 0x2000).as_deref(), Some("second"));
    }

    #[test]
    fn neither_links_nor_devices_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "1000 10 secret\n").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let mut maps = JitMaps::new();
        for path in [link.as_path(), folder.path()] {
            maps.refresh(path);
            assert_eq!(maps.find(path, 0x1000), None);
        }
    }
}
