//! The thread that reads the code objects of new parts of stacks while they live. Must not know names or lines.

use std::{
    collections::HashMap,
    fmt::{self, Debug},
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use leaktrace_common::python::{NewPart, PythonFrame};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::codes::Codes;

/// How soon the thread sees that it is to stop.
const WAKE_MS: u16 = 100;

/// The thread's nice value.
const NICE: i32 = -10;

/// Most parts that are resolved together: the first of many should not wait for the last.
const BATCH: usize = 256;

/// Where new parts come from.
pub trait NewParts: Send {
    /// A descriptor of its own that can be read when there are some.
    ///
    /// # Errors
    /// That of dup(2).
    fn wake(&self) -> io::Result<OwnedFd>;

    /// The next record, without waiting.
    fn next(&mut self) -> Option<NewPart>;

    /// The frames of a part, innermost first; `None` if it is not in the table any more.
    fn frames(&mut self, part: u64) -> Option<Vec<PythonFrame>>;
}

/// The thread. It ends with this value.
pub struct Resolver {
    source: Arc<Mutex<Box<dyn NewParts>>>,
    codes: Codes,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Debug for Resolver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Resolver {
    /// Starts reading.
    ///
    /// # Errors
    /// The kernel's, when there is no thread or descriptor left.
    pub fn start(source: Box<dyn NewParts>, codes: Codes) -> io::Result<Self> {
        let wake = source.wake()?;
        let source = Arc::new(Mutex::new(source));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new()
            .name("python code".to_owned())
            .spawn({
                let (source, codes, stop) = (Arc::clone(&source), codes.clone(), Arc::clone(&stop));
                move || {
                    hurry();
                    run(&source, &codes, &wake, &stop);
                }
            })?;
        Ok(Self {
            source,
            codes,
            stop,
            thread: Some(thread),
        })
    }

    /// Resolves all that has been sent up to now.
    pub fn catch_up(&self) {
        resolve(&self.source, &self.codes);
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reads Python code objects has failed");
        }
    }
}

/// This thread does little, and what it reads may be gone a millisecond later.
fn hurry() {
    // None means the calling thread (setpriority(2): on Linux the value is a thread's).
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!("Python code objects are read at the usual priority: {error}");
    }
}

fn run(source: &Mutex<Box<dyn NewParts>>, codes: &Codes, wake: &OwnedFd, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let mut wait = [PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wait, PollTimeout::from(WAKE_MS)) {
            Ok(_) | Err(Errno::EINTR) => resolve(source, codes),
            Err(error) => {
                tracing::error!("cannot wait for Python frames: {error}");
                return;
            }
        }
    }
}

/// The lock is held until what was taken is resolved: whoever has it next finds nothing under way.
fn resolve(source: &Mutex<Box<dyn NewParts>>, codes: &Codes) {
    let mut source = lock(source);
    loop {
        let records: Vec<NewPart> = std::iter::from_fn(|| source.next()).take(BATCH).collect();
        if records.is_empty() {
            return;
        }
        let mut by_process: HashMap<(u32, u16), (Vec<u64>, Vec<PythonFrame>)> = HashMap::new();
        for record in &records {
            let Some(found) = source.frames(record.part) else {
                codes.lost(1);
                continue;
            };
            let process = (record.tgid, record.image as u16);
            let (parts, frames) = by_process.entry(process).or_default();
            parts.push(record.part);
            frames.extend(found);
        }
        for ((tgid, image), (parts, frames)) in by_process {
            codes.resolve_parts(tgid, image, &parts, &frames);
        }
    }
}

fn lock(source: &Mutex<Box<dyn NewParts>>) -> MutexGuard<'_, Box<dyn NewParts>> {
    // One that panicked has lost a batch at most.
    source.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "resolver_tests.rs"]
mod tests;
