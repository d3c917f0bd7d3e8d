//! Sites of several processes of one program: each by itself, or summed up by `--by`.

use leaktrace_tests::{
    fixtures,
    leaktrace::{Leaktrace, Run},
    report::{Report, Survivor, Truth},
    target::Target,
};
use serde_json::Value;

const COUNT: usize = 5;

/// Processes of the fixture `exits stay` that have done their work, traced with these options; the truth of each.
fn traced(options: &[&str]) -> (Vec<Target>, Run, Vec<Truth>) {
    let mut targets: Vec<Target> = (0..COUNT).map(|_| Target::c("exits", &["stay"])).collect();
    targets.iter_mut().for_each(Target::ready);
    let pids: Vec<u32> = targets.iter().map(Target::pid).collect();
    let run = Leaktrace::attach(&pids).args(options).start();
    targets.iter_mut().for_each(Target::go);
    let truths = targets.iter_mut().map(Target::truth).collect();
    (targets, run, truths)
}

fn held(report: &Report) -> Vec<Survivor<'_>> {
    let survivors = report.survivors().into_iter();
    survivors.filter(|survivor| survivor.has_caller("held")).collect()
}

/// The one site `held` of all processes, with the sum over them.
fn assert_one_site(report: &Report, truths: &[Truth]) {
    report.assert_adds_up();
    report.assert_no_losses();
    let held = held(report);
    let [site] = held.as_slice() else {
        panic!("{} sites in\n{}", held.len(), report.summary())
    };
    let sum = |number: fn(&Truth) -> u64| truths.iter().map(number).sum::<u64>();
    assert_eq!(site.number("blocks"), sum(|truth| truth.site("held").blocks));
    assert_eq!(site.number("bytes"), sum(|truth| truth.site("held").bytes));
    assert_eq!(site.number("processes"), truths.len() as u64);
    let mut pids: Vec<u64> = site.0["pids"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_u64)
        .collect();
    assert_eq!(pids[0], site.number("pid"));
    pids.sort_unstable();
    let mut expected: Vec<u64> = truths.iter().map(|truth| u64::from(truth.pid)).collect();
    expected.sort_unstable();
    assert_eq!(pids, expected);
    assert_eq!(site.line_in("held"), Some(truths[0].site("held").line));
    for name in ["allocs", "frees"] {
        let all: u64 = truths
            .iter()
            .map(|truth| truth.raw[name].as_u64().unwrap_or(0))
            .sum();
        assert_eq!(report.total(name), all, "{}", report.summary());
    }
}

#[test]
fn by_process_each_has_its_own_site() {
    let (_targets, run, truths) = traced(&[]);
    let report = run.stop().report();
    assert_eq!(report.value()["by"], "process");
    for truth in &truths {
        report.assert_sites(truth);
    }
    let held = held(&report);
    assert_eq!(held.len(), COUNT);
    assert!(held.iter().all(|site| site.number("processes") == 1));
    assert_eq!(report.number("/target/members/running"), COUNT as u64);
}

#[test]
fn by_site_all_processes_of_a_program_have_one() {
    let (_targets, run, truths) = traced(&["--by", "site"]);
    assert_one_site(&run.stop().report(), &truths);
}

#[test]
fn by_comm_all_processes_of_a_name_have_one() {
    let (_targets, run, truths) = traced(&["--by", "comm"]);
    assert_one_site(&run.stop().report(), &truths);
}

#[test]
fn by_container_all_processes_outside_of_containers_have_one() {
    let (_targets, run, truths) = traced(&["--by", "container"]);
    assert_one_site(&run.stop().report(), &truths);
}

#[test]
fn what_ended_processes_have_left_is_summed_with_what_the_others_hold() {
    let (mut targets, run, truths) = traced(&["--by", "site", "--show-blocks", "-i", "200ms"]);
    let mut run = run;
    for target in &mut targets[..3] {
        target.signal(nix::sys::signal::Signal::SIGKILL);
        target.wait();
    }
    run.report_where("the ends of three", |report| {
        report.number("/target/members/ended") == 3
    });
    let report = run.stop().last_report();
    assert_one_site(&report, &truths);
    let held = held(&report);
    assert_eq!(held[0].text("state"), "running");
    let blocks = held[0].0["block_list"].as_array().unwrap();
    for truth in &truths {
        let of_process = blocks.iter().filter(|block| block["pid"] == truth.pid);
        assert_eq!(of_process.count() as u64, truth.site("held").blocks);
    }
    // Those that were named stay in the list, with what they have left.
    assert_eq!(report.processes(), COUNT);
}

#[test]
fn two_programs_of_one_source_are_two_sites_by_site_and_by_comm() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("other");
    fixtures::copy(&fixtures::c("exits"), &copy);
    for (by, sites) in [("site", 2), ("comm", 2), ("container", 1)] {
        let mut targets = [Target::c("exits", &["stay"]), Target::program(&copy, &["stay"])];
        targets.iter_mut().for_each(Target::ready);
        let pids: Vec<u32> = targets.iter().map(Target::pid).collect();
        let run = Leaktrace::attach(&pids).args(&["--by", by]).start();
        targets.iter_mut().for_each(Target::go);
        for target in &mut targets {
            target.truth();
        }
        let report = run.stop().report();
        report.assert_adds_up();
        assert_eq!(held(&report).len(), sites, "{by}\n{}", report.summary());
        report.assert_site("held", 18, 18 * 90);
    }
}

#[test]
fn folded_stacks_have_one_root_for_all() {
    let (_targets, run, _) = traced(&["--by", "site", "--format", "folded"]);
    let finished = run.stop();
    let held = finished.stdout.lines().filter(|line| line.contains(";held;"));
    let lines: Vec<&str> = held.collect();
    let [line] = lines.as_slice() else {
        panic!("{}", finished.seen())
    };
    assert!(
        line.starts_with("exits;") && line.ends_with(&format!(" {}", COUNT * 9 * 90)),
        "{line}"
    );
}

#[test]
fn python_lines_of_two_interpreters_are_one_site() {
    let python = fixtures::python("merged");
    let script = python.to_str().unwrap();
    // What a size of an object says about its allocator is the same for both.
    let mut targets = ["100000", "200000"]
        .map(|size| Target::spawn(std::process::Command::new("python3").args([script, size])));
    targets.iter_mut().for_each(Target::ready);
    let pids: Vec<u32> = targets.iter().map(Target::pid).collect();
    let run = Leaktrace::attach(&pids).args(&["--by", "site"]).start();
    targets.iter_mut().for_each(Target::go);
    for target in &mut targets {
        target.at("kept");
    }
    let report = run.stop().report();
    report.assert_adds_up();
    let kept: Vec<_> = report
        .survivors()
        .into_iter()
        .filter(|site| site.has_caller("keep"))
        .collect();
    let large: Vec<_> = kept
        .iter()
        .filter(|site| site.number("bytes") >= 1_000_000)
        .collect();
    let [site] = large.as_slice() else {
        panic!("{} sites in\n{}", large.len(), report.summary())
    };
    assert_eq!((site.number("blocks"), site.number("processes")), (20, 2));
    assert_eq!(site.0["pids"][0], targets[1].pid(), "who holds most comes first");
}
