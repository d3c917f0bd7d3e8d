//! Leaks as Python programs have them, each beside the same program without: the first site of the report is the one that
//! leaks, and without the leak nothing is said to grow. What the programs print and how they end stays what it is.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use leaktrace_tests::{
    leaktrace::Leaktrace,
    python_leak::{EXIT_CODE, GRAIN_BYTES, Leak, brief, growing, types},
    report::Report,
    skip::{Missing, program, unless_missing},
    target::Target,
    venv,
};
use serde_json::Value;

/// The distribution's own: static, stripped, optimised over all its files.
const SYSTEM: &str = "/usr/bin/python3";

/// Packages with compiled parts in C++ and in Rust.
const PACKAGES: [&str; 2] = ["matplotlib>=3.5", "rustworkx>=0.14"];

/// How long the programs work. The leaks are of some 8 MB a second.
const LEAK_SECONDS: &str = "3";
/// Nine reports: whatever fills up has done so when the last three are compared.
const FIXED_SECONDS: &str = "4.5";
const INTERVAL: &str = "500ms";

fn system() -> Result<PathBuf, Missing> {
    let path = PathBuf::from(SYSTEM);
    let missing = || Missing(format!("no {SYSTEM}; install python3"));
    path.exists().then_some(path).ok_or_else(missing)
}

fn with_packages() -> Result<PathBuf, Missing> {
    venv::with(&system()?, &PACKAGES)
}

/// The numbers of the line "done {...}".
fn done(target: &mut Target) -> Value {
    let line = target.line("its last line", |line| line.starts_with("done "));
    serde_json::from_str(&line["done ".len()..]).expect("its last line ends with JSON")
}

/// The last report on the variant that leaks, its growth being that since the attach, and the program's own numbers.
fn leak(leak: &Leak, python: &Path) -> (Report, Value) {
    let mut target = leak.start(python, "leak", LEAK_SECONDS);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()])
        // Dictionaries of numbers and text alone are not in the lists of the collector.
        .args(&["--sort", "growth", "--census"])
        .start();
    target.go();
    let numbers = done(&mut target);
    let report = run.stop().report();
    target.finish_with(EXIT_CODE);
    (report, numbers)
}

/// The reports of all whole intervals of the variant `variant`.
fn intervals(leak: &Leak, python: &Path, variant: &str) -> Vec<Report> {
    let mut target = leak.start(python, variant, FIXED_SECONDS);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()])
        .args(&["-i", INTERVAL, "--top", "1000"])
        .start();
    target.go();
    done(&mut target);
    let mut reports = run.stop().exited_with(0).reports();
    target.finish_with(EXIT_CODE);
    // The last is of whatever was left of its interval.
    reports.pop();
    reports
}

/// What is wrong with the report on a leak, a line each.
fn problems(leak: &Leak, report: &Report, numbers: &Value) -> String {
    let mut text = String::new();
    let mut say = |line: String| writeln!(text, "{line}").expect("text can be added to");
    match report.survivors().first() {
        None => say("no survivors".to_owned()),
        Some(first) => {
            if let Some(mismatch) = leak.mismatch(first) {
                say(format!("the first site: {mismatch}"));
            }
            if first.number("bytes") < GRAIN_BYTES {
                say(format!("the first site has only {} bytes", first.number("bytes")));
            }
        }
    }
    if let Some((name, each)) = &leak.kind {
        let expected = numbers["units"].as_u64().expect("units are a number") * each;
        let grown = grown_objects(report, name);
        // The program stands still at both censuses; beside it the interpreter has some objects of the builtin types.
        if grown.abs_diff(expected as i64) > expected / 100 {
            say(format!(
                "type {name}: {grown} objects more, and {expected} is true"
            ));
        }
    }
    let share = report.value()["stacks"]["python"]["with_lines_share"].as_f64();
    if share.is_none_or(|share| share < 0.99) {
        say(format!("share of stacks with Python lines: {share:?}"));
    }
    text
}

/// How many more there are of the type `name`, with or without its module before it.
fn grown_objects(report: &Report, name: &str) -> i64 {
    let named = |kind: &&Value| {
        kind["name"]
            .as_str()
            .is_some_and(|own| own.rsplit('.').next() == Some(name))
    };
    types(report)
        .into_iter()
        .filter(named)
        .filter_map(|kind| kind["grown_objects"].as_i64())
        .sum()
}

/// Checks a program in both variants, which run at the same time.
fn check(name: &str, python: Result<PathBuf, Missing>) {
    let Some(python) = unless_missing(python) else {
        return;
    };
    let program = Leak::named(name);
    let (leaking, fixed) = thread::scope(|scope| {
        let fixed = scope.spawn(|| intervals(&program, &python, "fixed"));
        let leaking = leak(&program, &python);
        (leaking, fixed.join())
    });
    let (report, numbers) = leaking;
    let fixed = fixed.expect("the fixed variant was traced");
    let mut text = problems(&program, &report, &numbers);
    if !text.is_empty() {
        text.push_str(&brief(&report));
    }
    let grown = growing(&fixed);
    if let (false, Some(last)) = (grown.is_empty(), fixed.last()) {
        write!(text, "\nfixed, and said to grow: {grown:?}\n{}", brief(last)).expect("text can be added to");
    }
    assert!(text.is_empty(), "{name}: {text}");
}

#[test]
fn cache_on_a_method_and_a_cache_of_128() {
    check("cache_on_method", system());
}

#[test]
fn registry_keyed_by_what_its_values_refer_to() {
    check("registry_cycle", system());
}

#[test]
fn list_that_grows() {
    check("growing_list", system());
}

#[test]
fn cycles_with_the_collector_off() {
    check("cycles_without_gc", system());
}

#[test]
fn exceptions_that_hold_frames() {
    check("exceptions_kept", system());
}

#[test]
fn locals_of_threads() {
    check("thread_locals", system());
}

#[test]
fn interned_text_and_bytes() {
    check("interned", system());
}

#[test]
fn figures_never_closed() {
    check("figures", with_packages());
}

#[test]
fn graphs_of_a_rust_extension() {
    check("rust_graph", with_packages());
}

#[test]
fn arrays_held_by_views() {
    check("array_views", with_packages());
}

/// A leak through `functools.cache` on a method: its line, its bytes, its growth, and the class of what is held.
fn cache_is_named(python: &Path) {
    let program = Leak::named("cache_on_method");
    let (report, numbers) = leak(&program, python);
    let wrong = problems(&program, &report, &numbers);
    assert!(wrong.is_empty(), "{wrong}{}", brief(&report));
    let number = |name: &str| numbers[name].as_u64().expect("a number");
    let (kept, units) = (number("bytes_each") * number("units") * 4, number("units"));
    let here: Vec<_> = report
        .survivors()
        .into_iter()
        .filter(|survivor| program.mismatch(survivor).is_none())
        .collect();
    let bytes: u64 = here.iter().map(|survivor| survivor.number("bytes")).sum();
    let growth: f64 = here
        .iter()
        .filter_map(|survivor| survivor.0["bytes_per_s"].as_f64())
        .sum();
    // Arenas are mapped where the last one is full, whoever filled it: the method takes five bytes in six, and the part of
    // the arenas that its line is charged with is a sample of that.
    assert!(
        bytes > kept / 2 && bytes < kept * 3 / 2 + GRAIN_BYTES,
        "{units} calls keep {kept} bytes, the line is charged with {bytes}\n{}",
        brief(&report)
    );
    let rate = bytes as f64 / report.value()["interval_s"].as_f64().expect("a number");
    assert!(
        (growth - rate).abs() < rate / 100.0,
        "grows by {growth} a second, and {bytes} bytes are {rate}\n{}",
        brief(&report)
    );
}

#[test]
fn cached_method_is_named_in_the_systems_python() {
    if let Some(python) = unless_missing(system()) {
        cache_is_named(&python);
    }
}

#[test]
fn cached_method_is_named_in_the_first_python_in_path() {
    let Some(path) = unless_missing(program("python3", "python3")) else {
        return;
    };
    // A version manager's shim is a shell script that replaces itself.
    let real = Command::new(&path)
        .args(["-c", "import sys; print(sys.executable)"])
        .output();
    let real = real.expect("python starts").stdout;
    cache_is_named(Path::new(String::from_utf8_lossy(&real).trim()));
}

#[test]
fn rule_of_growth_sees_a_leak() {
    let Some(python) = unless_missing(system()) else {
        return;
    };
    let program = Leak::named("cache_on_method");
    let reports = intervals(&program, &python, "leak");
    let grown = growing(&reports);
    assert!(
        grown.iter().any(|(name, _)| name.ends_with(&program.function)),
        "said to grow: {grown:?}\n{}",
        brief(reports.last().expect("there are reports"))
    );
}

/// Programs that need nothing but the interpreter.
const PLAIN: [&str; 7] = [
    "cache_on_method",
    "registry_cycle",
    "growing_list",
    "cycles_without_gc",
    "exceptions_kept",
    "thread_locals",
    "interned",
];

#[test]
fn output_and_exit_code_stay_what_they_are() {
    let Some(python) = unless_missing(system()) else {
        return;
    };
    // A few at a time: these are small machines.
    for names in PLAIN.chunks(4) {
        thread::scope(|scope| {
            for name in names {
                scope.spawn(|| same_with_and_without(&Leak::named(name), &python));
            }
        });
    }
}

/// One run by itself and one under leaktrace, to the byte.
fn same_with_and_without(program: &Leak, python: &Path) {
    let alone = {
        let mut command = program.command(python, "leak", "0.5");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("python starts");
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        stdin.write_all(b"gg").expect("it reads its stdin");
        child.wait_with_output().expect("it ends")
    };
    let path = program.path.to_str().expect("a plain path");
    let mut run = Leaktrace::command(python, &["-B", path, "leak", "0.5"])
        .with_stdin()
        .start();
    run.send(b"gg");
    run.close_stdin();
    let traced = run.wait().exited_with(EXIT_CODE);
    assert_eq!(alone.status.code(), Some(EXIT_CODE), "{path}");
    assert_eq!(traced.stdout, String::from_utf8_lossy(&alone.stdout), "{path}");
    assert!(
        traced.stderr.lines().all(|line| line.starts_with("leaktrace: ")),
        "{path} says something of its own: {}",
        traced.stderr
    );
    assert!(alone.stderr.is_empty(), "{path}");
}
