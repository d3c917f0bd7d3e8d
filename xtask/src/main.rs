//! leaktrace's development commands: `cargo xtask COMMAND`.
//!
//! Parses and delegates; each command is one file. Nothing here is part of the released program, and no
//! command needs a tool that it does not name when the tool is missing.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a developer's command line: what it prints is what it is for"
)]

mod bench;
mod ci;
mod corpus;
mod debian;
mod dist;
mod ebpf;
mod gpu_accept;
mod process;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// leaktrace's development commands
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the kernel side and check the object in under leaktrace-ebpf/prebuilt
    Ebpf(ebpf::Args),
    /// Run every test that this machine can, and say what it cannot and why
    Test(test::Args),
    /// Run what a change must pass: formatting, lints, documentation, the rebuilt object, the tests
    Ci,
    /// Boot Debian's kernels in a virtual machine and find a known leak there
    Vm(vm::Args),
    /// Measure, and print a table for docs/overhead.md
    Bench(bench::Args),
    /// Score leaktrace's verdicts on programs of which it is known what they do
    Corpus(corpus::Args),
    /// Check on a GPU what the tests show on a fake driver, and write a table for docs/cuda.md
    GpuAccept(gpu_accept::Args),
    /// Put the program, its manual page and its completions into target/dist
    Dist,
}

fn main() -> ExitCode {
    match delegate(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn delegate(command: &Command) -> Result<()> {
    match command {
        Command::Ebpf(args) => ebpf::run(args),
        Command::Test(args) => test::run(args),
        Command::Ci => ci::run(),
        Command::Vm(args) => vm::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Corpus(args) => corpus::run(args),
        Command::GpuAccept(args) => gpu_accept::run(args),
        Command::Dist => dist::run(),
    }
}
