//! `cargo xtask bench`: measurements, as tables for docs/overhead.md.
//!
//! Parses and delegates, and holds what the measurements share: children that do not outlive them, and
//! waiting. Must not know what is measured.

mod overhead;
mod report;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{process::is_root, test::target_dir};

/// How long a program may take to start, to attach, to end.
const LIMIT: Duration = Duration::from_mins(2);

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(clap::Subcommand)]
enum Bench {
    /// Time and memory of a report of a million blocks from ten thousand sites
    Report,
    /// What tracing costs the traced program, beside empty probes, heaptrack and bpftrace
    Overhead(overhead::Args),
    /// Fail if tracing costs far more, beside empty probes, than it should; takes a minute
    Guard,
    /// How long the kernel side's programs run at each hit
    Programs,
    /// What a frame of a stack costs, beside frame pointers and a copied stack; and how long the start takes
    Unwind,
    /// What Python's frames cost at each hit; and what tracing costs programs of small objects, beside memray and
    /// tracemalloc
    Python(overhead::PythonArgs),
    /// What tracing many processes costs: those that are no targets, those that are, the attach to hundreds, the watch
    Host(overhead::HostArgs),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.bench {
        Bench::Report => report::run(),
        Bench::Overhead(args) => overhead::run(args),
        Bench::Guard => overhead::guard(),
        Bench::Programs => overhead::programs(),
        Bench::Unwind => overhead::unwind(),
        Bench::Python(args) => overhead::python(args),
        Bench::Host(args) => overhead::host(args),
    }
}

fn need_root(command: &str) -> Result<()> {
    ensure!(
        is_root(),
        "tracing needs root; run `sudo --preserve-env=PATH cargo xtask bench {command}`"
    );
    Ok(())
}

/// Where the measurements put what they build and write.
fn directory() -> Result<PathBuf> {
    let directory = target_dir().join("bench");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot create {}", path.display()))
}

/// Asks until the answer is yes.
fn wait_for(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !done()? {
        ensure!(
            started.elapsed() < LIMIT,
            "waited {} s for {what}",
            LIMIT.as_secs()
        );
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A child that never outlives its measurement.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        command
            .spawn()
            .map(Self)
            .with_context(|| format!("cannot start {}", command.get_program().display()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        if self.0.kill().is_ok() {
            let _status = self.0.wait();
        }
    }
}
