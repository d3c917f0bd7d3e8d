//! Where CPython has its small objects: arenas and pools as leaktrace tells of them against the interpreter's own account,
//! and what is probed where there is no Python.

use std::{fs, path::Path, process::Command};

use leaktrace_tests::{
    fixtures::{self, Fixture},
    leaktrace::{Finished, Leaktrace, Run},
    pythons::{self, Python},
    report::{Report, Survivor},
    skip::{Missing, library, unless_missing},
    target::Target,
};
use tempfile::TempDir;

/// The distribution's own interpreter.
const DEBIANS: &str = "/usr/bin/python3";

/// What makes the objects, three in each turn of its loop.
const GROWS: &str = "grow";
const OBJECTS: u64 = 100_000;

/// No heap block is as large: what is left are arenas, which are recorded whatever their size.
const ARENAS_ONLY: [&str; 2] = ["--min-size", "1GiB"];

/// What `sys._debugmallocstats` says.
#[derive(Clone, Copy, Debug)]
struct Account {
    /// Arenas mapped so far, and of these unmapped.
    mapped: u64,
    unmapped: u64,
    /// Bytes of each.
    arena_bytes: u64,
    /// Pools in use.
    pools: u64,
    /// Bytes of each.
    pool_bytes: u64,
}

impl Account {
    fn read(folder: &Path, name: &str) -> Self {
        let text = fs::read_to_string(folder.join(name)).expect("the program wrote it");
        let number = |title: &str| -> u64 {
            let line = text.lines().find(|line| line.contains(title));
            let number = line.and_then(|line| line.rsplit_once('=')?.1.trim().replace(',', "").parse().ok());
            number.unwrap_or_else(|| panic!("no `{title}` in\n{text}"))
        };
        let each = |of: &str| -> u64 {
            let number = text.split_once(of).and_then(|(_, after)| after.split(' ').next());
            number.and_then(|bytes| bytes.parse().ok()).expect("a size")
        };
        let mut classes = text.lines().skip_while(|line| !line.starts_with("-----")).skip(1);
        let pools = classes
            .by_ref()
            .map_while(|line| line.split_ascii_whitespace().nth(2)?.parse::<u64>().ok());
        Self {
            pools: pools.sum(),
            mapped: number("# arenas allocated total"),
            unmapped: number("# arenas reclaimed"),
            arena_bytes: each(" arenas * "),
            pool_bytes: each(" unused pools * "),
        }
    }
}

/// The program, at its step "ready" or, where something comes before that, "alone".
struct Program {
    target: Target,
    folder: TempDir,
}

impl Program {
    fn start(python: &Python, how: &str) -> Self {
        Self::of(python.command(&[]), how)
    }

    /// By the command line of an interpreter.
    fn of(mut python: Command, how: &str) -> Self {
        let folder = TempDir::new().expect("a temporary folder can be made");
        python.arg("-B").arg(fixtures::python("memory"));
        python.arg(folder.path()).arg(how);
        Self {
            target: Target::spawn(&mut python),
            folder,
        }
    }

    /// Waits for its step "ready", at which it says what its pid is.
    fn ready(&mut self) -> u32 {
        let line = self
            .target
            .line("its step ready", |line| line.starts_with("ready "));
        line["ready ".len()..].parse().expect("a pid")
    }

    /// Lets it go on to a step.
    fn go_to(&mut self, step: &str) {
        self.target.go();
        self.target.at(step);
    }

    fn account(&self, name: &str) -> Account {
        Account::read(self.folder.path(), name)
    }
}

/// The arenas of `pid` that the growing function has on its stack.
fn grown<'a>(report: &'a Report, pid: u32, space: &str) -> Vec<Survivor<'a>> {
    let of_space =
        |survivor: &Survivor<'_>| survivor.number("pid") == u64::from(pid) && survivor.text("space") == space;
    let mut survivors = report.survivors();
    survivors.retain(|survivor| of_space(survivor) && survivor.has_caller(GROWS));
    survivors
}

fn sum(survivors: &[Survivor<'_>], field: &str) -> u64 {
    survivors.iter().map(|survivor| survivor.number(field)).sum()
}

fn held(report: &Report, space: &str, field: &str) -> u64 {
    report.number(&format!("/totals/by_space/{space}/{field}"))
}

/// The interpreters with arenas that see this process's files.
fn with_arenas() -> Vec<Python> {
    let mut all = pythons::all();
    all.retain(|python| python.is_supported() && python.is_here());
    all
}

/// Checks a report against the account of when it was taken, all arenas being since the account `before`.
fn assert_arenas(python: &Python, report: &Report, before: Account, now: Account) {
    let what = || format!("{python}: {before:?}, {now:?}\n{}", report.summary());
    let (mapped, unmapped) = (now.mapped - before.mapped, now.unmapped - before.unmapped);
    assert!(mapped > 4, "{}", what());
    let counted = ["allocs", "frees"].map(|name| report.total(name));
    assert_eq!(counted, [mapped, unmapped], "births and ends of {}", what());
    // The older ones have the interpreter's own objects in them and stay.
    let live = mapped - unmapped;
    let held = ["live_blocks", "live_bytes"].map(|field| held(report, "python-arena", field));
    assert_eq!(held, [live, live * now.arena_bytes], "{}", what());
    let survivors = report.survivors();
    assert_eq!(sum(&survivors, "blocks"), live, "{}", what());
    assert!(
        survivors.iter().all(|survivor| survivor.has_caller(GROWS)
            && survivor.text("call") == "mmap"
            && survivor.text("space") == "python-arena"),
        "{}",
        what()
    );
    let process = &report.value()["target"]["processes"][0];
    assert_eq!(process["python"]["arenas"], true, "{process}");
    let ours: Vec<_> = survivors.iter().map(|survivor| survivor.number("pid")).collect();
    assert!(
        ours.iter().all(|pid| process["pid"].as_u64() == Some(*pid)),
        "{}",
        what()
    );
}

#[test]
fn arenas_are_those_of_the_interpreters_own_account() {
    for python in with_arenas() {
        let mut program = Program::start(&python, "plain");
        let pid = program.ready();
        let first = Leaktrace::attach(&[pid]).args(&ARENAS_ONLY).start();
        let second = Leaktrace::attach(&[pid]).args(&ARENAS_ONLY).start();
        program.go_to("grown");
        let (before, now) = (program.account("before"), program.account("grown"));
        assert_arenas(&python, &first.stop().report(), before, now);
        program.go_to("dropped");
        let dropped = program.account("dropped");
        assert!(dropped.unmapped > now.unmapped, "{python}: {now:?}, {dropped:?}");
        assert_arenas(&python, &second.stop().report(), before, dropped);
        program.target.finish_with(0);
    }
}

#[test]
fn arenas_are_exact_where_blocks_are_sampled() {
    let Some(python) = unless_missing(pythons::debians_python3()) else {
        return;
    };
    let mut program = Program::start(&python, "plain");
    let pid = program.ready();
    let run = Leaktrace::attach(&[pid])
        .args(&["--sample-bytes", "512KiB"])
        .start();
    program.go_to("grown");
    let (before, now) = (program.account("before"), program.account("grown"));
    let report = run.stop().report();
    assert_eq!(
        held(&report, "python-arena", "live_blocks"),
        now.mapped - before.mapped,
        "{}",
        report.summary()
    );
    let grown = grown(&report, pid, "python-arena");
    assert_eq!(
        sum(&grown, "bytes"),
        (now.mapped - before.mapped) * now.arena_bytes
    );
    program.target.finish_with(0);
}

#[test]
fn a_program_without_python_has_no_probes_for_it() {
    let mut target = Target::c("failures", &[]);
    target.ready();
    let report = Leaktrace::attach(&[target.pid()]).start().stop().report();
    let tracing = &report.value()["tracing"];
    for list in ["sites", "skipped"] {
        let entries = tracing[list].as_array().expect("a list");
        let of_mapping = |name: &str| ["mmap", "mmap64", "munmap"].contains(&name);
        let python = entries.iter().find(|entry| {
            let name = entry["function"].as_str().expect("a name");
            of_mapping(name) || name.contains("pool")
        });
        assert_eq!(python, None, "{list}");
    }
    assert!(!tracing["sites"].as_array().expect("a list").is_empty());
    assert!(report.process(target.pid())["python"].is_null());
}

/// The report on a whole run of the program in Debian's interpreter, and what the interpreter said of itself.
fn whole_run(how: &str, options: &[&str]) -> (Report, TempDir) {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let program = fixtures::python("memory");
    let [program, seen] = [program.as_path(), folder.path()].map(|path| path.to_str().expect("a plain path"));
    let mut run = Leaktrace::command(Path::new(DEBIANS), &["-B", program, seen, how])
        .args(options)
        .with_stdin()
        .start();
    run.send(b"ggg");
    run.close_stdin();
    (run.wait().report(), folder)
}

#[test]
fn with_python_malloc_each_object_is_a_block_with_its_line() {
    let Some(_) = unless_missing(pythons::debians_python3()) else {
        return;
    };
    let (report, _folder) = whole_run("leave", &["--python-malloc"]);
    assert!(
        report
            .warnings()
            .iter()
            .any(|warning| warning.contains("--python-malloc")),
        "{}",
        report.summary()
    );
    let source = fs::read_to_string(fixtures::python("memory")).expect("the program can be read");
    let grows = source.lines().position(|line| line.ends_with("# grows"));
    let line = grows.map(|index| index as u64 + 1);
    let here: Vec<_> = report
        .survivors()
        .into_iter()
        .filter(|survivor| survivor.text("space") == "heap" && survivor.line_in(GROWS) == line)
        .collect();
    // A tuple, a float and a list each; more for the list's items, and for the numbers that are not kept ready.
    assert!(sum(&here, "blocks") >= 3 * OBJECTS, "{}", report.summary());
    assert_eq!(held(&report, "python-arena", "live_blocks"), 0);
}

#[test]
fn python_malloc_of_a_process_that_runs_is_refused() {
    let finished = Leaktrace::bare(&["-p", "1", "--python-malloc"]).run();
    assert_eq!(finished.status.code(), Some(2), "{}", finished.seen());
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.seen());
    assert!(
        finished.stderr.contains("leaktrace --python-malloc -- CMD"),
        "{}",
        finished.seen()
    );
}

#[test]
fn pools_are_those_in_use() {
    for python in with_arenas() {
        let mut program = Program::start(&python, "plain");
        let pid = program.ready();
        let first = Leaktrace::attach(&[pid]).args(&["--python-pools"]).start();
        program.go_to("grown");
        let (before, now) = (program.account("before"), program.account("grown"));
        let report = first.stop().report();
        let said = &report.process(pid)["python"];
        if said["pools"] != true {
            // Builds in which that cannot be seen say so.
            let skipped = &report.value()["tracing"]["skipped"];
            assert!(
                skipped.to_string().contains("allocate_from_new_pool"),
                "{python}: {said}, {skipped}"
            );
            program.target.finish_with(0);
            continue;
        }
        let what =
            |now: Account, report: &Report| format!("{python}: {before:?}, {now:?}\n{}", report.summary());
        let live = held(&report, "python-pool", "live_blocks");
        assert!(
            (now.pools - before.pools..=now.pools).contains(&live),
            "{live} pools of {}",
            what(now, &report)
        );
        let grown = grown(&report, pid, "python-pool");
        assert!(sum(&grown, "blocks") * 10 > live * 9, "{}", what(now, &report));
        // Floats, tuples of three, lists and their items: none of these are larger.
        assert!(
            grown.iter().all(|survivor| survivor.0["object_bytes"]
                .as_u64()
                .is_some_and(|bytes| bytes <= 512)),
            "{}",
            what(now, &report)
        );
        program.target.finish_with(0);

        let mut program = Program::start(&python, "plain");
        let pid = program.ready();
        let second = Leaktrace::attach(&[pid]).args(&["--python-pools"]).start();
        program.go_to("grown");
        program.go_to("dropped");
        let dropped = program.account("dropped");
        let report = second.stop().report();
        let live = held(&report, "python-pool", "live_blocks");
        assert!(
            live <= dropped.pools,
            "{live} pools of {}",
            what(dropped, &report)
        );
        program.target.finish_with(0);
    }
}

#[test]
fn pools_at_exit_lie_in_arenas_that_are_there() {
    let Some(_) = unless_missing(pythons::debians_python3()) else {
        return;
    };
    for how in ["plain", "leave"] {
        let (report, folder) = whole_run(how, &["--python-pools"]);
        let [before, grown] = ["before", "grown"].map(|name| Account::read(folder.path(), name));
        let what = || format!("{how}: {before:?}, {grown:?}\n{}", report.summary());
        let [arenas, pools] =
            ["python-arena", "python-pool"].map(|space| held(&report, space, "live_blocks"));
        // What it maps before leaktrace knows of the interpreter is not seen, and pools in that are.
        let room = (arenas + before.mapped) * grown.arena_bytes / grown.pool_bytes;
        assert!(pools <= room, "{}", what());
        if how == "leave" {
            let live = grown.mapped - grown.unmapped;
            assert!((live - before.mapped..=live).contains(&arenas), "{}", what());
            assert!(pools >= grown.pools - before.pools, "{}", what());
        }
        assert_eq!(report.value()["target"]["processes"][0]["python"]["pools"], true);
    }
}

/// Waits until all that a Python process maps is probed.
fn objects_are_seen(run: &mut Run) {
    run.stderr_line("its line on how objects are seen", |line| {
        line.contains("objects are seen by arenas")
    });
}

/// Checks that the growth of the process `pid` is in its arenas, since the account `before`.
fn assert_grown(finished: &Finished, program: &Program, pid: u32) {
    let report = finished.last_report();
    let (before, now) = (program.account("before"), program.account("grown"));
    let live = now.mapped - before.mapped;
    let grown = grown(&report, pid, "python-arena");
    assert_eq!(
        [sum(&grown, "blocks"), sum(&grown, "bytes")],
        [live, live * now.arena_bytes],
        "{before:?}, {now:?}\n{}",
        report.summary()
    );
    let line = grown.iter().find_map(|survivor| survivor.line_in(GROWS));
    assert!(line.is_some(), "{}", report.summary());
}

#[test]
fn python_that_a_program_opens_late_is_seen() {
    let late = || -> Result<Command, Missing> {
        let minor = pythons::debians_python3()?.minor;
        let file = format!("libpython3.{minor}.so.1.0");
        let mut command = Command::new(Fixture::c("dlopens_python").build()?);
        command.arg(library(&file, &format!("libpython3.{minor}"))?);
        // It is nowhere near the modules.
        command.env("PYTHONHOME", "/usr");
        Ok(command)
    };
    let Some(python) = unless_missing(late()) else {
        return;
    };
    let mut program = Program::of(python, "plain");
    program.target.at("alone");
    let pid = program.target.pid();
    let mut run = Leaktrace::attach(&[pid]).args(&["-v"]).start();
    program.target.go();
    program.ready();
    objects_are_seen(&mut run);
    program.go_to("grown");
    assert_grown(&run.stop(), &program, pid);
    program.target.finish_with(0);
}

#[test]
fn forked_python_is_seen() {
    let Some(python) = unless_missing(pythons::debians_python3()) else {
        return;
    };
    let mut program = Program::start(&python, "fork");
    program.target.at("alone");
    let parent = program.target.pid();
    let mut run = Leaktrace::attach(&[parent])
        .args(&["--follow-forks", "-v"])
        .start();
    program.target.go();
    let pid = program.ready();
    let followed = format!("tracing {pid}, forked by {parent}");
    run.stderr_line("its line on the child", |line| line.contains(&followed));
    program.go_to("grown");
    assert_grown(&run.stop(), &program, pid);
    program.target.finish_with(0);
}
