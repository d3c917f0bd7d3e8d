//! Birth and death of targets: start, fork, exec, spawn, every way to end, libraries that come and go.

use std::os::unix::process::ExitStatusExt as _;

use leaktrace_tests::{
    fixtures,
    fixtures::Fixture,
    leaktrace::{Leaktrace, by_perf},
    memory,
    report::{Report, Truth},
    skip::unless_missing,
    target::Target,
    trace, wait,
};
use nix::sys::signal::Signal;

/// Traces the fixture `exits HOW` to its end.
fn until_exit(how: &str, end: impl FnOnce(&mut Target)) -> (Report, Truth) {
    let mut target = Target::c("exits", &[how]);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()]).start();
    target.go();
    let truth = target.truth();
    end(&mut target);
    let report = run.wait().report();
    let process = report.process(truth.pid);
    assert_eq!(process["state"], "exited", "{}", report.summary());
    assert_eq!(report.value()["last"], true);
    (report, truth)
}

fn exits_with(how: &str, code: i32) {
    let (report, truth) = until_exit(how, |target| target.finish_with(code));
    report.assert_exact(&truth);
}

fn dies_of(how: &str, signal: Signal) {
    let (report, truth) = until_exit(how, |target| {
        let status = target.finish();
        assert_eq!(status.signal(), Some(signal as i32), "{}", target.seen());
    });
    report.assert_exact(&truth);
}

#[test]
fn live_at_return_from_main() {
    exits_with("return", 3);
}

#[test]
fn live_at_exit() {
    exits_with("exit", 3);
}

#[test]
fn live_at_underscore_exit() {
    exits_with("_exit", 3);
}

#[test]
fn live_at_quick_exit() {
    exits_with("quick_exit", 3);
}

#[test]
fn live_at_abort() {
    dies_of("abort", Signal::SIGABRT);
}

#[test]
fn live_at_a_segmentation_fault() {
    dies_of("segv", Signal::SIGSEGV);
}

#[test]
fn live_at_sigkill() {
    let (report, truth) = until_exit("stay", |target| {
        target.signal(Signal::SIGKILL);
        assert_eq!(target.wait().signal(), Some(9));
    });
    report.assert_exact(&truth);
}

#[test]
fn live_at_exit_while_other_threads_allocate() {
    let (report, truth) = until_exit("busy_threads", |target| target.finish_with(3));
    // The other threads may die between malloc and free: at most one block each.
    report.assert_adds_up();
    report.assert_no_losses();
    let held = truth.site("held");
    report.assert_site("held", held.blocks, held.bytes);
    assert!(report.site("busy").blocks <= 4, "{}", report.summary());
}

#[test]
fn the_process_lives_as_long_as_one_of_its_threads() {
    // The main thread ends first; another one allocates once more and ends the process.
    let (report, _) = until_exit("main_thread_first", |target| target.finish_with(4));
    report.assert_adds_up();
    // Probes of perf are of a task, and the kernel lets go of it with its memory (`uprobe_perf_filter` in
    // kernel/trace/trace_uprobe.c, 6.1 to 6.18): what other threads do after the main one is not seen.
    let (blocks, bytes) = if by_perf() { (9, 810) } else { (10, 900) };
    report.assert_site("held", blocks, bytes);
}

#[test]
fn exit_from_another_thread() {
    let (report, truth) = until_exit("from_thread", |target| target.finish_with(5));
    report.assert_sites(&truth);
}

#[test]
fn a_child_is_not_traced_unless_asked_for() {
    let mut target = Target::c("forks", &["early"]);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()]).start();
    target.go();
    let (_child, parent) = (target.truth(), target.truth());
    let report = run.stop().report();
    report.assert_exact(&parent);
    target.finish_with(0);
}

#[test]
fn a_child_is_followed_at_once_or_the_report_says_that_it_was_not() {
    let mut target = Target::c("forks", &["early"]);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()])
        .args(&["--follow-forks"])
        .start();
    target.go();
    let (child, parent) = (target.truth(), target.truth());
    let report = run.stop().report();
    report.assert_sites(&parent);
    let (seen, made) = (report.site("in_child").blocks, child.site("in_child").blocks);
    if seen == made {
        report.assert_sites(&child);
    } else {
        assert_eq!(report.ledger("forks_followed_late"), 1, "{}", report.summary());
        assert!(!report.warnings().is_empty(), "{}", report.summary());
    }
    target.finish_with(0);
}

#[test]
fn a_child_outlives_its_parent() {
    // leaktrace goes on until the last target has ended, and keeps what each held at its end.
    let mut target = Target::c("forks", &[]);
    target.ready();
    let options = ["--follow-forks", "-i", "100ms"];
    let mut run = Leaktrace::attach(&[target.pid()]).args(&options).start();
    target.go();
    target.at("child");
    run.report_where("the child among the processes", |report| report.processes() == 2);
    target.go();
    let (child, parent) = (target.truth(), target.truth());
    target.signal(Signal::SIGKILL);
    target.wait();
    let report = run.wait().report();
    report.assert_sites(&child);
    report.assert_sites(&parent);
    for truth in [&child, &parent] {
        assert_eq!(
            report.process(truth.pid)["state"],
            "exited",
            "{}",
            report.summary()
        );
    }
}

#[test]
fn spawned_children_leave_the_parent_exact() {
    let mut target = Target::c("spawn", &[]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_exact(&traced.truth);
    target.finish_with(0);
}

#[test]
fn spawned_children_with_follow_forks() {
    let mut target = Target::c("spawn", &[]);
    let traced = trace(&mut target, &["--follow-forks"]);
    traced.report.assert_sites(&traced.truth);
    target.finish_with(0);
}

#[test]
fn exec_of_a_static_program_is_traced_again() {
    // `sh` replaces itself by a static musl program, whose allocator is in another file.
    let Some(program) = unless_missing(Fixture::musl("pairs").build()) else {
        return;
    };
    let shell = format!("exec {} 5000", program.display());
    let mut run = Leaktrace::command("/bin/sh".as_ref(), &["-c", &shell])
        .with_stdin()
        .start();
    run.stdout_line("ready", |line| line == "ready");
    // The probes of the new image are in place when its code shows them.
    let pid = run.target_pid();
    wait::until("probes in the new image", || {
        let probes = memory::breakpoints(pid);
        probes
            .iter()
            .any(|probe| probe.object.ends_with("/pairs"))
            .then_some(())
    });
    run.send(b"gg");
    let report = run.wait().report();
    report.assert_site("leak_100", 5, 500);
}

#[test]
fn exec_by_a_thread_other_than_the_first_is_traced_again() {
    let pairs = fixtures::c("pairs");
    let mut run = Leaktrace::command(
        &fixtures::c("thread_exec"),
        &[pairs.to_str().expect("a plain path"), "5000"],
    )
    .args(&["-v"])
    .with_stdin()
    .start();
    run.stdout_line("before", |line| line == "before");
    run.send(b"g");
    run.stdout_line("ready", |line| line == "ready");
    // The kernel has dropped the probes with the first thread; they come back.
    run.stderr_line("the probes in the new image", |line| {
        line.contains("all probes are in place again")
    });
    run.send(b"gg");
    let report = run.wait().report();
    report.assert_site("leak_100", 5, 500);
    assert!(report.ledger("objects_late") > 0, "{}", report.summary());
}

#[test]
fn exec_of_a_program_that_must_not_be_probed_lets_it_go() {
    let Some(go) = unless_missing(Fixture::go().build()) else {
        return;
    };
    // The first image is traced, the second is refused and must live.
    let shell = format!("exec {}", go.display());
    let mut run = Leaktrace::command("/bin/sh".as_ref(), &["-c", &shell])
        .with_stdin()
        .start();
    run.stdout_line("ready", |line| line == "ready");
    run.stderr_line("the refusal", |line| line.contains("Go program"));
    run.send(b"gg");
    let finished = run.wait().exited_with(0);
    let warnings = finished.last_report().warnings().join(" ");
    assert!(warnings.contains("Go"), "{warnings}");
}

#[test]
fn a_library_opened_and_closed_in_a_loop() {
    let plugin = Fixture::library("plugin").build().expect("gcc is there");
    let mut target = Target::c("dlopen_loop", &[plugin.to_str().expect("a plain path"), "40"]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_sites(&traced.truth);
    traced.report.assert_site("call_plugin", 40, 40 * 48);
    target.finish_with(0);
}

#[test]
fn from_the_first_allocation_of_a_command() {
    let finished = Leaktrace::command(&fixtures::c("constructors"), &[])
        .start()
        .wait()
        .exited_with(6);
    let truth = Truth::parse(finished.stdout.lines().next_back().expect("its truth"));
    finished.last_report().assert_exact(&truth);
}

#[test]
fn from_the_static_objects_of_a_cpp_command() {
    let Some(program) = unless_missing(Fixture::cpp("constructors").named("cppconstructors").build()) else {
        return;
    };
    let finished = Leaktrace::command(&program, &[]).start().wait().exited_with(0);
    let truth = Truth::parse(finished.stdout.lines().next_back().expect("its truth"));
    finished.last_report().assert_sites(&truth);
}

#[test]
fn a_command_that_lives_for_milliseconds() {
    let finished = Leaktrace::command(&fixtures::c("brief"), &[])
        .start()
        .wait()
        .exited_with(0);
    let truth = Truth::parse(finished.stdout.lines().next_back().expect("its truth"));
    finished.last_report().assert_exact(&truth);
}

#[test]
fn a_static_command_from_its_first_allocation() {
    let Some(program) = unless_missing(Fixture::musl("constructors").build()) else {
        return;
    };
    let finished = Leaktrace::command(&program, &[]).start().wait().exited_with(6);
    let truth = Truth::parse(finished.stdout.lines().next_back().expect("its truth"));
    finished.last_report().assert_sites(&truth);
}

#[test]
fn one_of_two_targets_ends_and_the_other_goes_on() {
    let mut first = Target::c("exits", &["return"]);
    let mut second = Target::c("pairs", &["3000"]);
    first.ready();
    second.ready();
    let run = Leaktrace::attach(&[first.pid(), second.pid()]).start();
    first.go();
    let first_truth = first.truth();
    first.finish_with(3);
    second.go();
    let second_truth = second.truth();
    second.finish_with(0);
    let report = run.wait().report();
    report.assert_sites(&first_truth);
    report.assert_sites(&second_truth);
    assert_eq!(report.total("live_blocks"), 9 + 3, "{}", report.summary());
}
