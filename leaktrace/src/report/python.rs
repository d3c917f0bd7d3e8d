//! Python in the report: the interpreter of a process, and how many stacks carry their Python lines. Plain data, and as
//! lines of text.

use serde::Serialize;

/// The Python interpreter of a process image.
#[expect(
    clippy::struct_excessive_bools,
    reason = "four independent facts, a field each in the format"
)]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Python {
    /// Its version, such as `3.11.2`; none where it could not be found out.
    pub version: Option<String>,
    /// Path of the file that it is in, as the process sees it.
    pub object: String,
    /// Whether it is followed.
    pub state: PythonState,
    /// Whether stacks carry its frames.
    pub stacks: bool,
    /// Whether these have lines.
    pub lines: bool,
    /// Whether the arenas of its object allocator are seen.
    pub arenas: bool,
    /// Whether the pools in them are seen.
    pub pools: bool,
    /// Why something of this is not so, and the way out where there is one.
    pub why: Option<String>,
}

/// Whether an interpreter is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PythonState {
    /// It was found, and has not come so far that its threads can be told.
    #[default]
    Starting,
    /// It is.
    Followed,
    /// It is not: the process's stacks have native frames only.
    NotFollowed,
}

/// Recorded allocations since the attach in processes whose interpreter is followed, by what became of their stacks'
/// Python frames. Each is in one of the numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PythonStacks {
    /// `with_lines` as a share of all but `no_frames`; none if there is none.
    pub with_lines_share: Option<f64>,
    /// All Python frames are there, with name and line.
    pub with_lines: u64,
    /// All are there, with their names, and no lines, as in a build without the global lock.
    pub names_only: u64,
    /// The thread ran no Python code.
    pub no_frames: u64,
    /// Memory of the interpreter could not be read.
    pub unreadable: u64,
    /// There are more frames than are kept: the outer ones are missing.
    pub truncated: u64,
    /// The table of Python frames was full.
    pub full: u64,
    /// A function of the stack was freed before its name could be read.
    pub gone: u64,
    /// The stack was taken before the interpreter was found.
    pub too_early: u64,
}
