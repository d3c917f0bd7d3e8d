//! Collects the output of a process line by line in the background, so that no pipe ever fills and a
//! test can wait for a line.

use std::{
    io::{BufRead as _, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::wait::PATIENCE;

#[derive(Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lines that a stream has given so far.
pub struct Lines {
    shared: Arc<Shared>,
    /// Lines before this one have been waited for.
    next: usize,
}

impl Lines {
    /// Starts to read `stream`.
    pub fn of(stream: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut bytes = Vec::new();
            while matches!(stream.read_until(b'\n', &mut bytes), Ok(1..)) {
                let line = String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
                theirs.lock().lines.push(line);
                theirs.changed.notify_all();
                bytes.clear();
            }
            theirs.lock().ended = true;
            theirs.changed.notify_all();
        });
        Self { shared, next: 0 }
    }

    /// Waits for the next line that `wanted` accepts, after those already waited for. `None` when the
    /// stream ends first.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn wait_for(&mut self, wanted: impl Fn(&str) -> bool) -> Result<Option<String>, String> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.shared.lock();
        loop {
            while let Some(line) = state.lines.get(self.next) {
                self.next += 1;
                if wanted(line) {
                    return Ok(Some(line.clone()));
                }
            }
            if state.ended {
                return Ok(None);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("no such line within {PATIENCE:?}"));
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        let state = self.shared.lock();
        let mut text = state.lines.join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }

    /// Everything, after the end of the stream. To be called when its writer has ended; a stray child
    /// that keeps the stream open is waited for no longer than anything else.
    pub fn text_to_end(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.shared.lock();
        while !state.ended && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        drop(state);
        self.text()
    }
}
