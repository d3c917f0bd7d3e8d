//! A Python program does the same whether it is traced or not: what it prints, its exceptions, its end.

use std::{os::unix::process::ExitStatusExt as _, path::Path, process::Command};

use leaktrace_tests::{
    fixtures,
    leaktrace::Leaktrace,
    pythons::{self, Python},
    skip::skip,
    target::Target,
};
use nix::sys::signal::Signal;

/// What the program is to do, and the signal it gets where it waits for one.
const CASES: [(&str, Option<Signal>); 11] = [
    ("exceptions", None),
    ("unraisable", None),
    ("depth", None),
    ("output", None),
    ("handled", Some(Signal::SIGTERM)),
    ("interrupted", Some(Signal::SIGINT)),
    ("unhandled", None),
    ("code", None),
    ("text", None),
    ("at once", None),
    ("abort", None),
];

fn start(python: &Python, case: &str) -> Target {
    let program = fixtures::python("behaviour");
    let mut command = python.command(&["-B", program.to_str().expect("a plain path"), case]);
    // The order of sets and the text of errors in it.
    Target::spawn(command.env("PYTHONHASHSEED", "0"))
}

/// Exit code and signal.
type End = (Option<i32>, Option<i32>);

/// Everything that can be seen of it from its step "ready".
fn behaviour(target: &mut Target, signal: Option<Signal>) -> (End, String) {
    target.go();
    if let Some(signal) = signal {
        target.at("waiting");
        target.signal(signal);
    }
    let status = target.wait();
    ((status.code(), status.signal()), target.seen_to_end())
}

/// The same to the letter; if not, the first line that is not.
fn assert_same(what: &str, traced: &str, alone: &str) {
    let pairs = traced.lines().zip(alone.lines()).enumerate();
    for (number, (traced, alone)) in pairs {
        assert_eq!(
            traced, alone,
            "{what}, line {number} of what is seen of it: traced, and alone"
        );
    }
    assert_eq!(traced, alone, "{what}: traced, and alone");
}

fn assert_unchanged(python: &Python) {
    let mut traced: Vec<Target> = CASES.iter().map(|(case, _)| start(python, case)).collect();
    for target in &mut traced {
        target.ready();
    }
    let pids: Vec<u32> = traced.iter().map(Target::pid).collect();
    let run = Leaktrace::attach(&pids).start();
    for ((case, signal), target) in CASES.iter().zip(&mut traced) {
        let mut alone = start(python, case);
        alone.ready();
        let (traced, alone) = (behaviour(target, *signal), behaviour(&mut alone, *signal));
        assert_eq!(
            traced.0, alone.0,
            "{case} of {python} ends otherwise\n{}",
            traced.1
        );
        assert_same(&format!("{case} of {python}"), &traced.1, &alone.1);
    }
    let report = run.wait().report();
    assert!(report.total("allocs") > 0, "{}", report.summary());
}

#[test]
fn output_exceptions_and_end_are_the_same_traced_and_alone() {
    // The oldest and the newest of those that keep their frames in each way, and Debian's own.
    let all = pythons::all();
    for minor in [8, 10, 12, 14] {
        let python = all.iter().find(|python| {
            python.is_supported() && !python.is_stripped && python.minor == minor && python.is_here()
        });
        if let Some(python) = python {
            assert_unchanged(python);
        }
    }
    match pythons::debians_python3() {
        Ok(python) => assert_unchanged(&python),
        Err(missing) => skip(&missing.0),
    }
}

#[test]
fn a_started_program_ends_as_it_would_alone() {
    let program = fixtures::python("behaviour");
    let program = program.to_str().expect("a plain path");
    let python = Path::new("/usr/bin/python3");
    for case in ["code", "unhandled", "unraisable", "output"] {
        let mut run = Leaktrace::command(python, &["-B", program, case])
            .with_stdin()
            .start();
        run.send(b"g");
        run.close_stdin();
        let traced = run.wait();
        let mut alone = Target::spawn(Command::new(python).args(["-B", program, case]));
        let status = alone.finish();
        assert_eq!(traced.status.code(), status.code(), "{case}\n{}", traced.seen());
        let all = alone.seen();
        assert!(
            all.contains(&traced.stdout),
            "{case} alone:\n{all}\ntraced:\n{}",
            traced.seen()
        );
    }
}
