//! A gate on reports made by hand: what holds, by which sites, and what is left of the list.

use leaktrace_common::call::Space;

use super::*;
use crate::report::{
    gate::Failed,
    model::Sampled,
    sample,
    verdict::{Class, Verdict},
};

fn conditions(typed: &[&str]) -> Vec<Condition> {
    typed.iter().map(|text| text.parse().unwrap()).collect()
}

fn suppressions(text: &str) -> Suppressions {
    let mut suppressions = Suppressions::default();
    suppressions.add("known.supp", text).unwrap();
    suppressions
}

/// A report of the last interval, its list as long as a gate has it.
fn last(mut report: Report) -> Report {
    report.last = true;
    report
}

fn judged(mut report: Report, typed: &[&str], unlisted: &[OmittedSpace]) -> Vec<Failed> {
    Gate::new(conditions(typed), Suppressions::default(), 10).apply(&mut report, unlisted);
    report.gate.unwrap().failed
}

fn verdict(class: Class, loss_bytes_per_h: u64, needs_s: Option<f64>) -> Verdict {
    Verdict {
        class,
        confidence: 0.99,
        slope_bytes_per_s: 0.0,
        slope_interval: [0.0, 0.0],
        bound_bytes: None,
        loss_bytes_per_h,
        survival: Vec::new(),
        reason: "every block allocated here still lives".to_owned(),
        needs_s,
    }
}

/// Sites of so many bytes in as many blocks each, in the order of the list.
fn sites(of: &[(u64, u64)]) -> Report {
    let mut report = last(sample::report());
    let model = report.survivors[0].clone();
    report.survivors = of
        .iter()
        .map(|&(bytes, blocks)| Survivor {
            bytes,
            blocks,
            ..model.clone()
        })
        .collect();
    report.omitted = Omitted::default();
    report
}

#[test]
fn only_the_last_report_is_judged_and_only_if_that_was_asked_for() {
    let of = |last, typed: &[&str]| {
        let mut report = Report {
            last,
            ..sample::report()
        };
        Gate::new(conditions(typed), Suppressions::default(), 10).apply(&mut report, &[]);
        report.gate.is_some()
    };
    assert!(of(true, &["growing"]));
    assert!(!of(false, &["growing"]) && !of(true, &[]));
}

#[test]
fn sums_are_held_against_their_limits() {
    let report = || sites(&[(700, 7), (200, 2), (100, 1)]);
    for (typed, failed) in [
        ("survivors>9", true),
        ("survivors>10", false),
        ("survivors>=10", true),
        ("bytes>999", true),
        ("bytes>1000", false),
        ("bytes>=1001", false),
    ] {
        assert_eq!(!judged(report(), &[typed], &[]).is_empty(), failed, "{typed}");
    }
    let failed = judged(report(), &["bytes>100", "survivors>9"], &[]);
    assert_eq!(
        (failed[0].condition.as_str(), failed[0].memory),
        ("bytes>100", Some("host"))
    );
    assert_eq!(
        (failed[0].value, failed[0].limit, failed[0].estimate),
        (1000, 100, None)
    );
    assert_eq!(
        failed[0].sites,
        [0, 1],
        "without these two 100 bytes are left, which may be"
    );
    assert_eq!((failed[1].value, &failed[1].sites), (10, &vec![0]));
}

#[test]
fn what_is_not_listed_counts() {
    let rest = |space: Space, blocks, bytes| OmittedSpace {
        space: space.name(),
        sites: 1,
        blocks,
        bytes,
    };
    let unlisted = [rest(Space::Heap, 5, 50), rest(Space::PythonPool, 1000, 1000)];
    let mut report = sites(&[(100, 1)]);
    assert_eq!(judged(report.clone(), &["survivors>6"], &unlisted), []);
    let failed = judged(report.clone(), &["survivors>5"], &unlisted);
    assert_eq!((failed[0].value, failed[0].sites.len()), (6, 1));
    Gate::new(conditions(&["growing"]), Suppressions::default(), 10).apply(&mut report, &unlisted);
    assert_eq!(report.gate.unwrap().unnamed_sites, 2);
}

#[test]
fn pools_of_python_lie_in_arenas_that_count() {
    let mut report = sites(&[(100, 1), (100, 1)]);
    report.survivors[0].space = Space::PythonPool.name().to_owned();
    report.survivors[1].space = Space::PythonArena.name().to_owned();
    let failed = judged(report, &["bytes>0"], &[]);
    assert_eq!((failed[0].value, &failed[0].sites), (100, &vec![1]));
}

#[test]
fn each_kind_of_gpu_memory_is_a_sum_of_its_own() {
    let failed = judged(last(sample::gpu()), &["survivors>3"], &[]);
    let found: Vec<_> = failed
        .iter()
        .map(|failed| (failed.memory.unwrap(), failed.value, failed.sites.clone()))
        .collect();
    assert_eq!(found, [("host", 1235, vec![3]), ("tensor", 6, vec![2])]);
}

#[test]
fn what_grows_fails_and_what_is_undecided_does_not() {
    let mut report = last(sample::python());
    report.survivors = sites(&[(1, 1), (2, 2), (3, 3), (4, 4)]).survivors;
    let mut passed = report.clone();
    report.survivors[0].verdict = Some(verdict(Class::Growing, 10, None));
    report.survivors[1].verdict = Some(verdict(Class::Undecided, 0, Some(40.0)));
    report.survivors[2].verdict = Some(verdict(Class::Growing, 20, None));
    report.survivors[3].verdict = Some(verdict(Class::Plateau, 0, None));
    let types = report.types.as_mut().unwrap();
    types.list[1].verdict = Some(verdict(Class::Growing, 5, None));
    types.list[2].verdict = Some(verdict(Class::Undecided, 0, Some(60.0)));
    let gate = Gate::new(conditions(&["growing"]), Suppressions::default(), 10);
    gate.apply(&mut report, &[]);
    let judged = report.gate.unwrap();
    let [failed] = judged.failed.as_slice() else {
        panic!("{judged:?}")
    };
    assert_eq!((failed.value, failed.limit, failed.memory), (3, 0, None));
    assert_eq!(
        (failed.sites.as_slice(), failed.types.as_slice()),
        ([2, 0].as_slice(), [1].as_slice())
    );
    let undecided = judged.undecided.unwrap();
    assert_eq!(
        (undecided.sites, undecided.types, undecided.needs_s),
        (1, 2, Some(60.0))
    );
    // Before there is any verdict.
    gate.apply(&mut passed, &[]);
    let judged = passed.gate.unwrap();
    assert_eq!(judged.failed, []);
    let undecided = judged.undecided.unwrap();
    assert_eq!(
        (undecided.sites, undecided.types, undecided.needs_s),
        (4, 3, None)
    );
}

#[test]
fn of_samples_the_lower_bound_counts() {
    let failed = judged(last(sample::sampled()), &["survivors>400"], &[]);
    assert_eq!((failed[0].value, failed[0].estimate), (442, Some(1235)));
    assert_eq!(judged(last(sample::sampled()), &["survivors>442"], &[]), []);
    // Of a part of the sites it is made of theirs, and at least the sum of their own.
    let mut report = sites(&[(1000, 10); 4]);
    report.totals.sampled = sample::sampled().totals.sampled;
    report.tracing.filters.older_than_ms = 1;
    for survivor in &mut report.survivors {
        survivor.sampled = Some(Sampled {
            samples: 3,
            bytes_interval: [400, 2400],
            blocks_interval: [9, 29],
        });
    }
    let failed = judged(report, &["bytes>0", "survivors>0"], &[]);
    assert_eq!((failed[0].value, failed[0].estimate), (2000, Some(4000)));
    assert_eq!((failed[1].value, failed[1].estimate), (36, Some(40)));
}

#[test]
fn suppressed_sites_are_counted_and_nothing_else() {
    let mut report = last(sample::gpu());
    let before = report.clone();
    let rules = suppressions("leak:^load_weights$\nleak:nothing\nleak:src/http.cc");
    Gate::new(conditions(&["survivors>0"]), rules, 10).apply(&mut report, &[]);
    assert_eq!((report.survivors.len(), &report.omitted), (1, &before.omitted));
    assert_eq!(report.totals, before.totals);
    let [gpu, unused, host] = report.suppressed.as_slice() else {
        panic!("{:?}", report.suppressed)
    };
    let spaces: Vec<_> = gpu
        .held
        .gpu
        .iter()
        .map(|rest| (rest.space, rest.sites, rest.blocks))
        .collect();
    assert_eq!(
        spaces,
        [("device", 1, 2), ("pinned", 1, 3), ("tensor", 1, 6)],
        "in the order of their kinds"
    );
    assert_eq!(
        (gpu.held.sites, gpu.line, gpu.file.as_str()),
        (0, 1, "known.supp")
    );
    assert!(unused.is_unused() && !host.is_unused() && !gpu.is_unused());
    assert_eq!(
        (host.held.sites, host.held.blocks, host.held.bytes),
        (1, 1234, 1_258_291)
    );
    let failed = report.gate.unwrap().failed;
    assert_eq!((failed.len(), failed[0].value), (1, 1), "what is left");
}

#[test]
fn a_suppressed_type_stays_in_the_list_and_does_not_fail() {
    let mut report = last(sample::python());
    for of_type in &mut report.types.as_mut().unwrap().list {
        of_type.verdict = Some(verdict(Class::Growing, 5, None));
    }
    let rules = suppressions("leak:sage.categories.Groupoid\nleak:^dict$");
    Gate::new(conditions(&["growing"]), rules, 10).apply(&mut report, &[]);
    let types = report.types.unwrap();
    let of_types: Vec<_> = types.list.iter().map(|of_type| of_type.suppressed).collect();
    assert_eq!(of_types, [true, true, false]);
    assert_eq!([report.suppressed[0].types, report.suppressed[1].types], [1, 1]);
    assert_eq!(report.gate.unwrap().failed[0].types, [2]);
}

#[test]
fn the_list_is_shortened_but_for_what_failed() {
    let mut report = sites(&[(100, 1), (90, 1), (80, 1), (70, 1), (60, 1)]);
    report.survivors[3].verdict = Some(verdict(Class::Growing, 1, None));
    let all = report.clone();
    Gate::new(conditions(&["growing"]), Suppressions::default(), 2).apply(&mut report, &[]);
    let bytes: Vec<u64> = report.survivors.iter().map(|survivor| survivor.bytes).collect();
    assert_eq!(bytes, [100, 90, 70]);
    assert_eq!(
        report.gate.as_ref().unwrap().failed[0].sites,
        [2],
        "where it is now"
    );
    let omitted = (report.omitted.sites, report.omitted.blocks, report.omitted.bytes);
    assert_eq!(omitted, (2, 2, 140));
    // The list of a report that is not judged is as long as without a gate.
    let mut report = Report { last: false, ..all };
    Gate::new(conditions(&["growing"]), Suppressions::default(), 2).apply(&mut report, &[]);
    assert_eq!((report.survivors.len(), report.omitted.sites), (2, 3));
}

#[test]
fn no_more_sites_are_named_than_a_person_reads() {
    let mut report = sites(&[(10, 1); 300]);
    Gate::new(conditions(&["survivors>0"]), Suppressions::default(), 0).apply(&mut report, &[]);
    let gate = report.gate.unwrap();
    assert_eq!(
        (gate.failed[0].sites.len(), gate.failed[0].more_sites),
        (100, 200)
    );
    assert_eq!((report.survivors.len(), report.omitted.sites), (100, 200));
}

#[test]
fn each_table_is_as_long_as_it_may_be() {
    let mut report = last(sample::gpu());
    let before = report.clone();
    Gate::new(Vec::new(), suppressions("leak:nothing"), 1).apply(&mut report, &[]);
    let spaces: Vec<&str> = report
        .survivors
        .iter()
        .map(|survivor| survivor.space.as_str())
        .collect();
    assert_eq!(spaces, ["device", "tensor", "heap"]);
    assert_eq!(report.omitted.sites, before.omitted.sites + 1);
    let gpu: Vec<_> = report
        .omitted
        .gpu
        .iter()
        .map(|rest| (rest.space, rest.sites))
        .collect();
    assert_eq!(gpu, [("device", 1), ("pinned", 1)]);
}

#[test]
fn all_sites_are_asked_for_only_where_they_are_looked_at() {
    let none = Suppressions::default;
    let gate = Gate::new(conditions(&["survivors>0"]), none(), 10);
    assert_eq!((gate.sites(false), gate.sites(true)), (10, SITES_MAX));
    assert_eq!(gate.types(true), 10, "types have no blocks");
    let gate = Gate::new(conditions(&["growing"]), none(), 10);
    assert_eq!((gate.types(false), gate.types(true)), (10, usize::MAX));
    let gate = Gate::new(Vec::new(), suppressions("leak:a"), 20_000);
    assert_eq!((gate.sites(false), gate.sites(true)), (20_000, 20_000));
    let gate = Gate::new(Vec::new(), none(), 3);
    assert_eq!((gate.sites(true), gate.types(true)), (3, 3));
}

#[test]
fn files_that_cannot_be_read_are_named_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = dir.path().join("latin1.supp");
    fs::write(&bytes, b"leak:\xe9").unwrap();
    let bad = dir.path().join("bad.supp");
    fs::write(&bad, "leak:a\nrace:b\n").unwrap();
    for (path, words) in [
        (dir.path().join("none"), "give the path of a file"),
        (dir.path().to_owned(), "give another file"),
        (bytes, "write it in UTF-8"),
        (bad, "bad.supp:2: 'race:' is no kind"),
    ] {
        let mut config = Config::new(crate::config::Target::Pids(vec![1]));
        config.suppressions = vec![path.clone()];
        let error = Gate::open(&config).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
        assert!(error.contains(&*path.display().to_string()), "{error}");
    }
}
