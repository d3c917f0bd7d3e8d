//! From what was typed to an [`Invocation`], or to one line that says what to type instead.
//!
//! Must not know the kernel or a process: whether a pid exists is found out later. `args` is what can
//! be typed, `parse` reads single values, `fold` turns clap's errors into one line.

mod args;
mod fold;
pub mod generate;
pub mod parse;
mod watch;

use std::{env, ffi::OsString, fmt, path::PathBuf, time::Duration};

use clap::{CommandFactory as _, FromArgMatches as _, parser::ValueSource};
pub use clap_complete::Shell;

use self::{
    args::{Cli, Command, DemoArgs, OutputArgs, SelectionArgs},
    parse::Excluded,
};
use crate::{
    config::{self, AttachKind, Bound, Config, Filters, Gpu, Output, Scope, Target, custom_pair, defaults},
    select::{Properties, Selection},
    watch::session::Settings,
};

/// Exit status of a run that could not be.
pub const EXIT_UNUSABLE: u8 = 2;

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Trace.
    Trace(Config),
    /// Trace the built-in program.
    Demo(Demo),
    /// Be the built-in program.
    DemoTarget,
    /// Watch who grows.
    Watch(Settings),
    /// Say what this kernel and user can do.
    Doctor(General),
    /// Print where functions of these files are probed.
    Probes(Vec<PathBuf>),
    /// Print what the unwind tables of these files hold.
    Tables(Vec<PathBuf>),
    /// Print a completion script.
    Completions(Shell),
    /// Print the manual page.
    Man,
}

/// Options of `leaktrace demo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demo {
    /// How long to trace.
    pub duration: Duration,
    /// Where the reports go.
    pub output: Output,
    /// The mechanism to attach by; `None` is the best one.
    pub attach: Option<AttachKind>,
    /// How much to say on stderr.
    pub verbose: u8,
}

/// What every subcommand takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct General {
    /// How much to say on stderr.
    pub verbose: u8,
    /// Whether colour is welcome.
    pub color: bool,
}

impl Invocation {
    /// How much to say on stderr: 0 warnings, 1 what is done, 2 and more all of it.
    pub const fn verbose(&self) -> u8 {
        match self {
            Self::Trace(config) => config.verbose,
            Self::Demo(demo) => demo.verbose,
            Self::Watch(settings) => settings.verbose,
            Self::Doctor(general) => general.verbose,
            Self::DemoTarget | Self::Probes(_) | Self::Tables(_) | Self::Completions(_) | Self::Man => 0,
        }
    }
}

/// Why there is nothing to do.
#[derive(Debug)]
pub enum Stop {
    /// `--help` or `--version`: print it on stdout by [`clap::Error::print`], exit 0.
    Help(Box<clap::Error>),
    /// Print it on stderr, exit [`EXIT_UNUSABLE`].
    Usage(UsageError),
}

/// One line, without the program's name, that ends with the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

impl From<config::ConfigError> for Stop {
    fn from(error: config::ConfigError) -> Self {
        Self::Usage(UsageError(error.to_string()))
    }
}

/// Reads a command line, the program's name first. Of the environment it heeds `NO_COLOR`.
///
/// # Errors
/// When help or the version was asked for, and when the line cannot be a run.
pub fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Invocation, Stop> {
    // https://no-color.org: set and not empty.
    let color = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    parse_with(line, color)
}

fn parse_with(line: impl IntoIterator<Item = OsString>, color: bool) -> Result<Invocation, Stop> {
    let command = Cli::command();
    let matches = command.try_get_matches_from(line).map_err(fold::stop)?;
    if let Some((name, _)) = matches.subcommand()
        && let Some(stray) = stray_option(&matches)
    {
        return Err(Stop::Usage(UsageError(format!(
            "'{stray}' is an option of tracing, not of 'leaktrace {name}': leave one of them out"
        ))));
    }
    let cli = Cli::from_arg_matches(&matches).map_err(fold::stop)?;
    let general = General {
        verbose: cli.general.verbose,
        color: color && !cli.general.no_color,
    };
    match cli.command {
        None => trace(cli, general).map(Invocation::Trace),
        Some(Command::Demo(demo)) => demonstration(demo, general).map(Invocation::Demo),
        Some(Command::Watch(args)) => watch::settings(*args, general).map(Invocation::Watch),
        Some(Command::DemoTarget) => Ok(Invocation::DemoTarget),
        Some(Command::Doctor) => Ok(Invocation::Doctor(general)),
        Some(Command::Probes { files }) => Ok(Invocation::Probes(files)),
        Some(Command::Tables { files }) => Ok(Invocation::Tables(files)),
        Some(Command::Completions { shell }) => Ok(Invocation::Completions(shell)),
        Some(Command::Man) => Ok(Invocation::Man),
    }
}

/// An option of tracing that was typed before a subcommand. clap has `args_conflicts_with_subcommands`
/// for it, which would refuse the options that all subcommands share as well.
fn stray_option(matches: &clap::ArgMatches) -> Option<String> {
    Cli::command()
        .get_arguments()
        .filter(|arg| !arg.is_global_set())
        .find(|arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine))
        .map(|arg| {
            arg.get_long()
                .map_or_else(|| "-- CMD".to_owned(), |long| format!("--{long}"))
        })
}

fn output(args: OutputArgs, general: General) -> Output {
    Output {
        format: args.format,
        path: args.output.filter(|path| path.as_os_str() != "-"),
        color: general.color,
        native: false,
    }
}

fn trace(cli: Cli, general: General) -> Result<Config, Stop> {
    let Cli {
        target,
        filter,
        sampling,
        report,
        gate,
        output: output_args,
        bounds,
        ..
    } = cli;
    let custom = match target.object {
        Some(object) => Some(custom_pair(object, &target.alloc, &target.free)?),
        None => None,
    };
    let pids = parse::unique(&target.pids);
    let what = if target.argv.is_empty() {
        chosen(pids, target.selection)?
    } else {
        Target::Command(target.argv)
    };
    let of_many = matches!(what, Target::Selected(_));
    if bounds.scope != Scope::Auto && !of_many {
        return Err(config::ConfigError::NotOpen("--scope").into());
    }
    let default_mean = if of_many {
        defaults::SAMPLE_BYTES_OF_MANY
    } else {
        defaults::SAMPLE_BYTES
    };
    let is_selected = matches!(&what, Target::Selected(_));
    let config = Config {
        target: what,
        scope: bounds.scope,
        follow_forks: target.follow_forks,
        python_malloc: target.python_malloc,
        python_pools: target.python_pools,
        gpu: match (target.gpu, target.no_gpu) {
            (true, _) => Gpu::Always,
            (false, true) => Gpu::Off,
            (false, false) => Gpu::WhereFound,
        },
        gpu_reservations: target.gpu_reservations,
        mappings: target.mappings || (!target.no_mappings && !is_selected),
        custom,
        filters: Filters {
            older_than: filter.older_than.0,
            min_size_bytes: filter.min_size.map_or(0, |size| size.0),
            max_size_bytes: filter.max_size.map_or(u64::MAX, |size| size.0),
        },
        sample_bytes: sampling.sample_bytes.map_or(default_mean, |size| size.0),
        max_overhead: match sampling.max_overhead {
            Some(Bound::Share(share)) => Some(share),
            Some(Bound::Off) | None => None,
        },
        bounds_python: sampling.max_overhead.is_none()
            && sampling.sample_bytes.is_none_or(|size| size.0 == 0)
            && !of_many,
        top: report.top,
        sort: report.sort,
        by: report.by.unwrap_or(if of_many {
            defaults::BY_OF_SELECTIONS
        } else {
            defaults::BY
        }),
        show_blocks: report.show_blocks,
        fail_on: parse::unique(&gate.fail_on),
        suppressions: gate.suppressions,
        interval: Some(report.interval.0).filter(|interval| !interval.is_zero()),
        duration: report.duration.map(|duration| duration.0),
        output: Output {
            native: report.native,
            ..output(output_args, general)
        },
        max_live: bounds.max_live,
        max_live_per_process: bounds
            .max_live_per_process
            .unwrap_or(bounds.max_live.div_ceil(defaults::PROCESS_SHARE)),
        attach: bounds.attach,
        unwind: bounds.unwind,
        python: !target.no_python,
        census: report.census,
        max_unwind_bytes: bounds.max_unwind.0,
        probe_at: bounds.probe_at,
        verify_stacks: bounds.verify_stacks,
        killswitch: bounds.killswitch,
        ends_with_parent: bounds.ends_with_parent,
        verbose: general.verbose,
    };
    config.validate()?;
    Ok(config)
}

/// Processes named one by one, or all that a selection means.
fn chosen(pids: Vec<u32>, typed: SelectionArgs) -> Result<Target, config::ConfigError> {
    let selection = selection(pids, typed);
    if selection.is_open() {
        Ok(Target::Selected(Box::new(selection)))
    } else if selection.left_out.is_empty() {
        Ok(Target::Pids(selection.pids))
    } else {
        Err(config::ConfigError::NotOpen("--exclude"))
    }
}

fn selection(pids: Vec<u32>, typed: SelectionArgs) -> Selection {
    let mut left_out = Properties::default();
    for excluded in typed.exclude {
        match excluded {
            Excluded::Comm(name) => left_out.comms.push(name),
            Excluded::User(user) => left_out.users.push(user),
            Excluded::Cgroup(path) => left_out.cgroups.push(path),
            Excluded::Container(name) => left_out.containers.push(name),
            Excluded::Pid(pid) => left_out.pids.push(pid),
        }
    }
    Selection {
        all: typed.all,
        pids,
        wanted: Properties {
            comms: typed.comm,
            users: typed.user,
            cgroups: typed.cgroup,
            containers: typed.container,
            pids: Vec::new(),
        },
        left_out,
    }
}

fn demonstration(args: DemoArgs, general: General) -> Result<Demo, Stop> {
    if args.duration.0.is_zero() {
        return Err(config::ConfigError::NoDuration.into());
    }
    Ok(Demo {
        duration: args.duration.0,
        output: output(args.output, general),
        attach: args.attach,
        verbose: general.verbose,
    })
}

#[cfg(test)]
mod tests;
