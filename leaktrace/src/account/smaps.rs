//! What a process has mapped and how much of it is there: `/proc/PID/smaps`, read and parsed.
//!
//! Must not know what memory is of: that is [`super::split`].
//!
//! Reading it costs the target little: the kernel holds its mmap lock only while it fills a buffer of about a page
//! (Linux 6.12, `seq_read_iter` in `fs/seq_file.c`; `m_start` and `m_stop` in `fs/proc/task_mmu.c`), some six mappings. What
//! it costs us goes with the pages that are there: it walks their tables (`smap_gather_stats`). Mappings that come and
//! go meanwhile are seen or not; each line is right by itself.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
};

/// What a mapping is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Backing {
    /// Private memory of no file.
    Anonymous,
    /// The heap that `brk` moves.
    Heap,
    /// A stack: that of the first thread, or one that is called so.
    Stack,
    /// Private memory that is called an allocator's (`PR_SET_VMA_ANON_NAME`).
    Allocator,
    /// A file, copied pages of it included, shared memory, or the kernel's own.
    File,
}

/// A mapping and how much of it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// What it is of.
    pub backing: Backing,
    /// Resident bytes.
    pub rss_bytes: u64,
    /// The same, what is shared counted in part.
    pub pss_bytes: u64,
    /// Of `rss_bytes`, pages of no file.
    pub anonymous_bytes: u64,
    /// Bytes in swap.
    pub swap_bytes: u64,
}

impl Area {
    /// A mapping of which nothing is there.
    pub const fn empty(start: u64, end: u64, backing: Backing) -> Self {
        Self {
            start,
            end,
            backing,
            rss_bytes: 0,
            pss_bytes: 0,
            anonymous_bytes: 0,
            swap_bytes: 0,
        }
    }

    /// Bytes of addresses.
    pub const fn length_bytes(&self) -> u64 {
        self.end - self.start
    }

    /// What it holds of memory: resident or in swap, bytes.
    pub const fn held_bytes(&self) -> u64 {
        self.rss_bytes + self.swap_bytes
    }
}

/// The mappings of a process that runs, in order of address. Empty of one that has ended and waits for its parent.
///
/// # Errors
/// When the file cannot be opened or read: the process has ended, or may not be looked at.
pub fn read(pid: u32) -> io::Result<Vec<Area>> {
    let file = File::open(format!("/proc/{pid}/smaps"))?;
    parse(BufReader::with_capacity(1 << 16, file))
}

/// Resident memory of a process in bytes, as the kernel counts it. Before Linux 6.16 (commit 82241a83cd15) it may be off
/// by dozens of pages for each CPU: threads count for themselves at first.
///
/// # Errors
/// As [`read`].
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages = text.split_ascii_whitespace().nth(1);
    let pages: Option<u64> = pages.and_then(|pages| pages.parse().ok());
    let not_there = || io::Error::new(io::ErrorKind::InvalidData, "no second number");
    Ok(pages.ok_or_else(not_there)? * super::PAGE_BYTES)
}

/// Parses the text of `smaps`. Lines that it does not know are left out; a mapping without numbers has none.
///
/// # Errors
/// Those of the reader.
pub fn parse(mut text: impl BufRead) -> io::Result<Vec<Area>> {
    let mut areas: Vec<Area> = Vec::new();
    let mut line = Vec::with_capacity(256);
    loop {
        line.clear();
        if text.read_until(b'\n', &mut line)? == 0 {
            return Ok(areas);
        }
        // Names of numbers begin with a capital letter, addresses are in small ones.
        if line.first().is_some_and(u8::is_ascii_uppercase) {
            if let Some(area) = areas.last_mut() {
                note(area, &line);
            }
        } else {
            areas.extend(head(&line));
        }
    }
}

/// A line of numbers: `Rss:                 132 kB`.
fn note(area: &mut Area, line: &[u8]) {
    let field = match line {
        [b'R', b's', b's', b':', ..] => &mut area.rss_bytes,
        [b'P', b's', b's', b':', ..] => &mut area.pss_bytes,
        [b'A', b'n', b'o', b'n', b'y', b'm', b'o', b'u', b's', b':', ..] => &mut area.anonymous_bytes,
        [b'S', b'w', b'a', b'p', b':', ..] => &mut area.swap_bytes,
        _ => return,
    };
    let digits = line.iter().filter(|byte| byte.is_ascii_digit());
    let number = digits.fold(0_u64, |number, digit| {
        number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    });
    *field = number.saturating_mul(1024);
}

/// The line of a mapping: `7f00-7f01 rw-p 00000000 00:00 0   [stack]`.
fn head(line: &[u8]) -> Option<Area> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut words = line.splitn(6, |byte| *byte == b' ');
    let range = words.next()?;
    let dash = range.iter().position(|byte| *byte == b'-')?;
    let (start, end) = (hexadecimal(&range[..dash])?, hexadecimal(&range[dash + 1..])?);
    let inode = words.nth(3)?;
    let name = words.next().unwrap_or_default().trim_ascii();
    let backing = if inode == b"0" {
        of_no_file(name)
    } else {
        Backing::File
    };
    (start < end).then(|| Area::empty(start, end, backing))
}

/// What memory of no file is of, by its name.
fn of_no_file(name: &[u8]) -> Backing {
    /// What allocators call theirs: glibc with the tunable `glibc.mem.decorate_maps` (2.39), bionic.
    const ALLOCATORS: [&[u8]; 5] = [
        b"[anon: glibc: malloc",
        b"[anon: glibc: loader malloc",
        b"[anon:libc_malloc",
        b"[anon:scudo:",
        b"[anon:jemalloc",
    ];
    const STACKS: [&[u8]; 3] = [b"[stack", b"[anon: glibc: pthread stack", b"[anon:stack_and_tls"];
    let is_one_of = |names: &[&[u8]]| names.iter().any(|prefix| name.starts_with(prefix));
    match name {
        b"" => Backing::Anonymous,
        b"[heap]" => Backing::Heap,
        _ if is_one_of(&STACKS) => Backing::Stack,
        _ if is_one_of(&ALLOCATORS) => Backing::Allocator,
        _ if name.starts_with(b"[anon:") => Backing::Anonymous,
        // `[vdso]`, `[vvar]`, `[uprobes]`; and `//anon`, as no kernel says it here, is nobody's.
        _ => Backing::File,
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, &digit| {
        let value = (digit as char).to_digit(16)?;
        Some(number << 4 | u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::{
        Backing::{Allocator, Anonymous, File, Heap, Stack},
        *,
    };

    const TEXT: &str = "\
55d0c3a00000-55d0c3a21000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
KernelPageSize:        4 kB
Rss:                  40 kB
Pss:                  40 kB
Pss_Dirty:            36 kB
Anonymous:            36 kB
AnonHugePages:         0 kB
Swap:                  8 kB
SwapPss:               8 kB
THPeligible:           0
VmFlags: rd wr mr mw me ac sd 
7f0000000000-7f0040000000 rw-p 00000000 00:00 0 
Rss:                   4 kB
7f0050000000-7f0050001000 r-xp 00001000 fe:01 1234                       /tmp/a b
Rss:                   4 kB
7f0060000000-7f0060001000 rw-s 00000000 00:01 77                         /dev/zero (deleted)
7f0070000000-7f0070001000 rw-p 00000000 00:00 0                          [anon: glibc: malloc arena]
7f0080000000-7f0080001000 rw-p 00000000 00:00 0                          [anon: glibc: pthread stack: 12]
7f0090000000-7f0090001000 rw-p 00000000 00:00 0                          [anon:mine]
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
7ffc00100000-7ffc00102000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

    #[test]
    fn mappings_have_their_numbers() {
        let areas = parse(TEXT.as_bytes()).expect("text");
        let heap = Area {
            rss_bytes: 40 << 10,
            pss_bytes: 40 << 10,
            anonymous_bytes: 36 << 10,
            swap_bytes: 8 << 10,
            ..Area::empty(0x55d0_c3a0_0000, 0x55d0_c3a2_1000, Heap)
        };
        assert_eq!(areas[0], heap);
        assert_eq!(
            (areas[0].length_bytes(), areas[0].held_bytes()),
            (132 << 10, 48 << 10)
        );
        assert_eq!((areas[1].length_bytes(), areas[1].rss_bytes), (1 << 30, 4096));
        let kinds: Vec<Backing> = areas.iter().map(|area| area.backing).collect();
        let expected = [
            Heap, Anonymous, File, File, Allocator, Stack, Anonymous, Stack, File, File,
        ];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn what_is_no_line_is_left_out() {
        for text in [
            "",
            "\n",
            "Rss: 4 kB\n",
            "zz-1 rw-p 0 0:0 0\n",
            "2-1 rw-p 0 0:0 0\n",
            "1-2 rw-p\n",
        ] {
            assert_eq!(parse(text.as_bytes()).expect("text"), [], "{text:?}");
        }
        let areas =
            parse("1000-2000 rw-p 0 0:0 0\nRss: 99999999999999999999999 kB\nRss".as_bytes()).expect("text");
        assert_eq!(areas[0].rss_bytes, u64::MAX);
    }

    #[test]
    fn own_memory_is_found() {
        let memory = vec![1_u8; 8 << 20];
        let address = memory.as_ptr() as u64;
        let pid = std::process::id();
        let areas = read(pid).expect("smaps");
        assert!(areas.is_sorted_by_key(|area| area.start));
        let area = areas
            .iter()
            .find(|area| area.start <= address && address < area.end);
        let area = area.expect("a mapping");
        assert_eq!(area.backing, Anonymous);
        assert!(area.held_bytes() >= 8 << 20);
        assert!(
            areas
                .iter()
                .any(|area| area.backing == Stack && area.rss_bytes > 0)
        );
        assert!(resident_bytes(pid).expect("statm") >= 8 << 20);
    }
}
