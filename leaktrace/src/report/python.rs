//! Python in the report: the interpreter of a process, and how many stacks carry their Python lines. Plain data, and as
//! lines of text.

use serde::Serialize;

use super::{
    stacks::share_words,
    units::{count, counted},
};

/// The Python interpreter of a process image.
#[expect(
    clippy::struct_excessive_bools,
    reason = "five independent facts, a field each in the format"
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
    /// Whether its objects can be counted by type.
    pub census: bool,
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

/// What became of the Python frames of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// [`PythonStacks::with_lines`].
    WithLines,
    /// [`PythonStacks::names_only`].
    NamesOnly,
    /// [`PythonStacks::no_frames`].
    NoFrames,
    /// [`PythonStacks::unreadable`].
    Unreadable,
    /// [`PythonStacks::truncated`].
    Truncated,
    /// [`PythonStacks::full`].
    Full,
    /// [`PythonStacks::gone`].
    Gone,
    /// [`PythonStacks::too_early`].
    TooEarly,
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

impl PythonStacks {
    /// Adds the allocations of a site.
    pub const fn add(&mut self, outcome: Outcome, allocs: u64) {
        let sum = match outcome {
            Outcome::WithLines => &mut self.with_lines,
            Outcome::NamesOnly => &mut self.names_only,
            Outcome::NoFrames => &mut self.no_frames,
            Outcome::Unreadable => &mut self.unreadable,
            Outcome::Truncated => &mut self.truncated,
            Outcome::Full => &mut self.full,
            Outcome::Gone => &mut self.gone,
            Outcome::TooEarly => &mut self.too_early,
        };
        *sum += allocs;
    }

    /// Why some carry no lines: how many, and in words.
    const fn without_lines(&self) -> [(u64, &'static str); 6] {
        [
            (self.names_only, "with names and no lines"),
            (self.unreadable, "could not be read"),
            (self.truncated, "are deeper than is kept"),
            (self.full, "had no room"),
            (self.gone, "with a function that was freed before it was read"),
            (self.too_early, "came before the interpreter was found"),
        ]
    }

    /// All that ran Python code, as far as is known.
    fn of_python(&self) -> u64 {
        let without: u64 = self.without_lines().iter().map(|(allocs, _)| allocs).sum();
        self.with_lines + without
    }

    /// Fills in the share; none if no stack is counted at all.
    #[must_use]
    pub fn with_share(mut self) -> Option<Self> {
        let total = self.of_python();
        self.with_lines_share = (total > 0).then(|| self.with_lines as f64 / total as f64);
        (total + self.no_frames > 0).then_some(self)
    }

    /// What there is to say, in a line.
    pub(super) fn line(&self) -> Option<String> {
        let share = self.with_lines_share?;
        let total = self.of_python();
        if self.with_lines == total {
            return Some("python: all stacks carry their lines".to_owned());
        }
        let mut without = self.without_lines();
        without.sort_by_key(|(allocs, _)| std::cmp::Reverse(*allocs));
        let parts = without
            .iter()
            .filter(|(allocs, _)| *allocs > 0)
            .map(|(allocs, words)| format!("{} {words}", count(*allocs)));
        Some(format!(
            "python: {} of stacks carry their lines ({} in {} do not: {})",
            share_words(share),
            count(total - self.with_lines),
            counted(total, "allocation"),
            parts.collect::<Vec<_>>().join(", ")
        ))
    }
}

impl Python {
    /// Why stacks of the process carry no lines, in a line; none where they do.
    pub(super) fn line(&self, pid: u32) -> Option<String> {
        let missing = match (self.stacks, self.lines) {
            (true, true) => return None,
            (true, false) => "without lines",
            (false, _) => "without Python frames",
        };
        let version = self
            .version
            .as_deref()
            .map_or_else(String::new, |version| format!(" {version}"));
        let why = self
            .why
            .as_deref()
            .unwrap_or("its interpreter has not started yet");
        Some(format!(
            "python{version} of process {pid}: stacks are {missing}: {why}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_many_carry_no_lines_and_why() {
        let mut stacks = PythonStacks::default();
        stacks.add(Outcome::WithLines, 990);
        stacks.add(Outcome::NoFrames, 5_000);
        assert_eq!(
            stacks.clone().with_share().unwrap().line().unwrap(),
            "python: all stacks carry their lines"
        );
        stacks.add(Outcome::Gone, 3);
        stacks.add(Outcome::Unreadable, 7);
        let stacks = stacks.with_share().unwrap();
        assert_eq!(stacks.with_lines_share, Some(0.99));
        assert_eq!(
            stacks.line().unwrap(),
            "python: 99.0 % of stacks carry their lines (10 in 1,000 allocations do not: 7 could not be read, 3 with a \
             function that was freed before it was read)"
        );
    }

    #[test]
    fn nothing_is_said_where_no_stack_ran_python() {
        assert_eq!(PythonStacks::default().with_share(), None);
        let native = PythonStacks {
            no_frames: 8,
            ..PythonStacks::default()
        };
        assert_eq!(native.with_share().unwrap().line(), None);
    }

    #[test]
    fn an_interpreter_without_lines_says_why() {
        let python = Python {
            version: Some("3.13.1".to_owned()),
            stacks: true,
            why: Some("a free-threaded build keeps its instructions elsewhere".to_owned()),
            ..Python::default()
        };
        assert_eq!(
            python.line(7).unwrap(),
            "python 3.13.1 of process 7: stacks are without lines: a free-threaded build keeps its instructions elsewhere"
        );
        let with_lines = Python {
            lines: true,
            ..python
        };
        assert_eq!(with_lines.line(7), None);
    }
}
