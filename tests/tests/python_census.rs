//! Objects by type, counted from outside, are those that the program counts itself.

use std::collections::BTreeMap;

use leaktrace_tests::{
    fixtures,
    leaktrace::Leaktrace,
    python_leak::types,
    pythons::{self, Python},
    report::Report,
    skip::unless_missing,
    target::Target,
};

/// The distribution's own, and the oldest and the newest of the others: how objects are kept differs most between them.
fn interpreters() -> Vec<Python> {
    let mut others: Vec<Python> = pythons::pyenv()
        .into_iter()
        .filter_map(unless_missing)
        .filter(Python::is_supported)
        .collect();
    others.sort_by_key(|python| python.minor);
    let newest = others.pop();
    let ends = others.into_iter().take(1).chain(newest);
    unless_missing(pythons::debians_python3())
        .into_iter()
        .chain(ends)
        .collect()
}

/// Starts a program of `programs/python`.
fn start(python: &Python, program: &str, arguments: &[&str]) -> Target {
    let path = fixtures::python(program);
    let words = [&["-B", path.to_str().expect("a plain path")], arguments].concat();
    Target::spawn(python.command(&words).env("OBJECTS", "4000"))
}

/// Number of objects by type; modules before their types but that of the builtins.
fn by_type(report: &Report) -> BTreeMap<String, u64> {
    let counted = types(report).into_iter().map(|row| {
        let name = row["name"].as_str().expect("a type has a name");
        let full = row["module"]
            .as_str()
            .map_or_else(|| name.to_owned(), |module| format!("{module}.{name}"));
        (full, row["objects"].as_u64().expect("a number"))
    });
    counted.collect()
}

fn row<'a>(report: &'a Report, name: &str) -> &'a serde_json::Value {
    let named = types(report).into_iter().find(|row| row["name"] == name);
    named.unwrap_or_else(|| panic!("{name} is not among {:?}", by_type(report).keys()))
}

#[test]
fn objects_by_type_are_those_that_the_program_counts() {
    for python in interpreters() {
        let mut target = start(&python, "census_objects", &[]);
        let line = target.line("its counts", |line| line.starts_with('{'));
        let expected: BTreeMap<String, u64> = serde_json::from_str(&line).expect("counts by type");
        let report = Leaktrace::attach(&[target.pid()]).start().stop().report();
        assert_eq!(by_type(&report), expected, "{python}");
        let of_report = &report.value()["types"];
        assert_eq!(
            (&of_report["torn_reads"], &of_report["partial"]),
            (&0.into(), &0.into()),
            "{python}"
        );
        assert!(
            types(&report).iter().all(|row| row["grown_objects"] == 0),
            "{python}: it stands still: {:?}",
            of_report["list"]
        );
    }
}

#[test]
fn the_class_that_leaks_has_grown_by_what_leaks() {
    for python in interpreters() {
        let mut target = start(&python, "census_leak", &["20000"]);
        target.ready();
        let run = Leaktrace::attach(&[target.pid()]).start();
        target.go();
        target.at("kept");
        let report = run.stop().report();
        let leaked = row(&report, "Registered");
        assert_eq!(leaked["grown_objects"], 20_000, "{python}");
        assert_eq!(leaked["objects"], 20_000, "{python}");
        assert_eq!(leaked["module"], "__main__", "{python}");
        assert_eq!(leaked["state"], "running", "{python}");
        assert!(
            leaked["bytes"].as_u64() >= Some(20_000 * 48),
            "{python}: {leaked}"
        );
    }
}

#[test]
fn a_program_that_has_ended_keeps_its_last_counts() {
    let Some(python) = unless_missing(pythons::debians_python3()) else {
        return;
    };
    let mut target = start(&python, "census_leak", &["20000"]);
    target.ready();
    let mut run = Leaktrace::attach(&[target.pid()]).args(&["-i", "300ms"]).start();
    target.go();
    target.at("kept");
    run.report_where("a report of all objects", |report| {
        types(report)
            .iter()
            .any(|row| row["name"] == "Registered" && row["objects"] == 20_000)
    });
    target.finish();
    let report = run.wait().report();
    let leaked = row(&report, "Registered");
    assert_eq!(leaked["state"], "exited");
    assert_eq!(leaked["grown_objects"], 20_000);
    assert!(leaked["age_s"].as_f64() > Some(0.0), "{leaked}");
}

#[test]
fn text_is_counted_when_all_objects_are_asked_for() {
    let Some(python) = unless_missing(pythons::debians_python3()) else {
        return;
    };
    for (options, is_counted) in [(&[][..], false), (&["--census"][..], true)] {
        let mut target = start(&python, "census_objects", &[]);
        target.line("its counts", |line| line.starts_with('{'));
        let run = Leaktrace::attach(&[target.pid()]).args(options).start();
        let report = run.stop().report();
        assert_eq!(
            by_type(&report).contains_key("float"),
            is_counted,
            "{options:?}: {:?}",
            by_type(&report)
        );
    }
}

#[test]
fn without_python_nothing_is_counted() {
    let Some(python) = unless_missing(pythons::debians_python3()) else {
        return;
    };
    let mut target = start(&python, "census_leak", &["10"]);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()]).args(&["--no-python"]).start();
    assert!(run.stop().report().value()["types"].is_null());
    Leaktrace::bare(&["-p", "1", "--no-python", "--census"])
        .run()
        .refused(&["--census", "--no-python"]);
}
