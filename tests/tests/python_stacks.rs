//! The Python frames of stacks against what the interpreter itself says at the same call: file, line and function of
//! every frame, whole and in order, in every construct, on every interpreter of this machine.

use std::{fmt::Write as _, process::Command};

use leaktrace_tests::{
    fixtures,
    leaktrace::{Finished, Leaktrace},
    python_truth::{self, Survivors, Told, TrueStack},
    pythons::{self, Python, Workplace},
    report::Report,
    skip::{skip, unless_missing},
    target::Target,
};

/// How many random stacks all interpreters together give.
const RANDOM_STACKS: usize = 10_000;

/// How many each gives instead, for a longer run.
const RANDOM_STACKS_EACH: &str = "LEAKTRACE_TEST_RANDOM_STACKS";

/// Differences that are shown of one interpreter.
const SHOWN: usize = 12;

/// A program's truth and the report that was taken when it had done its work and still lived.
fn trace(
    python: &Python,
    workplace: &Workplace,
    program: &str,
    further: &[&str],
) -> (Vec<TrueStack>, Report) {
    let [program, noted, modules] =
        [&format!("{program}.py"), "noted.json", "modules"].map(|name| workplace.seen(name));
    let mut arguments = vec!["-B", &program, &noted, &modules];
    arguments.extend(further);
    let mut target = Target::spawn(&mut python.command(&arguments));
    target.ready();
    assert_mapped(python, target.pid());
    let run = Leaktrace::attach(&[target.pid()])
        .args(&["--show-blocks"])
        .start();
    target.go();
    target.at("done");
    let report = run.stop().report();
    target.finish_with(0);
    (python_truth::read(&workplace.path("noted.json")), report)
}

/// It is this object that is tested, the stripped copy say, and no other.
fn assert_mapped(python: &Python, pid: u32) {
    let maps =
        std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the target's mappings can be read");
    let object = python.object.canonicalize().expect("the interpreter is there");
    assert!(
        maps.contains(object.to_str().expect("a plain path")),
        "{python} runs without {}:\n{maps}",
        object.display()
    );
}

/// What reports must tell of an interpreter's frames.
fn told(python: &Python) -> Told {
    if python.is_supported() {
        Told::Lines
    } else if python.is_cpython && python.is_free_threaded {
        Told::Names
    } else {
        Told::Nothing
    }
}

/// What is wrong with a report, in words; none if nothing is.
fn complaint(python: &Python, truth: &[TrueStack], report: &Report) -> Option<String> {
    let differences = Survivors::of(report).differences(truth, told(python));
    let is_said = is_said(python, report);
    if differences.is_empty() && is_said {
        return None;
    }
    let said = if is_said {
        ""
    } else {
        "; what the report says of the interpreter is wrong"
    };
    let mut text = format!(
        "{python}: {} of {} stacks differ{said}\n",
        differences.len(),
        truth.len()
    );
    for difference in differences.iter().take(SHOWN) {
        writeln!(text, "  {difference}").expect("text can be written to text");
    }
    let state = &report.value()["target"]["processes"][0]["python"];
    writeln!(
        text,
        "  python {state}\n  stacks {}\n  ledger {}",
        report.value()["stacks"],
        report.value()["ledger"]
    )
    .expect("text can be written to text");
    Some(text)
}

fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Whether the report says of the interpreter what the interpreter says of itself.
fn is_said(python: &Python, report: &Report) -> bool {
    let said = &report.value()["target"]["processes"][0]["python"];
    if !python.is_cpython {
        return said["stacks"] != true;
    }
    let told = told(python);
    let flags = said["stacks"] == (told != Told::Nothing) && said["lines"] == (told == Told::Lines);
    let version = said["version"] == python.version.as_str();
    flags
        && if told == Told::Lines {
            version
        } else {
            said["why"].is_string()
        }
}

#[test]
fn every_construct_on_every_interpreter() {
    let mut complaints = Vec::new();
    for python in pythons::all() {
        let workplace = python.workplace(&["stacks_truth", "stacks_constructs"]);
        // Others than CPython have no sizes of objects and no further interpreters in a process.
        let chosen: &[&str] = if python.is_cpython {
            &[]
        } else {
            &["plain", "generators", "recursion"]
        };
        let (truth, report) = trace(&python, &workplace, "stacks_constructs", chosen);
        report.assert_adds_up();
        report.assert_no_losses();
        complaints.extend(complaint(&python, &truth, &report));
    }
    assert_none(&complaints);
}

#[test]
fn ten_thousand_random_stacks() {
    let pythons: Vec<Python> = pythons::all()
        .into_iter()
        .filter(|python| python.is_supported() && !python.is_stripped || python.name.starts_with("Debian"))
        .filter(Python::is_supported)
        .collect();
    let each = std::env::var(RANDOM_STACKS_EACH).ok().map_or_else(
        || RANDOM_STACKS.div_ceil(pythons.len()),
        |each| each.parse().expect("a number of stacks"),
    );
    let mut complaints = Vec::new();
    for (seed, python) in pythons.iter().enumerate() {
        let workplace = python.workplace(&["stacks_truth", "stacks_random"]);
        let (truth, report) = trace(
            python,
            &workplace,
            "stacks_random",
            &[&each.to_string(), &seed.to_string()],
        );
        assert_eq!(truth.len(), each, "{python}");
        complaints.extend(complaint(python, &truth, &report));
    }
    assert_none(&complaints);
}

/// Started by leaktrace: the interpreter comes to be while it is traced.
fn trace_started(python: &Python) -> (Vec<TrueStack>, Finished) {
    let workplace = python.workplace(&["stacks_truth", "stacks_constructs"]);
    let [program, noted, modules] =
        ["stacks_constructs.py", "noted.json", "modules"].map(|name| workplace.seen(name));
    let words = python.words();
    let arguments = ["-B", &program, &noted, &modules];
    let mut run = Leaktrace::command(&words[0], &arguments)
        .args(&["--show-blocks"])
        .with_stdin()
        .start();
    run.stdout_line("its step ready", |line| line == "ready");
    run.send(b"g");
    run.stdout_line("its step done", |line| line == "done");
    let truth = python_truth::read(&workplace.path("noted.json"));
    (truth, run.stop())
}

#[test]
fn a_program_started_by_leaktrace() {
    let Some(python) = unless_missing(pythons::debians_python3()) else {
        return;
    };
    let (truth, finished) = trace_started(&python);
    let report = finished.last_report();
    assert_none(
        &complaint(&python, &truth, &report)
            .into_iter()
            .collect::<Vec<_>>(),
    );
}

/// Of all recorded allocations of threads that run Python.
const WITH_LINES: f64 = 0.99;

#[test]
fn nearly_all_stacks_of_real_work_carry_their_lines() {
    let Some(python) = unless_missing(pythons::debians_python3()) else {
        return;
    };
    for program in ["load", "http_load"] {
        let path = fixtures::python(program);
        let mut target = Target::spawn(&mut python.command(&["-B", path.to_str().expect("a plain path")]));
        target.ready();
        let run = Leaktrace::attach(&[target.pid()]).start();
        target.go();
        target.at("done");
        let report = run.stop().report();
        target.finish_with(0);
        assert_share(program, &report);
    }
    let path = fixtures::python("varied");
    let arguments = ["-B", path.to_str().expect("a plain path"), "20"];
    let finished = Leaktrace::command("/usr/bin/python3".as_ref(), &arguments)
        .start()
        .wait();
    assert_share("varied, started", &finished.report());
}

fn assert_share(program: &str, report: &Report) {
    let stacks = &report.value()["stacks"]["python"];
    let share = stacks["with_lines_share"].as_f64();
    let share = share.unwrap_or_else(|| panic!("{program}: no share: {stacks}\n{}", report.summary()));
    assert!(share >= WITH_LINES, "{program}: {stacks}\n{}", report.summary());
    assert!(stacks["with_lines"].as_u64() > Some(1000), "{program}: {stacks}");
}

#[test]
fn a_program_without_python_has_no_frames_of_it() {
    let mut target = Target::c("pairs", &["3000"]);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()]).start();
    target.go();
    target.truth();
    let report = run.stop().report();
    target.finish_with(0);
    assert!(
        report.value()["target"]["processes"][0]["python"].is_null(),
        "{}",
        report.summary()
    );
    assert!(
        report.value()["stacks"]["python"].is_null(),
        "{}",
        report.summary()
    );
    for survivor in report.survivors() {
        assert!(
            !survivor.frames().iter().any(python_truth::is_python),
            "{survivor:?}"
        );
    }
}

#[test]
fn turned_off_there_are_native_frames_only() {
    let Some(python) = unless_missing(pythons::debians_python3()) else {
        return;
    };
    let path = fixtures::python("leak");
    let mut target = Target::spawn(Command::new("/usr/bin/python3").arg("-B").arg(path));
    target.ready();
    let run = Leaktrace::attach(&[target.pid()]).args(&["--no-python"]).start();
    target.go();
    target.truth();
    let report = run.stop().report();
    target.finish_with(0);
    assert!(report.total("live_blocks") > 0, "{python}: {}", report.summary());
    for survivor in report.survivors() {
        assert!(
            !survivor.frames().iter().any(python_truth::is_python),
            "{survivor:?}"
        );
    }
}

#[test]
fn every_expected_interpreter_is_here() {
    let pythons = pythons::all();
    let missing: Vec<String> = pythons::VERSIONS
        .filter(|minor| {
            !pythons
                .iter()
                .any(|python| python.is_supported() && python.minor == *minor)
        })
        .map(|minor| format!("3.{minor}"))
        .collect();
    if !missing.is_empty() {
        skip(&format!("no CPython {}", missing.join(", ")));
    }
    for python in pythons {
        println!("{python}: {}", python.object.display());
    }
}
