//! What leaktrace takes a site for, and how sure it is: plain data.
//!
//! Must not know how it was found: that is `verdict`.

use serde::{Serialize, Serializer};

/// What memory does that stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// It rises, and nothing bounds it.
    Growing,
    /// It rose, and has been bounded since: a cache, a pool.
    Plateau,
    /// It was allocated at one time, and nothing has been since: a table of the start.
    OneOff,
    /// It comes and goes.
    Churn,
    /// Not enough is known.
    Undecided,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Growing,
        Self::Plateau,
        Self::OneOff,
        Self::Churn,
        Self::Undecided,
    ];

    /// The name, as reported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Growing => "growing",
            Self::Plateau => "plateau",
            Self::OneOff => "one-off",
            Self::Churn => "churn",
            Self::Undecided => "undecided",
        }
    }
}

/// A verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// What it is taken for.
    pub class: Class,
    /// Probability that this is right, from 0 to 1; of what is undecided that of the most probable class.
    #[serde(serialize_with = "rounded")]
    pub confidence: f64,
    /// Growth of the outstanding bytes per second.
    #[serde(serialize_with = "rounded")]
    pub slope_bytes_per_s: f64,
    /// Its lower and upper bound at 95 %.
    #[serde(serialize_with = "rounded_both")]
    pub slope_interval: [f64; 2],
    /// The most that it is expected to hold; none of what is growing or undecided.
    pub bound_bytes: Option<u64>,
    /// Bytes that are expected to be lost in the next hour; 0 of what is bounded. It is what sites are sorted by.
    pub loss_bytes_per_h: u64,
    /// Of what was allocated so long ago, how much lives: none where it is not known.
    pub survival: Vec<Survival>,
    /// Why, in one sentence.
    pub reason: String,
    /// Of what is undecided: how many seconds more it takes, if nothing changes; none if that cannot be said.
    pub needs_s: Option<f64>,
}

/// How much of a cohort lives: of what was allocated in a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Survival {
    /// Seconds since then, at the middle of the stretch.
    #[serde(serialize_with = "rounded")]
    pub age_s: f64,
    /// Length of the stretch in seconds.
    #[serde(serialize_with = "rounded")]
    pub over_s: f64,
    /// Bytes that were allocated in it.
    pub allocated_bytes: u64,
    /// Those of them that live.
    pub live_bytes: u64,
}

impl Survival {
    /// The part that lives, from 0 to 1.
    pub fn share(&self) -> f64 {
        if self.allocated_bytes == 0 {
            return 0.0;
        }
        self.live_bytes as f64 / self.allocated_bytes as f64
    }
}

/// Four digits say all that is known.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls it by")]
fn rounded<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(round(*value))
}

fn rounded_both<S: Serializer>(values: &[f64; 2], serializer: S) -> Result<S::Ok, S::Error> {
    values.map(round).serialize(serializer)
}

fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}
