//! Tensors: each of them at its stack, beside the segments that `PyTorch` has from the driver and never summed with them;
//! its own totals; and exceptions, which must come through all probes.

use leaktrace_tests::{
    Traced,
    gpu::{Rig, Torch},
    leaktrace::Leaktrace,
    report::{Report, Truth},
    skip::unless_missing,
    target::Target,
    trace,
};

const MIB: u64 = 1 << 20;

/// Traces `tensors MODE` on devices of 256 MiB.
fn traced(mode: &str, torch: Torch) -> Option<(Target, Traced)> {
    let rig = unless_missing(Rig::torch("tensors", torch))?;
    let rig = rig.env("FAKE_GPU_BYTES", (256 * MIB).to_string());
    let mut target = rig.start(&[mode]);
    let traced = trace(&mut target, &[]);
    Some((target, traced))
}

/// Checks the tensors of each site, `PyTorch`'s totals and the segments.
fn check(report: &Report, truth: &Truth) {
    report.assert_adds_up();
    report.assert_no_losses();
    let summary = || format!("truth: {}\n{}", truth.raw, report.summary());
    let mut tensors = 0;
    for (name, site) in truth.sites.iter().filter(|(name, _)| *name != "outside") {
        let seen = report.gpu_site("tensor", name);
        assert_eq!(
            (seen.blocks, seen.bytes),
            (site.blocks, site.bytes),
            "{name}\n{}",
            summary()
        );
        tensors += site.bytes;
        for survivor in report.survivors() {
            if survivor.text("space") == "tensor" && survivor.has_caller(name) {
                assert_eq!(survivor.line_in(name), Some(site.line), "{name}\n{}", summary());
            }
        }
    }
    assert_eq!(report.space("tensor").bytes, tensors, "{}", summary());
    for name in ["allocs", "frees"] {
        let sites = truth.sites.iter().filter(|(site, _)| *site != "outside");
        let made: u64 = sites
            .map(|(_, site)| if name == "allocs" { site.allocs } else { site.frees })
            .sum();
        assert_eq!(report.gpu_number("tensor", name), made, "{name}\n{}", summary());
    }
    let outside = truth.site("outside").bytes;
    let mut reserved = 0;
    for device in 0..2 {
        let of_device = truth.fact(&format!("reserved_{device}"));
        if of_device == 0 {
            continue;
        }
        let torch = report.torch_of(device);
        assert_eq!(torch["pid"], truth.pid, "{}", summary());
        assert_eq!(
            torch["allocated_bytes"],
            truth.fact(&format!("allocated_{device}")),
            "{}",
            summary()
        );
        assert_eq!(torch["reserved_bytes"], of_device, "{}", summary());
        let others = if device == 0 { outside } else { 0 };
        assert_eq!(torch["driver_live_bytes"], of_device + others, "{}", summary());
        assert_eq!(torch["outside_bytes"], others, "{}", summary());
        let segments = report.tally(|survivor| {
            survivor.text("space") == "device"
                && survivor.device() == Some(device)
                && survivor.reserved_by() == Some("PyTorch")
        });
        assert_eq!(segments.bytes, of_device, "segments of {device}\n{}", summary());
        reserved += of_device;
    }
    assert_eq!(report.space("device").bytes, reserved + outside, "{}", summary());
    for counter in ["tensor_free_unknown", "gpu_free_unknown"] {
        assert_eq!(report.ledger(counter), 0, "{counter}\n{}", summary());
    }
}

fn exact(mode: &str, torch: Torch) -> Option<Traced> {
    let (mut target, traced) = traced(mode, torch)?;
    check(&traced.report, &traced.truth);
    target.finish_with(0);
    Some(traced)
}

#[test]
fn tensors_by_stack() {
    exact("tensors", Torch::Current);
}

#[test]
fn tensors_by_stack_of_an_older_version() {
    exact("tensors", Torch::Old);
}

#[test]
fn what_is_cached_is_reserved_until_it_is_given_back() {
    exact("cache", Torch::Current);
}

#[test]
fn tensors_of_two_devices() {
    let Some(traced) = exact("devices", Torch::Current) else {
        return;
    };
    for (site, device) in [("keep", 1), ("large", 0)] {
        let on = |survivor: &leaktrace_tests::report::Survivor<'_>| {
            survivor.text("space") == "tensor"
                && survivor.has_caller(site)
                && survivor.device() == Some(device)
        };
        let blocks = traced.report.tally(on).blocks;
        assert_eq!(
            blocks,
            traced.truth.site(site).blocks,
            "{}",
            traced.report.summary()
        );
    }
}

#[test]
fn what_pytorch_does_not_know_of() {
    let Some(traced) = exact("outside", Torch::Current) else {
        return;
    };
    let outside = traced
        .report
        .tally(|survivor| survivor.text("space") == "device" && survivor.has_caller("outside"));
    assert_eq!(
        (outside.blocks, outside.bytes),
        (3, 21 * MIB),
        "{}",
        traced.report.summary()
    );
    let labelled = traced
        .report
        .tally(|survivor| survivor.has_caller("outside") && survivor.reserved_by().is_some());
    assert_eq!(labelled.blocks, 0, "{}", traced.report.summary());
}

#[test]
fn an_exception_for_want_of_memory_is_survived() {
    for torch in [Torch::Current, Torch::Old] {
        let Some(traced) = exact("oom", torch) else { return };
        assert_eq!(traced.truth.fact("caught"), 20);
        // Each time PyTorch asks twice: before and after it has given back what it caches.
        assert_eq!(
            traced.report.gpu_failures("cudaMalloc", 2),
            (40, 40 * 300 * MIB, 300 * MIB),
            "{}",
            traced.report.summary()
        );
    }
}

#[test]
fn an_exception_through_the_probed_function_is_survived() {
    let Some(traced) = exact("throws", Torch::Current) else {
        return;
    };
    assert_eq!(traced.truth.fact("caught"), 20);
}

/// The kernel has a probe's program decide whether the return is wanted, and where that does not run, as for a process
/// that another link is for, the return is probed.
#[test]
fn an_exception_is_survived_while_another_process_is_traced() {
    let Some(rig) = unless_missing(Rig::torch("tensors", Torch::Current)) else {
        return;
    };
    let mut targets = [rig.start(&["throws"]), rig.start(&["throws"])];
    for target in &mut targets {
        target.ready();
    }
    let run = Leaktrace::attach(&[targets[0].pid(), targets[1].pid()]).start();
    for target in &mut targets {
        target.go();
        assert_eq!(target.truth().fact("caught"), 20);
    }
    let report = run.stop().exited_with(0).report();
    report.assert_no_losses();
    for mut target in targets {
        target.go();
        target.finish_with(0);
    }
}

#[test]
fn the_text_report_tells_totals() {
    let Some(rig) = unless_missing(Rig::torch("tensors", Torch::Current)) else {
        return;
    };
    let mut target = rig.start(&["outside"]);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()])
        .args(&["--format", "text"])
        .start();
    target.go();
    target.truth();
    let finished = run.stop().exited_with(0);
    let line = finished
        .stdout
        .lines()
        .find(|line| line.contains("PyTorch cuda:0"));
    let line = line.unwrap_or_else(|| panic!("no line of PyTorch's\n{}", finished.seen()));
    for words in ["allocated", "reserved", "driver live", "outside PyTorch"] {
        assert!(line.contains(words), "{words}: {line}");
    }
    target.finish_with(0);
}
