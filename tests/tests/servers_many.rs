//! Servers of many processes, and servers as containers, under load: every request is answered, and what
//! they are asked to keep is in the report.

use std::process::{Command, Output};

use leaktrace_tests::{
    contained,
    containers::Engine,
    leaktrace::{Leaktrace, Run},
    report::Report,
    servers::Postgres,
    skip::{program, unless_missing},
    target::Target,
};

/// A hundred clients, each with a backend of its own.
const CLIENTS: &str = "100";

/// The allocator is asked for this by redis for a string of 5000 bytes: five bytes of header and a zero.
const VALUE_BLOCK: u64 = 5006;

fn succeeded(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("a client starts");
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(
        status.success(),
        "{command:?}\n{text}{}",
        String::from_utf8_lossy(&stderr)
    );
    text
}

/// Loads a PostgreSQL with a hundred backends, by a client that `client` makes; every transaction succeeds.
fn load(client: impl Fn(&str) -> Command) {
    succeeded(client("pgbench").args(["-i", "-q", "-s", "1", "postgres"]));
    let options = ["-n", "-t", "40", "-c", CLIENTS, "-j", "2", "postgres"];
    let said = succeeded(client("pgbench").args(options));
    let all = "number of transactions actually processed: 4000/4000";
    assert!(said.contains(all), "{said}");
    assert!(said.contains("number of failed transactions: 0"), "{said}");
}

/// Waits until as many processes are traced as there are clients, and lets the load end.
fn processes(report: &Report) -> usize {
    let members = &report.value()["target"]["members"];
    members["joined"]
        .as_u64()
        .map_or_else(|| report.processes(), |joined| joined as usize)
}

fn traced(run: Run) -> Report {
    let report = run.stop().report();
    report.assert_adds_up();
    report.assert_no_losses();
    report
}

#[test]
fn postgres_with_a_hundred_backends_by_name() {
    let Some(postgres) = unless_missing(Postgres::with(&["-c", "max_connections=200"])) else {
        return;
    };
    let run = Leaktrace::selecting(&["--comm", "postgres"]).start();
    load(|name| postgres.client(name));
    assert_eq!(postgres.query("select 40 + 2"), "42", "during the trace");
    let report = traced(run);
    assert!(processes(&report) > 100, "{}", report.summary());
    assert!(report.total("allocs") > 0, "{}", report.summary());
    assert_eq!(postgres.query("select 40 + 2"), "42", "after the trace");
    postgres.shut_down();
}

/// As it is left on: sampled, bounded, old blocks only.
#[test]
fn postgres_with_a_hundred_backends_by_the_defaults() {
    let Some(postgres) = unless_missing(Postgres::with(&["-c", "max_connections=200"])) else {
        return;
    };
    let options = [
        "--comm",
        "postgres",
        "--older-than",
        "1s",
        "--format",
        "json",
        "-i",
        "1s",
    ];
    let run = Leaktrace::bare(&options).start();
    load(|name| postgres.client(name));
    traced(run);
    assert_eq!(postgres.query("select 40 + 2"), "42", "after the trace");
    postgres.shut_down();
}

#[test]
fn postgres_with_a_hundred_backends_in_a_container() {
    let Some(engine) = unless_missing(Engine::docker()) else {
        return;
    };
    let Some(postgres) = unless_missing(contained::Postgres::start(&engine, "leaky-postgres")) else {
        return;
    };
    let run = Leaktrace::selecting(&["--container", "leaky-postgres"])
        .env("DOCKER_HOST", &engine.host())
        .start();
    load(|name| postgres.client(name));
    assert_eq!(postgres.query("select 40 + 2"), "42", "during the trace");
    let report = traced(run);
    assert!(processes(&report) > 100, "{}", report.summary());
    assert_eq!(postgres.query("select 40 + 2"), "42", "after the trace");
    postgres.shut_down();
}

/// Loads a redis in a container, has it keep 200 values that are known, and checks the report.
fn keeps_known_values(redis: contained::Redis, run: Run) {
    let Some(benchmark) = unless_missing(program("redis-benchmark", "redis-tools")) else {
        return;
    };
    let benchmark = benchmark.display().to_string();
    let mut command = redis.command(&benchmark);
    command.args(["-q", "-n", "5000", "-c", "20", "-r", "500", "-d", "200"]);
    command.args(["-t", "set,get,incr,lpush,lpop,sadd,hset,zadd,mset"]);
    let mut load = Target::spawn(&mut command);
    let mut pings = 0;
    while load.is_running() {
        assert_eq!(redis.ask(&["PING"]), "PONG", "during the load");
        pings += 1;
    }
    assert!(load.wait().success(), "{}", load.seen());
    assert!(pings > 0, "redis must be asked during the load");
    assert_eq!(redis.ask(&["FLUSHALL", "SYNC"]), "OK");
    let set = "for i = 1, 300 do redis.call('set', 'key:' .. i, string.rep('x', 5000)) end";
    let delete = "for i = 1, 100 do redis.call('del', 'key:' .. i) end";
    for script in [set, delete] {
        redis.ask(&["EVAL", script, "0"]);
    }
    assert_eq!(redis.ask(&["DBSIZE"]), "200");
    let report = traced(run);
    assert_eq!(report.blocks_of(VALUE_BLOCK), 200, "{}", report.summary());
    assert_eq!(redis.ask(&["PING"]), "PONG", "after the trace");
    redis.shut_down();
}

#[test]
fn redis_in_a_container_by_its_pid() {
    let Some(engine) = unless_missing(Engine::docker()) else {
        return;
    };
    let Some(redis) = unless_missing(contained::Redis::start(&engine, "redis-by-pid")) else {
        return;
    };
    let run = Leaktrace::attach(&[redis.container.pid])
        .args(&["--show-blocks"])
        .start();
    keeps_known_values(redis, run);
}

#[test]
fn redis_in_a_container_by_its_name() {
    let Some(engine) = unless_missing(Engine::docker()) else {
        return;
    };
    let Some(redis) = unless_missing(contained::Redis::start(&engine, "leaky-redis")) else {
        return;
    };
    let run = Leaktrace::selecting(&["--container", "leaky-redis"])
        .args(&["--show-blocks"])
        .env("DOCKER_HOST", &engine.host())
        .start();
    keeps_known_values(redis, run);
}
