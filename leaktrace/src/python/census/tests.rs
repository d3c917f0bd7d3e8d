//! Censuses of living interpreters of every version that is installed, and of memory that makes no sense. No symbols are
//! used, so that a stripped interpreter is one like any other.

use std::collections::BTreeMap;

use super::layout::flags;
use super::*;
use crate::probe::process;
use crate::python::{
    installed::{self, Installed, Running},
    memory::{MemoryError, Process, fake::Fake},
    version::Version,
};

fn installed() -> Vec<Installed> {
    let installed = installed::installed();
    if installed.is_empty() {
        eprintln!("SKIPPED: no Python below PYENV_ROOT, ~/.pyenv or /usr/bin");
    }
    installed
}

/// Time enough for any machine.
fn patient(pools: bool) -> Limits {
    Limits {
        time: Duration::from_secs(30),
        pools,
        ..Limits::default()
    }
}

fn take(running: &Running, limits: &Limits) -> Counts {
    let pid = running.child.id();
    let anonymous: Vec<Range<u64>> = process::mappings(pid)
        .unwrap()
        .iter()
        .filter(|mapping| mapping.inode == 0 && mapping.label.is_empty())
        .map(|mapping| mapping.start..mapping.end)
        .collect();
    let runtime = running.place().runtime_address();
    Census::default()
        .take(&Process::new(pid), &running.offsets, runtime, &anonymous, limits)
        .unwrap()
}

fn full_name(name: &TypeName) -> String {
    match &name.module {
        Some(module) => format!("{module}.{}", name.name),
        None => name.name.to_string(),
    }
}

fn find<'a>(counts: &'a Counts, name: &str) -> &'a TypeCount {
    counts
        .types
        .iter()
        .find(|count| full_name(&count.name) == name)
        .unwrap_or_else(|| panic!("{name} is not there"))
}

#[test]
fn a_quiet_process_is_counted_as_it_counts_itself() {
    for python in installed() {
        let (running, line) =
            Running::start_with(&python, include_str!("objects.py"), &[("OBJECTS", "5000")]);
        let (counted, sizes): (BTreeMap<String, u64>, BTreeMap<String, u64>) =
            serde_json::from_str(&line).unwrap();
        let census = take(&running, &patient(false));
        assert_eq!((census.partial, census.torn_reads), (None, 0), "{python:?}");
        let found: BTreeMap<String, u64> = census
            .types
            .iter()
            .filter(|count| count.tracked > 0)
            .map(|count| (full_name(&count.name), count.tracked))
            .collect();
        assert_eq!(found, counted, "{python:?}");
        for (name, bytes) in sizes {
            assert_eq!(find(&census, &name).tracked_bytes, bytes, "{name} of {python:?}");
        }
        assert!(find(&census, "list").others >= 2000, "frozen lists of {python:?}");
    }
}

/// Counts a process that changes its objects all the time, so often.
fn count_busy(python: &Installed, censuses: u32) {
    let running = Running::start(python, include_str!("busy.py"));
    let (mut finished, mut torn) = (0, 0);
    for _ in 0..censuses {
        let census = take(&running, &patient(false));
        torn += census.torn_reads;
        assert!(census.tracked < 1_000_000, "{python:?}: {}", census.tracked);
        if census.partial.is_none() {
            finished += 1;
            let kept = find(&census, "__main__.Kept").tracked;
            assert!((19_800..=20_200).contains(&kept), "{python:?}: {kept}");
        }
    }
    assert!(
        finished * 2 >= censuses,
        "{python:?}: {finished} of {censuses} were finished, {torn} torn reads"
    );
}

/// All versions keep their lists alike, but for the oldest and the newest.
#[test]
fn a_busy_process_is_counted() {
    let mut installed = installed();
    installed.sort_by_key(|python| python.version.minor);
    let newest = installed.pop();
    for python in installed.iter().take(1).chain(&newest) {
        count_busy(python, 4);
    }
}

/// `cargo test --release -p leaktrace --lib -- --ignored a_busy_process_is_counted_time_and_again`
#[test]
#[ignore = "takes minutes"]
fn a_busy_process_is_counted_time_and_again() {
    for python in installed() {
        count_busy(&python, 200);
    }
}

#[test]
fn small_objects_are_found_in_their_pools() {
    for python in installed() {
        let (running, line) = Running::start_with(&python, include_str!("small.py"), &[]);
        let census = take(&running, &patient(true));
        let pools = census.pools.expect("pools");
        assert_eq!((census.partial, pools.torn), (None, 0), "{python:?}");
        for name in ["float", "complex", "str", "bytes", "int"] {
            let others = find(&census, name).others;
            assert!(others >= 50_000, "{python:?}: {others} {name}");
        }
        assert!(find(&census, "complex").others < 50_100, "{python:?}");
        let text_bytes: u64 = line.trim().parse().unwrap();
        assert!(find(&census, "str").other_bytes >= text_bytes, "{python:?}");
        assert!(pools.other_bytes < pools.live_bytes / 2, "{python:?}: {pools:?}");
    }
}

#[test]
fn a_build_without_the_lock_is_refused() {
    let mut offsets = offsets(13);
    offsets.gc = None;
    offsets.free_threaded = true;
    let taken = Census::default().take(&Fake::default(), &offsets, 0x1000, &[], &Limits::default());
    assert_eq!(taken, Err(Why::FreeThreaded));
}

fn offsets(minor: u8) -> Offsets {
    Offsets::of_version(Version {
        major: 3,
        minor,
        micro: 0,
    })
    .unwrap()
}

/// Words at addresses.
fn put(memory: &Fake, address: u64, words: &[u64]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory.put(address, &bytes);
}

const RUNTIME: u64 = 0x10_0000;

/// An interpreter of 3.11 whose lists are empty, in a megabyte of zeros.
fn empty_lists() -> (Fake, Offsets, u64) {
    let memory = Fake::default();
    memory.put(RUNTIME, &vec![0; 1 << 20]);
    let (offsets, interpreter) = (offsets(11), RUNTIME + 0x1_0000);
    put(
        &memory,
        RUNTIME + u64::from(offsets.runtime.interpreters),
        &[interpreter],
    );
    let state = interpreter + u64::from(offsets.interpreter.gc.unwrap());
    for head in [24, 48, 72, 104] {
        put(&memory, state + head, &[state + head, state + head]);
    }
    (memory, offsets, state)
}

/// `type`, with that name.
fn put_type(memory: &Fake, address: u64) {
    put(memory, address, &[1, address, 0, address + 512, 880, 40]);
    put(
        memory,
        address + 168,
        &[flags::READY | flags::TYPE | flags::HAVE_GC],
    );
    memory.put(address + 512, b"type\0");
}

fn take_fake(memory: &Fake, offsets: &Offsets) -> Counts {
    Census::default()
        .take(memory, offsets, RUNTIME, &[], &Limits::default())
        .unwrap()
}

#[test]
fn empty_lists_have_no_objects() {
    let (memory, offsets, _) = empty_lists();
    let census = take_fake(&memory, &offsets);
    assert_eq!((census.tracked, census.partial, census.types.len()), (0, None, 0));
}

#[test]
fn a_list_that_goes_round_without_its_head_is_given_up() {
    let (memory, offsets, state) = empty_lists();
    let (of_type, a, b) = (RUNTIME + 0x2_0000, RUNTIME + 0x3_0000, RUNTIME + 0x3_1000);
    put_type(&memory, of_type);
    // The last object of the list is one that is not in it.
    put(&memory, state + 24, &[a, RUNTIME + 0x4_0000]);
    put(&memory, a, &[b, state + 24, 1, of_type, 0]);
    put(&memory, b, &[a, a, 1, of_type, 0]);
    let census = take_fake(&memory, &offsets);
    assert_eq!((census.partial, census.tracked), (Some(Why::Torn), 0));
    assert!(census.torn_reads > 0);
    // And with two that know each other only.
    put(&memory, a, &[b, b, 1, of_type, 0]);
    assert_eq!(take_fake(&memory, &offsets).partial, Some(Why::Torn));
    // Put right, it is a list of two.
    put(&memory, state + 24, &[a, b]);
    put(&memory, a, &[b, state + 24, 1, of_type, 0]);
    put(&memory, b, &[state + 24, a | 1, 1, of_type, 0]);
    let census = take_fake(&memory, &offsets);
    assert_eq!((census.partial, census.tracked), (None, 2));
    assert_eq!(full_name(&census.types[0].name), "type");
}

/// Memory of noise, part of which points into memory.
#[derive(Debug)]
struct Noise {
    seed: u64,
    /// Pointers lead to so many bytes.
    span_bytes: u64,
}

impl Noise {
    const fn word(&self, address: u64) -> u64 {
        let mut hash = (address ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 29;
        hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        match hash >> 60 {
            0..=9 => RUNTIME + (hash & 0xffff_fff0) % self.span_bytes,
            10 => 0,
            11 => hash & 0xff,
            12 => flags::READY | flags::TYPE | flags::HAVE_GC,
            _ => hash,
        }
    }
}

impl Memory for Noise {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        if address.wrapping_mul(31) % 97 == 5 {
            return Err(MemoryError::Unmapped {
                address,
                len_bytes: into.len(),
            });
        }
        for (offset, byte) in into.iter_mut().enumerate() {
            let at = address + offset as u64;
            *byte = self.word(at & !7).to_le_bytes()[(at % 8) as usize];
        }
        Ok(())
    }
}

#[test]
fn noise_is_no_census_and_no_end() {
    let limits = Limits {
        time: Duration::from_millis(20),
        memory_bytes: 1 << 20,
        pools: true,
        ..Limits::default()
    };
    for seed in 0..60 {
        let memory = Noise {
            seed,
            span_bytes: [256, 4096, 1 << 20][seed as usize % 3],
        };
        for minor in 8..=14 {
            let anonymous = [0x10_0000..0x40_0000, 0xffff_ffff_f000..u64::MAX];
            let taken = Census::default().take(&memory, &offsets(minor), RUNTIME, &anonymous, &limits);
            if let Ok(counts) = taken {
                assert!(counts.tracked < 1 << 32);
            }
        }
    }
}
