//! `cargo xtask test`: everything that this machine can run, and what it could not and why.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    debian::{self, Outcome},
    process::{cargo, is_root, output, run as run_command, step, workspace},
};

/// What the fixtures are built with and the programs they are: compilers, linkers, allocators, servers.
const PACKAGES: [&str; 33] = [
    "binutils",
    "bpftool",
    "bpftrace",
    "busybox-static",
    "docker.io",
    "gcc",
    "g++",
    "gcc-multilib",
    "gdb",
    "golang-go",
    "libc6-dev",
    "libgoogle-perftools-dev",
    "libjemalloc-dev",
    "libjemalloc2",
    "libmimalloc-dev",
    "libmimalloc2.0",
    "libpython3.11",
    "libtcmalloc-minimal4",
    "lld",
    "mold",
    "musl-tools",
    "nodejs",
    "podman",
    "postgresql",
    "postgresql-contrib",
    "procps",
    "pypy3",
    "python3",
    "python3-numpy",
    "python3-venv",
    "redis-server",
    "redis-tools",
    "runc",
];

/// Suites that tell nothing new when probes are attached in another way: how stacks and Python's frames are walked on
/// real programs, what leaks in such, where names come from, what is written, and the suites' own tools. That stacks
/// come whole under each mechanism is shown by `unwinding` and `hard_stacks`.
const WITHOUT_MECHANISM: [&str; 11] = [
    "complete",
    "gate",
    "gpu_fakes",
    "harness",
    "oracle",
    "output",
    "python_behaviour",
    "python_census",
    "python_leaks",
    "python_stacks",
    "symbols",
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install nothing; name what is missing
    #[arg(long)]
    no_install: bool,
    /// Fail, rather than skip, when the end-to-end suite cannot run here
    #[arg(long)]
    require_e2e: bool,
    /// Run the end-to-end suites that depend on it once more with this mechanism in place of the best: session, multi,
    /// perf (slow: it sets and removes each probe by itself); may be given several times
    #[arg(long, value_name = "KIND", value_parser = ["session", "multi", "perf"])]
    also: Vec<String>,
    /// Run only tests whose name contains this
    filter: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut skipped = Vec::new();

    step("what the tests need");
    match debian::ensure(&PACKAGES, !args.no_install)? {
        Outcome::Complete => println!("all there"),
        Outcome::Missing { packages, reason } => {
            let line = format!("packages not installed: {} ({reason})", packages.join(", "));
            println!("{line}");
            skipped.push(line);
        }
    }

    step("unit tests");
    let mut unit = cargo();
    unit.args(["test", "--locked", "--workspace", "--exclude", "leaktrace-tests"]);
    run_command(unit.args(&args.filter)).context("unit tests failed")?;

    step("end-to-end tests");
    match why_no_e2e()? {
        None => {
            skipped.extend(end_to_end(args.filter.as_deref(), None)?);
            for kind in &args.also {
                step(&format!("end-to-end tests, attached by {kind}"));
                skipped.extend(end_to_end(args.filter.as_deref(), Some(kind))?);
            }
            skipped.sort();
            skipped.dedup();
        }
        Some(reason) if args.require_e2e => bail!("the end-to-end tests cannot run: {reason}"),
        Some(reason) => {
            println!("SKIPPED, all of them: {reason}");
            skipped.push(format!("all end-to-end tests: {reason}"));
        }
    }

    step("skipped");
    if skipped.is_empty() {
        println!("nothing");
    }
    for line in &skipped {
        println!("- {line}");
    }
    Ok(())
}

/// Builds the released program and returns its path.
pub(crate) fn release_binary() -> Result<PathBuf> {
    run_command(cargo().args(["build", "--locked", "--release", "--package", "leaktrace"]))?;
    Ok(target_dir().join("release/leaktrace"))
}

/// Where cargo builds the workspace.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), |dir| workspace().join(dir))
}

/// Builds leaktrace and says why the suite cannot run here, if so.
fn why_no_e2e() -> Result<Option<String>> {
    if !is_root() {
        return Ok(Some(
            "tracing needs root; run `sudo --preserve-env=PATH cargo xtask test`".to_owned(),
        ));
    }
    let doctor = output(Command::new(release_binary()?).arg("doctor"));
    Ok(doctor
        .err()
        .map(|error| format!("this machine cannot trace: {error:#}")))
}

/// Runs the suite on the released program; returns what single tests skipped and why.
fn end_to_end(filter: Option<&str>, attach: Option<&str>) -> Result<Vec<String>> {
    let log = target_dir().join("e2e-skipped.log");
    fs::write(&log, "").with_context(|| format!("cannot write {}", log.display()))?;
    let mut suite = cargo();
    suite
        .args([
            "test",
            "--locked",
            "--no-fail-fast",
            "--package",
            "leaktrace-tests",
        ])
        .env("LEAKTRACE_BIN", release_binary()?)
        .env("LEAKTRACE_SKIP_LOG", &log);
    if let Some(kind) = attach {
        // And with GPU memory followed, which must not change anything else.
        suite
            .env("LEAKTRACE_TEST_ATTACH", kind)
            .env("LEAKTRACE_TEST_GPU", "1");
        for name in of_mechanism(&workspace().join("tests/tests"))? {
            suite.args(["--test", &name]);
        }
    }
    run_command(suite.args(filter)).context("end-to-end tests failed")?;
    read_skips(&log)
}

/// Names of the suites in a folder, without those of [`WITHOUT_MECHANISM`], sorted.
fn of_mechanism(folder: &Path) -> Result<Vec<String>> {
    let unreadable = || format!("cannot read {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        let suite = path
            .file_stem()
            .filter(|_| path.extension().is_some_and(|extension| extension == "rs"));
        names.extend(suite.map(|name| name.to_string_lossy().into_owned()));
    }
    names.retain(|name| !WITHOUT_MECHANISM.contains(&name.as_str()));
    names.sort();
    Ok(names)
}

/// One line a skipped test, sorted; tests run in any order.
fn read_skips(log: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines.dedup();
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mechanism_is_tested_by_all_suites_but_those_it_cannot_matter_to() {
        let folder = workspace().join("tests/tests");
        let names = of_mechanism(&folder).expect("the suites are there");
        assert!(names.iter().any(|name| name == "unwinding"), "{names:?}");
        for name in WITHOUT_MECHANISM {
            assert!(folder.join(name).with_extension("rs").exists(), "{name}");
            assert!(!names.iter().any(|kept| kept == name), "{name}");
        }
    }
}
