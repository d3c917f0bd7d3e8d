//! The formats, and where they are written to.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
};

use leaktrace_tests::{
    fixtures,
    leaktrace::{Finished, Leaktrace, binary, require_tracing},
    report,
    skip::{program, unless_missing},
    target::Target,
    wait,
};

/// Traces `pairs 5000`, which leaks five blocks of 100 bytes, with exactly these options.
fn pairs(options: &[&str]) -> Finished {
    let mut target = Target::c("pairs", &["5000"]);
    target.ready();
    let pid = target.pid().to_string();
    let run = Leaktrace::bare(&["-p", &pid]).args(options).start();
    target.go();
    target.truth();
    let finished = run.stop().exited_with(0);
    target.finish_with(0);
    finished
}

#[test]
fn json_has_every_documented_field() {
    let finished = pairs(&["--format", "json", "-i", "0"]);
    assert!(
        finished.stdout.lines().count() > 10,
        "a single report is pretty: {}",
        finished.stdout
    );
    let report = finished.last_report();
    report.assert_adds_up();
    let has = |pointer: &str, fields: &[&str]| {
        let object = report
            .value()
            .pointer(pointer)
            .and_then(serde_json::Value::as_object);
        let object = object.unwrap_or_else(|| panic!("no object at {pointer}"));
        for field in fields {
            assert!(object.contains_key(*field), "no {field} at {pointer}: {object:?}");
        }
    };
    has(
        "",
        &[
            "schema",
            "elapsed_s",
            "target",
            "tracing",
            "totals",
            "survivors",
            "omitted",
            "ledger",
            "warnings",
        ],
    );
    has(
        "/totals",
        &[
            "live_bytes",
            "live_blocks",
            "alloc_bytes",
            "allocs",
            "frees",
            "rss_bytes",
        ],
    );
    has("/tracing", &["attach", "kernel", "sites", "skipped", "filters"]);
    has(
        "/tracing/sites/0",
        &[
            "object",
            "function",
            "call",
            "offset",
            "function_offset",
            "instruction",
            "kind",
            "pids",
        ],
    );
    has(
        "/target/processes/0",
        &[
            "pid",
            "comm",
            "exe",
            "state",
            "rss_bytes",
            "live_bytes",
            "live_blocks",
        ],
    );
    has(
        "/survivors/0",
        &[
            "pid",
            "call",
            "space",
            "bytes",
            "blocks",
            "bytes_per_s",
            "age_ms",
            "frames",
        ],
    );
    has("/survivors/0/age_ms", &["min", "p50", "max"]);
    let frame = "/survivors/0/frames/1";
    has(
        frame,
        &[
            "address", "object", "offset", "build_id", "symbol", "file", "line", "inlined",
        ],
    );
    assert_eq!(report.value()["survivors"][0]["space"], "heap");
    assert_eq!(
        (report.number("/sequence"), report.value()["last"].as_bool()),
        (1, Some(true))
    );
    assert!(report.total("rss_bytes") > 100_000, "{}", report.summary());
    assert_eq!(report.value()["target"]["processes"][0]["comm"], "pairs");
}

#[test]
fn json_repeats_one_document_a_line() {
    let mut target = Target::c("pairs", &["5000"]);
    target.ready();
    let mut run = Leaktrace::attach(&[target.pid()]).args(&["-i", "100ms"]).start();
    target.go();
    target.truth();
    run.report_where("the fifth report", |report| report.number("/sequence") >= 5);
    let finished = run.stop().exited_with(0);
    let reports = finished.reports();
    assert_eq!(
        reports.len(),
        finished.stdout.lines().count(),
        "one document a line"
    );
    for (index, report) in reports.iter().enumerate() {
        assert_eq!(report.number("/sequence"), index as u64 + 1);
        assert_eq!(report.value()["last"].as_bool(), Some(index + 1 == reports.len()));
    }
    reports
        .last()
        .expect("there are five at least")
        .assert_site("leak_100", 5, 500);
    target.finish_with(0);
}

#[test]
fn growth_is_that_of_the_interval() {
    let mut target = Target::c("stages", &[]);
    target.ready();
    let mut run = Leaktrace::attach(&[target.pid()]).args(&["-i", "200ms"]).start();
    target.go();
    target.at("one");
    let grown = run.report_where("the first growth", |report| report.site("stage_one").blocks == 5);
    let growth = |report: &report::Report| report.value()["survivors"][0]["bytes_per_s"].as_f64();
    let interval = grown.value()["interval_s"].as_f64().expect("a number");
    let expected = 5000.0 / interval;
    let reported = growth(&grown).expect("a number");
    assert!(
        (reported - expected).abs() <= expected * 0.01,
        "{reported} is not {expected}"
    );
    // Nothing happens: the next report has no growth.
    let next = grown.number("/sequence") + 1;
    let still = run.report_where("the report after it", |report| report.number("/sequence") == next);
    assert_eq!(growth(&still), Some(0.0), "{}", still.summary());
    assert_eq!(still.value()["totals"]["live_bytes_per_s"].as_f64(), Some(0.0));
    run.stop().exited_with(0).last_report().assert_adds_up();
}

#[test]
fn folded_stacks_sum_up() {
    let mut target = Target::c("every_function", &[]);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()])
        .args(&["--format", "folded"])
        .start();
    target.go();
    let truth = target.truth();
    let finished = run.stop().exited_with(0);
    target.finish_with(0);
    let mut sum = 0;
    for line in finished.stdout.lines() {
        let (stack, bytes) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        sum += bytes
            .parse::<u64>()
            .unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let frames: Vec<&str> = stack.split(';').collect();
        assert!(frames[0].starts_with("every_function"), "{line:?}");
        assert!(frames.contains(&"main"), "{line:?}");
        // Outermost first, the call last.
        let main = frames.iter().position(|frame| *frame == "main");
        let leak = frames.iter().position(|frame| frame.starts_with("leak_"));
        assert!(main < leak && leak < Some(frames.len() - 1), "{line:?}");
    }
    assert_eq!(
        sum,
        truth.sites.values().map(|site| site.bytes).sum::<u64>(),
        "{}",
        finished.stdout
    );
}

#[test]
fn text_says_what_json_says() {
    let finished = pairs(&["-i", "0"]);
    let text = &finished.stdout;
    for word in ["leak_100", "pairs.c:", "malloc", "500", "main"] {
        assert!(text.contains(word), "{word:?} is not in\n{text}");
    }
    assert!(!text.contains("churn"), "what was freed is no survivor\n{text}");
    // Every counter of the ledger is there, the zeros too.
    let json = pairs(&["-i", "0", "--format", "json"]).last_report();
    let ledger = json.value()["ledger"].as_object().expect("an object");
    assert!(ledger.len() >= 17, "{ledger:?}");
    // Those of GPU memory only where that is followed: nothing of it can have gone unseen elsewhere.
    let is_of_gpu = |counter: &str| counter.starts_with("gpu_") || counter.starts_with("tensor_");
    let has_gpu = json.value()["gpu"].is_object();
    for counter in ledger.keys() {
        let is_told = has_gpu || !is_of_gpu(counter);
        assert_eq!(text.contains(counter.as_str()), is_told, "{counter} in\n{text}");
    }
    let followed = pairs(&["-i", "0", "--gpu"]).stdout;
    for counter in ledger.keys() {
        assert!(
            followed.contains(counter.as_str()),
            "{counter} is not in\n{followed}"
        );
    }
    assert!(!text.contains('\u{1b}'), "no colours into a pipe: {text:?}");
}

#[test]
fn a_stripped_caller_is_object_and_offset_in_text() {
    let stripped = fixtures::Fixture::c("pairs")
        .flags(&["-s"])
        .build()
        .expect("gcc is there");
    let mut target = Target::program(&stripped, &["5000"]);
    target.ready();
    let run = Leaktrace::bare(&["-i", "0", "-p", &target.pid().to_string()]).start();
    target.go();
    target.truth();
    let finished = run.stop().exited_with(0);
    assert!(finished.stdout.contains("pairs+0x"), "{}", finished.stdout);
    target.finish_with(0);
}

#[test]
fn text_reports_are_appended_to_a_pipe() {
    let mut target = Target::c("pairs", &["5000"]);
    target.ready();
    let pid = target.pid().to_string();
    let mut run = Leaktrace::bare(&["-i", "100ms", "-p", &pid]).start();
    target.go();
    target.truth();
    for _ in 0..3 {
        run.stdout_line("another report", |line| line.contains("leak_100"));
    }
    let finished = run.stop().exited_with(0);
    assert!(!finished.stdout.contains('\u{1b}'), "{:?}", finished.stdout);
    target.finish_with(0);
}

/// Traces on a terminal, which `script` provides, and returns what it got.
fn on_a_terminal(options: &str) -> Option<String> {
    let script = unless_missing(program("script", "bsdutils"))?;
    require_tracing();
    let mut target = Target::c("pairs", &["5000"]);
    target.ready();
    target.go();
    let command = format!(
        "{} -p {} -i 100ms -d 1s {options}",
        binary().display(),
        target.pid()
    );
    let output = Command::new(script)
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::null())
        .output();
    let output = output.expect("script starts");
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn text_is_redrawn_on_a_terminal() {
    let Some(drawn) = on_a_terminal("") else { return };
    assert!(drawn.contains("\u{1b}[H"), "the cursor goes home: {drawn:?}");
    assert!(
        !drawn.contains("\u{1b}[?1049h"),
        "the last report stays in the scrollback"
    );
}

#[test]
fn no_color_has_no_colours_on_a_terminal() {
    let Some(drawn) = on_a_terminal("--no-color") else {
        return;
    };
    let is_colour = |rest: &str| {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != ';')
            .unwrap_or(rest.len());
        rest[end..].starts_with('m')
    };
    assert!(!drawn.split("\u{1b}[").skip(1).any(is_colour), "{drawn:?}");
}

#[test]
fn a_file_gets_the_report_and_stdout_nothing() {
    let folder = tempfile::TempDir::new().expect("a temporary folder can be made");
    let path = folder.path().join("report.json");
    let finished = pairs(&[
        "--format",
        "json",
        "-i",
        "0",
        "-o",
        path.to_str().expect("a plain path"),
    ]);
    assert_eq!(finished.stdout, "");
    let text = std::fs::read_to_string(&path).expect("the report is there");
    let reports = report::parse_all(&text).expect("it is JSON");
    assert_eq!(reports.len(), 1);
    reports[0].assert_site("leak_100", 5, 500);
}

#[test]
fn a_full_disk_is_an_error_and_no_panic() {
    for format in ["text", "json", "folded"] {
        let mut target = Target::c("pairs", &["5000"]);
        target.ready();
        let pid = target.pid().to_string();
        let run = Leaktrace::bare(&["-p", &pid, "-i", "0", "--format", format, "-o", "/dev/full"]).start();
        // Without survivors there would be nothing to write in one of the formats.
        target.go();
        target.truth();
        let finished = run.stop().exited_with(2);
        target.finish_with(0);
        let errors: Vec<&str> = finished
            .stderr
            .lines()
            .filter(|line| !line.starts_with("leaktrace: tracing"))
            .collect();
        assert_eq!(errors.len(), 1, "{}", finished.seen());
        assert!(
            errors[0].starts_with("leaktrace: ") && errors[0].contains("/dev/full"),
            "{}",
            errors[0]
        );
    }
}

#[test]
fn a_file_that_cannot_be_made_is_refused_before_the_attach() {
    let mut target = Target::c("pairs", &["5000"]);
    target.ready();
    require_tracing();
    let pid = target.pid().to_string();
    Leaktrace::bare(&["-p", &pid, "-o", "/nonexistent/report"])
        .run()
        .refused(&["/nonexistent/report"]);
    target.finish_with_truth(0);
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    require_tracing();
    for format in ["text", "json"] {
        let mut target = Target::c("pairs", &["5000"]);
        target.ready();
        target.go();
        let mut child = Command::new(binary())
            .args(["-p", &target.pid().to_string(), "-i", "50ms", "--format", format])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("leaktrace starts");
        // As `| head -1` does.
        let mut first = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        stdout.read_line(&mut first).expect("it can be read");
        assert!(!first.is_empty());
        drop(stdout);
        let status = wait::until("its end", || child.try_wait().expect("a child can be waited for"));
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .expect("a pipe")
            .read_to_string(&mut stderr)
            .expect("it can be read");
        assert_eq!(status.code(), Some(0), "{format}: {stderr}");
        assert!(!stderr.contains("panic"), "{stderr}");
    }
}

#[test]
fn probes_are_listed_with_object_function_and_offset() {
    let report = pairs(&["--format", "json", "-i", "0"]).last_report();
    let sites = report.value()["tracing"]["sites"].as_array().expect("a list");
    let functions: BTreeSet<&str> = sites
        .iter()
        .filter_map(|site| site["function"].as_str())
        .collect();
    let expected = [
        "malloc",
        "calloc",
        "realloc",
        "reallocarray",
        "free",
        "posix_memalign",
        "valloc",
        "pvalloc",
    ];
    for function in expected {
        assert!(functions.contains(function), "{function} is not in {functions:?}");
    }
    for site in sites {
        assert!(
            site["offset"]
                .as_str()
                .is_some_and(|offset| offset.starts_with("0x")),
            "{site}"
        );
        assert!(
            site["object"]
                .as_str()
                .is_some_and(|object| object.contains("libc")),
            "{site}"
        );
        assert!(
            site["pids"].as_array().is_some_and(|pids| pids.len() == 1),
            "{site}"
        );
    }
}
