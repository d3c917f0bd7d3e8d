//! Survivors by Python type, as part of the report: what a census of the interpreters' objects has counted. Plain data.
//!
//! Must not know how a census is taken, nor the blocks and sites: these are objects, most of which share blocks.

use std::borrow::Cow;

use serde::Serialize;

use super::{model::State, verdict::Verdict};

/// Living Python objects by type, over all traced processes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Types {
    /// Seconds that the rates refer to, between censuses: since the last before the report before, or since the first.
    pub interval_s: f64,
    /// Censuses finished since the attach.
    pub censuses: u64,
    /// Objects that the last one of each process has counted, those of types not listed included.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects and lists that were not the same when read twice, since the attach: they are not counted.
    pub torn_reads: u64,
    /// Seconds that all censuses took.
    pub spent_s: f64,
    /// Processes whose last census was not finished: their numbers are those of the one before, or none.
    pub partial: u64,
    /// Which of them, and why; none if there are none.
    pub why: Option<String>,
    /// Whether objects that the collector does not know count too, and all types are listed (`--census`).
    pub whole: bool,
    /// The types, those that matter most first.
    pub list: Vec<TypeSurvivors>,
    /// Types that are not listed.
    pub omitted: u64,
}

/// Living objects of a type in a process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TypeSurvivors {
    /// Process id.
    pub pid: u32,
    /// Whether it still runs; one that has exited keeps what its last census has counted.
    pub state: State,
    /// Name of the type.
    pub name: String,
    /// Its module; none where it is not known or is that of the builtins.
    pub module: Option<String>,
    /// Seconds since the census that has counted them.
    pub age_s: f64,
    /// Objects.
    pub objects: u64,
    /// Their bytes, without what they point to.
    pub bytes: u64,
    /// Objects more than in the first census; fewer where negative.
    pub grown_objects: i64,
    /// Bytes more than in the first census.
    pub grown_bytes: i64,
    /// Objects more per second, over the interval.
    pub objects_per_s: f64,
    /// Bytes more per second, over the interval.
    pub bytes_per_s: f64,
    /// What the type is taken for; none before there were several censuses.
    pub verdict: Option<Verdict>,
    /// Whether a suppression keeps it from failing the gate; absent if not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub suppressed: bool,
}

impl TypeSurvivors {
    /// The name with the module before it.
    pub fn full_name(&self) -> Cow<'_, str> {
        match &self.module {
            Some(module) => Cow::Owned(format!("{module}.{}", self.name)),
            None => Cow::Borrowed(&self.name),
        }
    }
}
