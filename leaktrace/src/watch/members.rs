//! Which processes are watched: those that a selection means, and those named by number.
//!
//! Must not know how processes are listed.

use super::processes::Members;
use crate::select::Selected;

impl Members for Selected {
    fn names(&mut self, pid: u32, comm: &str, user: u32) -> bool {
        self.selection.pids.contains(&pid) || Self::names(self, pid, comm, user)
    }
}
