//! The rounds: every setup once a round, in turn, the order rotated, on one living target.
//!
//! Must not know how figures are shown.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{
    setup::Setup,
    stats::{self, Summary},
    tracer::Tracers,
    workload::{Sample, Target, Workload},
};

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) rounds: usize,
    pub(super) batch: Duration,
    /// Work before each measured batch, under the same setup: tables fill, pages are touched.
    pub(super) warm_up: Duration,
}

/// The rounds of one setup.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) setup: Setup,
    /// One entry a round; `None` for one that failed.
    pub(super) samples: Vec<Option<Sample>>,
    /// Why the setup was given up.
    pub(super) failure: Option<String>,
}

impl Row {
    fn figures(&self, figure: impl Fn(&Sample) -> f64) -> Vec<Option<f64>> {
        self.samples
            .iter()
            .map(|sample| sample.as_ref().map(&figure))
            .collect()
    }

    /// Processor time of one unit.
    pub(super) fn cpu_ns(&self) -> Option<Summary> {
        stats::summary(self.figures(Sample::cpu_ns_per_unit).into_iter().flatten())
    }

    /// Time that one unit took one thread.
    pub(super) fn wall_ns(&self) -> Option<Summary> {
        stats::summary(self.figures(Sample::wall_ns_per_unit).into_iter().flatten())
    }
}

/// All that was measured of a workload.
pub(super) struct Measured {
    pub(super) workload: Workload,
    pub(super) rows: Vec<Row>,
}

impl Measured {
    pub(super) fn row(&self, setup: Setup) -> Option<&Row> {
        self.rows.iter().find(|row| row.setup == setup)
    }

    /// Processor time of a unit under `of` as a multiple of that under `to`, by rounds.
    pub(super) fn ratio(&self, of: Setup, to: Setup) -> Option<Summary> {
        stats::ratio(
            &self.row(of)?.figures(Sample::cpu_ns_per_unit),
            &self.row(to)?.figures(Sample::cpu_ns_per_unit),
        )
    }
}

/// Measures a workload under each of `setups`. A setup that fails is given up and says why; only a
/// workload that cannot run at all is an error.
pub(super) fn measure(
    workload: Workload,
    setups: &[Setup],
    extent: Extent,
    tracers: &Tracers,
    directory: &Path,
) -> Result<Measured> {
    let mut rows: Vec<Row> = setups
        .iter()
        .map(|&setup| Row {
            setup,
            samples: Vec::new(),
            failure: None,
        })
        .collect();
    let mut target = workload.start(directory, &[])?;
    target.batch(extent.warm_up)?;
    for round in 0..extent.rounds {
        let count = rows.len();
        for place in 0..count {
            let Some(row) = rows.get_mut((place + round) % count) else {
                continue;
            };
            if row.failure.is_some() {
                row.samples.push(None);
                continue;
            }
            match one(workload, row.setup, extent, tracers, directory, &mut target) {
                Ok(sample) => row.samples.push(Some(sample)),
                Err(error) => {
                    row.samples.push(None);
                    row.failure = Some(format!("{error:#}"));
                    // It may be the target that has ended.
                    drop(target);
                    target = workload.start(directory, &[])?;
                    target.batch(extent.warm_up)?;
                }
            }
        }
        eprintln!("{}: round {} of {}", workload.name(), round + 1, extent.rounds);
    }
    Ok(Measured { workload, rows })
}

fn one(
    workload: Workload,
    setup: Setup,
    extent: Extent,
    tracers: &Tracers,
    directory: &Path,
    target: &mut Target,
) -> Result<Sample> {
    match setup {
        Setup::Untraced => Ok(both(target, extent)?.1),
        setup if setup.memray().is_some() || setup.tracemalloc().is_some() => {
            let mut own = workload.start(directory, &tracers.interpreter(setup)?)?;
            let (_, sample) = both(&mut own, extent)?;
            own.finish()?;
            tracers.check_interpreter(setup)?;
            Ok(sample)
        }
        Setup::Heaptrack => {
            let mut own = workload.start(directory, &tracers.heaptrack()?)?;
            let (warm, sample) = both(&mut own, extent)?;
            own.finish()?;
            tracers.check_heaptrack(warm.units + sample.units)?;
            Ok(sample)
        }
        _ => {
            let attached = tracers.attach(setup, target)?;
            let (warm, sample) = both(target, extent)?;
            // A loop over small objects need not allocate from the C library.
            let allocating = !matches!(workload, Workload::PythonObjects(_));
            attached.detach(if allocating { warm.units + sample.units } else { 0 })?;
            ensure!(is_alive(target), "the target ended as the tracer did");
            Ok(sample)
        }
    }
}

/// The batch that warms up, and the measured one.
fn both(target: &mut Target, extent: Extent) -> Result<(Sample, Sample)> {
    let warm = target.batch(extent.warm_up)?;
    Ok((warm, target.batch(extent.batch).context("in the measured batch")?))
}

fn is_alive(target: &Target) -> bool {
    Path::new("/proc").join(target.pid.to_string()).exists()
}
