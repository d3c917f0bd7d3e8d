//! Containers as what is chosen: by name, by id, by the control group they are in; the report says which
//! container a process is in, and what its pid is in there.

use leaktrace_tests::{
    containers::{Container, Engine, inside},
    fixtures,
    leaktrace::{self, Leaktrace},
    report::{Report, Truth},
    rootfs::Rootfs,
    skip::{Missing, unless_missing},
};
use serde_json::Value;

/// An engine with an image of the fixture `serve`, if this machine has such an engine.
fn with_image(engine: Result<Engine, Missing>) -> Option<Engine> {
    let engine = unless_missing(engine)?;
    let rootfs = unless_missing(Rootfs::glibc())?;
    rootfs.with_program(&fixtures::c("serve"), "bin/serve");
    engine.import("serve", &rootfs);
    Some(engine)
}

fn serving(engine: &Engine, name: &str) -> Container {
    let mut container = engine.container(name, "serve").start(&["/bin/serve"]);
    container.target.ready();
    container
}

fn served(container: &mut Container) -> Truth {
    container.target.send(b"aaft");
    container.truth()
}

/// The selection, with the engine's socket where names are asked for.
fn selecting(engine: &Engine, selection: &[&str]) -> Leaktrace {
    Leaktrace::selecting(selection).env("DOCKER_HOST", &engine.host())
}

fn has(report: &Report, pid: u32) -> bool {
    let processes = report.value()["target"]["processes"].as_array().expect("a list");
    processes.iter().any(|process| process["pid"] == pid)
}

/// Checks what the report says of where a process is.
fn assert_placed(report: &Report, container: &Container, runtime: &str) {
    let process = report.process(container.pid);
    assert_eq!(process["inner_pid"], 1, "{}", report.summary());
    let placed = &process["container"];
    assert_eq!(
        placed["id"],
        Value::from(container.id.as_str()),
        "{}",
        report.summary()
    );
    assert_eq!(
        placed["name"],
        Value::from(container.name()),
        "{}",
        report.summary()
    );
    assert_eq!(placed["runtime"], Value::from(runtime), "{}", report.summary());
}

/// Two containers of an image, of which one is chosen by what `typed` makes of it.
fn one_of_two(engine: &Engine, runtime: &str, name: &str, typed: impl Fn(&Container) -> String) {
    let mut chosen = serving(engine, name);
    let mut other = serving(engine, &format!("{name}-not"));
    let run = selecting(engine, &["--container", &typed(&chosen)]).start();
    let (truth, unseen) = (served(&mut chosen), served(&mut other));
    let report = run.stop().report();
    report.assert_sites(&truth);
    assert_eq!(report.total("allocs"), 20, "{}", report.summary());
    assert!(!has(&report, unseen.pid), "{}", report.summary());
    assert_placed(&report, &chosen, runtime);
    for container in [&mut chosen, &mut other] {
        container.target.finish_with(0);
    }
}

#[test]
fn docker_by_name() {
    let Some(engine) = with_image(Engine::docker()) else {
        return;
    };
    one_of_two(&engine, "docker", "lt-by-name", |container| {
        container.name().to_owned()
    });
}

#[test]
fn docker_by_the_beginning_of_its_id() {
    let Some(engine) = with_image(Engine::docker()) else {
        return;
    };
    one_of_two(&engine, "docker", "lt-by-id", |container| {
        container.id[..12].to_owned()
    });
}

#[test]
fn podman_by_name() {
    let Some(engine) = with_image(Engine::podman()) else {
        return;
    };
    one_of_two(&engine, "podman", "lt-pod-name", |container| {
        container.name().to_owned()
    });
}

#[test]
fn podman_by_id() {
    let Some(engine) = with_image(Engine::podman()) else {
        return;
    };
    one_of_two(&engine, "podman", "lt-pod-id", |container| container.id.clone());
}

#[test]
fn a_container_that_is_not_there_is_refused_with_those_that_are() {
    let Some(engine) = with_image(Engine::docker()) else {
        return;
    };
    let mut container = serving(&engine, "lt-is-there");
    let refused = selecting(&engine, &["--container", "lt-is-not-there"]).run();
    refused.refused(&["lt-is-not-there", "lt-is-there"]);
    container.target.finish_with(0);
}

/// What starts in a container later is of it from its first instruction.
#[test]
fn processes_that_are_executed_into_a_container_join() {
    let Some(engine) = with_image(Engine::docker()) else {
        return;
    };
    let mut container = serving(&engine, "lt-joined");
    let run = selecting(&engine, &["--container", "lt-joined", "--scope", "host"]).start();
    let first = served(&mut container);
    let mut beside = container.exec(&["/bin/serve"]);
    beside.ready();
    beside.send(b"aaft");
    let mut second = beside.truth();
    second.pid = inside(container.pid, second.pid);
    let report = run.stop().report();
    report.assert_sites(&first);
    report.assert_sites(&second);
    assert_eq!(
        report.process(second.pid)["container"]["id"],
        Value::from(container.id.as_str())
    );
    beside.finish_with(0);
    container.target.finish_with(0);
}

/// The letters that a short process is sent, and the blocks of 1000 bytes that it has then.
const LETTERS: &str = "aaaf";
const KEPT: u64 = 25;

/// Checks that so many processes of `serve` have ended in a container, and that nothing is said to be elsewhere.
fn assert_ended_in(report: &Report, container: &Container, count: u64) {
    let of = |name: &Value| {
        let tally = report.tally(|survivor| survivor.0["container"] == *name);
        (tally.blocks, tally.bytes)
    };
    let processes = report.value()["target"]["processes"].as_array().expect("a list");
    for process in processes.iter().filter(|process| process["state"] == "exited") {
        assert_eq!(
            process["container"]["id"],
            Value::from(container.id.as_str()),
            "{process}"
        );
    }
    let blocks = count * KEPT;
    assert_eq!(
        of(&Value::from(container.name())),
        (blocks, blocks * 1000),
        "{}",
        report.summary()
    );
    assert_eq!(of(&Value::Null), (0, 0), "{}", report.summary());
}

/// They live for milliseconds, and most are gone when it is asked where they were.
#[test]
fn processes_that_end_at_once_are_of_the_container_of_who_started_them() {
    const ROUNDS: u64 = 20;
    let Some(engine) = with_image(Engine::docker()) else {
        return;
    };
    let script = format!(
        "while read -r round; do printf %s {LETTERS} | /bin/serve >/dev/null || exit 1; echo $round; done; exit 0"
    );
    let settings = engine.container("lt-shell", "serve");
    let mut shell = settings.start(&["/bin/sh", "-c", &script]);
    shell.target.send(b"ready\n");
    shell.target.ready();
    let mut other = serving(&engine, "lt-shell-not");
    // Of two that are chosen, where one was does not follow from its being traced.
    let selection = ["--container", "lt-shell", "--container", "lt-shell-not"];
    let run = selecting(&engine, &selection)
        .args(&["--by", "container"])
        .start();
    for round in 0..ROUNDS {
        let line = format!("round-{round}");
        shell.target.send(format!("{line}\n").as_bytes());
        shell.target.at(&line);
    }
    let report = run.stop().report();
    assert_ended_in(&report, &shell, ROUNDS);
    shell.target.finish_with(0);
    other.target.finish_with(0);
}

/// Nobody who is traced has started it: that it is traced says where it was.
#[test]
fn a_process_that_is_executed_into_the_one_container_and_ends_at_once_is_of_it() {
    let Some(engine) = with_image(Engine::docker()) else {
        return;
    };
    let mut container = serving(&engine, "lt-once");
    let run = selecting(&engine, &["--container", "lt-once"])
        .args(&["--by", "container"])
        .start();
    let mut once = container.exec(&["/bin/serve"]);
    once.send(LETTERS.as_bytes());
    once.finish_with(0);
    let report = run.stop().report();
    assert_ended_in(&report, &container, 1);
    container.target.finish_with(0);
}

/// Of one image, and of one name: the sums of both containers stay apart.
#[test]
fn sums_by_container() {
    let Some(engine) = with_image(Engine::docker()) else {
        return;
    };
    let mut containers = ["lt-sum-one", "lt-sum-two"].map(|name| serving(&engine, name));
    let selection = ["--container", "lt-sum-one", "--container", "lt-sum-two"];
    let run = selecting(&engine, &selection)
        .args(&["--by", "container"])
        .start();
    let letters: [&[u8]; 2] = [b"at", b"aaat"];
    for (container, letters) in containers.iter_mut().zip(letters) {
        container.target.send(letters);
        container.truth();
    }
    let report = run.stop().report();
    report.assert_adds_up();
    for (name, blocks) in [("lt-sum-one", 10), ("lt-sum-two", 30)] {
        let tally = report.tally(|survivor| survivor.0["container"] == name && survivor.has_caller("served"));
        assert_eq!(
            (tally.blocks, tally.bytes),
            (blocks, blocks * 1000),
            "{}",
            report.summary()
        );
    }
    for container in &mut containers {
        container.target.finish_with(0);
    }
}

/// leaktrace in a container of its own finds the others by name, by the runtime's socket that it is given.
#[test]
fn by_name_from_inside_a_privileged_container() {
    let Some(engine) = with_image(Engine::docker()) else {
        return;
    };
    let Some(rootfs) = unless_missing(Rootfs::glibc()) else {
        return;
    };
    rootfs.libraries_of(&leaktrace::binary());
    engine.import("tracer", &rootfs);
    let mut container = serving(&engine, "lt-from-inside");
    let host = engine.host().display().to_string();
    let socket = host.strip_prefix("unix://").expect("a socket's address");
    let mounts = [
        format!("{}:/usr/bin/leaktrace:ro", leaktrace::binary().display()),
        format!("{socket}:/run/docker.sock"),
    ];
    let settings = engine.container("lt-tracer", "tracer").privileged();
    let mut words = settings.args(&["-v", &mounts[0], "-v", &mounts[1]]).words();
    words.push("/usr/bin/leaktrace".into());
    let run = Leaktrace::selecting(&["--container", "lt-from-inside"])
        .through(words)
        .start();
    let truth = served(&mut container);
    let report = run.stop().report();
    report.assert_sites(&truth);
    assert_placed(&report, &container, "docker");
    container.target.finish_with(0);
}
