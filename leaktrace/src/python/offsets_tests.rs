//! The offsets, compared with what a C compiler makes of the headers of every Python that is installed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{offsets::*, version::Version};

/// Prints `name offset`, one a line, for whatever version it is compiled with.
const PROGRAM: &str = r#"
#define Py_BUILD_CORE 1
#include <Python.h>
#include <stddef.h>
#include <stdio.h>
#define MINOR PY_MINOR_VERSION
#if MINOR >= 9
#include "internal/pycore_interp.h"
#include "internal/pycore_runtime.h"
#include "internal/pycore_gc.h"
#else
#include "code.h"
#include "internal/pycore_pystate.h"
#include "internal/pycore_pymem.h"
#endif
#if MINOR >= 11
#include "internal/pycore_frame.h"
#else
#include "frameobject.h"
#endif
#if MINOR >= 12
#include "internal/pycore_obmalloc.h"
#endif
#define SHOW(name, type, member) printf(name " %zu\n", offsetof(type, member))
int main(void) {
    SHOW("runtime.interpreters", _PyRuntimeState, interpreters.head);
    SHOW("runtime.initialized", _PyRuntimeState, initialized);
    SHOW("interpreter.next", PyInterpreterState, next);
    SHOW("interpreter.id", PyInterpreterState, id);
    SHOW("thread.next", PyThreadState, next);
    SHOW("thread.interpreter", PyThreadState, interp);
    SHOW("thread.id", PyThreadState, thread_id);
    SHOW("code.name", PyCodeObject, co_name);
    SHOW("code.filename", PyCodeObject, co_filename);
    SHOW("code.first_line", PyCodeObject, co_firstlineno);
    SHOW("text.length", PyASCIIObject, length);
    SHOW("text.state", PyASCIIObject, state);
    printf("text.ascii %zu\n", sizeof(PyASCIIObject));
    printf("text.compact %zu\n", sizeof(PyCompactUnicodeObject));
    SHOW("text.data", PyUnicodeObject, data);
    PyASCIIObject text = {0};
    text.state.kind = 1;
    printf("text.kind_shift %d\n", __builtin_ctz(*(unsigned *)&text.state));
    SHOW("text.bytes_length", PyVarObject, ob_size);
    SHOW("text.bytes", PyBytesObject, ob_sval);
    SHOW("gc.generations", struct _gc_runtime_state, generations);
    printf("gc.generation_stride %zu\n", sizeof(struct gc_generation));
    SHOW("gc.permanent", struct _gc_runtime_state, permanent_generation);
    SHOW("gc.collecting", struct _gc_runtime_state, collecting);
    printf("gc.head_bytes %zu\n", sizeof(PyGC_Head));
    SHOW("types.object_type", PyObject, ob_type);
    SHOW("types.items", PyVarObject, ob_size);
    SHOW("types.name", PyTypeObject, tp_name);
    SHOW("types.basic_bytes", PyTypeObject, tp_basicsize);
    SHOW("types.item_bytes", PyTypeObject, tp_itemsize);
    SHOW("types.flags", PyTypeObject, tp_flags);
    SHOW("types.base", PyTypeObject, tp_base);
    SHOW("types.dict", PyTypeObject, tp_dict);
    SHOW("types.dict_offset", PyTypeObject, tp_dictoffset);
    SHOW("types.heap_name", PyHeapTypeObject, ht_name);
    SHOW("types.heap_qualname", PyHeapTypeObject, ht_qualname);
    SHOW("types.list_items", PyListObject, ob_item);
    SHOW("types.list_allocated", PyListObject, allocated);
    SHOW("types.tuple_items", PyTupleObject, ob_item);
    SHOW("types.dict_used", PyDictObject, ma_used);
    SHOW("types.dict_keys", PyDictObject, ma_keys);
    SHOW("types.dict_values", PyDictObject, ma_values);
    SHOW("types.set_used", PySetObject, used);
    SHOW("types.set_mask", PySetObject, mask);
#if MINOR == 8
    SHOW("runtime.finalizing", _PyRuntimeState, finalizing);
    SHOW("runtime.gc", _PyRuntimeState, gc);
#else
    SHOW("runtime.finalizing", _PyRuntimeState, _finalizing);
    SHOW("interpreter.gc", PyInterpreterState, gc);
#endif
#if MINOR >= 12
    SHOW("runtime.key", _PyRuntimeState, autoTSSkey);
    SHOW("interpreter.modules", PyInterpreterState, imports.modules);
    SHOW("pools.state", PyInterpreterState, obmalloc);
    SHOW("pools.arenas", struct _obmalloc_state, mgmt.arenas);
    SHOW("pools.arena_count", struct _obmalloc_state, mgmt.maxarenas);
    printf("pools.arena_stride %zu\n", sizeof(struct arena_object));
    printf("pool_bytes %d\n", POOL_SIZE);
    printf("arena_bytes %d\n", ARENA_SIZE);
#else
    SHOW("runtime.key", _PyRuntimeState, gilstate.autoTSSkey);
    SHOW("runtime.current", _PyRuntimeState, gilstate.tstate_current);
    SHOW("interpreter.modules", PyInterpreterState, modules);
#endif
#if MINOR >= 11
    SHOW("code.qualname", PyCodeObject, co_qualname);
    SHOW("code.line_table", PyCodeObject, co_linetable);
    SHOW("code.bytecode", PyCodeObject, co_code_adaptive);
    SHOW("interpreter.threads", PyInterpreterState, threads.head);
    SHOW("frame.previous", _PyInterpreterFrame, previous);
#elif MINOR == 10
    SHOW("code.line_table", PyCodeObject, co_linetable);
#else
    SHOW("code.line_table", PyCodeObject, co_lnotab);
#endif
#if MINOR <= 10
    SHOW("code.guard", PyCodeObject, co_stacksize);
    SHOW("code.guard_end", PyCodeObject, co_names);
    SHOW("interpreter.threads", PyInterpreterState, tstate_head);
    SHOW("thread.frame", PyThreadState, frame);
    SHOW("frame.code", PyFrameObject, f_code);
    SHOW("frame.previous", PyFrameObject, f_back);
    SHOW("frame.position", PyFrameObject, f_lasti);
#elif MINOR == 11
    SHOW("code.guard", PyCodeObject, co_firstlineno);
    SHOW("code.guard_end", PyCodeObject, co_localspluskinds);
    SHOW("frame.code", _PyInterpreterFrame, f_code);
    SHOW("frame.position", _PyInterpreterFrame, prev_instr);
    SHOW("frame.entry", _PyInterpreterFrame, is_entry);
#elif MINOR == 12
    SHOW("frame.code", _PyInterpreterFrame, f_code);
    SHOW("frame.position", _PyInterpreterFrame, prev_instr);
#else
    SHOW("frame.code", _PyInterpreterFrame, f_executable);
    SHOW("frame.position", _PyInterpreterFrame, instr_ptr);
    SHOW("thread.frame", PyThreadState, current_frame);
#endif
#if MINOR == 11 || MINOR == 12
    SHOW("thread.frame", PyThreadState, cframe);
    SHOW("thread.structure_frame", _PyCFrame, current_frame);
#endif
#if MINOR >= 12
    SHOW("code.guard", PyCodeObject, co_stacksize);
    SHOW("code.guard_end", PyCodeObject, co_localsplusnames);
    SHOW("frame.entry", _PyInterpreterFrame, owner);
    printf("frame.entry_value %d\n", FRAME_OWNED_BY_CSTACK);
#endif
    return 0;
}
"#;

/// Folders with the headers of default builds.
fn installed() -> Vec<(Version, PathBuf)> {
    let pyenv = std::env::var_os("PYENV_ROOT").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".pyenv"),
        PathBuf::from,
    );
    let versions = fs::read_dir(pyenv.join("versions")).into_iter().flatten();
    versions
        .flatten()
        .map(|version| version.path().join("include"))
        .chain([PathBuf::from("/usr/include")])
        .flat_map(|include| fs::read_dir(include).into_iter().flatten())
        .flatten()
        .filter_map(|include| {
            let version = Version::of_name(include.file_name().to_str()?)?;
            Some((version, include.path()))
        })
        .filter(|(_, include)| include.join("internal").is_dir())
        .filter(|(version, _)| Offsets::of_version(*version).is_some())
        .collect()
}

/// What the program prints with the headers of a folder.
fn print(include: &Path) -> BTreeMap<String, u64> {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("offsets.c"), folder.path().join("offsets"));
    fs::write(&source, PROGRAM).unwrap();
    let compiled = Command::new("cc")
        .args([Path::new("-w"), Path::new("-I"), include, Path::new("-I")])
        .arg(include.join("internal"))
        .args([Path::new("-o"), &program, &source])
        .status();
    assert!(compiled.unwrap().success(), "{}", include.display());
    let printed = Command::new(program).output().unwrap();
    String::from_utf8(printed.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            let (name, number) = line.split_once(' ').unwrap();
            (name.to_owned(), number.parse().unwrap())
        })
        .collect()
}

/// The same names with the numbers of the table.
fn known(offsets: &Offsets) -> Vec<(&'static str, Option<u64>)> {
    let Offsets {
        code,
        text,
        frame,
        thread,
        interpreter,
        runtime,
        gc,
        types,
        pools,
        ..
    } = *offsets;
    let gc = gc.unwrap();
    let some = |number: u16| Some(u64::from(number));
    let wide = |number: u32| Some(u64::from(number));
    let has_entry = frame.entry_kind != leaktrace_common::python::entry::ALL;
    let mut known = vec![
        ("code.name", some(code.name)),
        ("code.qualname", code.qualname.map(u64::from)),
        ("code.filename", some(code.filename)),
        ("code.first_line", some(code.first_line)),
        ("code.line_table", some(code.line_table)),
        ("code.bytecode", some(code.bytecode).filter(|offset| *offset != 0)),
        ("code.guard", some(code.guard)),
        ("code.guard_end", some(code.guard + 32)),
        ("text.length", some(text.length)),
        ("text.state", some(text.state)),
        ("text.kind_shift", some(text.kind_shift)),
        ("text.ascii", some(text.ascii)),
        ("text.compact", some(text.compact)),
        ("text.data", some(text.data)),
        ("text.bytes_length", some(text.bytes_length)),
        ("text.bytes", some(text.bytes)),
        ("frame.code", some(frame.code)),
        ("frame.previous", some(frame.previous)),
        ("frame.position", some(frame.position)),
        ("frame.entry", some(frame.entry).filter(|_| has_entry)),
        ("thread.next", some(thread.next)),
        ("thread.interpreter", some(thread.interpreter)),
        ("thread.id", some(thread.id)),
        ("thread.frame", some(thread.frame)),
        ("thread.structure_frame", thread.structure_frame.map(u64::from)),
        ("interpreter.next", wide(interpreter.next)),
        ("interpreter.id", wide(interpreter.id)),
        ("interpreter.threads", wide(interpreter.threads)),
        ("interpreter.gc", interpreter.gc.map(u64::from)),
        ("interpreter.modules", wide(interpreter.modules)),
        ("runtime.interpreters", wide(runtime.interpreters)),
        ("runtime.initialized", wide(runtime.initialized)),
        ("runtime.finalizing", wide(runtime.finalizing)),
        ("runtime.key", wide(runtime.key)),
        ("runtime.current", runtime.current.map(u64::from)),
        ("runtime.gc", runtime.gc.map(u64::from)),
        ("gc.generations", some(gc.generations)),
        ("gc.generation_stride", some(gc.generation_stride)),
        ("gc.permanent", some(gc.permanent)),
        ("gc.collecting", some(gc.collecting)),
        ("gc.head_bytes", some(gc.head_bytes)),
        ("types.object_type", some(types.object_type)),
        ("types.items", some(types.items)),
        ("types.name", some(types.name)),
        ("types.basic_bytes", some(types.basic_bytes)),
        ("types.item_bytes", some(types.item_bytes)),
        ("types.flags", some(types.flags)),
        ("types.base", some(types.base)),
        ("types.dict", some(types.dict)),
        ("types.dict_offset", some(types.dict_offset)),
        ("types.heap_name", some(types.heap_name)),
        ("types.heap_qualname", some(types.heap_qualname)),
        ("types.list_items", some(types.list_items)),
        ("types.list_allocated", some(types.list_allocated)),
        ("types.tuple_items", some(types.tuple_items)),
        ("types.dict_used", some(types.dict_used)),
        ("types.dict_keys", some(types.dict_keys)),
        ("types.dict_values", some(types.dict_values)),
        ("types.set_used", some(types.set_used)),
        ("types.set_mask", some(types.set_mask)),
    ];
    if let Some(pools) = pools {
        known.extend([
            ("pools.state", wide(pools.state)),
            ("pools.arenas", some(pools.arenas)),
            ("pools.arena_count", some(pools.arena_count)),
            ("pools.arena_stride", some(pools.arena_stride)),
            ("pool_bytes", Some(offsets.pool_bytes())),
            ("arena_bytes", Some(offsets.arena_bytes())),
            ("frame.entry_value", some(frame.entry_value)),
        ]);
    }
    known
}

#[test]
fn they_are_those_of_the_headers() {
    let installed = installed();
    if installed.is_empty() {
        eprintln!("SKIPPED: no Python headers below PYENV_ROOT, ~/.pyenv or /usr/include");
        return;
    }
    for (version, include) in installed {
        let offsets = Offsets::of_version(version).unwrap();
        let mut printed = print(&include);
        for (name, number) in known(&offsets) {
            assert_eq!(number, printed.remove(name), "{version}: {name}");
        }
        assert!(printed.is_empty(), "{version}: {printed:?}");
    }
}
