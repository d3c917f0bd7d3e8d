//! Stacks as each version leaves them, whole and cut.

use super::*;
use leaktrace_common::stack::FRAMES_MAX;

/// A native stack from its functions. Those of the loop and of the interpreter are told by their names.
fn native<'a>(functions: &[&'a str]) -> Vec<Native<'a>> {
    let frame = |name: &&'a str| Native {
        place: match *name {
            "eval" => Place::Evaluator,
            "part" => Place::EvaluatorPart,
            name if name.starts_with("ext_") || name.starts_with("libc_") => Place::Outside,
            _ => Place::Interpreter,
        },
        symbol: Some(*name).filter(|name| *name != "?"),
    };
    functions.iter().map(frame).collect()
}

/// Frames by letter: a capital was entered from C, `|` is a mark.
fn python(frames: &str) -> Vec<PythonFrame> {
    let frame = |letter: char| PythonFrame {
        code: match letter {
            '|' => PythonFrame::ENTRY,
            letter => u64::from(u32::from(letter)) << 4 | u64::from(letter.is_uppercase()),
        },
        ..PythonFrame::default()
    };
    frames.chars().map(frame).collect()
}

/// What a person sees: Python frames by their letter, plumbing in brackets.
fn shown(stack: &Stack, native: &[Native<'_>], python: &[PythonFrame]) -> String {
    let word = |frame: &Merged| match *frame {
        Merged::Native { index, plumbing } => {
            let name = native[index].symbol.unwrap_or("?");
            if plumbing {
                format!("({name})")
            } else {
                name.to_owned()
            }
        }
        Merged::Python(index) => char::from_u32((python[index].code_address() >> 4) as u32)
            .unwrap()
            .to_string(),
    };
    stack.frames.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Merges, and checks that nothing is left over.
fn merged(functions: &[&str], frames: &str) -> String {
    let (native, python) = (native(functions), python(frames));
    let stack = merge(&native, &python);
    assert!(!stack.is_mismatch(true, true), "{stack:?}");
    shown(&stack, &native, &python)
}

#[test]
fn an_evaluator_is_one_frame_up_to_3_10() {
    let functions = [
        "libc_malloc",
        "PyMem_Malloc",
        "list_append",
        "eval",
        "_PyFunction_Vectorcall",
    ];
    let functions = [
        &functions[..],
        &["eval", "PyEval_EvalCode", "Py_RunMain", "libc_start"],
    ]
    .concat();
    assert_eq!(
        merged(&functions, "BA"),
        "libc_malloc (PyMem_Malloc) list_append B (_PyFunction_Vectorcall) A (PyEval_EvalCode) (Py_RunMain) libc_start"
    );
}

#[test]
fn an_evaluator_is_all_frames_up_to_the_entry_in_3_11() {
    let functions = [
        "libc_malloc",
        "eval",
        "slot_tp_call",
        "eval",
        "main",
        "libc_start",
    ];
    assert_eq!(
        merged(&functions, "dcBaA"),
        "libc_malloc d c B (slot_tp_call) a A (main) libc_start"
    );
}

#[test]
fn marks_end_an_activation_from_3_12_and_are_dropped() {
    let functions = ["libc_malloc", "eval", "slot_tp_call", "eval", "libc_start"];
    assert_eq!(
        merged(&functions, "dcb|a|"),
        "libc_malloc d c b (slot_tp_call) a libc_start"
    );
}

#[test]
fn an_evaluator_that_has_no_frame_yet_stands_for_none() {
    let functions = ["libc_malloc", "eval", "slot_tp_call", "eval", "libc_start"];
    assert_eq!(
        merged(&functions, "|a|"),
        "libc_malloc (slot_tp_call) a libc_start"
    );
    // Nor does it end what lies between the allocator and the first Python frame.
    let functions = ["libc_malloc", "eval", "list_sort", "eval", "libc_start"];
    assert_eq!(merged(&functions, "|a|"), "libc_malloc list_sort a libc_start");
}

#[test]
fn the_parts_of_an_evaluator_are_one_activation() {
    let functions = [
        "libc_malloc",
        "part",
        "eval",
        "slot_tp_call",
        "part",
        "eval",
        "libc_start",
    ];
    assert_eq!(
        merged(&functions, "b|a|"),
        "libc_malloc b (slot_tp_call) a libc_start"
    );
    // Two evaluators in a row are two: link-time optimisation has left out the call between them.
    assert_eq!(
        merged(&["libc_malloc", "eval", "eval", "libc_start"], "BA"),
        "libc_malloc B A libc_start"
    );
}

#[test]
fn c_functions_that_call_back_stand_between_their_python_frames() {
    // sorted(key=...): the interpreter's own.
    let sorted = [
        "libc_malloc",
        "eval",
        "_PyEval_Vector",
        "list_sort",
        "builtin_sorted",
    ];
    let sorted = [&sorted[..], &["cfunction_vectorcall", "eval", "main"]].concat();
    assert_eq!(
        merged(&sorted, "b|a|"),
        "libc_malloc b (_PyEval_Vector) (list_sort) (builtin_sorted) (cfunction_vectorcall) a (main)"
    );
    // A callback of ctypes: through an extension and a library.
    let ctypes = [
        "libc_malloc",
        "eval",
        "PyObject_Vectorcall",
        "ext_closure",
        "ext_qsort",
    ];
    let ctypes = [
        &ctypes[..],
        &["ext_ffi_call", "_PyObject_MakeTpCall", "eval", "main"],
    ]
    .concat();
    assert_eq!(
        merged(&ctypes, "BA"),
        "libc_malloc B (PyObject_Vectorcall) ext_closure ext_qsort ext_ffi_call (_PyObject_MakeTpCall) A (main)"
    );
}

#[test]
fn generators_are_entered_from_c_or_not() {
    // Up to 3.11 `next` calls the evaluator anew.
    let functions = [
        "libc_malloc",
        "eval",
        "gen_send_ex",
        "gen_iternext",
        "eval",
        "main",
    ];
    assert_eq!(
        merged(&functions, "GA"),
        "libc_malloc G (gen_send_ex) (gen_iternext) A (main)"
    );
    // From 3.12 a loop over one goes on in the same evaluator.
    assert_eq!(
        merged(&["libc_malloc", "eval", "main"], "ga|"),
        "libc_malloc g a (main)"
    );
}

#[test]
fn extensions_and_libraries_are_never_plumbing() {
    let functions = [
        "libc_malloc",
        "ext_alloc",
        "ext_zeros",
        "cfunction_vectorcall",
        "eval",
        "main",
    ];
    assert_eq!(
        merged(&functions, "a|"),
        "libc_malloc ext_alloc ext_zeros (cfunction_vectorcall) a (main)"
    );
}

#[test]
fn one_builtin_is_shown_the_outermost() {
    let functions = ["libc_malloc", "PyMem_Realloc", "list_resize", "list_extend"];
    let functions = [
        &functions[..],
        &["list_vectorcall", "PyObject_Vectorcall", "eval"],
    ]
    .concat();
    assert_eq!(
        merged(&functions, "A"),
        "libc_malloc (PyMem_Realloc) (list_resize) (list_extend) list_vectorcall (PyObject_Vectorcall) A"
    );
    // Without symbols all of it is hidden.
    assert_eq!(
        merged(&["libc_malloc", "?", "?", "eval"], "A"),
        "libc_malloc (?) (?) A"
    );
}

#[test]
fn without_python_frames_nothing_is_hidden() {
    let functions = native(&["libc_malloc", "PyMem_Malloc", "Py_InitializeFromConfig", "main"]);
    let stack = merge(&functions, &[]);
    assert_eq!(
        shown(&stack, &functions, &[]),
        "libc_malloc PyMem_Malloc Py_InitializeFromConfig main"
    );
    assert!(!stack.is_mismatch(true, true));
    // A thread that C code has made.
    let functions = native(&["libc_malloc", "ext_work", "libc_start_thread"]);
    assert_eq!(
        shown(&merge(&functions, &[]), &functions, &[]),
        "libc_malloc ext_work libc_start_thread"
    );
}

#[test]
fn python_frames_outlast_a_native_stack_that_was_cut() {
    let functions = native(&["libc_malloc", "eval", "slot_tp_call"]);
    let frames = python("cBaA");
    let stack = merge(&functions, &frames);
    assert_eq!(
        shown(&stack, &functions, &frames),
        "libc_malloc c B (slot_tp_call) a A"
    );
    assert_eq!((stack.left_python, stack.left_evaluators), (2, 0));
    assert!(!stack.is_mismatch(false, true) && stack.is_mismatch(true, true));
}

#[test]
fn evaluators_outlast_a_python_walk_that_was_cut() {
    let functions = native(&[
        "libc_malloc",
        "eval",
        "slot_tp_call",
        "eval",
        "PyEval_EvalCode",
        "eval",
        "main",
    ]);
    let frames = python("cb");
    let stack = merge(&functions, &frames);
    // What cannot be replaced is not hidden.
    assert_eq!(
        shown(&stack, &functions, &frames),
        "libc_malloc c b (slot_tp_call) eval PyEval_EvalCode eval main"
    );
    assert_eq!((stack.left_python, stack.left_evaluators), (0, 2));
    assert!(!stack.is_mismatch(true, false) && stack.is_mismatch(true, true));
}

#[test]
fn a_native_stack_without_a_known_evaluator_keeps_its_python_frames() {
    let functions = native(&["libc_malloc", "ext_zeros", "?", "main"]);
    let frames = python("ba|");
    let stack = merge(&functions, &frames);
    assert_eq!(
        shown(&stack, &functions, &frames),
        "libc_malloc ext_zeros (?) (main) b a"
    );
    assert!(stack.is_mismatch(true, true));
}

#[test]
fn a_deep_recursion_is_whole_although_its_native_part_is_cut() {
    // Through C at every level: three native frames each.
    let level = ["eval", "_PyEval_Vector", "slot_tp_call"];
    let functions: Vec<&str> = std::iter::once("libc_malloc")
        .chain(level.into_iter().cycle())
        .take(FRAMES_MAX)
        .collect();
    let (functions, frames) = (native(&functions), python(&"R".repeat(500)));
    let stack = merge(&functions, &frames);
    let order: Vec<usize> = stack
        .frames
        .iter()
        .filter_map(|frame| match frame {
            Merged::Python(index) => Some(*index),
            Merged::Native { .. } => None,
        })
        .collect();
    assert_eq!(order, (0..500).collect::<Vec<_>>());
    assert_eq!(stack.left_python, 500 - (FRAMES_MAX - 1).div_ceil(3));
    assert!(!stack.is_mismatch(false, true));
}
