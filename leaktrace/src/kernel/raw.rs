//! The ring of stacks that the kernel side could not walk to their end, emptied by a thread of its own into a bounded
//! queue. Must not know how a stack is walked.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use aya::maps::{MapData, RingBuf};
use leaktrace_common::unwind::{RawHeader, raw_base};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::sys;

/// How soon the thread sees that it is to stop.
const WAKE_MS: u16 = 100;

/// Most bytes of stack that wait in the queue: some 8000 stacks.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// A stack to be walked, with no more bytes than it has.
#[derive(Clone, Debug)]
pub struct Raw {
    /// See [`RawHeader::stack_id`].
    pub stack_id: u64,
    /// The process.
    pub tgid: u32,
    /// Its image.
    pub image: u16,
    /// One of [`leaktrace_common::unwind::raw`].
    pub kind: u16,
    /// Address in the frame to go on from.
    pub address: u64,
    /// Stack pointer there.
    pub sp: u64,
    /// rbp there.
    pub bp: u64,
    /// When, nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// The stack from [`raw_base`] of `sp` upwards; zeros where it could not be read.
    pub bytes: Box<[u8]>,
}

impl Raw {
    /// The word at an address of the stack; `None` where it was not sent.
    pub fn word(&self, address: u64) -> Option<u64> {
        let from = usize::try_from(address.checked_sub(raw_base(self.sp))?).ok()?;
        let word = self.bytes.get(from..)?.first_chunk()?;
        Some(u64::from_ne_bytes(*word))
    }

    /// From an item of the ring: a header and bytes, of which it says how many have meaning.
    fn read(item: &[u8]) -> Option<Self> {
        let header = sys::from_bytes::<RawHeader>(item)?;
        let bytes = item.get(size_of::<RawHeader>()..)?;
        let len = usize::try_from(header.len).map_or(bytes.len(), |len| len.min(bytes.len()));
        Some(Self {
            stack_id: header.stack_id,
            tgid: header.tgid,
            image: header.image,
            kind: header.kind,
            address: header.address,
            sp: header.sp,
            bp: header.bp,
            time_ns: header.time_ns,
            bytes: bytes[..len].into(),
        })
    }
}

/// The ring and what has been taken from it.
struct Queue {
    ring: RingBuf<MapData>,
    waiting: Vec<Raw>,
    waiting_bytes: usize,
    dropped: u64,
}

impl Queue {
    /// Empties the ring.
    fn fill(&mut self) {
        while let Some(item) = self.ring.next() {
            let Some(raw) = Raw::read(&item) else { continue };
            if self.waiting_bytes >= WAITING_BYTES_MAX {
                self.dropped += 1;
                continue;
            }
            self.waiting_bytes += raw.bytes.len() + size_of::<Raw>();
            self.waiting.push(raw);
        }
    }
}

/// The thread and its queue. It ends with this value.
pub struct RawStacks {
    queue: Arc<Mutex<Queue>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for RawStacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawStacks").finish_non_exhaustive()
    }
}

impl RawStacks {
    /// Starts reading.
    ///
    /// # Errors
    /// aya's words when the object has no such map.
    pub fn start(ebpf: &mut aya::Ebpf) -> Result<Self, String> {
        let map = ebpf.take_map("RAW_STACKS").ok_or("no map RAW_STACKS")?;
        let ring = RingBuf::try_from(map).map_err(|error| error.to_string())?;
        let wake = ring
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| error.to_string())?;
        let queue = Arc::new(Mutex::new(Queue {
            ring,
            waiting: Vec::new(),
            waiting_bytes: 0,
            dropped: 0,
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new()
            .name("raw stacks".to_owned())
            .spawn({
                let (stop, queue) = (Arc::clone(&stop), Arc::clone(&queue));
                move || read(&queue, wake.as_fd(), &stop)
            })
            .map_err(|error| error.to_string())?;
        Ok(Self {
            queue,
            stop,
            thread: Some(thread),
        })
    }

    /// All that has been sent up to now.
    pub fn take(&self) -> Vec<Raw> {
        let mut queue = lock(&self.queue);
        queue.fill();
        queue.waiting_bytes = 0;
        std::mem::take(&mut queue.waiting)
    }

    /// Stacks for which the queue had no room.
    pub fn dropped(&self) -> u64 {
        lock(&self.queue).dropped
    }
}

impl Drop for RawStacks {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reads raw stacks has failed");
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    // A reader that panicked has lost a stack at most.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(queue: &Mutex<Queue>, wake: BorrowedFd<'_>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let mut wait = [PollFd::new(wake, PollFlags::POLLIN)];
        match poll(&mut wait, PollTimeout::from(WAKE_MS)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => lock(queue).fill(),
            Err(error) => {
                tracing::error!("cannot wait for raw stacks: {error}");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An item of the ring as the kernel side writes it: `len` bytes are said to have meaning.
    fn item(len: u64, bytes: &[u8]) -> Vec<u8> {
        let words: [u64; 7] = [9, 1, 0x40_1000, 0x7fff_0000, 0, len, 0];
        let mut item: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        item.extend(bytes);
        item
    }

    #[test]
    fn words_are_read_where_the_stack_was_sent() {
        let mut bytes = [0; 64];
        bytes[8..16].copy_from_slice(&0x1122_3344_5566_7788_u64.to_ne_bytes());
        let raw = Raw::read(&item(16, &bytes)).unwrap();
        assert_eq!((raw.stack_id, raw.tgid, raw.address), (9, 1, 0x40_1000));
        assert_eq!(raw.bytes.len(), 16);
        assert_eq!(raw.word(0x7fff_0008), Some(0x1122_3344_5566_7788));
        assert_eq!(raw.word(0x7fff_0000), Some(0));
        for outside in [0, 0x7ffe_fff8, 0x7fff_0009, 0x7fff_0010, u64::MAX] {
            assert_eq!(raw.word(outside), None, "{outside:#x}");
        }
    }

    #[test]
    fn no_more_bytes_than_there_are_are_taken() {
        assert_eq!(Raw::read(&item(u64::MAX, &[1; 64])).unwrap().bytes.len(), 64);
        assert!(Raw::read(&[0; 55]).is_none());
    }
}
