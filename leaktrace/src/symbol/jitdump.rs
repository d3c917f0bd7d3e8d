//! Functions that JIT compilers record in `jit-PID.dump` (Linux
//! tools/perf/Documentation/jitdump-specification.txt): which code was put where, moved and dropped.
//!
//! The file grows while the process runs: what was added is read, and the code in it passed over. The reader
//! of the crate linux-perf-data is not used, because it allocates what sizes in the file ask for and panics on
//! records shorter than their header; these files are a target's. Must not know processes.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::mappings::ObjectId;
use super::printable;

/// `JiTD`, as a little-endian machine writes it.
const MAGIC: [u8; 4] = *b"DTiJ";

/// Size of a record's head: kind, size of the record with its head, time.
const HEAD_BYTES: usize = 16;

/// Read at once. Of a larger record, the start is looked at: names come before code.
const CHUNK_BYTES: usize = 1 << 20;

/// Looked at in one refresh; the next goes on from there.
const REFRESH_BYTES_MAX: u64 = 512 << 20;

/// Functions kept of one process: a bound on what a target can make leaktrace keep.
const FUNCTIONS_MAX: usize = 1 << 20;

/// Longer names are cut.
const NAME_BYTES_MAX: usize = 1 << 10;

/// Kinds of records.
mod kind {
    pub(super) const LOAD: u32 = 0;
    pub(super) const MOVE: u32 = 1;
    pub(super) const CLOSE: u32 = 3;
}

/// A function at an address.
#[derive(Clone, Debug)]
struct Code {
    end: u64,
    time: u64,
    index: u64,
    name: Arc<str>,
}

/// One file as far as it was read.
#[derive(Debug, Default)]
struct JitDump {
    /// Where the next record begins; 0 before the head of the file was read.
    position: u64,
    /// By address; none overlaps another.
    functions: BTreeMap<u64, Code>,
    /// What cannot be read ends it for good.
    done: bool,
}

/// The files read so far.
#[derive(Debug, Default)]
pub(super) struct JitDumps {
    dumps: HashMap<ObjectId, JitDump>,
}

impl JitDumps {
    /// Reads what has been added to a file.
    pub(super) fn refresh(&mut self, id: ObjectId, file: &File) {
        self.dumps.entry(id).or_default().refresh(file);
    }

    /// Name of the function at the address: the one put there last.
    pub(super) fn find(&self, id: ObjectId, address: u64) -> Option<Arc<str>> {
        let (_, code) = self.dumps.get(&id)?.functions.range(..=address).next_back()?;
        (address < code.end).then(|| Arc::clone(&code.name))
    }
}

impl JitDump {
    fn refresh(&mut self, file: &File) {
        let Ok(facts) = file.metadata() else { return };
        let last = self.position.saturating_add(REFRESH_BYTES_MAX).min(facts.len());
        let mut chunk = vec![0; CHUNK_BYTES];
        while !self.done && self.position < last {
            let Ok(read) = file.read_at(&mut chunk, self.position) else {
                return;
            };
            let before = self.position;
            if before == 0 {
                self.head_of_file(&chunk[..read]);
            } else {
                self.records(&chunk[..read], facts.len() - before);
            }
            // A record that is being written: the rest comes later.
            if self.position == before {
                return;
            }
        }
    }

    fn head_of_file(&mut self, bytes: &[u8]) {
        let Some(size_bytes) = u32_at(bytes, 8) else {
            return;
        };
        // Another machine's byte order is none that runs here.
        if bytes.starts_with(&MAGIC) && size_bytes as usize >= 40 {
            self.position = u64::from(size_bytes);
        } else {
            self.done = true;
        }
    }

    /// The records at the start of a file of which `left` bytes are left.
    fn records(&mut self, bytes: &[u8], left: u64) {
        let mut start = 0;
        while let Some(head) = bytes.get(start..start + HEAD_BYTES) {
            let (Some(kind), Some(size_bytes), Some(time)) =
                (u32_at(head, 0), u32_at(head, 4), u64_at(head, 8))
            else {
                return;
            };
            if (size_bytes as usize) < HEAD_BYTES {
                self.done = true;
                return;
            }
            if u64::from(size_bytes) > left - start as u64 {
                return;
            }
            let end = start + size_bytes as usize;
            // Seen in part: it is looked at again as the first of the next chunk, and then as far as it is seen.
            if end > bytes.len() && start > 0 {
                return;
            }
            self.record(kind, time, &bytes[start + HEAD_BYTES..end.min(bytes.len())]);
            self.position += u64::from(size_bytes);
            start = end;
        }
    }

    fn record(&mut self, kind: u32, time: u64, body: &[u8]) {
        match kind {
            // A record too short for its kind says nothing.
            kind::LOAD => self.load(time, body).unwrap_or_default(),
            kind::MOVE => self.moved(time, body).unwrap_or_default(),
            // The process is done; what it has made stays in its stacks.
            kind::CLOSE => self.done = true,
            _ => {}
        }
    }

    /// pid, tid, vma, `code_addr`, `code_size`, `code_index`, name, code.
    fn load(&mut self, time: u64, body: &[u8]) -> Option<()> {
        let (start, size_bytes, index) = (u64_at(body, 16)?, u64_at(body, 24)?, u64_at(body, 32)?);
        let name = body.get(40..)?;
        let name = &name[..name.len().min(NAME_BYTES_MAX)];
        let name = name.split(|byte| *byte == 0).next()?;
        let code = Code {
            end: start.checked_add(size_bytes)?,
            time,
            index,
            name: printable(&String::from_utf8_lossy(name)),
        };
        self.put(start, code);
        Some(())
    }

    /// pid, tid, vma, `old_code_addr`, `new_code_addr`, `code_size`, `code_index`.
    fn moved(&mut self, time: u64, body: &[u8]) -> Option<()> {
        let (from, to) = (u64_at(body, 16)?, u64_at(body, 24)?);
        let (size_bytes, index) = (u64_at(body, 32)?, u64_at(body, 40)?);
        let old = self
            .functions
            .get(&from)
            .filter(|code| code.index == index)?
            .clone();
        let code = Code {
            end: to.checked_add(size_bytes)?,
            time,
            ..old
        };
        // The old place stays named until something else is put there: stacks may have been taken in it.
        self.put(to, code);
        Some(())
    }

    /// Puts code in the place of what was there before its time.
    fn put(&mut self, start: u64, code: Code) {
        if start >= code.end || code.name.is_empty() {
            return;
        }
        let first = self
            .functions
            .range(..=start)
            .next_back()
            .filter(|(_, before)| before.end > start)
            .map_or(start, |(key, _)| *key);
        let overlapped: Vec<u64> = self
            .functions
            .range(first..code.end)
            .map(|(key, _)| *key)
            .collect();
        // Threads write their records in the order in which they get there, not in that of time.
        if overlapped.iter().any(|key| self.functions[key].time > code.time) {
            return;
        }
        for key in overlapped {
            self.functions.remove(&key);
        }
        if self.functions.len() < FUNCTIONS_MAX {
            self.functions.insert(start, code);
        }
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset + 8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn head() -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for word in [1_u32, 40, 62, 0, 1] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend([0; 16]);
        bytes
    }

    fn record(kind: u32, time: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend((HEAD_BYTES as u32 + body.len() as u32).to_le_bytes());
        bytes.extend(time.to_le_bytes());
        bytes.extend(body);
        bytes
    }

    fn load(time: u64, start: u64, code_bytes: u64, index: u64, name: &str) -> Vec<u8> {
        let mut body = vec![0; 8];
        for number in [start, start, code_bytes, index] {
            body.extend(number.to_le_bytes());
        }
        body.extend(name.as_bytes());
        body.push(0);
        body.resize(body.len() + code_bytes as usize, 0x90);
        record(kind::LOAD, time, &body)
    }

    fn moved(time: u64, from: u64, to: u64, code_bytes: u64, index: u64) -> Vec<u8> {
        let mut body = vec![0; 8];
        for number in [to, from, to, code_bytes, index] {
            body.extend(number.to_le_bytes());
        }
        record(kind::MOVE, time, &body)
    }

    struct Growing {
        file: File,
        dumps: JitDumps,
    }

    impl Growing {
        fn new() -> Self {
            Self {
                file: tempfile::tempfile().unwrap(),
                dumps: JitDumps::default(),
            }
        }

        fn add(&mut self, bytes: &[u8]) {
            self.file.write_all(bytes).unwrap();
            self.dumps.refresh(ObjectId(0), &self.file);
        }

        fn find(&self, address: u64) -> Option<Arc<str>> {
            self.dumps.find(ObjectId(0), address)
        }
    }

    #[test]
    fn the_code_put_at_an_address_last_is_found() {
        let mut dump = Growing::new();
        dump.add(&head());
        dump.add(&load(1, 0x1000, 0x20, 1, "first"));
        assert_eq!(dump.find(0x0fff), None);
        assert_eq!(dump.find(0x1000).as_deref(), Some("first"));
        assert_eq!(dump.find(0x101f).as_deref(), Some("first"));
        assert_eq!(dump.find(0x1020), None);
        dump.add(&load(3, 0x1010, 0x20, 2, "second"));
        assert_eq!(dump.find(0x1010).as_deref(), Some("second"));
        // Written later, of an earlier time.
        dump.add(&load(2, 0x1018, 0x20, 3, "late"));
        assert_eq!(dump.find(0x1018).as_deref(), Some("second"));
        dump.add(&moved(4, 0x1010, 0x3000, 0x20, 2));
        assert_eq!(dump.find(0x301f).as_deref(), Some("second"));
        // Of a function that is not there under that number.
        dump.add(&moved(5, 0x1010, 0x4000, 0x20, 7));
        assert_eq!(dump.find(0x4000), None);
        dump.add(&record(2, 6, &[1; 40]));
        dump.add(&record(kind::CLOSE, 7, &[]));
        dump.add(&load(8, 0x5000, 0x20, 8, "after the end"));
        assert_eq!(dump.find(0x5000), None);
        assert_eq!(dump.find(0x3000).as_deref(), Some("second"));
    }

    #[test]
    fn records_come_in_pieces_and_larger_than_a_chunk() {
        let mut dump = Growing::new();
        let mut bytes = head();
        bytes.extend(load(1, 0x1000, 0x20, 1, "small"));
        bytes.extend(load(2, 0x10_0000, 3 << 20, 2, "large"));
        bytes.extend(load(3, 0x2000, 0x20, 3, "last"));
        for piece in bytes.chunks(700_001) {
            dump.add(piece);
        }
        for (address, name) in [(0x1000, "small"), (0x10_0000, "large"), (0x2000, "last")] {
            assert_eq!(dump.find(address).as_deref(), Some(name));
        }
        let mut piecemeal = Growing::new();
        let mut small = head();
        small.extend(load(1, 0x1000, 0x20, 1, "f"));
        for byte in &small {
            assert_eq!(piecemeal.find(0x1000), None);
            piecemeal.add(&[*byte]);
        }
        assert_eq!(piecemeal.find(0x1000).as_deref(), Some("f"));
    }

    #[test]
    fn what_is_damaged_is_neither_followed_nor_fatal() {
        let mut short = head();
        short.extend([0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        short.extend(load(1, 0x1000, 0x20, 1, "behind a record shorter than its head"));
        let mut endless = head();
        endless.extend([0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut wraps = head();
        wraps.extend(record(kind::LOAD, 1, &[0xff; 60]));
        wraps.extend(record(kind::LOAD, 1, &[0; 3]));
        wraps.extend(record(kind::MOVE, 1, &[0; 3]));
        for bytes in [
            &b"DTiJ"[..],
            b"ELF and other things, long enough for a head",
            &short,
            &endless,
            &wraps,
        ] {
            let mut dump = Growing::new();
            dump.add(bytes);
            dump.add(bytes);
            assert_eq!(dump.find(0x1000), None);
            assert_eq!(dump.find(u64::MAX - 1), None);
        }
    }
}
