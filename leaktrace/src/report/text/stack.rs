//! A stack as text: the innermost frame of the program itself marked, what passes calls on for others kept
//! short.

use std::io::{self, Write};

use super::{INDENT, NAME_WIDTH, clean};
use crate::report::{
    frames::{self, columns},
    model::Frame,
    style::{Ink, Style},
};

/// Frames shown at the inner and the outer end of a stack that is too deep for a terminal.
const HEAD: usize = 20;
const TAIL: usize = 4;

/// Runtime frames in a row that are still shown one by one.
const RUNTIME_RUN: usize = 2;

/// A line of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    /// A frame by its index.
    Frame(usize),
    /// So many frames of an allocator or a language's runtime.
    Runtime(usize),
    /// So many frames that do not fit a terminal.
    TooDeep(usize),
}

/// Writes the frames, innermost first. `width` is a terminal's; elsewhere nothing is shortened but runs of
/// runtime frames, which the json format has.
pub(super) fn write(
    out: &mut dyn Write,
    frames: &[&Frame],
    width: Option<usize>,
    style: Style,
) -> io::Result<()> {
    if frames.is_empty() {
        return writeln!(out, "{INDENT}(no stack was kept)");
    }
    let own = frames::innermost_user(frames);
    let room = width.map(|width| width.saturating_sub(INDENT.len()).max(40));
    let rows = rows(frames, width.is_some());
    let names: Vec<String> = frames.iter().map(|frame| frame_name(frame, room)).collect();
    let shown = rows.iter().filter_map(|row| match row {
        Row::Frame(index) => Some(columns(&names[*index])),
        Row::Runtime(_) | Row::TooDeep(_) => None,
    });
    let longest = shown.filter(|w| *w <= NAME_WIDTH).max().unwrap_or(0);
    for row in rows {
        let index = match row {
            Row::Frame(index) => index,
            Row::Runtime(count) => {
                let more = format!("… {count} frames of allocators and runtimes");
                writeln!(out, "{INDENT}{}", style.paint(Ink::Faint, more))?;
                continue;
            }
            Row::TooDeep(count) => {
                let more = format!("… {count} more frames (all are in a file or a pipe)");
                writeln!(out, "{INDENT}{}", style.paint(Ink::Faint, more))?;
                continue;
            }
        };
        let name = &names[index];
        let used = columns(name).max(longest) + 2;
        let place = location(frames[index]);
        let place = room.map_or_else(
            || place.clone(),
            |room| tail(&place, room.saturating_sub(used).max(12)),
        );
        let padding = if place.is_empty() {
            0
        } else {
            longest.saturating_sub(columns(name)) + 2
        };
        if own == Some(index) {
            write!(
                out,
                "{}> {}{:padding$}",
                &INDENT[2..],
                style.paint(Ink::Own, name),
                ""
            )?;
            writeln!(out, "{}", style.paint(Ink::Own, place))?;
        } else {
            write!(out, "{INDENT}{name}{:padding$}", "")?;
            writeln!(out, "{}", style.paint(Ink::Faint, place))?;
        }
    }
    Ok(())
}

/// Which lines a stack has.
fn rows(frames: &[&Frame], terminal: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut index = 0;
    while index < frames.len() {
        let run = frames[index..]
            .iter()
            .take_while(|frame| frames::is_runtime(frame))
            .count();
        if run > RUNTIME_RUN {
            rows.push(Row::Runtime(run));
            index += run;
        } else {
            rows.push(Row::Frame(index));
            index += 1;
        }
    }
    if terminal && rows.len() > HEAD + TAIL + 1 {
        let left_out = rows[HEAD..rows.len() - TAIL].iter().map(|row| match row {
            Row::Frame(_) => 1,
            Row::Runtime(count) | Row::TooDeep(count) => *count,
        });
        let left_out = left_out.sum();
        rows.splice(HEAD..rows.len() - TAIL, [Row::TooDeep(left_out)]);
    }
    rows
}

/// A function takes three fifths of a terminal's width at most, so that its line stays in sight.
fn frame_name(frame: &Frame, room: Option<usize>) -> String {
    let name = frames::name(frame);
    let name = clean(&name);
    match room {
        Some(room) => frames::shorten(&name, (room * 3 / 5).min(NAME_WIDTH)).into_owned(),
        None => name.into_owned(),
    }
}

/// File and line, else the object.
fn location(frame: &Frame) -> String {
    let place = match (frames::place(frame), &frame.object, &frame.symbol) {
        (Some(place), _, _) => clean(&place).into_owned(),
        (None, Some(object), Some(_)) => clean(frames::base_name(object)).into_owned(),
        // Without a symbol the name says the object already.
        (None, _, None) | (None, None, _) => String::new(),
    };
    match (frame.inlined, place.is_empty()) {
        (true, true) => "(inlined)".to_owned(),
        (true, false) => format!("{place} (inlined)"),
        (false, _) => place,
    }
}

/// The end of a path, which has the file and the line.
fn tail(text: &str, width: usize) -> String {
    let length = columns(text);
    if length <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().skip(length - width.saturating_sub(1)).collect();
    format!("…{kept}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(symbols: &[&str]) -> Vec<Frame> {
        let frame = |symbol: &&str| Frame {
            symbol: Some((*symbol).to_owned()),
            ..Frame::default()
        };
        symbols.iter().map(frame).collect()
    }

    fn frames(stack: &[Frame]) -> Vec<&Frame> {
        stack.iter().collect()
    }

    #[test]
    fn runs_of_runtime_frames_are_one_line() {
        let stack = stack(&["alloc::vec::push", "mine", "std::a", "std::b", "core::c", "main"]);
        let expected = [Row::Frame(0), Row::Frame(1), Row::Runtime(3), Row::Frame(5)];
        assert_eq!(rows(&frames(&stack), false), expected);
    }

    #[test]
    fn a_deep_stack_is_cut_on_a_terminal_only() {
        let stack = stack(&["f"; 60]);
        assert_eq!(rows(&frames(&stack), false).len(), 60);
        let cut = rows(&frames(&stack), true);
        assert_eq!(cut.len(), HEAD + 1 + TAIL);
        assert_eq!(cut[HEAD], Row::TooDeep(60 - HEAD - TAIL));
    }
}
