//! Stacks of real programs, walked by the kernel side and once more by framehop from the same registers and bytes: no
//! frame may differ.
//!
//! `LEAKTRACE_ORACLE_ROUNDS` is how much each program does; `--nocapture` shows what was compared. The default is for
//! every change; with 40, each program but postgres has more than 10 000 distinct stacks; postgres has 1137 with 100, and
//! takes minutes for them. docs/unwinding.md has what came of it.
#![expect(
    clippy::print_stdout,
    reason = "the table of what was compared is what a long run is for"
)]

use leaktrace_tests::{
    fixtures,
    leaktrace::Leaktrace,
    report::Report,
    servers::Postgres,
    skip::{program, unless_missing},
};
use serde_json::Value;

/// Stacks that must have been compared at least, however little a program does.
const STACKS_MIN: u64 = 200;

fn rounds() -> usize {
    let rounds = std::env::var("LEAKTRACE_ORACLE_ROUNDS").ok();
    rounds.map_or(2, |rounds| {
        rounds.parse().expect("LEAKTRACE_ORACLE_ROUNDS is a number")
    })
}

fn assert_equal(name: &str, report: &Report) {
    let stacks = &report.value()["stacks"];
    let verified = &stacks["verified"];
    let count = |field: &str| verified[field].as_u64().expect("a number");
    println!(
        "| {name} | {} | {} | {} | {} | {} | {} | {} |",
        count("stacks"),
        count("frames_equal"),
        count("equal"),
        count("framehop_ends_early"),
        count("kernel_ends_early"),
        count("differ"),
        stacks["complete_share"]
    );
    let differences = verified["differences"].as_array().expect("a list");
    let shown: Vec<String> = differences.iter().map(explained).collect();
    assert_eq!(count("differ"), 0, "{name}:\n{}", shown.join("\n"));
    assert!(count("stacks") >= STACKS_MIN, "{name}: {verified}");
    // A stack that was sent is compared: the few that are not are those of processes that ended before they were named.
    assert!(
        count("not_compared") * 100 <= count("stacks"),
        "{name}: {verified}"
    );
    println!("{}", shown.join("\n"));
}

/// Where the two part.
fn explained(difference: &Value) -> String {
    let at = difference["at"].as_u64().expect("a number") as usize;
    let frame = |of: &str, index: usize| difference[of][index].as_str().unwrap_or("-").to_owned();
    format!(
        "  behind {}: kernel side {} ({}), framehop {} ({})",
        frame("kernel", at - 1),
        frame("kernel", at),
        difference["kernel_end"],
        frame("framehop", at),
        difference["framehop_end"]
    )
}

#[test]
fn python() {
    let Some(python) = unless_missing(program("python3", "python3")) else {
        return;
    };
    // The distribution's, which is built without frame pointers, where there is one.
    let distribution = std::path::PathBuf::from("/usr/bin/python3");
    let python = if distribution.exists() {
        distribution
    } else {
        python
    };
    let script = fixtures::python("varied");
    let script = script.to_str().expect("a path of text");
    let run = Leaktrace::command(&python, &[script, &rounds().to_string()]).args(&["--verify-stacks"]);
    assert_equal("python3", &run.run().report());
}

#[test]
fn gdb() {
    let Some(gdb) = unless_missing(program("gdb", "gdb")) else {
        return;
    };
    let fixture = fixtures::c("pairs");
    let fixture = fixture.to_str().expect("a path of text");
    let gdb_itself = gdb.to_str().expect("a path of text");
    let mut arguments = vec!["-batch", "-nx"];
    let commands = [
        "break main",
        "run 10",
        "info sharedlibrary",
        "info functions alloc",
        "info types .",
        "backtrace",
    ];
    for command in commands {
        arguments.extend(["-ex", command]);
    }
    // More symbols, more ways through gdb.
    let more = format!("file {gdb_itself}");
    for _ in 1..rounds() {
        arguments.extend(["-ex", &more, "-ex", "info functions alloc"]);
    }
    arguments.push(fixture);
    let run = Leaktrace::command(&gdb, &arguments).args(&["--verify-stacks"]);
    assert_equal("gdb", &run.run().report());
}

#[test]
fn node() {
    let Some(node) = unless_missing(program("node", "nodejs")) else {
        return;
    };
    let script = fixtures::node("varied");
    let script = script.to_str().expect("a path of text");
    let run = Leaktrace::command(&node, &[script, &(50 * rounds()).to_string()]).args(&["--verify-stacks"]);
    assert_equal("node", &run.run().report());
}

#[test]
fn postgres() {
    let Some(postgres) = unless_missing(Postgres::start()) else {
        return;
    };
    let made = postgres
        .client("pgbench")
        .args(["-i", "-q", "-s", "1", "postgres"])
        .output();
    assert!(made.expect("pgbench starts").status.success());
    let run = Leaktrace::attach(&[postgres.server.pid()])
        .args(&["--follow-forks", "--verify-stacks"])
        .start();
    for round in 0..rounds() {
        // A connection is a process of its own, whose caches fill anew.
        let load = postgres
            .client("pgbench")
            .args(["-t", "20", "-c", "4", "-C", "-n", "postgres"])
            .output();
        assert!(load.expect("pgbench starts").status.success());
        postgres.query(&format!(
            "create table t{round} (a int primary key, b text); insert into t{round} select i, repeat('x', i) from \
             generate_series(1, 500) i; create index on t{round} (b); analyze t{round}; select count(*) from t{round} x \
             join t{round} y using (b); with recursive r(n) as (select 1 union all select n + 1 from r where n < 100) \
             select json_agg(n), xmlelement(name a, n) from r group by n; select b ~ 'x{round}y*' from t{round}; drop \
             table t{round}"
        ));
    }
    let report = run.stop().report();
    assert_equal("postgres", &report);
    postgres.shut_down();
}
