//! From the histories of sites to what a verdict is given from.
//!
//! Must not know how it is given.

use std::collections::HashMap;

use super::{
    group::Entry,
    history::Level,
    site::is_mapping,
    sums::space_of,
    timeline::{Reading, Timeline},
};
use crate::{
    report::model::State,
    verdict::evidence::{self, Cohort, Evidence, Run},
};

/// What is known of the past of all sites.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past<'a> {
    pub(super) timeline: &'a Timeline,
    /// The last reading before anything was seen of an image that runs.
    pub(super) since: &'a HashMap<(u32, u16), u64>,
    /// Whether the targets ran before the attach.
    pub(super) ran_before: bool,
    /// Where blocks are samples: the largest mean gap between two, bytes.
    pub(super) sample_bytes: Option<u64>,
}

/// Nanoseconds in a second.
const S: f64 = 1e9;

impl Past<'_> {
    /// How sites that are one have gone: those of images that run, else those of one that has ended. None where no history
    /// was kept, and of several processes that have ended: their memory is gone.
    pub(super) fn evidence(&self, members: &[Entry<'_>]) -> Option<Evidence> {
        if self.timeline.readings().len() < 2 {
            return None;
        }
        let running: Vec<&Entry<'_>> = members
            .iter()
            .filter(|member| member.state == State::Running)
            .collect();
        if running.is_empty() {
            return self.of_ended(members);
        }
        let now_ns = self.timeline.last_ns();
        let since = |member: &Entry<'_>| {
            let image = member.site.image;
            let since = self.since.get(&(image.tgid, image.image));
            since.copied().unwrap_or_else(|| self.timeline.start_ns())
        };
        // Workers that come and go do not make a site grow: it is judged by those that have run at least half as long
        // as the oldest, from when the last of these was there.
        let oldest_ns = running.iter().map(|member| since(member)).min()?;
        let half_ns = oldest_ns + (now_ns - oldest_ns) / 2;
        let (stable, _): (Vec<&Entry<'_>>, Vec<_>) =
            running.iter().partition(|member| since(member) <= half_ns);
        let from_ns = stable.iter().map(|member| since(member)).max()?;
        Some(self.over(from_ns, now_ns, &stable))
    }

    fn of_ended(&self, members: &[Entry<'_>]) -> Option<Evidence> {
        let first = members.first()?;
        let same = |member: &Entry<'_>| member.site.image == first.site.image && member.gathering.is_none();
        members.iter().all(same).then(|| {
            self.over(
                self.timeline.start_ns(),
                first.aged_at_ns,
                &members.iter().collect::<Vec<_>>(),
            )
        })
    }

    fn over(&self, from_ns: u64, to_ns: u64, members: &[&Entry<'_>]) -> Evidence {
        let readings: Vec<&Reading> = self
            .timeline
            .readings()
            .iter()
            .filter(|reading| reading.at_ns >= from_ns && reading.at_ns <= to_ns)
            .collect();
        let mut times_ns: Vec<u64> = readings.iter().map(|reading| reading.at_ns).collect();
        let mut runs: Vec<Run> = readings.iter().map(|reading| run(reading)).collect();
        if times_ns.last().is_some_and(|last_ns| *last_ns < to_ns) {
            times_ns.push(to_ns);
            runs.extend(runs.last().copied());
        }
        let is_gpus = |member: &&Entry<'_>| space_of(member.site.key.process.space).is_gpus();
        let is_of_mappings = members.iter().any(|member| is_mapping(&member.site.key));
        // All calls are recorded of these.
        let is_whole = is_of_mappings || members.iter().any(is_gpus);
        // What is known of the run is of all its processes, and of blocks on the host's heaps.
        if self.since.len() > 1 || is_whole {
            runs.clear();
        }
        let mut levels = vec![Level::default(); times_ns.len()];
        let mut cohorts = vec![Cohort::default(); times_ns.len()];
        for member in members {
            for (sum, level) in levels.iter_mut().zip(member.data.history.at(&times_ns)) {
                sum.add(&level);
            }
            for (reading_ns, held) in member.data.survivors.cohorts.iter() {
                let index = times_ns.partition_point(|at_ns| *at_ns < reading_ns);
                if let Some(cohort) = cohorts.get_mut(index) {
                    cohort.live_bytes += f64::from(held.bytes);
                    cohort.live_blocks += f64::from(held.blocks);
                    cohort.samples += f64::from(held.samples);
                }
            }
        }
        Evidence {
            times_s: times_ns
                .iter()
                .map(|at_ns| at_ns.saturating_sub(from_ns) as f64 / S)
                .collect(),
            levels: levels.iter().map(level).collect(),
            runs,
            // Of mappings, whose pages come and go by themselves, no births are known.
            cohorts: (!is_of_mappings).then_some(cohorts),
            sample_bytes: self.sample_bytes.filter(|_| !is_whole).map(|bytes| bytes as f64),
            ran_before: self.ran_before,
        }
    }
}

const fn run(reading: &Reading) -> Run {
    Run {
        frees_unknown: reading.run.frees_unknown as f64,
        resident_bytes: reading.run.resident_bytes as f64,
    }
}

const fn level(level: &Level) -> evidence::Level {
    evidence::Level {
        live_bytes: level.live_bytes as f64,
        live_blocks: level.live_blocks as f64,
        alloc_bytes: level.alloc_bytes as f64,
        allocs: level.allocs as f64,
    }
}
