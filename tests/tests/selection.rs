//! Processes that are chosen by what they are: name, user, control group, all of them. Those that start
//! later join from their first instruction, those that end leave with their survivors, and whatever a
//! process does meanwhile, it is not harmed.
//!
//! Suites run beside each other: each test has programs by names of its own (see [`named`]), and looks at
//! its own processes and functions only.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use leaktrace_tests::{
    cgroups::{Cgroup, Version},
    fixtures::Fixture,
    leaktrace::{Leaktrace, Run},
    memory,
    report::{Report, Truth},
    skip::{self, unless_missing},
    target::Target,
    wait,
};

/// Users who exist on no machine.
const USER: u32 = 61_001;
const OTHER_USER: u32 = 61_002;

/// The C fixture by a name of the test's own, of 15 bytes at most.
fn named(fixture: &str, name: &str) -> PathBuf {
    let built = Fixture::c(fixture).named(name).build();
    built.expect("gcc is needed by all suites: install gcc and libc6-dev")
}

/// A `serve` that waits.
fn serving(program: &Path) -> Target {
    let mut target = Target::program(program, &[]);
    target.ready();
    target
}

/// Has `serve` hold 15 blocks.
fn served(target: &mut Target) -> Truth {
    target.send(b"aaft");
    target.truth()
}

/// Whether a process is in the report.
fn has(report: &Report, pid: u32) -> bool {
    let processes = report.value()["target"]["processes"].as_array().expect("a list");
    processes.iter().any(|process| process["pid"] == pid)
}

/// Blocks of survivors with a caller of this name, of one process.
fn blocks_of(report: &Report, pid: u32, function: &str) -> u64 {
    let is_its = |survivor: &leaktrace_tests::report::Survivor<'_>| survivor.number("pid") == u64::from(pid);
    let tally = report.tally(|survivor| is_its(survivor) && survivor.has_caller(function));
    tally.blocks
}

/// Traces `targets`, of which the first are chosen and the others not, and checks both.
fn choose(selection: &[&str], mut chosen: Vec<Target>, mut others: Vec<Target>) {
    let run = Leaktrace::selecting(selection).start();
    let truths: Vec<Truth> = chosen.iter_mut().map(served).collect();
    let unseen: Vec<Truth> = others.iter_mut().map(served).collect();
    let report = run.stop().report();
    for truth in &truths {
        report.assert_sites(truth);
    }
    for truth in &unseen {
        assert!(
            !has(&report, truth.pid),
            "{} is traced\n{}",
            truth.pid,
            report.summary()
        );
        assert_eq!(blocks_of(&report, truth.pid, "served"), 0, "{}", report.summary());
    }
    for target in chosen.iter_mut().chain(&mut others) {
        target.finish_with(0);
    }
}

#[test]
fn by_name() {
    let (name, other) = (named("serve", "serve_by_name"), named("serve", "serve_unnamed"));
    choose(
        &["--comm", "serve_by_name"],
        vec![serving(&name), serving(&name)],
        vec![serving(&other)],
    );
}

#[test]
fn by_any_of_two_names() {
    let names = ["serve_first", "serve_second"].map(|name| serving(&named("serve", name)));
    let other = serving(&named("serve", "serve_third"));
    let selection = ["--comm", "serve_first", "--comm", "serve_second"];
    choose(&selection, Vec::from(names), vec![other]);
}

#[test]
fn by_user() {
    let program = named("serve", "serve_by_user");
    let [mut first, mut second] = [USER, OTHER_USER].map(|uid| Target::as_user(uid, &program, &[]));
    first.ready();
    second.ready();
    choose(
        &["--user", &USER.to_string()],
        vec![first],
        vec![second, serving(&program)],
    );
}

#[test]
fn by_user_and_name() {
    let (program, other) = (named("serve", "serve_and_one"), named("serve", "serve_and_two"));
    let uid = USER + 10;
    let [mut chosen, mut misnamed] = [&program, &other].map(|program| Target::as_user(uid, program, &[]));
    chosen.ready();
    misnamed.ready();
    choose(
        &["--user", &uid.to_string(), "--comm", "serve_and_one"],
        vec![chosen],
        vec![misnamed, serving(&program)],
    );
}

fn by_cgroup(version: Version, name: &str, typed: impl Fn(&Cgroup) -> String) {
    let Some(group) = unless_missing(Cgroup::make(version)) else {
        return;
    };
    let below = group.child("below");
    let program = named("serve", name);
    let [mut first, mut second] = [&group, &below].map(|group| group.start(&program, &[]));
    first.ready();
    second.ready();
    choose(
        &["--cgroup", &typed(&group)],
        vec![first, second],
        vec![serving(&program)],
    );
}

#[test]
fn by_cgroup_of_version_1() {
    by_cgroup(Version::One, "serve_cg1", |group| group.argument().to_owned());
}

#[test]
fn by_cgroup_of_version_2() {
    by_cgroup(Version::Two, "serve_cg2", |group| group.argument().to_owned());
}

#[test]
fn by_path_within_the_hierarchy() {
    by_cgroup(Version::One, "serve_cg_in", Cgroup::inner);
}

#[test]
fn all_but_some() {
    let (chosen, left_out) = (named("serve", "serve_all"), named("serve", "serve_not_all"));
    let program = named("serve", "serve_pid_out");
    let by_pid = serving(&program);
    let mut by_user = Target::as_user(USER + 20, &chosen, &[]);
    by_user.ready();
    let pid = format!("pid={}", by_pid.pid());
    let user = format!("user={}", USER + 20);
    choose(
        &[
            "--all",
            "--exclude",
            "comm=serve_not_all",
            "--exclude",
            &pid,
            "--exclude",
            &user,
        ],
        vec![serving(&chosen), serving(&program)],
        vec![serving(&left_out), by_pid, by_user],
    );
}

#[test]
fn a_pid_beside_a_selection() {
    let (name, other) = (named("serve", "serve_beside"), named("serve", "serve_by_pid"));
    let (chosen, by_pid) = (serving(&name), serving(&other));
    let pid = by_pid.pid().to_string();
    choose(
        &["--comm", "serve_beside", "-p", &pid],
        vec![chosen, by_pid],
        vec![serving(&other)],
    );
}

/// The scopes that a selection can have its probes in.
const SCOPES: [&str; 2] = ["process", "host"];

#[test]
fn in_either_scope() {
    let (name, other) = (named("serve", "serve_scoped"), named("serve", "serve_unscoped"));
    for scope in SCOPES {
        choose(
            &["--comm", "serve_scoped", "--scope", scope],
            vec![serving(&name)],
            vec![serving(&other)],
        );
    }
}

/// Nothing that is meant runs yet.
fn tracing_before(selection: &[&str]) -> Run {
    Leaktrace::selecting(selection).args(&["-i", "100ms"]).start()
}

#[test]
fn processes_that_start_later_join() {
    let program = named("serve", "serve_later");
    let mut run = tracing_before(&["--comm", "serve_later", "--scope", "host"]);
    let mut targets: Vec<Target> = (0..5).map(|_| serving(&program)).collect();
    let truths: Vec<Truth> = targets.iter_mut().map(served).collect();
    run.report_where("all of them", |report| {
        truths.iter().all(|truth| has(report, truth.pid))
    });
    let report = run.stop().report();
    for truth in &truths {
        report.assert_sites(truth);
    }
    for target in &mut targets {
        target.finish_with(0);
    }
}

/// Runs `short` by this name, by its answer exactly.
fn live_shortly(program: &Path, blocks: u64, size: u64) {
    let arguments = ["7".to_owned(), blocks.to_string(), size.to_string()];
    let output = Command::new(program)
        .args(&arguments)
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{output:?}");
    let answer: u64 = (0..blocks).map(|block| (7 + block + block) * size).sum();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), answer.to_string());
}

/// Ended before user space can have looked at them: the kernel side alone has seen them live.
fn short_lives(selection: &[&str], name: &str) {
    let program = named("short", name);
    let run = Leaktrace::selecting(selection).start();
    for _ in 0..50 {
        live_shortly(&program, 10, 100);
    }
    let report = run.stop().report();
    report.assert_no_losses();
    report.assert_site("short_leak", 500, 50_000);
    let processes = report.value()["target"]["processes"].as_array().expect("a list");
    let ended = processes.iter().filter(|process| process["state"] == "exited");
    assert_eq!(ended.count(), 50, "{}", report.summary());
}

#[test]
fn processes_that_live_for_milliseconds() {
    short_lives(&["--comm", "short_of_many"], "short_of_many");
}

#[test]
fn processes_that_live_for_milliseconds_by_probes_for_all() {
    short_lives(&["--comm", "short_host", "--scope", "host"], "short_host");
}

#[test]
fn processes_that_live_for_milliseconds_in_a_cgroup() {
    let Some(group) = unless_missing(Cgroup::make(Version::One)) else {
        return;
    };
    let program = named("short", "short_cgroup");
    let run = Leaktrace::selecting(&["--cgroup", group.argument(), "--scope", "host"]).start();
    for _ in 0..20 {
        let mut target = group.start(&program, &["7", "10", "100"]);
        assert!(target.wait().success(), "{}", target.seen());
    }
    let report = run.stop().report();
    report.assert_site("short_leak", 200, 20_000);
}

#[test]
fn those_that_end_leave_with_their_survivors() {
    let program = named("serve", "serve_ends");
    let [mut first, mut second] = [serving(&program), serving(&program)];
    let mut run = tracing_before(&["--comm", "serve_ends"]);
    let truth = served(&mut first);
    first.finish_with(0);
    run.report_where("its end", |report| {
        has(report, truth.pid) && report.process(truth.pid)["state"] == "exited"
    });
    let other = served(&mut second);
    let report = run.stop().report();
    report.assert_sites(&truth);
    report.assert_sites(&other);
    second.finish_with(0);
}

#[test]
fn a_pid_that_is_used_again() {
    let mut target = Target::program(&named("pid_reuse", "pid_reuse"), &[]);
    target.ready();
    let run = Leaktrace::selecting(&["--comm", "pid_reuse", "--scope", "host"]).start();
    target.go();
    target.at("between");
    target.go();
    let truth = target.truth();
    assert_eq!(truth.fact("same"), 1, "the second child has the pid of the first");
    let report = run.stop().report();
    report.assert_adds_up();
    report.assert_no_losses();
    report.assert_site("first_life", 5, 2500);
    report.assert_site("second_life", 3, 900);
    let processes = report.value()["target"]["processes"].as_array().expect("a list");
    let lives = processes
        .iter()
        .filter(|process| process["pid"] == truth.fact("child"));
    assert_eq!(lives.count(), 2, "{}", report.summary());
    target.finish_with(0);
}

#[test]
fn children_and_what_they_execute() {
    let program = named("serve", "serve_forks");
    let mut target = serving(&program);
    let run = Leaktrace::selecting(&["--comm", "serve_forks", "--scope", "host"]).start();
    target.send(b"ak");
    target.line("its child", |line| line == "in child");
    target.send(b"t");
    let truth = target.truth();
    let child = truth.fact("child") as u32;
    target.send(b"c");
    target.line("the child's end", |line| line == "child ended");
    let report = run.stop().report();
    report.assert_site("served", 10, 10_000);
    assert_eq!(blocks_of(&report, child, "in_child"), 10, "{}", report.summary());
    target.finish_with(0);
}

/// Of a user, by which it stays chosen whatever it executes.
fn executes(uid: u32, name: &str, program: &Path) -> (Target, Run) {
    let mut target = Target::as_user(
        uid,
        &named("serve", name),
        &[program.to_str().expect("a plain path")],
    );
    target.ready();
    let uid = uid.to_string();
    let run = Leaktrace::selecting(&["--user", &uid, "--scope", "host"])
        .args(&["-i", "100ms"])
        .start();
    target.send(b"a");
    target.line("its blocks", |line| line == "allocated");
    target.send(b"x");
    target.ready();
    (target, run)
}

#[test]
fn exec_into_a_program_with_another_libc() {
    let Some(other) = unless_missing(Fixture::musl("serve").named("serve_musl").build()) else {
        return;
    };
    let (mut target, mut run) = executes(USER + 30, "serve_to_musl", &other);
    // Its library is its own: it is probed once it is seen, and nothing before that is.
    let (pid, object) = (target.pid(), other.display().to_string());
    wait::until("probes in the new program", || {
        let probes = memory::breakpoints(pid);
        probes.iter().any(|probe| probe.object == object).then_some(())
    });
    let truth = served(&mut target);
    run.report_where("its new blocks", |report| blocks_of(report, pid, "served") >= 15);
    let report = run.stop().report();
    let now =
        report.tally(|survivor| survivor.number("pid") == u64::from(pid) && survivor.has_caller("served"));
    // What it held before its exec went with its memory, and what it holds since is exact.
    assert_eq!(
        (now.blocks, truth.site("served").blocks),
        (25, 15),
        "{}",
        report.summary()
    );
    target.finish_with(0);
}

#[test]
fn exec_into_a_go_program_lets_it_go_and_says_why() {
    let Some(go) = unless_missing(Fixture::go().build()) else {
        return;
    };
    let (mut target, mut run) = executes(USER + 31, "serve_to_go", &go);
    let pid = target.pid();
    run.report_where("the reason", |report| {
        let is_reason = |warning: &&str| warning.contains("Go program") && warning.contains(&pid.to_string());
        report.warnings().iter().any(is_reason)
    });
    assert_eq!(memory::breakpoints(pid), [], "a Go program is not probed");
    target.finish_with(0);
    let report = run.stop().report();
    assert_eq!(blocks_of(&report, pid, "served"), 10, "{}", report.summary());
}

#[test]
fn a_process_that_becomes_another_user() {
    let program = named("serve", "serve_setuid");
    let mut target = serving(&program);
    let run = Leaktrace::selecting(&["--comm", "serve_setuid"]).start();
    target.send(b"a");
    target.line("its blocks", |line| line == "allocated");
    target.send(b"u");
    target.line("its change", |line| line == "another user");
    let truth = served(&mut target);
    assert_eq!(truth.site("served").blocks, 25);
    let report = run.stop().report();
    report.assert_exact(&truth);
    target.finish_with(0);
}

/// A program with the set-user-id bit, started by an unprivileged user: `AT_SECURE`, and not dumpable.
#[test]
fn a_setuid_program() {
    let folder = tempfile::tempdir_in("/var/tmp").expect("a temporary folder can be made");
    let copy = folder.path().join("serve_suid");
    leaktrace_tests::fixtures::copy(&named("serve", "serve_suid"), &copy);
    for path in [folder.path(), &copy] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(if path == copy { 0o4755 } else { 0o755 });
        std::fs::set_permissions(path, mode).expect("a mode can be set");
    }
    let uid = USER + 40;
    let run = Leaktrace::selecting(&["--user", &uid.to_string(), "--scope", "host"]).start();
    let mut target = Target::as_user(uid, &copy, &[]);
    target.ready();
    let truth = served(&mut target);
    let status = std::fs::read_to_string(format!("/proc/{}/status", target.pid())).expect("it lives");
    assert!(status.contains(&format!("Uid:\t{uid}\t0\t0\t0")), "{status}");
    let report = run.stop().report();
    report.assert_sites(&truth);
    target.finish_with(0);
}

#[test]
fn a_cgroup_that_is_removed() {
    let Some(group) = unless_missing(Cgroup::make(Version::One)) else {
        return;
    };
    let Some(stays) = unless_missing(Cgroup::make(Version::One)) else {
        return;
    };
    let program = named("serve", "serve_cg_gone");
    let [mut first, mut second] = [&group, &stays].map(|group| group.start(&program, &[]));
    first.ready();
    second.ready();
    let mut run = tracing_before(&["--cgroup", group.argument(), "--cgroup", stays.argument()]);
    let gone = served(&mut first);
    first.finish_with(0);
    group.remove();
    let truth = served(&mut second);
    run.report_where("the end of the one and the blocks of the other", |report| {
        has(report, gone.pid)
            && report.process(gone.pid)["state"] == "exited"
            && blocks_of(report, truth.pid, "served") == 15
    });
    let report = run.stop().report();
    report.assert_sites(&gone);
    report.assert_sites(&truth);
    second.finish_with(0);
}

/// `unmaps HOW` under a selection, up to its last step.
fn unmaps(name: &str, arguments: &[&str]) -> (Target, Run) {
    let mut target = Target::program(&named("unmaps", name), arguments);
    target.ready();
    let run = Leaktrace::selecting(&["--comm", name]).start();
    target.go();
    (target, run)
}

#[test]
fn a_process_that_unmaps_its_libc() {
    let (mut target, run) = unmaps("unmaps_libc", &["libc"]);
    let truth = target.truth();
    target.at("unmapped");
    run.stop().report().assert_sites(&truth);
    target.finish_with(0);
}

#[test]
fn a_process_that_unmaps_its_libc_runs_on_when_the_tracer_ends() {
    let (mut target, run) = unmaps("unmaps_kill", &["libc"]);
    target.truth();
    target.at("unmapped");
    run.signal(nix::sys::signal::Signal::SIGKILL);
    drop(run.wait());
    target.finish_with(0);
}

#[test]
fn a_second_libc_that_comes_and_goes() {
    let Some(libc) = unless_missing(skip::library("libc.so.6", "libc6")) else {
        return;
    };
    let folder = leaktrace_tests::rootfs::temporary("libc");
    let copy = folder.path().join("libc.so.6");
    leaktrace_tests::fixtures::copy(&libc, &copy);
    let (mut target, run) = unmaps(
        "unmaps_second",
        &["dlclose", copy.to_str().expect("a plain path")],
    );
    target.at("loaded");
    let pid = target.pid();
    let object = copy.display().to_string();
    wait::until("probes in the second libc", || {
        let probes = memory::breakpoints(pid);
        probes.iter().any(|probe| probe.object == object).then_some(())
    });
    target.go();
    target.at("closed");
    target.go();
    let truth = target.truth();
    run.stop().report().assert_sites(&truth);
    target.finish_with(0);
}
