//! How soon changes of the processes are looked at.
//!
//! The side-band tells of every process of the machine, so what it tells is gathered for a while. But a program that
//! has just been executed maps its libraries and calls malloc within a millisecond, and its stacks can be walked once
//! those are known: then each change is looked at when it comes.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::Notify;

use crate::kernel::clock::now_ns;

/// How long changes are gathered between two looks.
const GATHER: Duration = Duration::from_millis(1);

/// How long nothing is gathered after a change of a traced process, nanoseconds.
const HURRY_NS: u64 = 20_000_000;

/// From one such time to the next, nanoseconds: a program may map code all the time. An exec has its own.
const CALM_NS: u64 = 80_000_000;

/// The pace.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Until when nothing is gathered.
    hurry_until_ns: AtomicU64,
    hurried: Notify,
}

impl Pace {
    /// A traced process has changed; `exec` if by that.
    pub(super) fn hurry(&self, exec: bool) {
        let now_ns = now_ns();
        let until_ns = self.hurry_until_ns.load(Ordering::Relaxed);
        if exec || now_ns >= until_ns + CALM_NS {
            self.hurry_until_ns.store(now_ns + HURRY_NS, Ordering::Relaxed);
            self.hurried.notify_waiters();
        }
    }

    /// Returns when it is time for another look after one that has just been asked for.
    pub(super) async fn wait(&self) {
        if now_ns() < self.hurry_until_ns.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(GATHER) => {}
            () = self.hurried.notified() => {}
        }
    }
}
