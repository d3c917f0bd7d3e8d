use std::collections::{BTreeMap, BTreeSet};

use leaktrace_common::{
    config::Config,
    mapping::{flag, kind},
};

use super::*;
use crate::kernel::{
    caps::Caps,
    clock::now_ns,
    maps::Tables,
    object::{self, KernelSide},
    tables::Room,
};

/// The kernel side with this process as its target; none where BPF is not to be had.
fn follow_this_process() -> Option<(KernelSide, Ring, Attached)> {
    let kind = Caps::probe().best()?;
    let room = Room {
        row_chunks: 1,
        mappings: 1,
    };
    let config = Config {
        unwind: 1,
        ..Config::ALL
    };
    let (mut kernel, _template) = object::load(config, kind, room).ok()?;
    let attached = Attached::new(&mut kernel).unwrap();
    let ring = Ring::new(&mut kernel).unwrap();
    let tables = Tables::new(&kernel).unwrap();
    tables.add_process(std::process::id(), 0).unwrap();
    Some((kernel, ring, attached))
}

/// An address within the block, the first page apart: the allocator's header is there.
fn inside(block: &[u8]) -> u64 {
    block.as_ptr() as u64 + 4096
}

fn is_in(event: &MapEvent, address: u64) -> bool {
    (event.start..event.start + event.length_bytes).contains(&address)
}

#[test]
fn what_this_process_maps_moves_and_unmaps_is_told_with_its_times() {
    const SIZE_BYTES: usize = 64 << 20;
    let Some((_kernel, mut ring, attached)) = follow_this_process() else {
        return;
    };
    // The C library maps blocks of this size, and moves them where they grow.
    let mut block = vec![1_u8; SIZE_BYTES];
    let first = inside(&block);
    block.reserve_exact(2 * SIZE_BYTES);
    let second = inside(&block);
    drop(block);
    std::thread::spawn(|| ()).join().unwrap();
    let mut events = Vec::new();
    ring.drain(|event| events.push(*event));
    let own = |event: &&MapEvent| event.process.tgid == std::process::id();
    let find = |of: u32, address| {
        let found = events
            .iter()
            .filter(own)
            .find(|event| event.kind == of && is_in(event, address));
        *found.unwrap_or_else(|| panic!("no event of kind {of} among {events:#x?}"))
    };

    let mapped = find(kind::MAP, first);
    assert!(mapped.length_bytes >= SIZE_BYTES as u64 && mapped.length_bytes < SIZE_BYTES as u64 + 8192);
    assert_eq!(mapped.flags, flag::ANONYMOUS);
    assert_eq!(mapped.began_ns, mapped.time_ns);
    let moved = find(kind::REMAP, second);
    assert_eq!(
        (moved.old_start, moved.old_length_bytes),
        (mapped.start, mapped.length_bytes)
    );
    assert!(moved.length_bytes >= 3 * SIZE_BYTES as u64);
    let unmapped = find(kind::UNMAP, second);
    assert_eq!(
        (unmapped.start, unmapped.length_bytes),
        (moved.start, moved.length_bytes)
    );
    // The kernel side has no layout of this process, and hands the stack over; or says that it could not.
    assert!(mapped.stack_id != 0 && moved.stack_id != 0 && unmapped.stack_id == 0);
    assert!(mapped.time_ns < moved.began_ns && moved.began_ns < moved.time_ns);
    assert!(moved.time_ns < unmapped.began_ns && unmapped.began_ns < unmapped.time_ns);
    let of_thread = |event: &&MapEvent| event.flags == flag::ANONYMOUS | flag::STACK;
    assert!(events.iter().filter(own).any(|event| of_thread(&event)));

    drop(attached);
    let detached_ns = now_ns();
    let untold = vec![1_u8; SIZE_BYTES];
    ring.drain(|event| {
        let is_of_untold = is_in(event, inside(&untold)) && event.time_ns > detached_ns;
        assert!(!is_of_untold, "{event:#x?}");
    });
}

#[test]
fn blocks_that_threads_take_out_of_each_others_hands_are_all_told_as_they_are() {
    const SIZE_BYTES: usize = 40 << 20;
    const THREADS: usize = 4;
    const BLOCKS: usize = 2000;
    let Some((_kernel, mut ring, _attached)) = follow_this_process() else {
        return;
    };
    // What one gives back the next one is given: the kernel maps at the highest address that is free.
    let take = || {
        for _ in 0..BLOCKS {
            drop(Vec::<u8>::with_capacity(SIZE_BYTES));
        }
        Vec::<u8>::with_capacity(SIZE_BYTES)
    };
    let threads: Vec<_> = (0..THREADS).map(|_| std::thread::spawn(take)).collect();
    let kept: Vec<Vec<u8>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let mut mapped: BTreeMap<u64, u64> = BTreeMap::new();
    ring.drain(|event| {
        let is_block = (SIZE_BYTES..SIZE_BYTES + 8192).contains(&(event.length_bytes as usize));
        if event.process.tgid != std::process::id() || !is_block {
            return;
        }
        if event.kind == kind::MAP {
            mapped.insert(event.start, event.time_ns);
        } else if event.kind == kind::UNMAP && mapped.get(&event.start) < Some(&event.began_ns) {
            mapped.remove(&event.start);
        }
    });
    let kept: BTreeSet<u64> = kept.iter().map(|block| block.as_ptr() as u64 & !4095).collect();
    assert_eq!(mapped.into_keys().collect::<BTreeSet<_>>(), kept);
}
