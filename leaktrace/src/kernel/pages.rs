//! Which memory holds the pages of files.
//!
//! On overlayfs every mount has inodes of its own for the files of a layer that they share. Their pages are those of the
//! file beneath, and that is where the kernel sets uprobes (`d_real_inode` in `bpf_uprobe_multi_link_attach`,
//! `kernel/trace/bpf_trace.c`, 6.12). Must not know what the files are.

use std::{
    fs::File,
    os::{fd::AsFd as _, unix::fs::FileExt as _},
};

use super::sys::MappedPage;

/// The page is in memory; Documentation/admin-guide/mm/pagemap.rst, 6.12.
const PRESENT: u64 = 1 << 63;

/// The number of its frame; same place.
const FRAME: u64 = (1 << 55) - 1;

/// Pages move now and then, and both are then seen to have moved.
const ATTEMPTS: usize = 4;

/// Whether two files have their first page in common, and with that all of them.
///
/// None where that cannot be told: an empty file, one that cannot be mapped, or without `CAP_SYS_ADMIN`, from which the
/// kernel hides the numbers of frames (4.2).
pub fn are_shared(a: &File, b: &File) -> Option<bool> {
    let pagemap = File::open("/proc/self/pagemap").ok()?;
    let pages = [
        MappedPage::first_of(a.as_fd()).ok()?,
        MappedPage::first_of(b.as_fd()).ok()?,
    ];
    let [a, b] = &pages;
    for _ in 0..ATTEMPTS {
        let before = frame(&pagemap, a)?;
        let between = frame(&pagemap, b)?;
        if frame(&pagemap, a)? == before {
            return Some(before == between);
        }
    }
    None
}

/// The frame of a mapped page; none while it is not in memory or where that is not told.
fn frame(pagemap: &File, page: &MappedPage) -> Option<u64> {
    let mut entry = [0; 8];
    let number = page.address() / rustix::param::page_size() as u64;
    pagemap.read_exact_at(&mut entry, number * 8).ok()?;
    let entry = u64::from_ne_bytes(entry);
    let frame = entry & FRAME;
    (entry & PRESENT != 0 && frame != 0).then_some(frame)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn one_file_shares_its_pages_with_itself_alone() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            File::open(path).unwrap()
        };
        let (one, equal, empty) = (make("a", "same"), make("b", "same"), make("c", ""));
        let again = File::open(folder.path().join("a")).unwrap();
        // Who may not see frames is told nothing, and never something wrong.
        let may_see = are_shared(&one, &again).is_some();
        assert_eq!(are_shared(&one, &again), may_see.then_some(true));
        assert_eq!(are_shared(&one, &equal), may_see.then_some(false));
        assert_eq!(are_shared(&one, &empty), None);
        assert_eq!(are_shared(&one, &File::open(folder.path()).unwrap()), None);
    }
}
