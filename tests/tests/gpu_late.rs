//! A driver that comes after the attach, one known by its path, and one that only the target's own file system has.

use std::{path::Path, process::Command};

use leaktrace_tests::{
    fixtures,
    gpu::{Expected, Layer, Rig, Runtime},
    leaktrace::{Leaktrace, Run},
    report::{Report, Truth},
    skip::unless_missing,
    target::Target,
    trace,
};

/// Whether the driver's functions are probed.
fn is_probed(report: &Report) -> bool {
    let sites = report.value()["tracing"]["sites"].as_array();
    sites.is_some_and(|sites| {
        sites.iter().any(|site| {
            let object = site["object"].as_str().unwrap_or_default();
            site["function"] == "cuMemAlloc_v2" && object.ends_with("libcuda.so.1")
        })
    })
}

/// Lets a `late` that has opened the driver go on once its probes are in place.
fn after_probes(target: &mut Target, mut run: Run) -> (Report, Truth) {
    target.go();
    target.at("loaded");
    run.report_where("probes in the driver", is_probed);
    target.go();
    let truth = target.truth();
    (run.stop().report(), truth)
}

#[test]
fn a_driver_that_is_opened_after_the_attach() {
    let mut target = Rig::unlinked("late").start(&["libcuda.so.1"]);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()]).args(&["-i", "100ms"]).start();
    let (report, truth) = after_probes(&mut target, run);
    Expected::of(&truth).check(&report);
    target.finish_with(0);
}

#[test]
fn a_driver_that_is_used_as_soon_as_it_is_opened() {
    let mut target = Rig::unlinked("late").start(&["libcuda.so.1", "at_once"]);
    let traced = trace(&mut target, &["--gpu"]);
    let report = &traced.report;
    report.assert_adds_up();
    let (seen, made) = (
        report.space("device").blocks,
        traced.truth.site("leak_alloc").blocks,
    );
    if seen == made {
        Expected::of(&traced.truth).check_sites(report);
    } else {
        assert!(seen < made, "{}", report.summary());
        assert!(report.ledger("objects_late") > 0, "{}", report.summary());
    }
    target.finish_with(0);
}

#[test]
fn a_runtime_library_that_opens_the_driver_after_the_attach() {
    // It is in a program that has not called it yet, so that only the library's functions are found at first.
    let mut target = Rig::runtime("runtime_late", Runtime::Shared)
        .expect("gcc is enough for it")
        .start(&[]);
    target.ready();
    let mut run = Leaktrace::attach(&[target.pid()]).args(&["-i", "100ms"]).start();
    target.go();
    target.at("loaded");
    run.report_where("probes in the driver", is_probed);
    target.go();
    let truth = target.truth();
    Expected::of(&truth).check(&run.stop().report());
    target.finish_with(0);
}

/// A command from its beginning to its end.
fn of_command(rig: &Rig, arguments: &[&str], options: &[&str], layer: Layer) {
    let finished = rig.command(arguments).args(options).start().wait().exited_with(0);
    let truth = finished.stdout.lines().find(|line| line.starts_with('{'));
    let truth = Truth::parse(truth.unwrap_or_else(|| panic!("no truth\n{}", finished.seen())));
    Expected::of(&truth).by(layer).check(&finished.last_report());
}

#[test]
fn a_command_whose_driver_is_found_by_its_path() {
    of_command(&Rig::driver("driver_calls"), &[], &[], Layer::Outermost);
}

#[test]
fn a_command_that_opens_the_driver() {
    let rig = Rig::unlinked("late");
    of_command(&rig, &["libcuda.so.1", "at_once"], &["--gpu"], Layer::Outermost);
}

#[test]
fn a_command_whose_runtime_library_opens_the_driver() {
    for (runtime, layer) in [
        (Runtime::Shared, Layer::Outermost),
        (Runtime::Static, Layer::Outermost),
        (Runtime::StaticNameless, Layer::Driver),
    ] {
        let Some(rig) = unless_missing(Rig::runtime("runtime_calls", runtime)) else {
            return;
        };
        of_command(&rig, &["all"], &["--gpu"], layer);
    }
}

/// Starts `script` with `sh` in a mount namespace of its own. `$1` is an empty folder, of which nobody else sees what is
/// mounted there; `$2` is a folder with what is to be in it.
fn in_own_mounts(script: &str, place: &Path, content: &Path) -> Target {
    let mounts = "mount -t tmpfs none \"$1\" && cp -r \"$2\"/. \"$1\" && mount -o remount,ro \"$1\" && ";
    Target::spawn(
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--", "sh", "-c"])
            .arg(format!("{mounts}{script}"))
            .arg("sh")
            .args([place, content]),
    )
}

#[test]
fn a_driver_on_a_read_only_mount_that_only_the_target_has() {
    let (place, content) = (folder(), folder());
    let rig = Rig::driver("driver_calls");
    rig.copy_libraries(content.path());
    fixtures::copy(&rig.program, &content.path().join("program"));
    let script = "LD_LIBRARY_PATH=\"$1\" exec \"$1/program\"";
    let mut target = in_own_mounts(script, place.path(), content.path());
    let traced = trace(&mut target, &[]);
    Expected::of(&traced.truth).check(&traced.report);
    target.finish_with(0);
}

#[test]
fn a_driver_in_a_container_that_is_opened_after_the_attach() {
    // A root of its own, read-only, with its own copies of all libraries; paths in it lead elsewhere outside.
    let (place, content) = (folder(), folder());
    let rig = Rig::unlinked("late");
    let libraries = content.path().join("gpu");
    rig.copy_libraries(&libraries);
    fill_root(content.path(), &rig.program);
    let script = "LD_LIBRARY_PATH=/gpu exec chroot \"$1\" /program libcuda.so.1";
    let mut target = in_own_mounts(script, place.path(), content.path());
    target.ready();
    let run = Leaktrace::attach(&[target.pid()]).args(&["-i", "100ms"]).start();
    let (report, truth) = after_probes(&mut target, run);
    Expected::of(&truth).check(&report);
    target.finish_with(0);
}

fn folder() -> tempfile::TempDir {
    tempfile::TempDir::new().expect("a temporary folder can be made")
}

/// Copies a program, as `/program`, and the C library's files into a folder that is to be a root.
fn fill_root(root: &Path, program: &Path) {
    let output = Command::new("ldd").arg(program).output().expect("ldd starts");
    let text = String::from_utf8(output.stdout).expect("paths");
    for file in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let place = root.join(file.trim_start_matches('/'));
        std::fs::create_dir_all(place.parent().expect("it is in a folder")).expect("folders can be made");
        fixtures::copy(Path::new(file), &place);
    }
    fixtures::copy(program, &root.join("program"));
}
