//! The command: parses, delegates, turns the outcome into an exit code.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use leaktrace::{
    cli::{self, EXIT_UNUSABLE, Invocation, Stop, generate},
    demo, doctor,
    error::Error,
    kernel::caps::Caps,
    probe::listing,
    report::output::is_broken_pipe,
    session::{self, ChildFate},
    unwind, watch,
};

fn main() -> ExitCode {
    if demo::is_target(std::env::args_os()) {
        // Before anything that allocates for leaktrace's own sake: the report is about the demo.
        demo::run();
        return ExitCode::SUCCESS;
    }
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(Stop::Help(text)) => return written(text.print()),
        Err(Stop::Usage(error)) => return unusable(&error),
    };
    logging(invocation.verbose());
    let result = match invocation {
        Invocation::Trace(config) => session::run(&config, ChildFate::Outlives),
        Invocation::Demo(options) => {
            demo::config(&options).and_then(|config| session::run(&config, ChildFate::Ends))
        }
        Invocation::Watch(settings) => watch::session::run(&settings),
        Invocation::DemoTarget => return ExitCode::SUCCESS,
        Invocation::Doctor(options) => return diagnose(options.color),
        Invocation::Probes(files) => {
            return match listing::markdown(&files) {
                Ok(table) => written(io::stdout().write_all(table.as_bytes())),
                Err(error) => unusable(&error),
            };
        }
        Invocation::Tables(files) => {
            return match unwind::listing::markdown(&files) {
                Ok(table) => written(io::stdout().write_all(table.as_bytes())),
                Err(error) => unusable(&error),
            };
        }
        Invocation::Completions(shell) => return written(generate::completions(shell, &mut io::stdout())),
        Invocation::Man => return written(generate::man_page(&mut io::stdout())),
    };
    match result {
        Ok(code) => code,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => unusable(&error),
    }
}

fn diagnose(color: bool) -> ExitCode {
    let examined = doctor::examine(&Caps::probe());
    let terminal = io::stdout().is_terminal();
    let code = written(examined.render(terminal, terminal && color, &mut io::stdout()));
    if examined.verdict.is_err() {
        ExitCode::from(EXIT_UNUSABLE)
    } else {
        code
    }
}

/// The outcome of writing to standard output and nothing else.
fn written(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(source) => unusable(&Error::System {
            what: "cannot write to standard output",
            source,
        }),
    }
}

fn unusable(error: &dyn std::fmt::Display) -> ExitCode {
    // Standard error may be gone as well; the exit code still tells.
    let _unheard: io::Result<()> = writeln!(io::stderr(), "leaktrace: {error}");
    ExitCode::from(EXIT_UNUSABLE)
}

/// Diagnostics go to standard error: warnings, with -v what is done, with -vv all, the kernel side's log
/// included. `LEAKTRACE_LOG` takes the place of -v, in the syntax of `tracing_subscriber::EnvFilter`.
fn logging(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let level = match verbose {
        0 => "warn",
        1 => "leaktrace=info,warn",
        _ => "leaktrace=debug,aya=info,info",
    };
    let filter = EnvFilter::try_from_env("LEAKTRACE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
}
