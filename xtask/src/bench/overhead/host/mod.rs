//! `cargo xtask bench host`: what tracing many processes costs: those that are no targets, those that are, leaktrace
//! itself as it attaches to hundreds, and as it only watches.
//!
//! `ratios` and `crowd` measure, `run` starts leaktrace for them. Figures are of the processor time of the processes
//! themselves, and ratios of figures of one round.

mod crowd;
mod ratios;
mod run;

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::{super::directory, machine::Machine, need_root, workload};
use crate::{process::step, test::release_binary};

#[derive(clap::Args)]
pub(in super::super) struct Args {
    /// How often every setup has its turn
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Few processes, short batches: to see that it works, not for figures
    #[arg(long)]
    quick: bool,
    /// Only one part: what others and targets pay, the attach to hundreds, or the watch
    #[arg(long, value_name = "PART", value_parser = ["ratios", "attach", "watch"])]
    only: Option<String>,
    /// Measure this program instead of a release build of the workspace
    #[arg(long, value_name = "FILE")]
    leaktrace: Option<PathBuf>,
}

pub(in super::super) fn run(args: &Args) -> Result<()> {
    need_root("host")?;
    let machine = Machine::here();
    let directory = directory()?;
    workload::build(&directory)?;
    let leaktrace = match &args.leaktrace {
        Some(path) => path
            .canonicalize()
            .with_context(|| format!("cannot find {}", path.display()))?,
        None => release_binary()?,
    };
    let wanted = |part: &str| args.only.as_deref().is_none_or(|only| only == part);
    let mut document = format!("{}\n", machine.line());
    let mut failed = Vec::new();
    let mut add = |part: &str, table: Result<String>| match table {
        Ok(table) => {
            println!("\n{table}");
            document.push('\n');
            document.push_str(&table);
        }
        Err(error) => failed.push(format!("{part}: {error:#}")),
    };
    if wanted("ratios") {
        step("what others and targets pay");
        add(
            "ratios",
            ratios::measure(&directory, &leaktrace, args.rounds, args.quick),
        );
    }
    if wanted("attach") {
        step("attach and detach");
        add("attach", crowd::attach(&directory, &leaktrace, args.quick));
    }
    if wanted("watch") {
        step("watch");
        add("watch", crowd::watch(&directory, &leaktrace, args.quick));
    }
    let path = directory.join("host.md");
    fs::write(&path, &document).with_context(|| format!("cannot write {}", path.display()))?;
    step("all together");
    println!("{document}");
    ensure!(failed.is_empty(), "not measured: {}", failed.join("; "));
    Ok(())
}
