//! The stacks that a Python program has noted of itself, by the sizes that it took there, and how a report differs.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use crate::report::{Report, Survivor};

/// A Python frame, as the interpreter gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrueFrame {
    /// The code object's file.
    pub file: String,
    /// The line it is at.
    pub line: u64,
    /// The function: its qualified name from 3.11 on, its name before.
    pub function: String,
    /// Whether the code object was freed after the call.
    pub passing: bool,
}

/// A stack at the call that took a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrueStack {
    /// The block's size, which no other has.
    pub bytes: u64,
    /// What part of the program it was.
    pub case: String,
    /// Innermost first.
    pub frames: Vec<TrueFrame>,
}

/// Cases in which the interpreter gives fewer frames than there are calls of its loop, and a report says that the two do
/// not fit: another interpreter of the process is called from frames of the first; and up to CPython 3.9 a generator that
/// throws into the one it delegates to is not linked to its caller (Objects/genobject.c, `_gen_throw`).
const SHORTER: [&str; 2] = ["interpreters", "generators"];

/// What a report must say of Python's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// File, line and function.
    Lines,
    /// File and function, and the line where that can be told.
    Names,
    /// Nothing: native frames only.
    Nothing,
}

/// Reads what a program has noted.
pub fn read(path: &Path) -> Vec<TrueStack> {
    let text = std::fs::read_to_string(path).expect("the noted stacks can be read");
    let truth: Value = serde_json::from_str(&text).expect("the noted stacks are JSON");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let number = |value: &Value| value.as_u64().expect("a number");
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let codes = list(&truth["codes"]);
    let frame = |pair: &[Value]| {
        let code = &codes[number(&pair[0]) as usize];
        TrueFrame {
            file: text(&code[0]),
            function: text(&code[1]),
            passing: code[2].as_bool().expect("yes or no"),
            line: number(&pair[1]),
        }
    };
    list(&truth["stacks"])
        .iter()
        .map(|stack| TrueStack {
            bytes: number(&stack[0]),
            case: text(&stack[1]),
            frames: list(&stack[2]).chunks(2).map(frame).collect(),
        })
        .collect()
}

/// The survivors of a report by the sizes of their blocks.
pub struct Survivors<'a>(BTreeMap<u64, Vec<Survivor<'a>>>);

impl<'a> Survivors<'a> {
    /// Those of a report with `--show-blocks`.
    pub fn of(report: &'a Report) -> Self {
        let mut by_size: BTreeMap<u64, Vec<Survivor<'a>>> = BTreeMap::new();
        for survivor in report.survivors() {
            let blocks = survivor.0["block_list"]
                .as_array()
                .expect("--show-blocks was given");
            for block in blocks {
                let bytes = block["bytes"].as_u64().expect("a block has a size");
                by_size.entry(bytes).or_default().push(survivor);
            }
        }
        Self(by_size)
    }

    /// How the report differs from the truth, a text a stack that is not the same.
    pub fn differences(&self, truth: &[TrueStack], told: Told) -> Vec<String> {
        truth
            .iter()
            .filter_map(|stack| self.difference(stack, told))
            .collect()
    }

    fn difference(&self, truth: &TrueStack, told: Told) -> Option<String> {
        let said = |what: &str| format!("{} ({} bytes): {what}", truth.case, truth.bytes);
        let survivor = match self.0.get(&truth.bytes).map(Vec::as_slice) {
            Some([survivor]) => survivor,
            None | Some([]) => return Some(said("no survivor")),
            Some(several) => return Some(said(&format!("{} survivors", several.len()))),
        };
        if survivor.frames().first().is_none_or(is_python) {
            return Some(said("the innermost frame is not the allocator's"));
        }
        if told != Told::Nothing
            && let Some(frame) = survivor.frames().iter().find(|frame| evaluates(frame))
            && !(SHORTER.contains(&truth.case.as_str()) && survivor.0["mismatch"] == true)
        {
            return Some(said(&format!("a frame of the interpreter is shown: {frame}")));
        }
        let got: Vec<&Value> = survivor
            .frames()
            .iter()
            .filter(|frame| is_python(frame))
            .collect();
        let wanted = if told == Told::Nothing {
            &[]
        } else {
            &truth.frames[..]
        };
        let same = |at: &usize| match (got.get(*at), wanted.get(*at)) {
            (Some(got), Some(wanted)) => is_same(got, wanted, told),
            (got, wanted) => got.is_none() && wanted.is_none(),
        };
        let at = (0..got.len().max(wanted.len())).find(|at| !same(at))?;
        let shown = |frame: &&Value| format!("{}:{} in {}", frame["file"], frame["line"], frame["symbol"]);
        Some(said(&format!(
            "frame {at} of {} is\n    {}\n  and must be (of {})\n    {}",
            got.len(),
            got.get(at).map_or_else(|| "none".to_owned(), shown),
            wanted.len(),
            wanted.get(at).map_or_else(
                || "none".to_owned(),
                |frame| format!("{:?}:{} in {:?}", frame.file, frame.line, frame.function)
            ),
        )))
    }
}

/// Whether a frame of a report is Python's.
pub fn is_python(frame: &Value) -> bool {
    frame["lang"] == "python"
}

/// Whether a frame is the interpreter's loop, which Python's frames stand for, and shown all the same.
fn evaluates(frame: &Value) -> bool {
    let symbol = frame["symbol"].as_str().unwrap_or_default();
    frame["plumbing"] != true && symbol.starts_with("_PyEval_Eval")
}

fn is_same(got: &Value, wanted: &TrueFrame, told: Told) -> bool {
    let symbol = got["symbol"].as_str().unwrap_or_default();
    // Its memory was used for something else before it could be read; another function's name would be a lie.
    if wanted.passing && symbol.starts_with("<code 0x") && got["file"].is_null() {
        return true;
    }
    let line = got["line"].as_u64();
    let is_right = line == Some(wanted.line) || told == Told::Names && line.is_none();
    // Nothing of a target's moves the cursor of a terminal.
    let file = wanted.file.replace(char::is_control, "\u{fffd}");
    symbol == wanted.function && got["file"] == file.as_str() && is_right
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(frames: &Value) -> Report {
        Report::from_value(json!({"survivors": [{"frames": frames, "block_list": [{"bytes": 7}]}]}))
    }

    fn frame(line: u64, function: &str) -> Value {
        json!({"lang": "python", "file": "a.py", "line": line, "symbol": function})
    }

    fn truth(passing: bool) -> [TrueStack; 1] {
        let frame = |line, function: &str| TrueFrame {
            file: "a.py".to_owned(),
            line,
            function: function.to_owned(),
            passing,
        };
        [TrueStack {
            bytes: 7,
            case: "a case".to_owned(),
            frames: vec![frame(1, "inner"), frame(2, "outer")],
        }]
    }

    fn differences(frames: &Value, told: Told) -> usize {
        let report = report(frames);
        Survivors::of(&report).differences(&truth(false), told).len()
    }

    #[test]
    fn a_stack_is_the_same_only_whole_and_in_order() {
        let malloc = json!({"lang": "native", "symbol": "malloc"});
        let (inner, outer) = (frame(1, "inner"), frame(2, "outer"));
        assert_eq!(differences(&json!([malloc, inner, outer]), Told::Lines), 0);
        assert_eq!(
            differences(&json!([malloc, inner, malloc, outer, malloc]), Told::Lines),
            0
        );
        assert_eq!(differences(&json!([malloc, outer, inner]), Told::Lines), 1);
        assert_eq!(differences(&json!([malloc, inner]), Told::Lines), 1);
        assert_eq!(differences(&json!([malloc, inner, outer, outer]), Told::Lines), 1);
        assert_eq!(
            differences(&json!([malloc, inner, frame(3, "outer")]), Told::Lines),
            1
        );
        assert_eq!(
            differences(&json!([malloc, inner, frame(2, "another")]), Told::Lines),
            1
        );
        assert_eq!(differences(&json!([inner, outer]), Told::Lines), 1);
        assert_eq!(differences(&json!([malloc]), Told::Nothing), 0);
        assert_eq!(differences(&json!([malloc, inner]), Told::Nothing), 1);
        let loop_ = json!({"lang": "native", "symbol": "_PyEval_EvalFrameDefault"});
        assert_eq!(differences(&json!([malloc, inner, loop_, outer]), Told::Lines), 1);
    }

    #[test]
    fn what_is_gone_may_be_without_a_name_and_never_with_anothers() {
        let gone = json!({"lang": "python", "file": null, "line": null, "symbol": "<code 0x7f01>"});
        let malloc = json!({"lang": "native", "symbol": "malloc"});
        let report = report(&json!([malloc, gone, frame(2, "outer")]));
        let survivors = Survivors::of(&report);
        assert_eq!(
            survivors.differences(&truth(true), Told::Lines),
            Vec::<String>::new()
        );
        assert_eq!(survivors.differences(&truth(false), Told::Lines).len(), 1);
        let stale = self::report(&json!([malloc, frame(1, "another"), frame(2, "outer")]));
        assert_eq!(
            Survivors::of(&stale).differences(&truth(true), Told::Lines).len(),
            1
        );
    }
}
