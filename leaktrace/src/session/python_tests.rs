//! Parts put together, and frames of two kinds made one stack.

use std::collections::HashMap;

use leaktrace_common::python::PART_FRAMES;

use super::*;

#[derive(Debug, Default)]
struct Table(HashMap<u64, Vec<PythonFrame>>, HashMap<u64, u64>);

impl Table {
    fn add(&mut self, key: u64, inner: u64, frames: Vec<PythonFrame>) {
        self.0.insert(key, frames);
        self.1.insert(key, inner);
    }
}

impl Parts for Table {
    fn part(&self, key: u64) -> Result<Option<Box<PythonPart>>, TableError> {
        let part = self.0.get(&key).map(|frames| {
            let mut part = PythonPart {
                inner: self.1[&key],
                len: frames.len() as u32,
                pad: 0,
                frames: [PythonFrame::default(); PART_FRAMES],
            };
            part.frames[..frames.len()].copy_from_slice(frames);
            Box::new(part)
        });
        Ok(part)
    }
}

/// The part that all frames of [`stack`] are in.
const PART: u64 = 77;

/// Names a frame by its address; `0x100` has no line, `0x200` is gone, `0x300` is not known yet, `0x700` is the interpreter's own.
struct Fake;

impl Interpreters for Fake {
    fn of_image(&self, _tgid: u32, _image: u16) -> Option<Python> {
        None
    }

    fn is_followed(&self, tgid: u32, _image: u16) -> bool {
        tgid == 1
    }

    fn place(&self, _tgid: u32, _image: u16, address: u64) -> Place {
        match address {
            0x7_0000..0x7_0100 => Place::Evaluator,
            0x7_0100..0x8_0000 => Place::Interpreter,
            _ => Place::Outside,
        }
    }

    fn name(&self, _tgid: u32, _image: u16, part: u64, frame: &PythonFrame) -> Known {
        assert_eq!(part, PART);
        let line = match frame.code_address() {
            0x100 => None,
            0x200 => return Known::Gone,
            0x300 => return Known::NotYet,
            0x700 => return Known::Trampoline,
            _ => Some(frame.position),
        };
        Known::Named(Named {
            name: Arc::from(format!("f{:x}", frame.code_address())),
            file: Arc::from("/app/a.py"),
            line,
        })
    }
}

fn frame(code: u64, position: u32) -> PythonFrame {
    PythonFrame {
        code,
        position,
        guard: 7,
    }
}

fn stack(codes: &[u64]) -> PythonStack {
    PythonStack {
        frames: codes.iter().map(|&code| frame(code, 3)).collect(),
        parts: [(0, PART)].into(),
        end: python_end::COMPLETE,
    }
}

#[test]
fn parts_are_put_together_innermost_first() {
    let mut table = Table::default();
    let inner: Vec<_> = (0..PART_FRAMES as u32)
        .map(|position| frame(8, position))
        .collect();
    table.add(5, 0, inner.clone());
    table.add(9, 5, vec![frame(16, 500), frame(24, 501)]);
    let read = PythonStack::read(&table, 9, python_end::COMPLETE).unwrap();
    assert_eq!(read.frames[..PART_FRAMES], inner[..]);
    assert_eq!(read.frames[PART_FRAMES..], [frame(16, 500), frame(24, 501)]);
    assert_eq!(read.end, python_end::COMPLETE);
    let parts = [0, PART_FRAMES - 1, PART_FRAMES, PART_FRAMES + 1].map(|index| read.part_of(index));
    assert_eq!(parts, [5, 5, 9, 9]);
}

#[test]
fn without_an_inner_part_there_is_nothing_to_show() {
    let mut table = Table::default();
    table.add(9, 5, vec![frame(16, 500)]);
    assert_eq!(
        PythonStack::read(&table, 9, python_end::COMPLETE).unwrap(),
        PythonStack::full()
    );
    // Nor where the links are a circle.
    table.add(5, 9, vec![frame(8, 1)]);
    assert_eq!(
        PythonStack::read(&table, 9, python_end::COMPLETE).unwrap(),
        PythonStack::full()
    );
    assert_eq!(
        PythonStack::read(&table, 0, python_end::NO_FRAMES).unwrap().end,
        python_end::NO_FRAMES
    );
}

#[test]
fn a_stack_carries_its_lines_when_all_frames_do() {
    let outcome = |codes: &[u64]| stack(codes).outcome(&Fake, 1, 0, &[]);
    // A mark has no line.
    assert_eq!(
        outcome(&[0x400, 0x700, PythonFrame::ENTRY]),
        Some(Outcome::WithLines)
    );
    assert_eq!(outcome(&[0x400, 0x100]), Some(Outcome::NamesOnly));
    assert_eq!(outcome(&[0x100, 0x200]), Some(Outcome::Gone));
    assert_eq!(outcome(&[0x400, 0x300]), None);
    for (end, expected) in [
        (python_end::NO_INTERPRETER, Outcome::TooEarly),
        (python_end::NO_FRAMES, Outcome::NoFrames),
        (python_end::UNREADABLE, Outcome::Unreadable),
        (python_end::TOO_DEEP, Outcome::Truncated),
        (python_end::FULL, Outcome::Full),
    ] {
        let stack = PythonStack {
            end,
            ..stack(&[0x400])
        };
        // The address of the loop is the evaluator's.
        assert_eq!(stack.outcome(&Fake, 1, 0, &[1, 0x7_0050]), Some(expected));
    }
    let early = PythonStack {
        end: python_end::NO_INTERPRETER,
        ..PythonStack::default()
    };
    // The interpreter was still starting, or the thread is none of its own.
    assert_eq!(early.outcome(&Fake, 1, 0, &[1, 2]), Some(Outcome::NoFrames));
}

fn native(address: u64, object: &str, symbols: &[&str]) -> Vec<SymbolFrame> {
    let last = symbols.len() - 1;
    let frame = |(index, symbol): (usize, &&str)| SymbolFrame {
        address,
        object: Some(Arc::from(object)),
        symbol: Some(Arc::from(*symbol)),
        inlined: index < last,
        ..SymbolFrame::default()
    };
    symbols.iter().enumerate().map(frame).collect()
}

fn natives(tgid: u32, object: &str) -> NativeStack {
    NativeStack {
        tgid,
        image: 0,
        frames: vec![
            native(0x1000, "/lib/libc.so.6", &["malloc"]),
            native(0x7_0200, object, &["list_resize", "list_append"]),
            // The last byte of the loop's call: the return address is another function's first.
            native(0x7_0100, object, &["_PyEval_EvalFrameDefault"]),
            native(0x7_0300, object, &["helper"]),
            native(0x7_0400, object, &["Py_RunMain"]),
        ],
        is_whole: true,
    }
}

fn symbols(frames: &[SymbolFrame]) -> Vec<(&str, bool)> {
    let shown = |frame: &SymbolFrame| frame.plumbing;
    frames
        .iter()
        .map(|frame| (frame.symbol.as_deref().unwrap(), shown(frame)))
        .collect()
}

#[test]
fn python_frames_take_the_place_of_the_loop() {
    let (frames, mismatch) = merged(
        natives(1, "/usr/lib/libpython3.13.so.1.0"),
        &stack(&[0x400, 0x501]),
        &Fake,
    );
    assert!(!mismatch);
    assert_eq!(
        symbols(&frames),
        [
            ("malloc", false),
            ("list_resize", false),
            ("list_append", false),
            ("f400", false),
            ("f500", false),
            ("helper", true),
            ("Py_RunMain", true),
        ]
    );
    let python = frames[3].to_report();
    assert_eq!((python.address.as_str(), python.lang), ("0x400", Lang::Python));
    assert_eq!(
        (python.file.as_deref(), python.line),
        (Some("/app/a.py"), Some(3))
    );
    assert_eq!((python.object, python.offset), (None, None));
}

#[test]
fn instructions_that_are_functions_are_one_frame_with_the_loop() {
    let python = "/usr/bin/python3.14";
    let mut stack_of_tail_calls = natives(1, python);
    let handler = native(0x7_0080, python, &["_TAIL_CALL_CALL"]);
    stack_of_tail_calls.frames.insert(2, handler);
    let (frames, mismatch) = merged(stack_of_tail_calls, &stack(&[0x401]), &Fake);
    assert!(!mismatch);
    assert_eq!(symbols(&frames)[3..5], [("f400", false), ("helper", true)]);
}

#[test]
fn a_program_that_has_python_inside_keeps_its_own_functions() {
    let (frames, _) = merged(natives(1, "/opt/blender/blender"), &stack(&[0x401]), &Fake);
    assert_eq!(symbols(&frames)[4..], [("helper", false), ("Py_RunMain", true)]);
}

#[test]
fn a_function_that_is_gone_has_the_address_for_a_name() {
    let (frames, _) = merged(natives(1, "/usr/bin/python3.11"), &stack(&[0x201]), &Fake);
    let frame = frames[3].to_report();
    assert_eq!(
        (frame.symbol.as_deref(), frame.file),
        (Some("<code 0x200>"), None)
    );
}

#[test]
fn frames_that_do_not_fit_are_flagged() {
    let two_entries = stack(&[0x401, 0x501]);
    let python = "/usr/bin/python3.11";
    assert!(merged(natives(1, python), &two_entries, &Fake).1);
    let cut = NativeStack {
        is_whole: false,
        ..natives(1, python)
    };
    assert!(!merged(cut, &two_entries, &Fake).1);
}

#[test]
fn other_processes_are_left_alone() {
    let (frames, mismatch) = merged(natives(2, "/usr/bin/python3.11"), &PythonStack::default(), &Fake);
    assert_eq!((frames.len(), mismatch), (6, false));
    assert!(frames.iter().all(|frame| !frame.plumbing));
}
