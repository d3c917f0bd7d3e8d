use super::*;

fn one_pid() -> Config {
    Config::new(Target::Pids(vec![7]))
}

#[test]
fn defaults_are_valid() {
    one_pid().validate().unwrap();
}

#[test]
fn contradictions_name_the_options() {
    let crossed = Filters {
        min_size_bytes: 2048,
        max_size_bytes: 1024,
        ..Filters::default()
    };
    let old = Filters {
        older_than: Duration::from_secs(30),
        ..Filters::default()
    };
    let folded = Output {
        format: Format::Folded,
        ..Output::default()
    };
    for (config, words) in [
        (Config::new(Target::Pids(vec![])), "leaktrace -p PID"),
        (Config::new(Target::Command(vec![])), "leaktrace -- CMD"),
        (
            Config {
                python_malloc: true,
                ..one_pid()
            },
            "leaktrace --python-malloc -- CMD",
        ),
        (
            Config {
                filters: crossed,
                ..one_pid()
            },
            "--min-size 2.0 KiB is above --max-size 1.0 KiB",
        ),
        (
            Config {
                sample_bytes: 12,
                ..one_pid()
            },
            "--sample-bytes 12 B is not within 1.0 KiB and 64.0 MiB",
        ),
        (
            Config {
                sample_bytes: MEAN_MAX_BYTES + 1,
                ..one_pid()
            },
            "0 to record every allocation",
        ),
        (
            Config {
                duration: Some(Duration::ZERO),
                ..one_pid()
            },
            "--duration 0",
        ),
        (
            Config {
                filters: old,
                duration: Some(Duration::from_secs(30)),
                ..one_pid()
            },
            "--older-than 30.0 s is not below --duration 30.0 s",
        ),
        (
            Config {
                show_blocks: true,
                output: folded,
                ..one_pid()
            },
            "--show-blocks does not fit",
        ),
    ] {
        let line = config.validate().unwrap_err().to_string();
        assert!(line.contains(words) && !line.contains('\n'), "{line}");
    }
}

#[test]
fn custom_pair_keeps_order_and_names_the_bad_option() {
    let strings = |specs: &[&str]| specs.iter().map(ToString::to_string).collect::<Vec<_>>();
    let pair = custom_pair(
        "/lib/pool.so".into(),
        &strings(&["a(size=arg0)->ret"]),
        &strings(&["b(ptr=arg0)", "c(ptr=arg0)"]),
    )
    .unwrap();
    let symbols: Vec<_> = pair
        .functions
        .iter()
        .map(|function| function.symbol.as_str())
        .collect();
    assert_eq!(symbols, ["a", "b", "c"]);

    let error = custom_pair("/lib/pool.so".into(), &[], &strings(&["nonsense"])).unwrap_err();
    assert!(error.to_string().starts_with("bad --free: "), "{error}");
}
