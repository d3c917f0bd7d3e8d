//! Everything that can end a run early. Each message is one line that names the failing thing and ends
//! with the way out.

use crate::{
    gate::GateError,
    kernel::{faults::FaultsError, maps::TableError, object::LoadError, sideband::SidebandError},
    launch::LaunchError,
    probe::closure::ClosureError,
    report::output::OutputError,
    select::SelectError,
    traced::{catalog::CustomError, set::TraceError},
};

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This kernel or user cannot trace.
    #[error("{0}")]
    Unable(String),
    /// The kernel side could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A table of the kernel side failed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// perf's side-band cannot be read.
    #[error(transparent)]
    Sideband(#[from] SidebandError),
    /// Page faults cannot be sampled.
    #[error(transparent)]
    Faults(#[from] FaultsError),
    /// A process cannot be traced.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// What processes are to be chosen by cannot be looked up.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// A function of `--alloc` or `--free` cannot be traced.
    #[error(transparent)]
    Custom(#[from] CustomError),
    /// Suppressions cannot be used.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The command cannot be found.
    #[error(transparent)]
    Closure(#[from] ClosureError),
    /// The command cannot be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Reports cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The operating system refused something that it never refuses.
    #[error("{what}: {source}; please report this")]
    System {
        /// What was tried.
        what: &'static str,
        /// The errno.
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the reader of the reports has gone: an end, not a failure.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.is_broken_pipe())
    }
}

/// Wraps an error of the operating system.
pub fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::System { what, source }
}
