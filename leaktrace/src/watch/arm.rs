//! Which of the growing processes are to be traced: by a condition, by growth, and within a budget.
//!
//! A process is armed when its floor has grown by more than the condition's size over the whole of its time and keeps
//! growing; it is disarmed when that growth has fallen below half the size. Between the two nothing changes. Must not
//! know a clock, `/proc` or how anything is traced.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use super::growth::{Course, Growth};
use crate::{
    cli::parse::{Size, Time},
    config::Share,
};

/// A process that is disarmed stays so for this part of the condition's time.
const REST_SHARE: u32 = 2;

/// One that is armed has been seen for this part of it before it gives its place to another.
const TURN_SHARE: u32 = 2;

/// How many times as fast another must grow to take that place.
const FASTER_BY: i64 = 2;

/// `rss>10MiB/10min`: grown by more than a size over a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// By how much, in bytes.
    pub bytes: u64,
    /// Over which time.
    pub window: Duration,
}

impl Default for Condition {
    fn default() -> Self {
        Self {
            bytes: 10 << 20,
            window: Duration::from_mins(10),
        }
    }
}

/// A condition that cannot be read; the message ends with what to type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// Not of the form.
    #[error("not a condition: write rss>SIZE/TIME, such as rss>10MiB/10min")]
    Form,
    /// Its size or its time cannot be read.
    #[error("not a condition: its {part} is {why}")]
    Part {
        /// `size` or `time`.
        part: &'static str,
        /// What was expected.
        why: String,
    },
    /// A time in which nothing can be told.
    #[error("too short a time to tell growth from noise: write at least 1s, such as rss>10MiB/10min")]
    TooShort,
}

/// Below it there are fewer readings than stretches to compare.
const WINDOW_MIN: Duration = Duration::from_secs(1);

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        let (what, rest) = text.split_once('>').ok_or(ConditionError::Form)?;
        let (size, time) = rest.split_once('/').ok_or(ConditionError::Form)?;
        // Both are the same here: what grows in a heap is anonymous memory, in RAM or in swap.
        if !["rss", "anon"].contains(&what.trim()) {
            return Err(ConditionError::Form);
        }
        let part = |part, why: &dyn fmt::Display| ConditionError::Part {
            part,
            why: why.to_string(),
        };
        let Size(bytes) = size.parse().map_err(|why| part("size", &why))?;
        let Time(window) = time.parse().map_err(|why| part("time", &why))?;
        if window < WINDOW_MIN {
            return Err(ConditionError::TooShort);
        }
        Ok(Self { bytes, window })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rss>{}/{}", Size(self.bytes), Time(self.window))
    }
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order<Id> {
    /// To trace it no more, and why.
    Disarm(Id, Why),
    /// To trace it.
    Arm(Id),
}

/// Why a process is not traced any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has stopped growing.
    Stopped,
    /// Another grows much faster, and there was no other place.
    Displaced,
}

impl Why {
    /// As reported.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Stopped => "stopped growing",
            Self::Displaced => "another grows faster",
        }
    }
}

/// Which processes are armed. `Id` is a process, not its pid, which may come to mean another.
#[derive(Clone, Debug)]
pub struct Armory<Id> {
    condition: Condition,
    places: usize,
    armed: BTreeMap<Id, u64>,
    resting: BTreeMap<Id, u64>,
}

impl<Id: Copy + Ord> Armory<Id> {
    /// Nothing armed, at most `places` at a time.
    pub const fn new(condition: Condition, places: usize) -> Self {
        Self {
            condition,
            places,
            armed: BTreeMap::new(),
            resting: BTreeMap::new(),
        }
    }

    /// Whether a process is armed.
    pub fn is_armed(&self, id: Id) -> bool {
        self.armed.contains_key(&id)
    }

    /// The armed, and since when, nanoseconds.
    pub fn armed(&self) -> impl Iterator<Item = (Id, u64)> {
        self.armed.iter().map(|(id, since_ns)| (*id, *since_ns))
    }

    /// A process is gone, or it could not be armed.
    pub fn forget(&mut self, id: Id) {
        self.armed.remove(&id);
        self.resting.remove(&id);
    }

    /// It could not be armed, and is not tried again for a while.
    pub fn rest(&mut self, id: Id, now_ns: u64) {
        self.armed.remove(&id);
        self.resting.insert(id, now_ns);
    }

    /// What follows from how all processes go.
    pub fn decide(&mut self, now_ns: u64, all: &[(Id, Growth)]) -> Vec<Order<Id>> {
        let window_ns = self.condition.window.as_nanos() as u64;
        self.resting
            .retain(|_, since_ns| now_ns < *since_ns + window_ns / u64::from(REST_SHARE));
        let mut orders = Vec::new();
        for (id, growth) in all {
            if self.is_armed(*id) && self.has_stopped(growth) {
                self.disarm(*id, Why::Stopped, now_ns, &mut orders);
            }
        }
        let mut due: Vec<(Id, Growth)> = all
            .iter()
            .filter(|(id, growth)| {
                !self.is_armed(*id) && !self.resting.contains_key(id) && self.is_due(growth)
            })
            .copied()
            .collect();
        due.sort_by_key(|(id, growth)| (-growth.bytes, *id));
        for (id, growth) in due {
            if self.armed.len() >= self.places && !self.make_place(now_ns, growth.bytes, all, &mut orders) {
                break;
            }
            self.armed.insert(id, now_ns);
            orders.push(Order::Arm(id));
        }
        orders
    }

    fn is_due(&self, growth: &Growth) -> bool {
        let seen_long_enough = growth.covered >= self.condition.window;
        seen_long_enough && growth.course == Course::Growing && growth.bytes > self.condition.bytes as i64
    }

    const fn has_stopped(&self, growth: &Growth) -> bool {
        growth.bytes < (self.condition.bytes / 2) as i64
    }

    /// Disarms the slowest, if the other grows much faster and it has had its turn.
    fn make_place(
        &mut self,
        now_ns: u64,
        bytes: i64,
        all: &[(Id, Growth)],
        orders: &mut Vec<Order<Id>>,
    ) -> bool {
        let turn_ns = self.condition.window.as_nanos() as u64 / u64::from(TURN_SHARE);
        let slowest = all
            .iter()
            .filter(|(id, _)| {
                self.armed
                    .get(id)
                    .is_some_and(|since_ns| since_ns + turn_ns <= now_ns)
            })
            .min_by_key(|(id, growth)| (growth.bytes, *id));
        match slowest {
            Some((id, growth)) if bytes >= FASTER_BY * growth.bytes.max(1) => {
                self.disarm(*id, Why::Displaced, now_ns, orders);
                true
            }
            _ => false,
        }
    }

    fn disarm(&mut self, id: Id, why: Why, now_ns: u64, orders: &mut Vec<Order<Id>>) {
        self.rest(id, now_ns);
        orders.push(Order::Disarm(id, why));
    }
}

/// The parts of one budget, by growth: none is less than can be held, and together they are the budget, unless that
/// alone makes them more.
pub fn shares(budget: Share, growths: &[i64]) -> Vec<Share> {
    let weights: Vec<f64> = growths.iter().map(|bytes| (*bytes).max(1) as f64).collect();
    let sum: f64 = weights.iter().sum();
    let part =
        |weight: f64| Share::of_percent(budget.to_f64() * 100.0 * weight / sum).max(Share::LEAST_OVERHEAD);
    weights.into_iter().map(part).collect()
}

#[cfg(test)]
#[path = "arm_tests.rs"]
mod tests;
