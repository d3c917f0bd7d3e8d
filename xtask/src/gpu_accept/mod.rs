//! `cargo xtask gpu-accept`: whether what the tests show on a fake driver holds on a real GPU, in one command.
//!
//! Two halves, as a machine with a GPU need have neither Rust nor a network: `--prepare DIR` puts the released program,
//! this one and the traced programs' sources into DIR; `DIR/xtask gpu-accept --prepared DIR` compiles those and takes the
//! ten steps there. Without either option both are done here. Where there is no GPU the steps that can do without one
//! run on the tests' fake driver, and the others say that they did not run, and why.

mod compile;
mod machine;
mod native;
mod prepare;
mod python;
mod report;
mod table;
mod target;
mod trace;

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use self::{
    machine::Machine,
    table::{Row, Table},
};
use crate::{process::is_root, test::target_dir};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Put all that a run needs into this folder, and run nothing
    #[arg(long, value_name = "DIR", conflicts_with_all = ["prepared", "out", "fake"])]
    prepare: Option<PathBuf>,
    /// Run from such a folder, on a machine that need not have Rust
    #[arg(long, value_name = "DIR")]
    prepared: Option<PathBuf>,
    /// Where table.md and raw.log go; without it $OUT, else target/gpu-accept
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Use the tests' fake driver, also where there is a GPU
    #[arg(long)]
    fake: bool,
    /// Begin no further step after this many seconds
    #[arg(long, value_name = "S", default_value_t = 540)]
    limit_s: u64,
}

/// The steps, in the order of their worth: should the time run out, it is the last that are missing.
const STEPS: [(u8, &str, Step); 10] = [
    (1, "the machine", machine::facts),
    (2, "names of the driver", native::names),
    (3, "leaks, three builds", native::leaks),
    (4, "attached late", native::late),
    (7, "lack of memory survived", python::out_of_memory),
    (6, "PyTorch", python::torch),
    (5, "NVML", native::nvml),
    (8, "CuPy and JAX", python::others),
    (10, "compute-sanitizer", native::sanitizer),
    (9, "cost", native::cost),
];

/// Fails where something could not be done at all: what differs from what was expected is in the rows.
type Step = fn(&mut Machine, &mut Vec<Row>) -> Result<()>;

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(directory) = &args.prepare {
        return prepare::run(directory);
    }
    ensure!(is_root(), "tracing needs root: run it by sudo");
    let prepared = if let Some(directory) = &args.prepared {
        directory.clone()
    } else {
        let directory = target_dir().join("gpu-accept-prepared");
        prepare::run(&directory)?;
        directory
    };
    let out = match (&args.out, env::var_os("OUT")) {
        (Some(out), _) => out.clone(),
        (None, Some(out)) if !out.is_empty() => out.into(),
        (None, _) if args.prepared.is_some() => prepared.join("out"),
        (None, _) => target_dir().join("gpu-accept"),
    };
    take_steps(&prepared, &out, args)
}

fn take_steps(prepared: &Path, out: &Path, args: &Args) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let limit = Duration::from_secs(args.limit_s);
    let mut machine = Machine::look(prepared, out, args.fake, limit)?;
    let mut table = Table::default();
    for (number, title, step) in STEPS {
        crate::process::step(&format!("{number}. {title}"));
        let mut rows = Vec::new();
        if machine.left().is_zero() {
            rows.push(Row::not_run(title, "the time was over; give more by --limit-s"));
        } else if let Err(error) = step(&mut machine, &mut rows) {
            // What an error leaves unsaid would otherwise look as if it had been found right.
            rows.push(Row::differs(title, "it can be done", format!("{error:#}")));
        }
        for row in &rows {
            println!("{}", row.line());
        }
        table.add(number, rows);
        // After each step: a machine that is taken away has not run for nothing.
        let text = table.markdown(&machine.about());
        let path = out.join("table.md");
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("\n{}: {}", out.join("table.md").display(), table.summary());
    ensure!(table.differing() == 0, "{} rows differ", table.differing());
    Ok(())
}
