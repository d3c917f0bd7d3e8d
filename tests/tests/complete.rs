//! Real programs: nearly every recorded allocation has a stack that is known to its outermost frame.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use leaktrace_tests::{
    fixtures,
    fixtures::Fixture,
    leaktrace::Leaktrace,
    report::Report,
    servers::{Postgres, Redis},
    skip::{Missing, program, skip, unless_missing},
    target::Target,
};

/// Least share of complete stacks where all code was compiled ahead of its time.
const COMPILED: f64 = 0.999;
/// The same for a program with a compiler of its own, whose code has no unwind tables.
const JITTED: f64 = 0.95;

fn assert_complete(report: &Report, least: f64) {
    report.assert_adds_up();
    report.assert_no_losses();
    // Of too few allocations a share says nothing.
    assert!(report.total("allocs") >= 1000, "{}", report.summary());
    let share = report.complete_share();
    assert!(
        share >= least,
        "{share} of the stacks are complete\n{}",
        report.summary()
    );
}

/// Traces a program that says "ready", works, and says "done".
fn between_ready_and_done(command: &mut Command, least: f64) {
    let mut target = Target::spawn(command);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()]).start();
    target.go();
    target.at("done");
    let report = run.stop().report();
    target.finish_with(0);
    assert_complete(&report, least);
}

/// The distribution's: built without frame pointers.
fn debian_python() -> Result<PathBuf, Missing> {
    let path = PathBuf::from("/usr/bin/python3");
    let there = path.exists().then_some(path);
    there.ok_or_else(|| Missing("no /usr/bin/python3; install python3".to_owned()))
}

#[test]
fn python() {
    let Some(python) = unless_missing(debian_python()) else {
        return;
    };
    let mut command = Command::new(python);
    // Its small objects come from malloc too, so that its stacks are seen.
    command
        .arg(fixtures::python("load"))
        .env("PYTHONMALLOC", "malloc");
    between_ready_and_done(&mut command, COMPILED);
}

/// A Python that can import numpy: `LEAKTRACE_NUMPY_PYTHON` (of a virtual environment with the wheel from the Python package index, say),
/// or the distribution's with its package.
fn numpy_python() -> Result<PathBuf, Missing> {
    let named = std::env::var_os("LEAKTRACE_NUMPY_PYTHON").map(PathBuf::from);
    let python = named.map_or_else(debian_python, Ok)?;
    let imports = Command::new(&python).args(["-c", "import numpy"]).output();
    let imports = imports.is_ok_and(|output| output.status.success());
    imports
        .then_some(python)
        .ok_or_else(|| Missing("no numpy; install python3-numpy".to_owned()))
}

#[test]
fn numpy() {
    let Some(python) = unless_missing(numpy_python()) else {
        return;
    };
    let mut command = Command::new(python);
    command.arg(fixtures::python("numpy_load"));
    between_ready_and_done(&mut command, COMPILED);
}

#[test]
fn rust_service() {
    let fixture = Fixture::rust("service").flags(&["-C", "force-frame-pointers=no"]);
    let Some(service) = unless_missing(fixture.build()) else {
        return;
    };
    between_ready_and_done(&mut Command::new(service), COMPILED);
}

#[test]
fn gdb() {
    let Some(gdb) = unless_missing(program("gdb", "gdb")) else {
        return;
    };
    let inferior = fixtures::c("every_function");
    let mut command = Command::new(gdb);
    command.args(["-q", "-nx", "-batch"]);
    // Python in gdb reads as the handshake does.
    for line in [
        "python print('ready', flush=True); import os; os.read(0, 1)",
        &format!("file {}", inferior.display()),
        "info functions leak",
        "info types .",
        "disassemble main",
        "list main",
        "info scope main",
        "ptype struct truth_site",
        "python print('done', flush=True); os.read(0, 1)",
    ] {
        command.args(["-ex", line]);
    }
    between_ready_and_done(&mut command, COMPILED);
}

#[test]
fn node() {
    let Some(node) = unless_missing(program("node", "nodejs")) else {
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/node_load.js");
    between_ready_and_done(Command::new(node).arg(script), JITTED);
}

#[test]
fn redis() {
    let Some(redis) = unless_missing(Redis::start()) else {
        return;
    };
    let Some(benchmark) = unless_missing(program("redis-benchmark", "redis-tools")) else {
        return;
    };
    let run = Leaktrace::attach(&[redis.server.pid()]).start();
    let port = redis.port.to_string();
    let load = Command::new(benchmark)
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-q",
            "-n",
            "5000",
            "-c",
            "10",
            "-r",
            "500",
        ])
        .args(["-d", "200", "-t", "set,get,incr,lpush,lpop,sadd,hset,zadd,mset"])
        .output();
    assert!(load.expect("redis-benchmark starts").status.success());
    let report = run.stop().report();
    redis.shut_down();
    assert_complete(&report, COMPILED);
}

#[test]
fn postgres() {
    let Some(postgres) = unless_missing(Postgres::start()) else {
        return;
    };
    let run = Leaktrace::attach(&[postgres.server.pid()])
        .args(&["--follow-forks"])
        .start();
    let made = postgres
        .client("pgbench")
        .args(["-i", "-q", "-s", "1", "postgres"])
        .output();
    assert!(made.expect("pgbench starts").status.success());
    let load = postgres
        .client("pgbench")
        .args(["-t", "300", "-c", "4", "-n", "postgres"])
        .output();
    assert!(load.expect("pgbench starts").status.success());
    postgres.query("select count(*), md5(string_agg(aid::text, ',')) from pgbench_accounts group by bid");
    let report = run.stop().report();
    if report.ledger("forks_followed_late") > 0 && report.total("allocs") < 1000 {
        skip("postgres's backends had ended before they were followed");
        return;
    }
    postgres.shut_down();
    assert_complete(&report, COMPILED);
}
