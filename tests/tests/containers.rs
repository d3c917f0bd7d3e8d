//! Programs in real containers, by docker and podman, with glibc and with musl: blocks, bytes, stacks and
//! names exact, from outside and from inside a container.

use std::path::{Path, PathBuf};

use leaktrace_tests::{
    containers::{Container, Engine, inner_pid, inside},
    fixtures::{self, Fixture},
    leaktrace::{self, Leaktrace},
    report::{Report, Truth},
    rootfs::Rootfs,
    skip::{Missing, unless_missing},
    target::Target,
};

/// An image of glibc with the fixture `serve`.
fn glibc_image(engine: &Engine) -> Result<(), Missing> {
    let rootfs = Rootfs::glibc()?;
    rootfs.with_program(&fixtures::c("serve"), "bin/serve");
    engine.import("glibc", &rootfs);
    Ok(())
}

/// An image of musl with the fixture `serve`, linked dynamically and (as `serve-static`) statically.
fn musl_image(engine: &Engine) -> Result<(), Missing> {
    let rootfs = Rootfs::musl()?;
    rootfs.with_file(&Fixture::musl_dynamic("serve").build()?, "bin/serve");
    rootfs.with_file(&Fixture::musl("serve").build()?, "bin/serve-static");
    engine.import("musl", &rootfs);
    Ok(())
}

fn docker_with(image: impl Fn(&Engine) -> Result<(), Missing>) -> Option<Engine> {
    let engine = unless_missing(Engine::docker())?;
    unless_missing(image(&engine))?;
    Some(engine)
}

/// Lets `serve` allocate and free, asks for its truth, and takes the report.
fn report_of(container: &mut Container, tracer: Leaktrace) -> (Report, Truth) {
    let run = tracer.start();
    container.target.send(b"aaft");
    let truth = container.truth();
    assert_eq!(truth.site("served").blocks, 15);
    (run.stop().report(), truth)
}

/// Checks that every survivor of `serve` has the stack of its source: allocator, `served`, `main`.
fn assert_stacks(report: &Report, source: &str) {
    for survivor in report.survivors() {
        let symbols = survivor.symbols();
        assert_eq!(
            symbols.get(1..3),
            Some(&["served", "main"][..]),
            "{}",
            report.summary()
        );
        let file = survivor.frames()[1]["file"].as_str().unwrap_or_default();
        assert!(file.ends_with(source), "{file}\n{}", report.summary());
    }
}

fn traced_from_outside(engine: &Engine, image: &str, program: &str) {
    let mut container = engine.container("traced", image).start(&[program]);
    container.target.ready();
    assert_eq!(
        inner_pid(container.pid),
        Some(1),
        "it has a pid namespace of its own"
    );
    let tracer = Leaktrace::attach(&[container.pid]);
    let (report, truth) = report_of(&mut container, tracer);
    report.assert_exact(&truth);
    assert_stacks(&report, "serve.c");
    // musl's own code, in which a process starts, has no unwind information.
    assert!(
        image != "glibc" || report.complete_share() > 0.999,
        "{}",
        report.summary()
    );
    container.target.finish_with(0);
}

#[test]
fn glibc_in_docker() {
    let Some(engine) = docker_with(glibc_image) else {
        return;
    };
    traced_from_outside(&engine, "glibc", "/bin/serve");
}

#[test]
fn musl_in_docker() {
    let Some(engine) = docker_with(musl_image) else {
        return;
    };
    traced_from_outside(&engine, "musl", "/bin/serve");
}

#[test]
fn static_musl_in_docker() {
    let Some(engine) = docker_with(musl_image) else {
        return;
    };
    traced_from_outside(&engine, "musl", "/bin/serve-static");
}

#[test]
fn podman_with_a_user_namespace_of_its_own() {
    let Some(engine) = unless_missing(Engine::podman()) else {
        return;
    };
    if unless_missing(glibc_image(&engine)).is_none() {
        return;
    }
    let mut container = engine
        .container("traced", "glibc")
        .own_users()
        .start(&["/bin/serve"]);
    container.target.ready();
    for space in ["pid", "mnt", "user", "cgroup"] {
        let own = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{space}")).expect("it lives");
        assert_ne!(own(&container.pid.to_string()), own("self"), "{space}");
    }
    let tracer = Leaktrace::attach(&[container.pid]);
    let (report, truth) = report_of(&mut container, tracer);
    report.assert_exact(&truth);
    assert_stacks(&report, "serve.c");
    container.target.finish_with(0);
}

#[test]
fn an_unprivileged_user_with_a_bound_of_memory() {
    let Some(engine) = docker_with(glibc_image) else {
        return;
    };
    let settings =
        engine
            .container("traced", "glibc")
            .args(&["--user", "1234:1234", "--memory", "64m", "--read-only"]);
    let mut container = settings.args(&["--cap-drop", "ALL"]).start(&["/bin/serve"]);
    container.target.ready();
    let tracer = Leaktrace::attach(&[container.pid]);
    let (report, truth) = report_of(&mut container, tracer);
    report.assert_exact(&truth);
    container.target.finish_with(0);
}

/// The same files underneath, by two mounts: each allocation is counted once, for the process that made it.
#[test]
fn two_containers_of_one_image() {
    let Some(engine) = docker_with(glibc_image) else {
        return;
    };
    let mut containers = ["one", "other"].map(|name| {
        let mut container = engine.container(name, "glibc").start(&["/bin/serve"]);
        container.target.ready();
        container
    });
    let pids: Vec<u32> = containers.iter().map(|container| container.pid).collect();
    let run = Leaktrace::attach(&pids).start();
    let letters: [&[u8]; 2] = [b"aaft", b"aaaffft"];
    let truths: Vec<Truth> = containers
        .iter_mut()
        .zip(letters)
        .map(|(container, letters)| {
            container.target.send(letters);
            container.truth()
        })
        .collect();
    let report = run.stop().report();
    for truth in &truths {
        report.assert_sites(truth);
    }
    assert_eq!(report.total("allocs"), 20 + 30, "{}", report.summary());
    for container in &mut containers {
        container.target.finish_with(0);
    }
}

/// `docker exec`: a process beside the first, of the same namespaces and files.
#[test]
fn a_process_that_was_executed_into_a_container() {
    let Some(engine) = docker_with(glibc_image) else {
        return;
    };
    let mut container = engine.container("traced", "glibc").start(&["/bin/serve"]);
    container.target.ready();
    let mut beside = container.exec(&["/bin/serve"]);
    beside.ready();
    beside.send(b"t");
    let pid = inside(container.pid, beside.truth().pid);
    let run = Leaktrace::attach(&[container.pid, pid]).start();
    container.target.send(b"at");
    beside.send(b"aaaft");
    let (first, mut second) = (container.truth(), beside.truth());
    second.pid = pid;
    let report = run.stop().report();
    report.assert_sites(&first);
    report.assert_sites(&second);
    assert_eq!(report.total("allocs"), 40, "{}", report.summary());
    beside.finish_with(0);
    container.target.finish_with(0);
}

/// What is mounted from outside is the host's file by another path.
#[test]
fn a_program_and_a_library_that_are_bind_mounted() {
    let Some(engine) = docker_with(glibc_image) else {
        return;
    };
    let program = fixtures::c("serve");
    let libc = PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6").canonicalize();
    let libc = libc.expect("this machine has a C library");
    let mounts = [
        (program.as_path(), "/mounted/serve"),
        (&libc, "/lib/x86_64-linux-gnu/libc.so.6"),
    ]
    .map(|(from, to)| format!("{}:{to}:ro", from.display()));
    let settings = engine
        .container("traced", "glibc")
        .args(&["-v", &mounts[0], "-v", &mounts[1]]);
    let mut container = settings.start(&["/mounted/serve"]);
    container.target.ready();
    // One more process with the same library, outside.
    let mut outside = Target::program(&program, &[]);
    outside.ready();
    let run = Leaktrace::attach(&[container.pid, outside.pid()]).start();
    container.target.send(b"aft");
    outside.send(b"aat");
    let (inner, outer) = (container.truth(), outside.truth());
    let report = run.stop().report();
    report.assert_sites(&inner);
    report.assert_sites(&outer);
    assert_eq!(report.total("allocs"), 30, "{}", report.summary());
    outside.finish_with(0);
    container.target.finish_with(0);
}

/// A running process keeps files that its container has no more.
#[test]
fn files_that_were_deleted_in_the_container() {
    let Some(engine) = docker_with(glibc_image) else {
        return;
    };
    let mut container = engine.container("traced", "glibc").start(&["/bin/serve"]);
    container.target.ready();
    for file in ["bin/serve", "lib/x86_64-linux-gnu/libc.so.6"] {
        let file = format!("/proc/{}/root/{file}", container.pid);
        std::fs::remove_file(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    let tracer = Leaktrace::attach(&[container.pid]);
    let (report, truth) = report_of(&mut container, tracer);
    report.assert_exact(&truth);
    assert_stacks(&report, "serve.c");
    container.target.finish_with(0);
}

/// leaktrace in an image of its own: the binary under test, mounted, and the libraries it needs.
fn tracer_image(engine: &Engine) -> Result<(), Missing> {
    let rootfs = Rootfs::glibc()?;
    rootfs.libraries_of(&leaktrace::binary());
    engine.import("tracer", &rootfs);
    Ok(())
}

/// How leaktrace is run by a privileged container of that image.
fn privileged(engine: &Engine) -> Vec<std::ffi::OsString> {
    let binary = format!("{}:/usr/bin/leaktrace:ro", leaktrace::binary().display());
    let settings = engine.container("tracer", "tracer").privileged();
    let mut words = settings.args(&["-v", &binary]).words();
    words.push("/usr/bin/leaktrace".into());
    words
}

fn traced_from_inside(image: fn(&Engine) -> Result<(), Missing>, name: &str) {
    let Some(engine) = docker_with(|engine| image(engine).and_then(|()| tracer_image(engine))) else {
        return;
    };
    let mut container = engine.container("traced", name).start(&["/bin/serve"]);
    container.target.ready();
    let tracer = Leaktrace::attach(&[container.pid]).through(privileged(&engine));
    let (report, truth) = report_of(&mut container, tracer);
    report.assert_exact(&truth);
    assert_stacks(&report, "serve.c");
    container.target.finish_with(0);
}

#[test]
fn glibc_from_inside_a_privileged_container() {
    traced_from_inside(glibc_image, "glibc");
}

#[test]
fn musl_from_inside_a_privileged_container() {
    traced_from_inside(musl_image, "musl");
}

/// The host's root as leaktrace's own, as debugging containers have it.
#[test]
fn from_inside_by_the_hosts_root() {
    let Some(engine) = docker_with(|engine| glibc_image(engine).and_then(|()| tracer_image(engine))) else {
        return;
    };
    let mut container = engine.container("traced", "glibc").start(&["/bin/serve"]);
    container.target.ready();
    let settings = engine.container("tracer", "tracer").privileged();
    let mut words = settings.args(&["-v", "/:/host"]).words();
    words.extend(["/bin/chroot", "/host"].map(Into::into));
    words.push(Path::new(&leaktrace::binary()).into());
    let tracer = Leaktrace::attach(&[container.pid]).through(words);
    let (report, truth) = report_of(&mut container, tracer);
    report.assert_exact(&truth);
    container.target.finish_with(0);
}
