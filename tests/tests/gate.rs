//! The exit code that `--fail-on` gives a run, and what suppressions leave out: with real programs.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use leaktrace_tests::{
    fixtures,
    leaktrace::{Finished, Leaktrace, binary, require_tracing},
    report::Report,
    skip::{program, unless_missing},
    target::Target,
    wait,
};

/// Traces a fixture that is running before its work is done, so that its stacks are whole from the first on, and ends the run
/// when it is.
fn traced(fixture: &str, arguments: &[&str], options: &[&str]) -> Finished {
    let mut target = Target::c(fixture, arguments);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()]).args(options).start();
    target.go();
    target.truth();
    let finished = run.stop();
    target.go();
    finished
}

/// `pairs 5000` leaves five blocks of 100 bytes from `leak_100`.
fn pairs(options: &[&str]) -> Finished {
    traced("pairs", &["5000"], options)
}

/// `many_sites 100 10` leaves 100 blocks from ten stacks, which differ in `digit_0` to `digit_9`.
fn many_sites(options: &[&str]) -> Finished {
    traced("many_sites", &["100", "10"], options)
}

/// A file of suppressions.
fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    file.write_all(text.as_bytes()).expect("it can be written");
    file
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().expect("a plain path")
}

/// The list at a JSON pointer, which must be there.
fn list<'a>(report: &'a Report, pointer: &str) -> &'a [serde_json::Value] {
    let value = report.value().pointer(pointer);
    let list = value.and_then(serde_json::Value::as_array);
    list.unwrap_or_else(|| panic!("no list at {pointer} in\n{}", report.summary()))
}

/// What it said of the gate on standard error, without its name in front.
fn said(finished: &Finished) -> Vec<&str> {
    let lines = finished.stderr.lines();
    let lines = lines.filter_map(|line| line.strip_prefix("leaktrace: "));
    lines.filter(|line| !line.starts_with("tracing ")).collect()
}

#[test]
fn blocks_and_bytes_above_a_limit_make_exit_code_1_and_name_the_site() {
    for (condition, value, limit, number) in [
        ("survivors>4", 5, 4, "5 blocks"),
        ("survivors>=5", 5, 5, "5 blocks"),
        ("bytes>499", 500, 499, "500 B"),
        ("bytes>=500", 500, 500, "500 B"),
    ] {
        let finished = pairs(&["--fail-on", condition]).exited_with(1);
        let report = finished.last_report();
        report.assert_adds_up();
        let failed = &list(&report, "/gate/failed")[0];
        assert_eq!(failed["condition"], condition);
        assert_eq!(
            (&failed["value"], &failed["limit"]),
            (&value.into(), &limit.into())
        );
        assert_eq!(
            (&failed["memory"], &failed["estimate"]),
            (&"host".into(), &serde_json::Value::Null)
        );
        let sites = failed["sites"].as_array().expect("a list");
        let site = report.survivors()[sites[0].as_u64().expect("an index") as usize];
        assert!(
            sites.len() == 1 && site.has_caller("leak_100"),
            "{}",
            report.summary()
        );
        let said = said(&finished);
        assert_eq!(said[0], format!("failed: {condition}: {number} outstanding"));
        assert!(
            said[1].starts_with("  500 B in 5 blocks by malloc at leak_100 (")
                && said[1].contains("pairs.c:"),
            "{said:?}"
        );
        assert_eq!(said.len(), 2);
    }
}

#[test]
fn what_is_within_the_limits_passes() {
    for condition in ["survivors>5", "bytes>500", "survivors>=6,bytes>1KiB"] {
        let finished = pairs(&["--fail-on", condition]).exited_with(0);
        assert_eq!(said(&finished), Vec::<&str>::new());
        let report = finished.last_report();
        assert!(list(&report, "/gate/failed").is_empty());
        let conditions = list(&report, "/gate/conditions");
        assert_eq!(conditions.len(), condition.split(',').count());
    }
    let without = pairs(&[]).exited_with(0).last_report();
    assert!(without.value()["gate"].is_null() && list(&without, "/suppressed").is_empty());
}

#[test]
fn one_of_several_conditions_is_enough() {
    let finished = pairs(&[
        "--fail-on",
        "bytes>1GiB,survivors>0",
        "--fail-on",
        "survivors>1000",
    ]);
    let report = finished.exited_with(1).last_report();
    assert_eq!(list(&report, "/gate/failed").len(), 1);
    assert_eq!(list(&report, "/gate/conditions").len(), 3);
}

#[test]
fn blocks_that_the_filters_leave_out_do_not_count() {
    let _passed = pairs(&["--fail-on", "survivors>0", "--older-than", "1h"]).exited_with(0);
    let _passed = pairs(&["--fail-on", "survivors>0", "--min-size", "1KiB"]).exited_with(0);
}

#[test]
fn suppressed_sites_are_left_out_and_counted() {
    let known = file("# known\nleak:no_such_function\nleak:^leak_*$\n");
    let finished = pairs(&["--fail-on", "survivors>0", "--suppressions", path(&known)]).exited_with(0);
    let report = finished.last_report();
    report.assert_adds_up();
    assert_eq!(report.survivors().len(), 0, "{}", report.summary());
    assert_eq!(report.total("live_blocks"), 5, "totals have them");
    let suppressed = list(&report, "/suppressed");
    let counts = |index: usize| {
        ["line", "sites", "blocks", "bytes"].map(|name| suppressed[index][name].as_u64().expect("a number"))
    };
    assert_eq!(
        (counts(0), counts(1)),
        ([2, 0, 0, 0], [3, 1, 5, 500]),
        "{suppressed:?}"
    );
    assert_eq!(
        (&suppressed[1]["pattern"], &suppressed[1]["file"]),
        (&"^leak_*$".into(), &path(&known).into())
    );
    assert!(list(&report, "/gate/failed").is_empty());
}

#[test]
fn functions_source_files_and_objects_are_matched_in_all_files() {
    for (first, second) in [
        ("leak:main", ""),
        ("", "leak:programs/c/pairs.c$"),
        ("leak:nothing", "leak:/pairs$"),
    ] {
        let (first, second) = (file(first), file(second));
        let options = ["--suppressions", path(&first), "--suppressions", path(&second)];
        let report = pairs(&options).exited_with(0).last_report();
        assert_eq!(report.survivors().len(), 0, "{}", report.summary());
    }
    let other = file("leak:LEAK_100\nleak:^eak\nleak:pairs.cc\n");
    let _failed = pairs(&["--fail-on", "survivors>0", "--suppressions", path(&other)]).exited_with(1);
}

#[test]
fn what_is_suppressed_is_not_in_the_sums_of_the_gate() {
    let known = file("leak:digit_3\nleak:digit_7\n");
    let finished = many_sites(&["--fail-on", "survivors>79", "--suppressions", path(&known)]);
    let report = finished.exited_with(1).last_report();
    report.assert_adds_up();
    let failed = &list(&report, "/gate/failed")[0];
    assert_eq!(failed["value"], 80, "{}", report.summary());
    assert_eq!(
        failed["sites"].as_array().map(Vec::len),
        Some(1),
        "without one it would pass"
    );
}

#[test]
fn sites_that_made_it_fail_are_listed_beyond_top_and_the_rest_counts() {
    let finished = many_sites(&["--fail-on", "survivors>55", "--top", "2"]);
    let report = finished.exited_with(1).last_report();
    report.assert_adds_up();
    let failed = &list(&report, "/gate/failed")[0];
    assert_eq!(failed["value"], 100, "all sites count: {}", report.summary());
    // Five sites of ten blocks less, 50 are left, which may be.
    assert_eq!(
        failed["sites"].as_array().map(Vec::len),
        Some(5),
        "{}",
        report.summary()
    );
    assert_eq!(report.survivors().len(), 5, "{}", report.summary());
    assert_eq!(
        (report.number("/omitted/sites"), report.number("/omitted/blocks")),
        (5, 50)
    );
}

#[test]
fn a_command_that_ends_well_fails_by_the_gate() {
    require_tracing();
    for (condition, code) in [("survivors>4", 1), ("survivors>5", 0)] {
        let finished = Leaktrace::command(&fixtures::c("pairs"), &["5000"])
            .args(&["--fail-on", condition])
            .run()
            .exited_with(code);
        let report = finished.last_report();
        assert_eq!(list(&report, "/gate/failed").len(), code as usize);
    }
}

#[test]
fn the_status_of_a_command_that_fails_is_passed_on() {
    require_tracing();
    for (how, code) in [("return", 3), ("exit", 3), ("abort", 134), ("segv", 139)] {
        let finished = Leaktrace::command(&fixtures::c("exits"), &[how])
            .args(&["--fail-on", "survivors>8"])
            .run()
            .exited_with(code);
        let said = said(&finished);
        assert_eq!(said[0], "failed: survivors>8: 9 blocks outstanding", "{how}");
        assert_eq!(
            said.last(),
            Some(&"the command has failed as well: the exit status is its own")
        );
        let _passed = Leaktrace::command(&fixtures::c("exits"), &[how])
            .args(&["--fail-on", "survivors>9"])
            .run()
            .exited_with(code);
    }
}

#[test]
fn a_run_on_a_process_is_judged_when_it_is_ended() {
    let mut target = Target::c("pairs", &["5000"]);
    target.ready();
    let pid = target.pid();
    let start = |condition: &str| {
        Leaktrace::attach(&[pid])
            .args(&["-i", "50ms", "--fail-on", condition])
            .start()
    };
    let passes = start("survivors>5");
    let mut fails = start("survivors>4");
    target.go();
    target.truth();
    let before = fails.report_where("a report of all", |report| report.total("live_blocks") == 5);
    assert!(before.value()["gate"].is_null(), "only the last one is judged");
    let report = fails.stop().exited_with(1).last_report();
    assert_eq!(list(&report, "/gate/failed").len(), 1);
    let report = passes.stop().exited_with(0).last_report();
    assert!(list(&report, "/gate/failed").is_empty());
    target.finish_with(0);
}

#[test]
fn of_samples_the_lower_bound_is_compared() {
    let sampled = |condition: &str| {
        let finished = Leaktrace::command(&fixtures::c("sampled"), &["3"])
            .args(&["--sample-bytes", "64KiB", "--fail-on", condition])
            .run();
        let report = finished.last_report();
        (finished, report)
    };
    let (finished, report) = sampled("bytes>0");
    let _failed = finished.exited_with(1);
    let failed = &list(&report, "/gate/failed")[0];
    assert_eq!(
        failed["value"],
        report.number("/totals/bytes_interval/0"),
        "{}",
        report.summary()
    );
    assert_eq!(failed["estimate"], report.total("live_bytes"));
    // Some 250 MB are outstanding.
    let (finished, _) = sampled("bytes>10GiB");
    let _passed = finished.exited_with(0);
}

#[test]
fn the_text_says_what_failed_and_what_was_suppressed() {
    let known = file("leak:digit_3\n");
    let finished = many_sites(&[
        "--format",
        "text",
        "--fail-on",
        "survivors>85",
        "--suppressions",
        path(&known),
    ]);
    let text = finished.exited_with(1).stdout;
    for words in [
        "\nsuppressed: 1 site with ",
        " in 10 blocks (10 x leak:digit_3)\n",
        "\nfailed: survivors>85: 90 blocks outstanding\n  ",
        " in 10 blocks by malloc at bottom (",
    ] {
        assert!(text.contains(words), "{words:?} in\n{text}");
    }
    let passed = pairs(&["--format", "text", "--fail-on", "survivors>5"])
        .exited_with(0)
        .stdout;
    assert!(passed.contains("\npassed: survivors>5\n"), "{passed}");
}

#[test]
fn lines_of_python_can_be_suppressed() {
    let Some(python) = unless_missing(program("python3", "python3")) else {
        return;
    };
    let code = "import os\ndef cached():\n    return bytearray(5_000_000)\nkept = cached()\nos._exit(0)\n";
    let trace = |suppressions: &str| {
        let known = file(suppressions);
        let finished = Leaktrace::command(&python, &["-c", code])
            .args(&["--max-overhead", "off", "--min-size", "1MB"])
            .args(&["--fail-on", "bytes>4MB", "--suppressions", path(&known)])
            .run();
        finished.status.code()
    };
    assert_eq!(trace("leak:no_such_function"), Some(1));
    assert_eq!(trace("leak:^cached$"), Some(0));
    assert_eq!(trace("leak:^<string>$"), Some(0), "the file");
}

#[test]
fn a_gate_that_nobody_let_judge_does_not_pass() {
    require_tracing();
    let mut target = Target::c("pairs", &["5000"]);
    target.ready();
    let mut child = Command::new(binary())
        .args([
            "-p",
            &target.pid().to_string(),
            "-i",
            "50ms",
            "--fail-on",
            "bytes>1GiB",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("leaktrace starts");
    // As `| head -1` does.
    let mut first = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    stdout.read_line(&mut first).expect("it can be read");
    drop(stdout);
    let status = wait::until("its end", || child.try_wait().expect("a child can be waited for"));
    let mut stderr = String::new();
    let mut pipe = child.stderr.take().expect("a pipe");
    pipe.read_to_string(&mut stderr).expect("it can be read");
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("--fail-on was not judged"), "{stderr}");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_traced() {
    let refused = |options: &[&str], words: &[&str]| {
        Leaktrace::bare(options).run().refused(words);
    };
    let race = file("leak:a\nrace:b\n");
    refused(
        &["--suppressions", path(&race), "--", "true"],
        &[&format!("{}:2: 'race:'", path(&race)), "write leak:PATTERN"],
    );
    let empty = file("leak:\n");
    refused(
        &["--suppressions", path(&empty), "--", "true"],
        &[":1: no pattern", "leak:* for all"],
    );
    let none = Path::new("/no/such/known.supp");
    refused(
        &["--suppressions", &none.display().to_string(), "--", "true"],
        &[
            "cannot read --suppressions '/no/such/known.supp'",
            "give the path",
        ],
    );
    refused(
        &["--fail-on", "survivors", "--", "true"],
        &["--fail-on 'survivors'", "in quotes"],
    );
    refused(&["watch", "-a", "--fail-on", "growing"], &["trace them instead"]);
}
