//! Waiting with a deadline. Nothing in the suites sleeps to synchronise: they wait for conditions, and
//! fail when the deadline passes.

use std::time::{Duration, Instant};

/// How long anything may take. Generous: machines that run tests are busy.
pub const PATIENCE: Duration = Duration::from_mins(5);

/// Calls `look` until it returns something, and returns that.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
