//! Maps: reading, writing and walking them by system calls.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya_obj::generated::bpf_cmd;

use super::{Plain, address_of, attr, bpf};

/// Looks an element up.
pub fn map_lookup<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::uninit();
    let mut attr = attr();
    // SAFETY: the union's member for this command.
    let u = unsafe { &mut attr.__bindgen_anon_2 };
    u.map_fd = map.as_raw_fd() as u32;
    u.key = std::ptr::from_ref(key) as u64;
    u.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) {
        // SAFETY: the kernel has written the whole value.
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes an element.
pub fn map_update<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let mut attr = attr();
    // SAFETY: the union's member for this command.
    let u = unsafe { &mut attr.__bindgen_anon_2 };
    u.map_fd = map.as_raw_fd() as u32;
    u.key = std::ptr::from_ref(key) as u64;
    u.__bindgen_anon_1.value = std::ptr::from_ref(value) as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// How many elements a map has, by its keys alone.
///
/// # Errors
/// The errno of bpf(2) `BPF_MAP_GET_NEXT_KEY`.
pub fn map_count<K: Plain>(map: BorrowedFd<'_>) -> io::Result<u64> {
    let mut count = 0;
    let mut key: Option<K> = None;
    loop {
        let mut next = MaybeUninit::<K>::uninit();
        let mut attr = attr();
        // SAFETY: the union's member for this command.
        let u = unsafe { &mut attr.__bindgen_anon_2 };
        u.map_fd = map.as_raw_fd() as u32;
        u.key = key.as_ref().map_or(0, |key| std::ptr::from_ref(key) as u64);
        u.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
        match bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr) {
            Ok(_) => count += 1,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(count),
            Err(error) => return Err(error),
        }
        // SAFETY: written by the kernel.
        key = Some(unsafe { next.assume_init() });
    }
}

/// Removes an element; an absent one is no error.
pub fn map_delete<K: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let mut attr = attr();
    // SAFETY: the union's member for this command.
    let u = unsafe { &mut attr.__bindgen_anon_2 };
    u.map_fd = map.as_raw_fd() as u32;
    u.key = std::ptr::from_ref(key) as u64;
    match bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// Removes elements in one call (kernel 5.6); absent ones are no error.
pub fn map_delete_all<K: Plain>(map: BorrowedFd<'_>, mut keys: &[K]) -> io::Result<()> {
    while let Some(first) = keys.first() {
        let mut attr = attr();
        // SAFETY: the union's member for this command.
        let u = unsafe { &mut attr.batch };
        u.map_fd = map.as_raw_fd() as u32;
        u.keys = address_of(keys);
        u.count = keys.len() as u32;
        if bpf(bpf_cmd::BPF_MAP_DELETE_BATCH, &mut attr).is_ok() {
            return Ok(());
        }
        // It stops at a key that it cannot remove and says how many it has: that one by itself.
        // SAFETY: the kernel reports how far it came.
        let removed = unsafe { attr.batch.count } as usize;
        keys = keys.get(removed.min(keys.len())..).unwrap_or_default();
        map_delete(map, keys.first().unwrap_or(first))?;
        keys = keys.get(1..).unwrap_or_default();
    }
    Ok(())
}

/// Reads a whole hash map in batches (kernel 5.6). Elements that stay while it runs are seen exactly once.
///
/// # Errors
/// The errno of bpf(2) `BPF_MAP_LOOKUP_BATCH`.
pub fn map_for_each<K: Plain, V: Plain>(map: BorrowedFd<'_>, mut each: impl FnMut(&K, &V)) -> io::Result<()> {
    let mut capacity = 4096;
    let mut keys: Vec<MaybeUninit<K>> = Vec::new();
    let mut values: Vec<MaybeUninit<V>> = Vec::new();
    // The kernel's position: opaque, 4 bytes for a hash map.
    let mut position: Option<u64> = None;
    loop {
        keys.resize_with(capacity, MaybeUninit::uninit);
        values.resize_with(capacity, MaybeUninit::uninit);
        let mut next = 0_u64;
        let mut attr = attr();
        // SAFETY: the union's member for this command.
        let u = unsafe { &mut attr.batch };
        u.in_batch = position
            .as_ref()
            .map_or(0, |position| std::ptr::from_ref(position) as u64);
        u.out_batch = std::ptr::from_mut(&mut next) as u64;
        u.keys = keys.as_mut_ptr() as u64;
        u.values = values.as_mut_ptr() as u64;
        u.count = capacity as u32;
        u.map_fd = map.as_raw_fd() as u32;
        let end = match bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) {
            Ok(_) => false,
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => true,
                // A bucket with more elements than the buffer takes: nothing was read.
                Some(libc::ENOSPC) => {
                    capacity *= 2;
                    continue;
                }
                Some(libc::EINTR | libc::EAGAIN) => continue,
                _ => return Err(error),
            },
        };
        // SAFETY: the kernel reports how many it has written.
        let count = unsafe { attr.batch.count } as usize;
        for (key, value) in keys.iter().zip(&values).take(count) {
            // SAFETY: written by the kernel.
            each(unsafe { key.assume_init_ref() }, unsafe {
                value.assume_init_ref()
            });
        }
        if end {
            return Ok(());
        }
        position = Some(next);
    }
}
