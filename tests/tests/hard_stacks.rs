//! Stacks where walking them is hard: signals, changed stacks, code made at run time, libraries that come and go,
//! processes that begin, other tools' return probes, depth.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use leaktrace_tests::{
    Traced, chains, fixtures,
    fixtures::Fixture,
    leaktrace::{Leaktrace, by_perf},
    memory,
    report::{Report, Truth},
    skip::{program, unless_missing},
    target::Target,
    trace, wait,
};

fn hard(name: &str) -> Fixture {
    Fixture::c(name).flags(&["-O2", "-fomit-frame-pointer"])
}

fn built(fixture: &Fixture) -> PathBuf {
    fixture.build().expect("gcc is there")
}

fn assert_equal_and_complete(report: &Report, truth: &Truth) {
    chains::assert_equal(report, truth);
    chains::assert_all_complete(report);
    report.assert_adds_up();
    report.assert_no_losses();
}

fn traced(name: &str, arguments: &[&str]) -> Traced {
    let mut target = Target::program(&built(&hard(name)), arguments);
    let traced = trace(&mut target, &[]);
    target.finish_with(0);
    traced
}

fn equal(name: &str, arguments: &[&str]) {
    let traced = traced(name, arguments);
    assert_equal_and_complete(&traced.report, &traced.truth);
}

#[test]
fn a_signal_handler_that_allocates() {
    equal("chains_switched", &["signal"]);
}

#[test]
fn a_signal_handler_that_allocates_on_a_stack_of_its_own() {
    equal("chains_switched", &["altstack"]);
}

/// The interrupted instruction is no call: what is known of return addresses does not hold there.
#[test]
fn a_handler_of_faults_that_allocates() {
    equal("chains_switched", &["fault"]);
}

#[test]
fn coroutines_of_the_c_library() {
    equal("chains_switched", &["context"]);
}

#[test]
fn stacks_switched_by_hand() {
    equal("chains_switched", &["hand"]);
}

#[test]
fn generated_code_with_frame_pointers() {
    equal("chains_generated", &["frame_pointer"]);
}

/// Where the frame pointer leads from there cannot be known; but nothing may be made up.
#[test]
fn generated_code_without_frame_pointers() {
    let traced = traced("chains_generated", &["none"]);
    let chain = &chains::of(&traced.truth)[0];
    let survivor = chain.survivor(&traced.report, traced.truth.pid);
    let seen = chains::addresses(survivor.expect("its block"));
    let summary = traced.report.summary();
    // malloc, its caller, the generated code.
    assert_eq!(seen.get(2), chain.frames.get(1), "{summary}");
    let mut expected = chain.frames.iter();
    for address in &seen[2..] {
        assert!(
            expected.any(|known| known == address),
            "{address:#x} is no caller\n{summary}"
        );
    }
    traced.report.assert_adds_up();
}

/// Makes `count` libraries of different code and different build ids.
fn libraries(folder: &Path, count: u32) -> Vec<String> {
    let variants = ["8", "300", "1000", "5000"].map(|frame| {
        let size = format!("-DFRAME={frame}");
        let fixture =
            Fixture::library("bounce").flags(&["-O2", "-fomit-frame-pointer", "-Wl,--build-id=sha1", &size]);
        fs::read(built(&fixture)).expect("a library can be read")
    });
    let libraries = (0..count).map(|number| {
        let mut content = variants[number as usize % variants.len()].clone();
        // The note's header: length of the name, of the id, its type; and the name.
        let header = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
        let note = content.windows(header.len()).position(|window| window == header);
        let id = note.expect("a build id") + header.len();
        content[id..id + 4].copy_from_slice(&number.to_le_bytes());
        let path = folder.join(format!("libbounce{number}.so"));
        fs::write(&path, content).expect("a library can be written");
        path.to_str().expect("a plain path").to_owned()
    });
    libraries.collect()
}

#[test]
fn a_storm_of_libraries_opened_called_and_closed() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let libraries = libraries(folder.path(), 100);
    let mut arguments = vec!["storm", "2"];
    arguments.extend(libraries.iter().map(String::as_str));
    let mut target = Target::program(&built(&hard("chains_libraries").linked(&["-ldl"])), &arguments);
    let traced = trace(&mut target, &["--show-blocks"]);
    assert_equal_and_complete(&traced.report, &traced.truth);
    target.finish_with(0);
}

#[test]
fn three_hundred_libraries_that_exist_in_memory_only() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let libraries = libraries(folder.path(), 12);
    let mut arguments = vec!["many", "300"];
    arguments.extend(libraries.iter().map(String::as_str));
    let mut target = Target::program(&built(&hard("chains_libraries").linked(&["-ldl"])), &arguments);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()]).start();
    target.go();
    target.at("opened");
    target.go();
    let truth = target.truth();
    let report = run.stop().report();
    assert_equal_and_complete(&report, &truth);
    target.finish_with(0);
}

#[test]
fn three_hundred_libraries_that_were_there_before_the_attach() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let libraries = libraries(folder.path(), 12);
    let mut arguments = vec!["many", "300"];
    arguments.extend(libraries.iter().map(String::as_str));
    let mut target = Target::program(&built(&hard("chains_libraries").linked(&["-ldl"])), &arguments);
    target.ready();
    target.go();
    target.at("opened");
    let run = Leaktrace::attach(&[target.pid()]).start();
    target.go();
    let truth = target.truth();
    let report = run.stop().report();
    assert_equal_and_complete(&report, &truth);
    target.finish_with(0);
}

#[test]
fn a_library_whose_file_was_deleted() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let libraries = libraries(folder.path(), 1);
    let program = built(&hard("chains_libraries").linked(&["-ldl"]));
    let mut target = Target::program(&program, &["deleted", &libraries[0]]);
    target.ready();
    target.go();
    target.at("deleted");
    let run = Leaktrace::attach(&[target.pid()]).start();
    target.go();
    let truth = target.truth();
    let report = run.stop().report();
    assert_equal_and_complete(&report, &truth);
    target.finish_with(0);
}

/// The dynamic linker's trampoline finds its frame by rbx, which is not followed (`_dl_runtime_resolve` in glibc's
/// `sysdeps/x86_64/dl-trampoline.h`). The stack ends there, nothing is made up, and the report says so.
#[test]
fn a_frame_known_by_a_register_that_is_not_followed() {
    let library = built(&Fixture::library("chosen"));
    let folder = library.parent().expect("a folder");
    let path = format!("-Wl,-rpath,{}", folder.display());
    let library = library.to_str().expect("a plain path");
    let program = built(&hard("chains_ifunc").linked(&[library, &path, "-Wl,-z,lazy"]));
    let mut target = Target::program(&program, &[]);
    let Traced { report, truth, .. } = trace(&mut target, &[]);
    target.finish_with(0);
    let chain = &chains::of(&truth)[0];
    let survivor = chain.survivor(&report, truth.pid).expect("its block");
    let (seen, known) = (chains::addresses(survivor), &chain.frames[1..]);
    let summary = report.summary();
    // Behind malloc and its caller: the resolver and what it calls, the linker, its trampoline.
    let outer = &seen[2..];
    assert!(outer.len() >= 4 && outer.len() < known.len(), "{summary}");
    assert_eq!(outer, &known[..outer.len()], "{summary}");
    assert_eq!(report.stacks("unsupported"), report.total("allocs"), "{summary}");
    let end = &report.value()["stacks"]["incomplete_at"][0];
    assert_eq!(end["end"], "unsupported", "{summary}");
    assert!(
        end["object"]
            .as_str()
            .is_some_and(|object| object.contains("/ld-")),
        "{end}"
    );
    report.assert_adds_up();
}

#[test]
fn a_forked_child_from_its_first_allocation() {
    let mut target = Target::program(&built(&hard("chains_processes")), &["fork"]);
    target.ready();
    let options = ["--follow-forks", "-i", "100ms"];
    let mut run = Leaktrace::attach(&[target.pid()]).args(&options).start();
    target.go();
    target.at("child");
    run.report_where("the child among the processes", |report| report.processes() == 2);
    target.go();
    let (child, parent) = (target.truth(), target.truth());
    let report = run.stop().report();
    assert_equal_and_complete(&report, &child);
    chains::assert_equal(&report, &parent);
    target.finish_with(0);
}

#[test]
fn a_vfork_child_in_its_parents_memory() {
    equal("chains_processes", &["vfork"]);
    let mut target = Target::program(&built(&hard("chains_processes")), &["vfork"]);
    let traced = trace(&mut target, &["--follow-forks"]);
    assert_equal_and_complete(&traced.report, &traced.truth);
    target.finish_with(0);
}

#[test]
fn a_program_that_replaces_itself() {
    let program = built(&hard("chains_processes"));
    let mut target = Target::program(&program, &["exec"]);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()]).start();
    target.go();
    let before = target.truth();
    target.at("second");
    // The probes of the new image are in place when its code shows them.
    let pid = target.pid();
    wait::until("probes in the new image", || {
        let probes = memory::breakpoints(pid);
        probes
            .iter()
            .any(|probe| probe.object.contains("libc"))
            .then_some(())
    });
    target.go();
    let after = target.truth();
    let report = run.stop().report();
    // Both images have blocks of the same size.
    for (truth, state) in [(&before, "replaced"), (&after, "running")] {
        let chain = &chains::of(truth)[0];
        let survivors = report.survivors();
        let survivor = survivors
            .iter()
            .find(|survivor| survivor.number("bytes") == chain.bytes && survivor.text("state") == state);
        let seen = chains::addresses(*survivor.expect("a survivor of each image"));
        assert_eq!(
            seen.get(2..),
            chain.frames.get(1..),
            "{state}\n{}",
            report.summary()
        );
    }
    chains::assert_all_complete(&report);
    target.finish_with(0);
}

/// A return probe puts an address of its own in the place of the return address.
#[test]
fn another_tools_return_probe_in_the_chain() {
    let Some(bpftrace) = unless_missing(program("bpftrace", "bpftrace")) else {
        return;
    };
    let chains_returns = built(&hard("chains_returns"));
    let mut target = Target::program(&chains_returns, &[]);
    target.ready();
    let pid = target.pid();
    let object = chains_returns.to_str().expect("a plain path");
    let mut command = Command::new(bpftrace);
    command.args(["-p", &pid.to_string(), "-e"]);
    command.arg(format!("uretprobe:{object}:watched {{ @returns = count(); }}"));
    let _other = Target::spawn(&mut command);
    wait::until("the other tool's probe", || {
        let probes = memory::breakpoints(pid);
        probes.iter().any(|probe| probe.object == object).then_some(())
    });
    let run = Leaktrace::attach(&[pid]).start();
    target.go();
    let truth = target.truth();
    let report = run.stop().report();
    assert_equal_and_complete(&report, &truth);
    target.finish_with(0);
}

#[test]
fn threads_that_end_while_others_begin() {
    for name in ["many_threads", "thread_local"] {
        let mut target = Target::program(&built(&hard(name)), &[]);
        let traced = trace(&mut target, &[]);
        traced.report.assert_sites(&traced.truth);
        chains::assert_all_complete(&traced.report);
        target.finish_with(0);
    }
}

#[test]
fn a_process_that_ends_while_its_threads_allocate() {
    let mut target = Target::program(
        &built(&hard("exits").flags(&["-Wno-array-bounds"])),
        &["busy_threads"],
    );
    target.ready();
    let run = Leaktrace::attach(&[target.pid()]).start();
    target.go();
    target.truth();
    target.finish_with(3);
    let report = run.wait().report();
    report.assert_adds_up();
    if !by_perf() {
        chains::assert_all_complete(&report);
    }
}

#[test]
fn frames_of_two_mebibytes_and_stacks_that_are_too_deep() {
    let mut target = Target::program(&built(&hard("chains_deep")), &[]);
    let traced = trace(&mut target, &[]);
    chains::assert_equal(&traced.report, &traced.truth);
    let deep = traced.truth.site("deep_leak");
    let (report, summary) = (&traced.report, traced.report.summary());
    assert_eq!(report.stacks("too_deep"), deep.allocs, "{summary}");
    assert_eq!(
        report.stacks("complete") + deep.allocs,
        report.total("allocs"),
        "{summary}"
    );
    let cut = report
        .survivors()
        .into_iter()
        .find(|survivor| survivor.called_by("deep_leak"));
    assert_eq!(cut.expect("the deep site").frames().len(), 246, "{summary}");
    target.finish_with(0);
}

/// Tables that are not in the program itself but among what a debugger reads; compressed as well.
#[test]
fn code_whose_only_unwind_tables_are_for_debuggers() {
    for compression in ["-gz=none", "-gz=zlib"] {
        let fixture = hard("chains_debug_frame").flags(&[
            "-fno-asynchronous-unwind-tables",
            "-fno-unwind-tables",
            compression,
        ]);
        let mut target = Target::program(&built(&fixture), &[]);
        let traced = trace(&mut target, &[]);
        traced.report.assert_exact(&traced.truth);
        let survivors = traced.report.survivors();
        let symbols = survivors[0].symbols();
        let levels = vec!["down"; 20];
        let expected = [&["malloc", "deep_leak"], &levels[..], &["main"]].concat();
        assert_eq!(
            symbols.get(..expected.len()),
            Some(&expected[..]),
            "{compression}"
        );
        chains::assert_all_complete(&traced.report);
        target.finish_with(0);
    }
}

/// By frame pointers alone nothing is known to be complete, and the report does not say that it was.
#[test]
fn frame_pointers_alone_when_asked_for() {
    let mut target = Target::program(&fixtures::c("pairs"), &["2000"]);
    let traced = trace(&mut target, &["--unwind", "frame-pointers"]);
    traced.report.assert_exact(&traced.truth);
    let report = &traced.report;
    assert_eq!(report.stacks("complete"), 0, "{}", report.summary());
    assert_eq!(
        report.stacks("frame_pointers"),
        report.total("allocs"),
        "{}",
        report.summary()
    );
    target.finish_with(0);
}
