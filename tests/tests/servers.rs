//! Real servers under load: they answer during the trace and after it, end in good order, and the
//! ledger adds up to the block.

use leaktrace_tests::{
    leaktrace::Leaktrace,
    servers::{Postgres, Redis},
    skip::{program, unless_missing},
    target::Target,
};

/// The allocator is asked for this by a string of [`VALUE`] bytes: five bytes of header and a zero.
const VALUE: usize = 5000;
const VALUE_BLOCK: u64 = 5006;

#[test]
fn redis_keeps_known_values() {
    let Some(redis) = unless_missing(Redis::start()) else {
        return;
    };
    let run = Leaktrace::attach(&[redis.server.pid()])
        .args(&["--show-blocks"])
        .start();
    let mut connection = redis.connect().expect("redis accepts connections");
    let value = vec![b'x'; VALUE];
    for key in 0..300 {
        let key = format!("key:{key}");
        assert_eq!(
            connection
                .ask(&[b"SET", key.as_bytes(), &value])
                .expect("an answer"),
            "+OK"
        );
    }
    for key in 0..100 {
        let key = format!("key:{key}");
        assert_eq!(
            connection.ask(&[b"DEL", key.as_bytes()]).expect("an answer"),
            ":1"
        );
    }
    let report = run.stop().report();
    report.assert_adds_up();
    report.assert_no_losses();
    assert_eq!(report.blocks_of(VALUE_BLOCK), 200, "{}", report.summary());
    assert_eq!(redis.ask(&[b"DBSIZE"]), ":200");
    redis.shut_down();
}

#[test]
fn redis_under_a_bounded_benchmark() {
    let Some(benchmark) = unless_missing(program("redis-benchmark", "redis-tools")) else {
        return;
    };
    let Some(redis) = unless_missing(Redis::start()) else {
        return;
    };
    let run = Leaktrace::attach(&[redis.server.pid()]).start();
    let mut command = std::process::Command::new(benchmark);
    command.args([
        "-h",
        "127.0.0.1",
        "-p",
        &redis.port.to_string(),
        "-q",
        "-n",
        "5000",
        "-c",
        "10",
    ]);
    command.args([
        "-r",
        "500",
        "-d",
        "200",
        "-t",
        "set,get,incr,lpush,lpop,sadd,hset,zadd,mset",
    ]);
    let mut load = Target::spawn(&mut command);
    let mut pings = 0;
    while load.is_running() {
        assert_eq!(redis.ask(&[b"PING"]), "+PONG", "during the load");
        pings += 1;
    }
    assert!(load.wait().success(), "{}", load.seen());
    assert!(pings > 0, "redis must be asked during the load");
    let report = run.stop().report();
    report.assert_adds_up();
    report.assert_no_losses();
    assert!(report.total("allocs") > 10_000, "{}", report.summary());
    assert_eq!(redis.ask(&[b"PING"]), "+PONG", "after the trace");
    redis.shut_down();
}

#[test]
fn postgres_under_pgbench_with_its_children() {
    let Some(postgres) = unless_missing(Postgres::start()) else {
        return;
    };
    let made = postgres
        .client("pgbench")
        .args(["-i", "-q", "-s", "1", "postgres"])
        .output();
    assert!(made.expect("pgbench starts").status.success());
    let run = Leaktrace::attach(&[postgres.server.pid()])
        .args(&["--follow-forks"])
        .start();
    let load = postgres
        .client("pgbench")
        .args(["-T", "3", "-c", "2", "-n", "postgres"])
        .output();
    let load = load.expect("pgbench starts");
    assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
    assert_eq!(postgres.query("select 40 + 2"), "42", "during the trace");
    let report = run.stop().report();
    report.assert_adds_up();
    report.assert_no_losses();
    assert!(report.total("allocs") > 0, "{}", report.summary());
    let processes = report.value()["target"]["processes"].as_array().expect("a list");
    assert!(
        processes.len() > 2,
        "the backends are processes of their own: {}",
        report.summary()
    );
    assert_eq!(postgres.query("select 40 + 2"), "42", "after the trace");
    postgres.shut_down();
}
