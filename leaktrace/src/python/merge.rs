//! One stack of two: the native frames, in which Python is only the loop that runs it, and the Python frames.
//!
//! Both are from the inside out. Every evaluator on the native stack (an activation of `_PyEval_EvalFrameDefault`)
//! stands for the Python frames from the one it runs now up to the one that C code has entered it with: up to Python
//! 3.10 that is one frame, later the evaluator runs calls from Python to Python without calling itself
//! (Python/ceval.c). Pure: addresses have been told apart and named before. Must not know how.

use leaktrace_common::python::PythonFrame;

use super::machinery::is_machinery;

/// Whose code a native frame is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Not the interpreter's: the program's, a library's, an extension module's.
    #[default]
    Outside,
    /// The interpreter's, and not its loop.
    Interpreter,
    /// The loop: a function that is called once for each entry from C, or what it jumps to.
    Evaluator,
    /// A part of the loop that the loop calls: the frame around it is of the same activation, as in builds where every
    /// instruction is a function of its own (3.14, `_TAIL_CALL_*`).
    EvaluatorPart,
}

/// A native frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Native<'a> {
    /// Whose code it is.
    pub place: Place,
    /// Its function, if that is known.
    pub symbol: Option<&'a str>,
}

/// A frame of the merged stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// A native one.
    Native {
        /// Its index among those.
        index: usize,
        /// Whether it is only how the interpreter runs its programs.
        plumbing: bool,
    },
    /// A Python one, by its index among those.
    Python(usize),
}

/// The merged stack, from the inside out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// Its frames: all Python ones but marks, all native ones but evaluators that stand for Python frames.
    pub frames: Vec<Merged>,
    /// Python frames that no evaluator was found for. They stand outermost.
    pub left_python: usize,
    /// Evaluators that no Python frames were found for. They stay.
    pub left_evaluators: usize,
}

impl Stack {
    /// Whether the two do not fit together although they should. `native_whole` and `python_whole`: whether their walks
    /// came to the outermost frame.
    pub const fn is_mismatch(&self, native_whole: bool, python_whole: bool) -> bool {
        (native_whole && self.left_python > 0) || (python_whole && self.left_evaluators > 0)
    }
}

/// Merges the two.
pub fn merge(native: &[Native<'_>], python: &[PythonFrame]) -> Stack {
    if python.iter().all(|frame| frame.code_address() == 0) {
        return only_native(native);
    }
    let mut runs = Runs { python, next: 0 };
    let mut stack = Stack::default();
    // Where the frames between the allocator and the first Python frame end.
    let mut innermost_end = None;
    let mut index = 0;
    while let Some(frame) = native.get(index) {
        let evaluator = evaluator_len(&native[index..]);
        let hidden = frame.place == Place::Interpreter && stack.left_evaluators == 0;
        if evaluator == 0 {
            stack.frames.push(Merged::Native {
                index,
                plumbing: hidden,
            });
            index += 1;
        } else if let Some(run) = runs.take() {
            let before = stack.frames.len();
            stack.frames.extend(runs.frames(run));
            if stack.frames.len() > before && innermost_end.is_none() {
                innermost_end = Some(before);
            }
            index += evaluator;
        } else {
            stack.left_evaluators += 1;
            let parts = index..index + evaluator;
            stack.frames.extend(parts.map(|index| Merged::Native {
                index,
                plumbing: false,
            }));
            index += evaluator;
        }
    }
    let innermost_end = innermost_end.unwrap_or(stack.frames.len());
    show_builtin(&mut stack.frames[..innermost_end], native);
    while let Some(run) = runs.take() {
        let before = stack.frames.len();
        stack.frames.extend(runs.frames(run));
        stack.left_python += stack.frames.len() - before;
    }
    stack
}

/// Where no Python frame is known nothing is hidden: what the interpreter does is then all there is to see.
fn only_native(native: &[Native<'_>]) -> Stack {
    let frames = (0..native.len()).map(|index| Merged::Native {
        index,
        plumbing: false,
    });
    let evaluators = native.iter().filter(|frame| frame.place == Place::Evaluator);
    Stack {
        frames: frames.collect(),
        left_python: 0,
        left_evaluators: evaluators.count(),
    }
}

/// How many of the first frames are one activation of the evaluator.
fn evaluator_len(native: &[Native<'_>]) -> usize {
    let is_part = |frame: &&Native<'_>| frame.place == Place::EvaluatorPart;
    let parts = native.iter().take_while(is_part).count();
    let whole = native
        .get(parts)
        .is_some_and(|frame| frame.place == Place::Evaluator);
    parts + usize::from(whole)
}

/// Of what the innermost Python frame has called, the one function that says what it is: the outermost that is no
/// general way of calling.
fn show_builtin(innermost: &mut [Merged], native: &[Native<'_>]) {
    let says = |frame: &&mut Merged| match frame {
        Merged::Native { index, plumbing } => {
            *plumbing && native[*index].symbol.is_some_and(|symbol| !is_machinery(symbol))
        }
        Merged::Python(_) => false,
    };
    if let Some(Merged::Native { plumbing, .. }) = innermost.iter_mut().rev().find(says) {
        *plumbing = false;
    }
}

/// The Python frames, an activation of the evaluator at a time.
struct Runs<'a> {
    python: &'a [PythonFrame],
    next: usize,
}

impl Runs<'_> {
    /// Those of the next activation, marks included; none if all have been taken.
    fn take(&mut self) -> Option<std::ops::Range<usize>> {
        let start = self.next;
        let left = self.python.get(start..).filter(|left| !left.is_empty())?;
        // Where the walk was cut the last activation has no end.
        let len = left
            .iter()
            .position(|frame| frame.is_entry())
            .map_or(left.len(), |position| position + 1);
        self.next = start + len;
        Some(start..self.next)
    }

    /// Without marks.
    fn frames(&self, run: std::ops::Range<usize>) -> impl Iterator<Item = Merged> {
        let is_frame = |index: &usize| self.python[*index].code_address() != 0;
        run.filter(is_frame).map(Merged::Python)
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
