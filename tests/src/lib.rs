//! The harness of the end-to-end suites: builds the fixtures, runs targets and leaktrace, reads reports
//! and compares them with the ground truth that the fixtures print.
//!
//! It knows leaktrace from outside only: its command line, its exit status, and the JSON that
//! docs/report-format.md describes. It must not link any of leaktrace's crates.
#![expect(
    clippy::missing_panics_doc,
    reason = "a harness panics: that is how a test fails, with everything it has seen"
)]

pub mod cgroups;
pub mod chains;
pub mod contained;
pub mod containers;
pub mod debian;
pub mod fixtures;
pub mod gpu;
pub mod hits;
pub mod leaktrace;
pub mod lines;
pub mod memory;
pub mod python_leak;
pub mod python_truth;
pub mod pythons;
pub mod report;
pub mod rootfs;
pub mod servers;
pub mod skip;
pub mod target;
pub mod venv;
pub mod wait;

use crate::{leaktrace::Leaktrace, report::Report, report::Truth, target::Target};

/// What a traced run of a fixture gave.
pub struct Traced {
    /// The last report.
    pub report: Report,
    /// What the fixture did.
    pub truth: Truth,
    /// What leaktrace said on stderr.
    pub stderr: String,
}

/// Attaches to `target`, which waits at "ready", lets it do its work, takes the report while it still
/// lives, and lets it end. `options` are further options of leaktrace.
pub fn trace(target: &mut Target, options: &[&str]) -> Traced {
    target.ready();
    let run = Leaktrace::attach(&[target.pid()]).args(options).start();
    target.go();
    let truth = target.truth();
    let finished = run.stop();
    let stderr = finished.stderr.clone();
    let report = finished.report();
    target.go();
    Traced {
        report,
        truth,
        stderr,
    }
}
