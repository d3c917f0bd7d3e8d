//! The command line: bad values, filters, what a traced command gets from its terminal, subcommands.

use std::time::Duration;

use leaktrace_tests::{
    fixtures,
    leaktrace::{Leaktrace, require_tracing},
    report::Report,
    target::Target,
    trace,
};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Values that cannot be meant, and what the line about them must contain.
const MALFORMED: &[(&[&str], &str)] = &[
    (&["-p", "abc"], "abc"),
    (&["-p", "0"], "0"),
    (&["-p", "-5"], "5"),
    (&["-p", "1,"], "-p"),
    (&["-p", ""], "-p"),
    (&["-p", "99999999999999999999"], "99999999999999999999"),
    (&["-p", "1", "-i", "5parsecs"], "5parsecs"),
    (&["-p", "1", "-i", "-1s"], "-1"),
    (&["-p", "1", "-d", "soon"], "soon"),
    (&["-p", "1", "--older-than", "old"], "old"),
    (&["-p", "1", "--min-size", "12XiB"], "12XiB"),
    (
        &["-p", "1", "--min-size", "99999999999999999999GiB"],
        "--min-size",
    ),
    (
        &["-p", "1", "--min-size", "2KiB", "--max-size", "1KiB"],
        "--max-size",
    ),
    (&["-p", "1", "--top", "many"], "many"),
    (&["-p", "1", "--sort", "colour"], "colour"),
    (&["-p", "1", "--format", "yaml"], "yaml"),
    (&["-p", "1", "--max-live", "0"], "--max-live"),
    (&["-p", "1", "--max-live", "lots"], "lots"),
    (&["-p", "1", "--max-overhead", "0%"], "--max-overhead"),
    (&["-p", "1", "--max-overhead", "101%"], "--max-overhead"),
    (&["-p", "1", "--max-overhead", "-1"], "--max-overhead"),
    (&["-p", "1", "--max-overhead", "little"], "little"),
    (&["-p", "1", "--no-such-option"], "--no-such-option"),
    (&["-p", "1", "--", "true"], "-p"),
    (
        &[
            "-p",
            "1",
            "--alloc",
            "pool_get",
            "--free",
            "pool_put(ptr=arg0)",
            "--object",
            "/bin/true",
        ],
        "pool_get",
    ),
    (
        &[
            "-p",
            "1",
            "--alloc",
            "f(size=arg9)->ret",
            "--free",
            "g(ptr=arg0)",
            "--object",
            "/bin/true",
        ],
        "arg9",
    ),
    (
        &["-p", "1", "--alloc", "f(size=arg0)->ret", "--free", "g(ptr=arg0)"],
        "--object",
    ),
    (&["--"], ""),
    (&[], ""),
];

#[test]
fn a_malformed_value_is_one_clear_line() {
    for (options, word) in MALFORMED {
        Leaktrace::bare(options).run().refused(&[word]);
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for option in ["--help", "--version"] {
        let finished = Leaktrace::bare(&[option]).run().exited_with(0);
        assert!(finished.stdout.contains("leaktrace"), "{}", finished.seen());
        assert_eq!(finished.stderr, "");
    }
}

#[test]
fn completions_and_man_page() {
    for shell in ["bash", "zsh", "fish"] {
        let finished = Leaktrace::bare(&["completions", shell]).run().exited_with(0);
        assert!(
            finished.stdout.contains("older-than"),
            "{shell}: {}",
            finished.seen()
        );
    }
    let finished = Leaktrace::bare(&["man"]).run().exited_with(0);
    assert!(finished.stdout.contains(".TH"), "{}", finished.seen());
}

#[test]
fn doctor_says_what_will_be_used() {
    require_tracing();
    let finished = Leaktrace::bare(&["doctor"]).run().exited_with(0);
    let said = finished.stdout.to_lowercase();
    for word in ["btf", "uprobe", "session", "multi"] {
        assert!(said.contains(word), "{word}: {}", finished.seen());
    }
}

#[test]
fn demo_names_its_leak_with_function_file_and_line() {
    require_tracing();
    let finished = Leaktrace::bare(&["demo", "-d", "3s", "--format", "json"])
        .run()
        .exited_with(0);
    let report = finished.last_report();
    report.assert_no_losses();
    let survivors = report.survivors();
    let first = survivors
        .first()
        .unwrap_or_else(|| panic!("no survivor\n{}", report.summary()));
    // Functions of the library that are inlined into it are frames of their own.
    let leak = first.symbols().iter().position(|symbol| symbol.contains("leak"));
    let leak = leak.unwrap_or_else(|| panic!("no leak\n{}", report.summary()));
    let frame = &first.frames()[leak];
    assert!(
        frame["file"].as_str().is_some_and(|file| file.contains("demo")),
        "{frame}"
    );
    assert!(frame["line"].as_u64().is_some(), "{frame}");
    assert!(first.number("blocks") > 0 && first.number("bytes").is_multiple_of(first.number("blocks")));
}

#[test]
fn a_command_gets_its_streams_and_gives_its_status() {
    require_tracing();
    let mut run = Leaktrace::command("/bin/cat".as_ref(), &[]).with_stdin().start();
    run.send(b"through the pipe\n");
    run.stdout_line("what cat got", |line| line == "through the pipe");
    run.close_stdin();
    let finished = run.wait().exited_with(0);
    assert_eq!(finished.stdout, "through the pipe\n");

    let shell = ["-c", "echo to stderr >&2; exit 7"];
    let finished = Leaktrace::command("/bin/sh".as_ref(), &shell)
        .start()
        .wait()
        .exited_with(7);
    assert!(
        finished.stderr.lines().any(|line| line == "to stderr"),
        "{}",
        finished.seen()
    );
    let report = finished.last_report();
    let process = &report.value()["target"]["processes"][0];
    assert_eq!(
        (
            process["exit"]["code"].as_i64(),
            process["exit"]["signal"].as_i64()
        ),
        (Some(7), None)
    );
    assert_eq!(report.value()["target"]["command"][0], "/bin/sh");
}

#[test]
fn a_command_that_a_signal_ends_gives_128_and_its_number() {
    require_tracing();
    let shell = ["-c", "kill -TERM $$"];
    let finished = Leaktrace::command("/bin/sh".as_ref(), &shell)
        .start()
        .wait()
        .exited_with(143);
    let report = finished.last_report();
    let exit = &report.value()["target"]["processes"][0]["exit"];
    assert_eq!((exit["code"].as_i64(), exit["signal"].as_i64()), (None, Some(15)));
}

#[test]
fn ctrl_c_at_leaktrace_reports_on_a_command() {
    let mut run = Leaktrace::command(&fixtures::c("stages"), &[])
        .with_stdin()
        .start();
    run.stdout_line("ready", |line| line == "ready");
    run.send(b"g");
    run.stdout_line("one", |line| line == "one");
    let command = run.target_pid();
    run.signal(Signal::SIGINT);
    leaktrace_tests::wait::until("the report", || (!run.file().is_empty()).then_some(()));
    // Whether the command ends with leaktrace or goes on is not this test's business.
    let killed = kill(Pid::from_raw(command.cast_signed()), Signal::SIGKILL);
    assert!(matches!(killed, Ok(()) | Err(Errno::ESRCH)), "{killed:?}");
    run.wait().last_report().assert_site("stage_one", 5, 5000);
}

#[test]
fn a_command_outlives_the_tracing_and_still_gets_signals() {
    let run = Leaktrace::command(&fixtures::c("stages"), &[])
        .args(&["-d", "200ms"])
        .with_stdin()
        .start();
    leaktrace_tests::wait::until("the last report", || (!run.file().is_empty()).then_some(()));
    // Tracing is over; leaktrace is nothing but the command's parent now.
    run.signal(Signal::SIGTERM);
    let _ended = run.wait().exited_with(128 + Signal::SIGTERM as i32);
}

#[test]
fn pids_by_comma_and_by_repetition() {
    let mut targets = [(); 3].map(|()| {
        let mut target = Target::c("pairs", &["2000"]);
        target.ready();
        target
    });
    let pids = targets.each_ref().map(|target| target.pid().to_string());
    let both = format!("{},{}", pids[0], pids[1]);
    let options = ["-p", &both, "-p", &pids[2], "--format", "json", "-i", "0"];
    let run = Leaktrace::bare(&options).start();
    let truths = targets.each_mut().map(|target| {
        target.go();
        target.truth()
    });
    let report = run.stop().report();
    for truth in &truths {
        report.assert_sites(truth);
    }
    assert_eq!(
        report.value()["target"]["processes"].as_array().map(Vec::len),
        Some(3)
    );
}

/// The fixture `stages` after all its steps but the last, traced with `options`.
fn stages(options: &[&str]) -> Report {
    let mut target = Target::c("stages", &[]);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()]).args(options).start();
    for step in ["one", "two", "three"] {
        target.go();
        target.at(step);
    }
    let report = run.stop().report();
    report.assert_adds_up();
    target.go();
    target.truth();
    target.finish_with(0);
    report
}

fn order(report: &Report) -> Vec<String> {
    report
        .survivors()
        .iter()
        .map(|survivor| survivor.symbols()[1].to_owned())
        .collect()
}

#[test]
fn sorted_by_each_key() {
    // stage_one: 5 x 1000, oldest. stage_two: 30 x 100. stage_three: 1 x 2000, youngest.
    assert_eq!(order(&stages(&[])), ["stage_one", "stage_two", "stage_three"]);
    assert_eq!(
        order(&stages(&["--sort", "bytes"])),
        ["stage_one", "stage_two", "stage_three"]
    );
    assert_eq!(
        order(&stages(&["--sort", "blocks"])),
        ["stage_two", "stage_one", "stage_three"]
    );
    assert_eq!(
        order(&stages(&["--sort", "growth"])),
        ["stage_one", "stage_two", "stage_three"]
    );
    let by_age = stages(&["--sort", "age"]);
    let ages: Vec<u64> = by_age
        .survivors()
        .iter()
        .map(|survivor| survivor.0["age_ms"]["max"].as_u64().expect("an age"))
        .collect();
    assert!(ages.is_sorted_by(|a, b| a >= b), "{ages:?}");
}

#[test]
fn top_leaves_the_rest_in_the_sums() {
    let report = stages(&["--top", "1"]);
    assert_eq!(order(&report), ["stage_one"]);
    let omitted = ["sites", "blocks", "bytes"].map(|name| report.number(&format!("/omitted/{name}")));
    assert_eq!(omitted, [2, 31, 5000]);
    assert_eq!(report.number("/tracing/filters/top"), 1);
}

#[test]
fn sizes_below_and_above_are_not_recorded() {
    let report = stages(&["--min-size", "101", "--max-size", "1KiB"]);
    assert_eq!(order(&report), ["stage_one"]);
    assert_eq!(report.ledger("filtered_size"), 31, "{}", report.summary());
    assert_eq!(report.total("allocs"), 5);
    assert_eq!(report.number("/tracing/filters/min_size_bytes"), 101);
    assert_eq!(report.number("/tracing/filters/max_size_bytes"), 1024);
    // Both bounds belong to what is recorded.
    let report = stages(&["--min-size", "100", "--max-size", "1000"]);
    assert_eq!(order(&report), ["stage_one", "stage_two"]);
    assert_eq!(report.ledger("filtered_size"), 1, "{}", report.summary());
}

#[test]
fn a_realloc_across_the_size_filter() {
    // chain grows from 10 B to 810 325 B: only its last sizes are recorded, and nothing of it is missed.
    let mut target = Target::c("reallocs", &[]);
    let traced = trace(&mut target, &["--min-size", "100000"]);
    traced.report.assert_adds_up();
    traced.report.assert_no_losses();
    traced.report.assert_site("chain", 1, 810_325);
    assert_eq!(
        traced.report.total("live_blocks"),
        1,
        "{}",
        traced.report.summary()
    );
    target.finish_with(0);
}

#[test]
fn young_blocks_are_left_out_by_age() {
    let report = stages(&["--older-than", "1h"]);
    assert_eq!(report.survivors().len(), 0, "{}", report.summary());
    assert_eq!(
        (report.total("live_blocks"), report.total("live_bytes")),
        (36, 10_000)
    );
    assert_eq!(
        (report.number("/omitted/blocks"), report.number("/omitted/bytes")),
        (36, 10_000)
    );
    assert_eq!(report.number("/tracing/filters/older_than_ms"), 3_600_000);
}

#[test]
fn old_blocks_come_into_the_report_when_their_time_has_come() {
    let mut target = Target::c("stages", &[]);
    target.ready();
    let options = ["-i", "100ms", "--older-than", "700ms"];
    let mut run = Leaktrace::attach(&[target.pid()]).args(&options).start();
    target.go();
    target.at("one");
    let report = run.report_where("its old blocks", |report| {
        for survivor in report.survivors() {
            assert!(
                survivor.0["age_ms"]["min"].as_u64() >= Some(700),
                "{}",
                report.summary()
            );
        }
        report.site("stage_one").blocks == 5
    });
    report.assert_adds_up();
    run.stop().exited_with(0).last_report().assert_adds_up();
}

#[test]
fn ages_are_those_of_the_blocks() {
    let mut target = Target::c("stages", &[]);
    target.ready();
    let start = std::time::Instant::now();
    let run = Leaktrace::attach(&[target.pid()]).start();
    target.go();
    target.at("one");
    let held_from = std::time::Instant::now();
    // An age can only be tested with time passing.
    std::thread::sleep(Duration::from_millis(300));
    let at_least = held_from.elapsed();
    let report = run.stop().report();
    let at_most = start.elapsed();
    let survivors = report.survivors();
    let age = |name: &str| Duration::from_millis(survivors[0].0["age_ms"][name].as_u64().expect("an age"));
    // Milliseconds are rounded, and a histogram keeps three digits.
    let tolerance = Duration::from_millis(5);
    assert!(
        age("min") + tolerance >= at_least,
        "{:?} {at_least:?}",
        age("min")
    );
    assert!(age("max") <= at_most + tolerance, "{:?} {at_most:?}", age("max"));
    assert!(age("min") <= age("p50") && age("p50") <= age("max"));
}

#[test]
fn blocks_are_shown_when_asked_for() {
    let report = stages(&["--show-blocks"]);
    let survivors = report.survivors();
    let stage_two = survivors
        .iter()
        .find(|survivor| survivor.called_by("stage_two"))
        .expect("it is there");
    let blocks = stage_two.0["block_list"].as_array().expect("a list of blocks");
    assert_eq!(blocks.len(), 30);
    let mut addresses: Vec<&str> = blocks
        .iter()
        .filter_map(|block| block["address"].as_str())
        .collect();
    assert!(
        addresses.iter().all(|address| address.starts_with("0x")),
        "{addresses:?}"
    );
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 30);
    let ages: Vec<u64> = blocks
        .iter()
        .filter_map(|block| block["age_ms"].as_u64())
        .collect();
    assert!(ages.is_sorted_by(|a, b| a >= b), "oldest first: {ages:?}");
    assert!(
        stages(&[]).survivors()[0].0.get("block_list").is_none(),
        "only when asked for"
    );
}

#[test]
fn every_way_to_attach_gives_the_same() {
    for kind in ["session", "multi", "perf"] {
        let mut target = Target::c("every_function", &[]);
        let traced = trace(&mut target, &["--attach", kind]);
        assert_eq!(traced.report.value()["tracing"]["attach"], kind);
        traced.report.assert_exact_but(&traced.truth, &["abandoned"]);
        target.finish_with(0);
        let mut target = Target::c("threads", &["4", "500"]);
        let traced = trace(&mut target, &["--attach", kind]);
        traced.report.assert_sites(&traced.truth);
        target.finish_with(0);
    }
}
