//! Line tables against the interpreters' own answers.

use std::process::Command;

use proptest::prelude::*;
use serde::Deserialize;

use super::{super::installed::installed, *};

/// Prints of each function of some modules, one a line: first line, bytes of code, table, and what the interpreter says
/// the line is at each code unit and before the first, as runs of (units, line); -1 for no line.
const SCRIPT: &str = r#"
import ctypes, importlib.util, itertools, json, types
addr2line = ctypes.pythonapi.PyCode_Addr2Line
addr2line.argtypes = [ctypes.py_object, ctypes.c_int]
names = ["argparse", "inspect", "tempfile", "dataclasses", "typing", "asyncio.base_events", "unittest.mock",
         "_pydecimal", "pickletools", "zipfile", "pydoc", "turtle"]
def walk(code):
    lines = [addr2line(code, offset) for offset in range(0, len(code.co_code), 2)]
    table = code.co_linetable if hasattr(code, "co_linetable") else code.co_lnotab
    runs = [(len(list(group)), line) for line, group in itertools.groupby(lines)]
    print(json.dumps({"first": code.co_firstlineno, "before": addr2line(code, -1), "table": table.hex(), "runs": runs}))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            walk(constant)
for name in names:
    try:
        path = importlib.util.find_spec(name).origin
        source = open(path, encoding="utf-8").read()
    except (AttributeError, ImportError, OSError):
        continue
    walk(compile(source, path, "exec"))
# Lines that go back, that leap, and code without a line.
many = "x = (\n" + "\n" * 300 + "1 +\n" * 5 + "\n" * 70000 + "f(\n" + "y,\n" * 300 + "))\n"
odd = "def f():\n try:\n  with a as b:\n   yield 1\n except E as e:\n  return [x async for x in y]\n finally:\n  del z\n"
for source in [many, odd.replace("def", "async def").replace("return ", ""), "", "lambda: (yield)"]:
    walk(compile(source, "made up", "exec"))
"#;

#[derive(Deserialize)]
struct Truth {
    first: u32,
    before: i64,
    table: String,
    runs: Vec<(u64, i64)>,
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// The position of a code unit, as the kernel side gives it.
fn position(form: Form, unit: u64) -> u32 {
    match form {
        Form::Steps => unit as u32 * 2,
        Form::Ranges => unit as u32,
        Form::Locations { bytecode } => u32::from(bytecode) + unit as u32 * 2,
    }
}

#[test]
fn every_instruction_has_the_line_that_the_interpreter_says() {
    for python in installed() {
        let form = Form::of(&Offsets::of_version(python.version).unwrap());
        let output = Command::new(&python.program)
            .args(["-c", SCRIPT])
            .output()
            .unwrap();
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(error.contains("ctypes"), "{}: {error}", python.program.display());
            eprintln!("SKIPPED: {} has no ctypes", python.program.display());
            continue;
        }
        let (mut codes, mut units) = (0, 0);
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let truth: Truth = serde_json::from_str(line).unwrap();
            let table = LineTable::new(form, truth.first, bytes_of(&truth.table));
            let mut unit = 0;
            for &(len, line) in &truth.runs {
                for unit in unit..unit + len {
                    assert_eq!(
                        table.line(position(form, unit)),
                        u32::try_from(line).ok(),
                        "{} {line:?} unit {unit} of {:?}",
                        python.program.display(),
                        truth.runs
                    );
                }
                unit += len;
            }
            let before = position(form, 0).wrapping_sub(if form == Form::Ranges { 1 } else { 2 });
            assert_eq!(table.line(before).map(i64::from), Some(truth.before));
            if form != Form::Steps {
                assert_eq!(table.line(position(form, unit)), None, "behind the end");
            }
            (codes, units) = (codes + 1, units + unit);
        }
        eprintln!(
            "{}: {codes} code objects, {units} code units",
            python.program.display()
        );
        assert!(codes > 500, "{}", python.program.display());
    }
}

#[test]
fn a_position_that_is_no_position_has_no_line() {
    let table = LineTable::new(Form::Locations { bytecode: 200 }, 7, [0x80 | 10 << 3, 0, 0]);
    assert_eq!(table.line(198), Some(7));
    assert_eq!(table.line(200), Some(7));
    for position in [0, 196, 202, u32::MAX - 1, u32::MAX] {
        assert_eq!(table.line(position), None, "{position}");
    }
    for form in [Form::Steps, Form::Ranges] {
        assert_eq!(
            LineTable::new(form, 7, [4, 1]).line(u32::MAX),
            Some(7),
            "{form:?}"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_give_a_line_or_none(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        first in any::<u32>(),
        position in any::<u32>(),
        near in 0_u32..1000,
        bytecode in any::<u16>(),
    ) {
        for form in [Form::Steps, Form::Ranges, Form::Locations { bytecode }] {
            let table = LineTable::new(form, first, bytes.clone());
            table.line(position);
            table.line(near);
            table.line(u32::from(bytecode) + near);
        }
    }
}
