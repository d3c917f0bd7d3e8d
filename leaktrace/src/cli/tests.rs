//! The command line as a whole: what each line means, and what each bad one says.

use std::path::PathBuf;

use super::*;
use crate::{
    config::{By, Share, Sort},
    report::Format,
};

fn parsed(line: &str) -> Result<Invocation, Stop> {
    parse_with(line.split_whitespace().map(OsString::from), true)
}

fn config(line: &str) -> Config {
    match parsed(line) {
        Ok(Invocation::Trace(config)) => config,
        other => panic!("{line}: {other:?}"),
    }
}

fn refusal(line: &str) -> String {
    match parsed(line) {
        Err(Stop::Usage(error)) => error.to_string(),
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn a_pid_alone_is_a_run_with_the_defaults() {
    assert_eq!(config("leaktrace -p 42"), Config::new(Target::Pids(vec![42])));
}

#[test]
fn pids_are_listed_repeated_and_folded() {
    let config = config("leaktrace -p 42,7 --pid 42 -p 9");
    assert_eq!(config.target, Target::Pids(vec![42, 7, 9]));
}

#[test]
fn a_command_keeps_its_own_options() {
    let config = config("leaktrace -i 0 -- demo -p 1 --top=x -- y");
    let words = ["demo", "-p", "1", "--top=x", "--", "y"];
    assert_eq!(config.target, Target::Command(words.map(OsString::from).to_vec()));
    assert_eq!(config.interval, None);
}

#[test]
fn every_option_reaches_the_config() {
    let config = config(
        "leaktrace -p 1 --follow-forks --alloc get(size=arg0)->ret --free put(ptr=arg0) --object /lib/pool.so \
         --older-than 30s --min-size 1KiB --max-size 2MiB --sample-bytes 512KiB --max-overhead 2.5% -i 500ms -d 10m --top 3 --sort growth --by comm \
         --format json -o out.json --show-blocks --native --fail-on growing,bytes>=10MiB --fail-on survivors>0 --fail-on growing \
         --suppressions a.supp --suppressions b.supp --no-color --max-live 5 --attach perf -vv",
    );
    assert!(config.follow_forks && config.show_blocks);
    let custom = config.custom.unwrap();
    assert_eq!(custom.object, PathBuf::from("/lib/pool.so"));
    assert_eq!(custom.functions.len(), 2);
    let filters = Filters {
        older_than: Duration::from_secs(30),
        min_size_bytes: 1024,
        max_size_bytes: 2 << 20,
    };
    assert_eq!(config.filters, filters);
    assert_eq!(config.sample_bytes, 512 << 10);
    assert_eq!(config.max_overhead, Some(Share::of_percent(2.5)));
    assert_eq!(config.interval, Some(Duration::from_millis(500)));
    assert_eq!(config.duration, Some(Duration::from_mins(10)));
    assert_eq!((config.top, config.sort, config.max_live), (3, Sort::Growth, 5));
    assert_eq!(config.by, By::Comm);
    let conditions: Vec<String> = config.fail_on.iter().map(ToString::to_string).collect();
    assert_eq!(conditions, ["growing", "bytes>=10MiB", "survivors>0"]);
    assert_eq!(config.suppressions, ["a.supp", "b.supp"].map(PathBuf::from));
    let output = Output {
        format: Format::Json,
        path: Some("out.json".into()),
        color: false,
        native: true,
    };
    assert_eq!(config.output, output);
    assert_eq!((config.attach, config.verbose), (Some(AttachKind::Perf), 2));
}

#[test]
fn gpu_memory_is_followed_where_it_is_found_unless_the_line_says_otherwise() {
    for (line, gpu, reservations) in [
        ("leaktrace -p 1", Gpu::WhereFound, false),
        ("leaktrace -p 1 --gpu", Gpu::Always, false),
        ("leaktrace -p 1 --no-gpu", Gpu::Off, false),
        ("leaktrace -p 1 --gpu-reservations", Gpu::WhereFound, true),
        ("leaktrace --gpu --gpu-reservations -- x", Gpu::Always, true),
    ] {
        let config = config(line);
        assert_eq!(
            (config.gpu, config.gpu_reservations),
            (gpu, reservations),
            "{line}"
        );
    }
}

#[test]
fn a_dash_is_standard_output() {
    assert_eq!(config("leaktrace -p 1 -o -").output.path, None);
}

#[test]
fn subcommands() {
    let demo = Demo {
        duration: defaults::DEMO_DURATION,
        output: Output::default(),
        attach: None,
        verbose: 0,
    };
    let plain = General {
        verbose: 0,
        color: true,
    };
    for (line, wanted) in [
        ("leaktrace demo", Invocation::Demo(demo.clone())),
        (
            "leaktrace demo -d 2s --format folded --no-color -v",
            Invocation::Demo(Demo {
                duration: Duration::from_secs(2),
                output: Output {
                    format: Format::Folded,
                    path: None,
                    color: false,
                    native: false,
                },
                verbose: 1,
                ..demo
            }),
        ),
        ("leaktrace demo-target", Invocation::DemoTarget),
        ("leaktrace doctor", Invocation::Doctor(plain)),
        (
            "leaktrace -v doctor",
            Invocation::Doctor(General { verbose: 1, ..plain }),
        ),
        ("leaktrace completions zsh", Invocation::Completions(Shell::Zsh)),
        ("leaktrace man", Invocation::Man),
    ] {
        assert_eq!(parsed(line).unwrap(), wanted, "{line}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for line in [
        "leaktrace --help",
        "leaktrace -h",
        "leaktrace --version",
        "leaktrace demo --help",
    ] {
        match parsed(line) {
            Err(Stop::Help(text)) => assert_eq!(text.exit_code(), 0, "{line}"),
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn no_hidden_option_is_in_the_help() {
    let help = Cli::command().render_long_help().to_string();
    for (word, shown) in [
        ("--attach", false),
        ("demo-target", false),
        ("--older-than", true),
        ("[default: 5s]", true),
    ] {
        assert_eq!(help.contains(word), shown, "{word}");
    }
}

#[test]
fn refusals_are_one_line_that_ends_with_the_way_out() {
    for (line, wanted) in REFUSALS {
        assert_eq!(refusal(line), *wanted, "{line}");
        assert!(!wanted.contains('\n'));
    }
}

const REFUSALS: &[(&str, &str)] = &[
    (
        "leaktrace",
        "nothing to trace: type 'leaktrace -p PID' for a running process, 'leaktrace -- CMD ARGS' to start one, \
         'leaktrace --container NAME' or '--comm NAME' for many, or 'leaktrace demo' to see it at work",
    ),
    (
        "leaktrace -p 1 -- true",
        "--pid and -- CMD do not go together: leave one out",
    ),
    (
        "leaktrace -p 1 --gpu --no-gpu",
        "--gpu and --no-gpu do not go together: leave one out",
    ),
    (
        "leaktrace -p 1 --no-gpu --gpu-reservations",
        "--no-gpu and --gpu-reservations do not go together: leave one out",
    ),
    (
        "leaktrace -p 1 --fail-on survivors",
        "--fail-on 'survivors': without a limit: write 'survivors>100', in quotes, since a bare > is the shell's",
    ),
    (
        "leaktrace -p 1 --fail-on growing,leaking",
        "--fail-on 'leaking': not a condition: write growing, 'survivors>N' or 'bytes>SIZE', such as --fail-on \
         'bytes>10MiB'",
    ),
    (
        "leaktrace -p 0",
        "--pid '0': 0 is no process that can be traced: write the id of one (see 'pidof NAME')",
    ),
    (
        "leaktrace -p 1 --sample-bytes 100",
        "--sample-bytes 100 B is not within 1.0 KiB and 64.0 MiB: give a size between them, such as 512KiB, or 0 to \
         record every allocation",
    ),
];

#[test]
fn show() {
    for line in [
        "leaktrace -p 1,,2",
        "leaktrace -p",
        "leaktrace -p redis",
        "leaktrace 1234",
        "leaktrace 1,2",
        "leaktrace ./prog",
        "leaktrace dmo",
        "leaktrace -i banana -p 1",
        "leaktrace --interval -p 1",
        "leaktrace -p 1 --min-size 12parsec",
        "leaktrace -p 1 --format xml",
        "leaktrace -p 1 --format",
        "leaktrace -p 1 --sort",
        "leaktrace -p 1 --by pid",
        "leaktrace -p 1 --top many",
        "leaktrace -p 1 --top -1",
        "leaktrace -p 1 --max-live 0",
        "leaktrace -p 1 --intervall 3",
        "leaktrace -p 1 --zzz",
        "leaktrace -p 1 -Z",
        "leaktrace -p 1 --alloc a(size=arg0)->ret",
        "leaktrace -p 1 --free b",
        "leaktrace -p 1 --object x",
        "leaktrace -p 1 --object x --free b",
        "leaktrace -p 1 -o a -o b",
        "leaktrace -p 1 --follow-forks --follow-forks",
        "leaktrace -p 1 demo",
        "leaktrace -i 3s demo",
        "leaktrace demo 5",
        "leaktrace demo -- x",
        "leaktrace completions",
        "leaktrace completions tcsh",
        "leaktrace doctor --frob",
        "leaktrace -p 1 --",
        "leaktrace -p 1 --follow-forks=yes",
        "leaktrace -p 1 2",
        "leaktrace demo -d 0",
        "leaktrace -p 1 -d 0",
        "leaktrace -p=0",
        "leaktrace help",
        "leaktrace -- x -p 1",
        "leaktrace -p -5",
        "leaktrace -p 1 -i 3s -i 4s",
    ] {
        match parsed(line) {
            Err(Stop::Usage(e)) => println!("(\"{line}\", \"{e}\"),"),
            other => println!("{line} => {other:?}"),
        }
    }
}
