//! What can be typed after `leaktrace watch`, and the settings made of it.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;

use super::{
    General, Stop, UsageError,
    args::{OutputArgs, SelectionArgs},
    output,
    parse::{self, Time},
    selection,
};
use crate::{
    config::{Bound, ConfigError, Share, defaults},
    killswitch,
    report::Format,
    watch::{arm::Condition, session::Settings},
};

/// Options of `leaktrace watch`.
#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    #[command(flatten)]
    selection: SelectionArgs,

    /// Watch these processes, by id, whatever else is asked for.
    #[arg(
        short = 'p',
        long = "pid",
        value_name = "PIDS",
        value_delimiter = ',',
        value_parser = parse::pid,
        allow_negative_numbers = true
    )]
    pids: Vec<u32>,

    /// Trace those whose anonymous memory grows by more than this.
    ///
    /// What counts is the least that a process holds in each quarter of the time: what it takes and gives back is no
    /// growth, nor is what returns to where it has been in the last day. A process is not traced any more when its
    /// growth has fallen below half of this. Example: --arm 'rss>10MiB/10min'
    #[arg(help_heading = "Arming", long, value_name = "COND")]
    arm: Option<Condition>,

    /// Trace at most this many at a time.
    #[arg(
        help_heading = "Arming",
        long,
        value_name = "N",
        default_value_t = 8,
        requires = "arm"
    )]
    max_armed: usize,

    /// What tracing may cost the traced of their CPU time, all together.
    ///
    /// Each has a part of it, by its growth. Example: --max-overhead 1%
    #[arg(help_heading = "Arming", long, value_name = "SHARE", default_value = "2%", value_parser = parse::overhead, requires = "arm")]
    max_overhead: Bound,

    /// Time over which growth is told, where nothing is traced.
    #[arg(
        help_heading = "Watching",
        long,
        value_name = "DUR",
        default_value = "10m",
        conflicts_with = "arm"
    )]
    window: Time,

    /// Also show which stacks call mmap and brk.
    ///
    /// By tracepoints of system calls: while they are in use, every system call of every process takes some nanoseconds
    /// more. What stacks touch is known without.
    #[arg(help_heading = "Watching", long)]
    calls: bool,

    /// Have the kernel mark whose memory changes, and read only those.
    ///
    /// By a program on the tracepoint `rss_stat`. It makes page faults of all processes some percent dearer, and saves
    /// leaktrace reading each process at each look: for thousands of processes of which few are busy.
    #[arg(help_heading = "Watching", long)]
    marks: bool,

    /// List this many processes, and stacks of each.
    #[arg(help_heading = "Output", long, value_name = "N", default_value_t = defaults::TOP, value_parser = parse::count)]
    top: usize,

    /// Time between reports; 0 reports only at the end.
    #[arg(help_heading = "Output", short, long, value_name = "DUR", default_value_t = Time(defaults::INTERVAL))]
    interval: Time,

    /// Stop after this time.
    #[arg(help_heading = "Output", short, long, value_name = "DUR")]
    duration: Option<Time>,

    /// End at once when this file is there, and do not begin if it is; SIGUSR1 does the same.
    #[arg(help_heading = "Watching", long, value_name = "FILE", default_value = killswitch::DEFAULT)]
    killswitch: PathBuf,

    #[command(flatten)]
    output: OutputArgs,

    /// No option of this command: what is typed here by mistake is answered with what to type.
    #[arg(long, hide = true, value_name = "COND")]
    fail_on: Option<OsString>,

    /// The same.
    #[arg(long, hide = true, value_name = "FILE")]
    suppressions: Option<OsString>,
}

/// Turns what was typed into settings.
pub(super) fn settings(args: WatchArgs, general: General) -> Result<Settings, Stop> {
    let selection = selection(parse::unique(&args.pids), args.selection);
    let stop = |text: &str| Stop::Usage(UsageError(text.to_owned()));
    if !selection.is_open() && selection.pids.is_empty() {
        return Err(stop(
            "nothing to watch: type 'leaktrace watch -a' for all processes, or name some by --comm, --user, --cgroup, \
             --container or -p",
        ));
    }
    if args.output.format == Format::Folded {
        return Err(stop(
            "--format folded does not fit 'leaktrace watch', which has several processes: use --format text or json",
        ));
    }
    for (option, typed) in [
        ("--fail-on", &args.fail_on),
        ("--suppressions", &args.suppressions),
    ] {
        if typed.is_some() {
            return Err(stop(&format!(
                "{option} is about sites, and 'leaktrace watch' lists processes: trace them instead, as in 'leaktrace --comm \
                 NAME -d 10m {option} ...'"
            )));
        }
    }
    if args.duration.is_some_and(|duration| duration.0.is_zero()) {
        return Err(ConfigError::NoDuration.into());
    }
    Ok(Settings {
        selection,
        arm: args.arm,
        window: args.arm.map_or(args.window.0, |condition| condition.window),
        max_armed: args.max_armed,
        max_overhead: match args.max_overhead {
            Bound::Share(share) => share,
            Bound::Off => Share::ALL,
        },
        interval: Some(args.interval.0).filter(|interval| !interval.is_zero()),
        duration: args.duration.map(|duration| duration.0),
        top: args.top,
        output: output(args.output, general),
        killswitch: args.killswitch,
        calls: args.calls,
        marks: args.marks,
        verbose: general.verbose,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Invocation, parse_with};
    use super::*;

    fn parsed(line: &str) -> Result<Settings, String> {
        let words = line.split(' ').map(Into::into);
        match parse_with(words, true) {
            Ok(Invocation::Watch(settings)) => Ok(settings),
            Err(Stop::Usage(error)) => Err(error.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_watch_of_all_has_defaults() {
        let settings = parsed("leaktrace watch -a").unwrap();
        assert!(settings.selection.all && settings.arm.is_none());
        assert_eq!(settings.window, Duration::from_mins(10));
        assert_eq!(settings.killswitch, PathBuf::from("/run/leaktrace.off"));
    }

    #[test]
    fn a_condition_brings_its_time() {
        let settings = parsed("leaktrace watch --comm nginx --arm rss>1MiB/30s --max-overhead 1%").unwrap();
        assert_eq!(settings.window, Duration::from_secs(30));
        assert_eq!(settings.arm.map(|condition| condition.bytes), Some(1 << 20));
        assert_eq!(settings.max_overhead, Share::of_percent(1.0));
    }

    #[test]
    fn what_cannot_be_says_what_to_type() {
        for (line, text) in [
            ("leaktrace watch", "nothing to watch"),
            (
                "leaktrace watch -a --format folded",
                "--format folded does not fit",
            ),
            ("leaktrace watch -a --arm 10MiB", "write rss>SIZE/TIME"),
            ("leaktrace watch -a --max-armed 3", "--arm"),
            ("leaktrace watch -a -d 0", "--duration 0"),
            (
                "leaktrace watch -a --fail-on growing",
                "--fail-on is about sites, and 'leaktrace watch' lists processes: trace them instead",
            ),
            (
                "leaktrace watch -a --suppressions a",
                "--suppressions is about sites",
            ),
            (
                "leaktrace --fail-on growing watch -a",
                "'--fail-on' is an option of tracing, not of 'leaktrace watch'",
            ),
            (
                "leaktrace watch -a --user no-such-user-here",
                "no such user: write",
            ),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(text), "{line}: {error}");
            assert!(!error.contains('\n'), "{line}: {error}");
        }
    }
}
