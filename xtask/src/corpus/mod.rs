//! `cargo xtask corpus`: how often leaktrace's verdicts are right, on programs of which it is known what they do.
//!
//! Runs the programs of `tests/corpus` under leaktrace, each at two speeds and with two samplings, and scores what it says
//! of their sites. What programs and leaktrace have said stays in `target/corpus/runs`, to be scored again.

mod build;
mod cases;
mod class;
mod execute;
mod judge;
mod record;
mod score;
mod show;

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use self::{
    build::Programs,
    cases::{CASES, Case},
    execute::Run,
    record::{Record, Sampling},
    score::Score,
};
use crate::{
    process::is_root,
    test::{release_binary, target_dir},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long each program runs; its phases are parts of that
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(5..=600))]
    seconds: u32,
    /// Run so many programs at a time [default: four for each CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: Option<u32>,
    /// Run only cases whose name contains this; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Run only at this speed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    speed: Option<u32>,
    /// Run only with this sampling: exact, 16KiB
    #[arg(long, value_name = "NAME", value_parser = ["exact", "16KiB"])]
    sampling: Option<String>,
    /// Run nothing, and score what an earlier run has left in this folder
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Write all that is known to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Name the cases and what their sites are, and run nothing
    #[arg(long)]
    list: bool,
}

/// At which the programs run.
const SPEEDS: [u32; 2] = [1, 4];

pub(crate) fn run(args: &Args) -> Result<()> {
    let cases: Vec<&'static Case> = CASES.iter().filter(|case| args.takes(case.name)).collect();
    ensure!(!cases.is_empty(), "no case has such a name; `--list` names all");
    if args.list {
        list(&cases);
        return Ok(());
    }
    let mut failed = Vec::new();
    let folder = if let Some(folder) = &args.from {
        folder.clone()
    } else {
        let folder = target_dir().join("corpus/runs");
        failed = args.run_all(&cases, &folder)?;
        folder
    };
    let mut records = Vec::new();
    for path in args.files(&cases, &folder) {
        records.push(read(&path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    ensure!(
        !records.is_empty(),
        "{} has no runs of these cases",
        folder.display()
    );
    let score = Score::of(&records);
    println!("{}", show::markdown(&score));
    if let Some(path) = &args.json {
        let text = format!("{:#}\n", show::json(&score));
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    ensure!(
        failed.is_empty(),
        "{} runs failed:\n{}",
        failed.len(),
        failed.join("\n")
    );
    let failures = score.failures();
    ensure!(failures.is_empty(), "the corpus fails: {}", failures.join("; "));
    Ok(())
}

impl Args {
    fn takes(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.contains(only))
    }

    /// The runs that are asked for.
    fn runs(&self, cases: &[&'static Case]) -> Vec<Run> {
        let speeds = self.speed.map_or_else(|| SPEEDS.to_vec(), |speed| vec![speed]);
        let samplings = Sampling::ALL
            .into_iter()
            .filter(|sampling| self.sampling.as_ref().is_none_or(|name| name == sampling.name()));
        let mut runs = Vec::new();
        for sampling in samplings {
            for &speed in &speeds {
                runs.extend(cases.iter().map(|&case| Run {
                    case,
                    speed,
                    sampling,
                    seconds: self.seconds,
                }));
            }
        }
        runs
    }

    /// Those of their files that are there.
    fn files(&self, cases: &[&'static Case], folder: &Path) -> Vec<PathBuf> {
        let files = self
            .runs(cases)
            .into_iter()
            .map(|run| folder.join(run.file_name()));
        files.filter(|path| path.exists()).collect()
    }

    /// Runs all; returns those that failed, and why.
    fn run_all(&self, cases: &[&'static Case], folder: &Path) -> Result<Vec<String>> {
        ensure!(
            is_root(),
            "tracing needs root; run `sudo --preserve-env=PATH cargo xtask corpus`"
        );
        let leaktrace = env::var_os("LEAKTRACE_BIN").map(PathBuf::from);
        let leaktrace = leaktrace.map_or_else(release_binary, Ok)?;
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let programs = Programs::build(&target_dir().join("corpus/bin"), cases)?;
        let runs = self.runs(cases);
        for run in &runs {
            let path = folder.join(run.file_name());
            if path.exists() {
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        let jobs = self.jobs.unwrap_or_else(jobs);
        let minutes = runs.len() as f64 * f64::from(self.seconds + 2) / f64::from(jobs) / 60.0;
        eprintln!("{} runs, some {minutes:.0} min", runs.len());
        let (left, failed) = (
            Mutex::new(runs.into_iter().rev().collect::<Vec<_>>()),
            Mutex::new(Vec::new()),
        );
        thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while let Some(run) = next(&left) {
                        if let Err(error) = run.execute(&programs, &leaktrace, folder) {
                            eprintln!("xtask: {error:#}");
                            failed
                                .lock()
                                .expect("nobody panics with it")
                                .push(format!("{error:#}"));
                        }
                    }
                });
            }
        });
        Ok(failed.into_inner().unwrap_or_default())
    }
}

/// So many at a time leave half of each CPU free: programs sleep most of their time.
fn jobs() -> u32 {
    thread::available_parallelism().map_or(2, |cpus| 4 * cpus.get() as u32)
}

/// The next run, and no lock while it lasts.
fn next(left: &Mutex<Vec<Run>>) -> Option<Run> {
    left.lock().expect("nobody panics with it").pop()
}

fn read(path: &Path) -> Result<Record> {
    let text = fs::read_to_string(path)?;
    let lines = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Value>, _>>();
    match lines {
        Ok(lines) => Record::read(&lines),
        Err(error) => bail!("not JSON: {error}"),
    }
}

fn list(cases: &[&Case]) {
    for case in cases {
        let label = |label: &cases::Label| {
            let fair: Vec<_> = label.fair.iter().map(|class| class.name()).collect();
            format!("{} {}", label.site, fair.join(" or "))
        };
        let labels: Vec<_> = case.labels.iter().map(label).collect();
        println!("{}: {}", case.name, labels.join(", "));
    }
}
