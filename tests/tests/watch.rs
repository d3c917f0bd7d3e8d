//! `leaktrace watch`: who grows, which stacks first touched it, and who is traced for it.
//!
//! How fast a program grows is not asserted, nor when something is seen: the tests wait until it is.

use leaktrace_tests::{
    leaktrace::{Leaktrace, Run, require_tracing},
    target::Target,
};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Grows by this many KiB at a step: below malloc's threshold for mappings of their own.
const STEP_KIB: &str = "64";

/// A short window, so that growth is told soon.
const CONDITION: &str = "rss>1MiB/4s";

fn watch(options: &[&str]) -> Run {
    require_tracing();
    let common = ["watch", "--format", "json", "-i", "1s"];
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Where no file ever is.
    let never = folder.path().join("never").display().to_string();
    let switch: &[&str] = if options.contains(&"--killswitch") {
        &[]
    } else {
        &["--killswitch", &never]
    };
    let options: Vec<&str> = common.iter().chain(switch).chain(options).copied().collect();
    let mut run = Leaktrace::bare(&options).spawn();
    run.stderr_line("its line `watching`", |line| {
        line.starts_with("leaktrace: watching")
    });
    run
}

fn report_where(run: &mut Run, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let line = run.stdout_line(what, |line| {
        serde_json::from_str(line).is_ok_and(|value| wanted(&value))
    });
    serde_json::from_str(&line).expect("it was parsed a moment ago")
}

fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of[name].as_array().map_or(&[], Vec::as_slice)
}

fn symbols(site: &Value) -> Vec<&str> {
    list(site, "frames")
        .iter()
        .filter_map(|frame| frame["symbol"].as_str())
        .collect()
}

fn grower<'a>(report: &'a Value, target: &Target) -> Option<&'a Value> {
    list(report, "growers")
        .iter()
        .find(|grower| grower["pid"] == target.pid())
}

fn events<'a>(report: &'a Value, what: &str) -> Vec<&'a Value> {
    list(report, "events")
        .iter()
        .filter(|event| event["what"] == what)
        .collect()
}

fn started(kind: &str) -> Target {
    let mut target = Target::c("grower", &[kind, STEP_KIB]);
    target.ready();
    target
}

/// The sites of a growing process with this function, and the bytes that they stand for.
fn touched_by(report: &Value, target: &Target, function: &str) -> u64 {
    let sites = grower(report, target).map_or(&[][..], |grower| list(grower, "sites"));
    let of_function = sites.iter().filter(|site| symbols(site).contains(&function));
    of_function.filter_map(|site| site["bytes"].as_u64()).sum()
}

fn names_who_touched(kind: &str, function: &str, area: &str) {
    let mut target = started(kind);
    let pid = target.pid().to_string();
    let mut run = watch(&["-p", &pid, "--window", "4s"]);
    target.go();
    // Enough samples that most are of it. Stacks that are new have their names a report later.
    let report = report_where(&mut run, "a report with what was touched", |report| {
        let Some(grower) = grower(report, &target) else {
            return false;
        };
        let sampled = grower["sampled_bytes"].as_u64().unwrap_or(0);
        grower["course"] == "growing"
            && grower["samples"].as_u64() >= Some(100)
            && touched_by(report, &target, function) * 10 >= sampled * 9
    });
    let grower = grower(&report, &target).expect("it is in the report");
    assert_eq!(report["schema"], "leaktrace.watch/1");
    let sampled = grower["sampled_bytes"].as_u64().expect("a number");
    let first = &list(grower, "sites")[0];
    assert_eq!(symbols(first).first(), Some(&"touch"), "{first:#}");
    assert!(symbols(first).contains(&"main"), "{first:#}");
    let areas = list(grower, "areas");
    assert_eq!(areas[0]["name"], area, "{areas:?}");
    // Before it was first looked at, and in the first moments, nothing was kept: never much more than there is.
    let held = grower["anon_bytes"].as_u64().expect("a number");
    assert!(sampled <= held + held / 2, "{sampled} sampled of {held} held");
    drop(run.stop().exited_with(0));
    target.go();
}

#[test]
fn names_who_touched_what_grew_by_malloc() {
    names_who_touched("malloc", "grow_malloc", "[heap]");
}

#[test]
fn names_who_touched_what_grew_by_brk() {
    names_who_touched("brk", "grow_brk", "[heap]");
}

#[test]
fn names_who_touched_what_grew_by_mmap() {
    names_who_touched("mmap", "grow_mmap", "[anon]");
}

#[test]
fn of_fifty_processes_only_the_growing_one_is_armed_and_its_site_is_named() {
    let idle: Vec<Target> = (0..49).map(|_| started("malloc")).collect();
    let mut target = started("malloc");
    let mut run = watch(&["--comm", "grower", "--arm", CONDITION, "--top", "100"]);
    target.go();
    let report = report_where(&mut run, "a report of the traced one", |report| {
        let traced = list(report, "traced")
            .iter()
            .find(|traced| traced["pid"] == target.pid());
        let survivors = traced.map_or(&[][..], |traced| list(&traced["report"], "survivors"));
        survivors
            .iter()
            .any(|survivor| symbols(survivor).contains(&"grow_malloc"))
    });
    // Beside other tests that run growers of their own.
    let ours = |pid: &Value| idle.iter().any(|idle| *pid == idle.pid());
    let armed = events(&report, "armed");
    assert!(
        armed.iter().any(|event| event["pid"] == target.pid()),
        "{report:#}"
    );
    assert!(!armed.iter().any(|event| ours(&event["pid"])), "{report:#}");
    assert!(grower(&report, &target).is_some(), "{report:#}");
    assert!(report["processes"]["watched"].as_u64() >= Some(50));
    drop(run.stop().exited_with(0));
}

#[test]
fn one_whose_memory_ebbs_is_disarmed() {
    let mut target = started("tide");
    let pid = target.pid().to_string();
    let mut run = watch(&["-p", &pid, "--arm", CONDITION]);
    target.go();
    report_where(&mut run, "its arming", |report| {
        events(report, "armed").len() == 1
    });
    target.go();
    target.at("grown");
    let report = report_where(&mut run, "its disarming", |report| {
        !events(report, "disarmed").is_empty()
    });
    assert_eq!(events(&report, "disarmed")[0]["why"], "stopped growing");
    assert_eq!(events(&report, "armed").len(), 1, "{report:#}");
    drop(run.stop().exited_with(0));
    assert!(target.is_running());
}

#[test]
fn one_with_days_and_nights_is_disarmed_and_not_armed_the_next_day() {
    let mut target = Target::c("grower", &["days", "4"]);
    target.ready();
    let pid = target.pid().to_string();
    let mut run = watch(&["-p", &pid, "--arm", CONDITION]);
    target.go();
    report_where(&mut run, "its arming", |report| {
        events(report, "armed").len() == 1
    });
    target.at("noon");
    report_where(&mut run, "its disarming", |report| {
        !events(report, "disarmed").is_empty()
    });
    target.go();
    report_where(&mut run, "its rise to where it has been", |report| {
        grower(report, &target).is_some_and(|grower| grower["course"] == "returning")
    });
    target.at("noon");
    let finished = run.stop().exited_with(0);
    let last: Value = serde_json::from_str(finished.stdout.lines().last().expect("a report")).expect("JSON");
    assert_eq!(events(&last, "armed").len(), 1, "{last:#}");
    assert!(target.is_running());
}

#[test]
fn by_the_kernels_marks_too_the_growing_one_is_told_from_the_idle_ones() {
    let idle: Vec<Target> = (0..10).map(|_| started("malloc")).collect();
    let mut target = started("malloc");
    let mut run = watch(&["--comm", "grower", "--window", "4s", "--marks", "--top", "100"]);
    target.go();
    let report = report_where(&mut run, "a report of the growing one", |report| {
        grower(report, &target).is_some_and(|grower| grower["course"] == "growing")
    });
    assert!(
        idle.iter().all(|idle| grower(&report, idle).is_none()),
        "{report:#}"
    );
    let finished = run.stop().exited_with(0);
    assert!(!finished.stderr.contains("instead"), "{}", finished.seen());
}

#[test]
fn the_killswitch_ends_all_and_keeps_it_from_beginning() {
    let mut target = started("malloc");
    let pid = target.pid().to_string();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let switch = folder.path().join("off");
    let path = switch.display().to_string();
    let options = ["-p", &pid, "--arm", CONDITION, "--killswitch", &path];
    let mut run = watch(&options);
    target.go();
    report_where(&mut run, "its arming", |report| {
        events(report, "armed").len() == 1
    });
    std::fs::write(&switch, "").expect("the switch can be thrown");
    let finished = run.wait().exited_with(0);
    assert!(
        finished.stderr.contains("all tracing has ended"),
        "{}",
        finished.seen()
    );
    let last: Value = serde_json::from_str(finished.stdout.lines().last().expect("a report")).expect("JSON");
    assert_eq!(last["last"], true);
    let words = ["watch", "-p", &pid, "--killswitch", &path];
    Leaktrace::bare(&words)
        .run()
        .refused(&["keeps leaktrace from tracing", "remove it"]);
    target.go();
    assert!(target.is_running());
}

#[test]
fn sigusr1_ends_it_in_good_order() {
    let mut target = started("malloc");
    let mut run = watch(&["-p", &target.pid().to_string(), "--arm", CONDITION]);
    target.go();
    report_where(&mut run, "its arming", |report| {
        events(report, "armed").len() == 1
    });
    let tracer = run.target_pid();
    run.signal(Signal::SIGUSR1);
    let finished = run.wait().exited_with(0);
    assert!(
        finished
            .stderr
            .contains("SIGUSR1 was sent: all tracing has ended"),
        "{}",
        finished.seen()
    );
    assert!(!std::path::Path::new(&format!("/proc/{tracer}")).exists());
    target.go();
    assert!(target.is_running());
}

#[test]
fn no_process_is_left_to_trace_when_it_is_killed() {
    let mut target = started("malloc");
    let pid = target.pid().to_string();
    let mut run = watch(&["-p", &pid, "--arm", CONDITION]);
    target.go();
    report_where(&mut run, "its arming", |report| {
        events(report, "armed").len() == 1
    });
    let tracer = run.target_pid();
    run.signal(Signal::SIGKILL);
    leaktrace_tests::wait::until("the tracer's end", || {
        (!std::path::Path::new(&format!("/proc/{tracer}")).exists()).then_some(())
    });
    target.go();
    assert!(target.is_running());
}

#[test]
fn what_watching_takes_is_said() {
    let idle: Vec<Target> = (0..20).map(|_| started("malloc")).collect();
    let mut run = watch(&["-a", "--window", "10s"]);
    let report = report_where(&mut run, "a report", |report| report["sequence"] == 2);
    assert!(report["processes"]["watched"].as_u64() >= Some(idle.len() as u64));
    assert!(report["own"]["cpu_s"].as_f64() > Some(0.0));
    drop(run.stop().exited_with(0));
}

#[test]
fn the_killswitch_ends_tracing_too() {
    let mut target = started("malloc");
    let pid = target.pid().to_string();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let switch = folder.path().join("off");
    let path = switch.display().to_string();
    let run = Leaktrace::attach(&[target.pid()])
        .args(&["--killswitch", &path])
        .start();
    target.go();
    leaktrace_tests::wait::until("some growth", || {
        let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        let resident: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        (resident > 4000).then_some(())
    });
    std::fs::write(&switch, "").expect("the switch can be thrown");
    let finished = run.wait().exited_with(0);
    assert!(
        finished.stderr.contains("all tracing has ended"),
        "{}",
        finished.seen()
    );
    assert!(finished.report().site("grow_malloc").blocks > 0);
    Leaktrace::bare(&["-p", &pid, "--killswitch", &path])
        .run()
        .refused(&["keeps leaktrace from tracing", "remove it"]);
    target.go();
    assert!(target.is_running());
}

#[test]
fn calls_for_more_are_shown_when_asked_for() {
    let mut target = started("mmap");
    let pid = target.pid().to_string();
    let mut run = watch(&["-p", &pid, "--window", "4s", "--calls"]);
    target.go();
    let report = report_where(&mut run, "a report with calls", |report| {
        grower(report, &target).is_some_and(|grower| !list(grower, "calls").is_empty())
    });
    let grower = grower(&report, &target).expect("it is in the report");
    let most = &list(grower, "calls")[0];
    assert_eq!(most["call"], "mmap");
    assert!(symbols(most).contains(&"grow_mmap"), "{most:#}");
    drop(run.stop().exited_with(0));
    target.go();
}
