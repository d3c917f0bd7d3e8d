//! What a gate found in the report, and what suppressions left out of it: plain data.
//!
//! Must not know how either is decided: that is `gate`.

use serde::Serialize;

use super::model::Omitted;

/// The conditions of `--fail-on`, and which of them hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Gate {
    /// The conditions, as they can be typed.
    pub conditions: Vec<String>,
    /// Those that hold, each with the kind of memory that it holds for.
    pub failed: Vec<Failed>,
    /// Of what it cannot be said yet whether it grows; none where that was not asked.
    pub undecided: Option<Undecided>,
    /// Sites that count although their names were not looked up, because there are too many or too little is kept of them:
    /// no suppression can leave them out, and it is not known whether they grow.
    pub unnamed_sites: u64,
}

/// A condition that holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failed {
    /// The condition, as it can be typed.
    pub condition: String,
    /// Of which memory: `host` or a kind of GPU memory; none for `growing`, which is of all.
    pub memory: Option<&'static str>,
    /// What was compared: blocks, bytes, or how many sites and types grow. Where allocations were sampled it is the lower
    /// bound at 95 %.
    pub value: u64,
    /// The estimate that the lower bound is of; none where all was recorded.
    pub estimate: Option<u64>,
    /// What it was compared with.
    pub limit: u64,
    /// The sites that made it hold, the largest first, as indices into the survivors: those that grow, or as few as leave
    /// within the limit what is left without them.
    pub sites: Vec<usize>,
    /// Such sites that are not named here.
    pub more_sites: u64,
    /// The Python types that grow, as indices into the list of types.
    pub types: Vec<usize>,
}

/// What nothing can be said of yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Undecided {
    /// Sites.
    pub sites: u64,
    /// Python types.
    pub types: u64,
    /// Seconds until all are decided of which that is known, if nothing changes; none where it is known of none.
    pub needs_s: Option<f64>,
}

/// A suppression, and what it has left out of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Suppressed {
    /// Its pattern.
    pub pattern: String,
    /// The file that it stands in.
    pub file: String,
    /// The line there, from 1.
    pub line: usize,
    /// Sites, their outstanding blocks and bytes; of GPU memory by kind.
    #[serde(flatten)]
    pub held: Omitted,
    /// Python types that it keeps from failing the gate; they stay in the list.
    pub types: u64,
}

impl Suppressed {
    /// Whether it has left out nothing.
    pub fn is_unused(&self) -> bool {
        self.held == Omitted::default() && self.types == 0
    }
}
