//! What tracing costs, as part of the report: plain data, and as lines of text.

use std::io::{self, Write};

use serde::Serialize;

use super::units::{counted, percent, size};

/// What tracing has cost the targets and what leaktrace itself has used.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Overhead {
    /// What a trap costs on this machine; none where that could not be measured.
    pub calibration: Option<Calibration>,
    /// Why the cost, or a part of it, is not known.
    pub unknown: Option<String>,
    /// Over the report's interval.
    pub interval: Spent,
    /// Since the attach.
    pub run: Spent,
    /// By function, the dearest first; those never called are left out.
    pub functions: Vec<FunctionCost>,
    /// What `--max-overhead` has brought about, with that option.
    pub budget: Option<Budget>,
}

/// Nanoseconds of the target's time, measured at start with empty programs on leaktrace itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// A probe on an instruction that the kernel emulates.
    pub emulated_ns: f64,
    /// A probe on one that it single-steps.
    pub single_stepped_ns: f64,
    /// What a return probe adds.
    pub return_ns: f64,
}

/// Cost over some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spent {
    /// Share of the targets' CPU time, which includes it: `(trap_s + run_s) / target_cpu_s`. None if they used
    /// none or the cost is unknown.
    pub target_share: Option<f64>,
    /// Entries and returns of probed functions.
    pub traps: u64,
    /// Seconds in the traps: their number by kind, each times its calibrated cost.
    pub trap_s: f64,
    /// Seconds in leaktrace's programs: runs times the time of a run, which the kernel measures now and then.
    pub run_s: f64,
    /// CPU time of the targets, in seconds.
    pub target_cpu_s: f64,
    /// CPU time of leaktrace itself, in seconds.
    pub tracer_cpu_s: f64,
    /// The same as a share of one CPU.
    pub tracer_share: f64,
}

/// A function and what its probes have cost since the attach.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FunctionCost {
    /// Path of the object.
    pub object: String,
    /// Symbol.
    pub function: String,
    /// Calls seen.
    pub entries: u64,
    /// Returns that trapped.
    pub returns: u64,
    /// Seconds in traps and programs.
    pub cost_s: f64,
    /// Share of the targets' own CPU time, without what tracing took, in which it was probed.
    pub seen_share: f64,
    /// Whether it is paused now.
    pub paused: bool,
}

/// What a budget has brought about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Budget {
    /// `--max-overhead`, as a share.
    pub share: f64,
    /// Nobody asked for it: it is the default for running Python processes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub by_default: bool,
    /// Mean gap between samples now; 0 while every allocation is recorded.
    pub mean_bytes: u64,
    /// Functions paused now.
    pub paused: usize,
    /// Allocations that were not seen because their function was paused: an estimate, from the share of the target's
    /// CPU time in which it was probed.
    pub unseen_allocs: u64,
    /// Their bytes.
    pub unseen_alloc_bytes: u64,
    /// The same share in which not all frees were seen.
    pub frees_unseen_share: f64,
    /// Outstanding blocks that were handed out before frees were last unseen: each may have been freed since.
    pub unsure_blocks: u64,
    /// Their bytes.
    pub unsure_bytes: u64,
}

/// Names in a list.
const NAMES_MAX: usize = 4;

impl Overhead {
    /// The lines of the text format, indented as its header is.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "  tracing      {}", self.sentence())?;
        let Some(budget) = &self.budget else { return Ok(()) };
        writeln!(
            out,
            "  held to      {}{}{}",
            percent(budget.share),
            if budget.by_default {
                ", the default for Python (--max-overhead off)"
            } else {
                ""
            },
            self.measures(budget)
        )?;
        if budget.unseen_allocs > 0 {
            writeln!(
                out,
                "  not seen     about {} in {} handed out while paused",
                size(budget.unseen_alloc_bytes),
                counted(budget.unseen_allocs, "block"),
            )?;
        }
        if budget.unsure_blocks > 0 {
            writeln!(
                out,
                "  unsure       {} in {} of the outstanding: frees were unseen for {} of the time",
                size(budget.unsure_bytes),
                counted(budget.unsure_blocks, "block"),
                percent(budget.frees_unseen_share),
            )?;
        }
        Ok(())
    }

    fn sentence(&self) -> String {
        let own = format!(
            "leaktrace itself {} of a CPU",
            percent(self.interval.tracer_share)
        );
        if self.calibration.is_none() {
            let why = self.unknown.as_deref().unwrap_or("not measured");
            return format!("costs the target an unknown share: {why}; {own}");
        }
        let run = &self.run;
        let share = match (self.interval.target_share, run.target_share) {
            (Some(now), Some(all)) => format!("{} of its CPU time ({} in all: ", percent(now), percent(all)),
            (None, Some(all)) => format!("none of its CPU time now ({} in all: ", percent(all)),
            (_, None) => "none of its CPU time so far (".to_owned(),
        };
        let each = |seconds: f64| microseconds(seconds / run.traps.max(1) as f64);
        let part = self
            .unknown
            .as_deref()
            .map_or_else(String::new, |why| format!(", {why}"));
        format!(
            "costs the target {share}{} x {} + {} in programs{part}), {own}",
            counted(run.traps, "trap"),
            each(run.trap_s),
            each(run.run_s),
        )
    }

    fn measures(&self, budget: &Budget) -> String {
        let mut measures = Vec::new();
        if budget.mean_bytes > 0 {
            measures.push(format!("sampling every {}", size(budget.mean_bytes)));
        }
        let paused: Vec<&str> = self
            .functions
            .iter()
            .filter(|function| function.seen_share < 1.0)
            .map(|function| function.function.as_str())
            .collect();
        if let Some(hottest) = self.functions.iter().find(|function| function.seen_share < 1.0) {
            let more = paused.len().saturating_sub(NAMES_MAX);
            let names = paused[..paused.len().min(NAMES_MAX)].join(", ");
            let names = if more > 0 {
                format!("{names} and {more} more")
            } else {
                names
            };
            measures.push(format!(
                "{names} paused at times ({} seen {} of the time)",
                hottest.function,
                percent(hottest.seen_share),
            ));
        }
        if measures.is_empty() {
            String::new()
        } else {
            format!(": {}", measures.join("; "))
        }
    }
}

fn microseconds(seconds: f64) -> String {
    format!("{:.2} \u{b5}s", seconds * 1e6)
}
