//! The ring of rare events, read by a thread of its own.
//!
//! A live table that fills must get its next tier at once, also while the main thread is busy naming
//! symbols: so this thread does that itself, and passes on what concerns the processes.

use std::{
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use aya::maps::{MapData, RingBuf};
use leaktrace_common::event::{Event, kind};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{maps::LiveTable, sys};

/// How soon the thread sees that it is to stop.
const WAKE_MS: u16 = 100;

/// The live table, tended by the events thread and read by the main one.
pub type SharedLiveTable = Arc<Mutex<LiveTable>>;

/// The thread. It ends with this value.
#[derive(Debug)]
pub struct EventReader {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// `EXEC` events, in order.
    pub events: UnboundedReceiver<Event>,
}

impl EventReader {
    /// Starts reading.
    ///
    /// # Errors
    /// aya's words when the object has no such map.
    pub fn start(ebpf: &mut aya::Ebpf, live: &SharedLiveTable) -> Result<Self, String> {
        let map = ebpf.take_map("EVENTS").ok_or("no map EVENTS")?;
        let ring = RingBuf::try_from(map).map_err(|error| error.to_string())?;
        let (sender, events) = unbounded_channel();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new()
            .name("events".to_owned())
            .spawn({
                let (stop, live) = (Arc::clone(&stop), Arc::clone(live));
                move || read(ring, &stop, &live, &sender)
            })
            .map_err(|error| error.to_string())?;
        Ok(Self {
            stop,
            thread: Some(thread),
            events,
        })
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reads events has failed");
        }
    }
}

fn read(
    mut ring: RingBuf<MapData>,
    stop: &AtomicBool,
    live: &SharedLiveTable,
    sender: &UnboundedSender<Event>,
) {
    while !stop.load(Ordering::Relaxed) {
        let mut wait = [PollFd::new(ring.as_fd(), PollFlags::POLLIN)];
        if let Err(error) = poll(&mut wait, PollTimeout::from(WAKE_MS))
            && error != nix::errno::Errno::EINTR
        {
            tracing::error!("cannot wait for events: {error}");
            return;
        }
        while let Some(item) = ring.next() {
            let Some(event) = sys::from_bytes::<Event>(&item) else {
                continue;
            };
            if event.kind == kind::TIER_FULL {
                // A reader that panicked leaves the table as it was: usable.
                let mut live = live.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(error) = live.advance(event.value as u32) {
                    tracing::warn!("{error}");
                }
            } else if sender.send(event).is_err() {
                return;
            }
        }
    }
}
