//! The harness and the fixtures by themselves, without leaktrace: a truth that is not true would make
//! every other suite worthless.

use std::process::{Command, Stdio};

use leaktrace_tests::{
    fixtures,
    fixtures::Fixture,
    memory,
    report::Truth,
    servers::{Postgres, Redis},
    skip::unless_missing,
    target::Target,
};

/// Fixtures that allocate by themselves only, their arguments, and the (allocs, frees) that they make
/// outside of what they count: before "ready", or of blocks that a tracer cannot know.
const CHECKED: &[(&str, &[&str], (u64, u64))] = &[
    ("pairs", &["5000"], (0, 0)),
    ("every_function", &[], (0, 0)),
    ("reallocs", &[], (0, 0)),
    ("failures", &[], (0, 0)),
    // Twenty early blocks; six of them freed and two moved.
    ("before_attach", &[], (20, 8)),
    ("huge", &["3"], (0, 0)),
    // The vfork child's.
    ("spawn", &[], (10, 10)),
    ("deep", &[], (0, 0)),
    ("stages", &[], (0, 0)),
    ("signals", &[], (0, 0)),
    ("many_sites", &["1000", "100"], (0, 0)),
    ("millions", &["5000"], (0, 0)),
    ("constructors", &[], (0, 0)),
    ("brief", &[], (0, 0)),
    ("same_address", &["10"], (0, 0)),
    // The C library's, one for each thread that runs at the same time.
    ("threads", &["2", "100"], (4, 0)),
    ("many_threads", &[], (200, 0)),
    ("thread_local", &[], (3, 0)),
];

#[test]
fn the_fixtures_tell_the_truth() {
    let counting = Fixture::library("counting").build().expect("gcc is there");
    for (name, arguments, (more_allocs, more_frees)) in CHECKED {
        let mut command = Command::new(fixtures::c(name));
        command
            .args(*arguments)
            .env("LD_PRELOAD", &counting)
            .stdin(Stdio::null());
        let output = command.output().expect("a fixture starts");
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        let truth = stdout.lines().find(|line| line.starts_with('{'));
        let truth = Truth::parse(truth.unwrap_or_else(|| panic!("{name} tells nothing: {stderr}")));
        let (allocs, frees) = ["allocs", "frees"]
            .map(|key| truth.raw[key].as_u64().expect("a number"))
            .into();
        let counted = format!("counted {} {}", allocs + more_allocs, frees + more_frees);
        assert!(
            stderr.lines().any(|line| line == counted),
            "{name}: not {counted:?}: {stderr}\n{}",
            truth.raw
        );
        let sums = truth
            .sites
            .values()
            .fold((0, 0), |sum, site| (sum.0 + site.allocs, sum.1 + site.frees));
        assert_eq!(sums, (allocs, frees), "{name}");
    }
}

#[test]
fn an_untraced_target_has_no_breakpoints() {
    let mut target = Target::c("pairs", &["1000"]);
    target.ready();
    assert_eq!(memory::breakpoints(target.pid()), []);
    target.finish_with_truth(0);
}

#[test]
fn redis_starts_answers_and_ends() {
    let Some(redis) = unless_missing(Redis::start()) else {
        return;
    };
    assert_eq!(redis.ask(&[b"PING"]), "+PONG");
    redis.shut_down();
}

#[test]
fn postgres_starts_answers_and_ends() {
    let Some(postgres) = unless_missing(Postgres::start()) else {
        return;
    };
    assert_eq!(postgres.query("select 1"), "1");
    postgres.shut_down();
}
