//! Functions of CPython that every program goes through: calls, lookups, the allocator. One of them says nothing of what
//! a Python line does; the others name a builtin (`list_append`, `dict_resize`).

/// Starts of their names. From Objects/call.c, methodobject.c, descrobject.c, typeobject.c, abstract.c, obmalloc.c,
/// Modules/gcmodule.c (Python/gc.c from 3.13) and Python/ceval.c of 3.8 to 3.14.
const STARTS: &[&str] = &[
    "_PyEval",
    "_Py_HandlePending",
    "PyEval_",
    "_TAIL_CALL_",
    "PyObject_",
    "_PyObject_",
    "PyMem_",
    "_PyMem_",
    "pymalloc_",
    "new_arena",
    "allocate_from_new_pool",
    "_mi_",
    "mi_",
    "_PyGC_",
    "PyGC_",
    "gc_",
    "PyVectorcall_",
    "_PyVectorcall_",
    "vectorcall",
    "method_vectorcall",
    "method_call",
    "object_vacall",
    "_PyFunction_",
    "function_code_fastcall",
    "call_function",
    "do_call_core",
    "_PyCFunction_",
    "PyCFunction_",
    "cfunction_",
    "_PyMethodDef_",
    "_PyMethodDescr_",
    "methoddescr_",
    "classmethoddescr_",
    "wrapperdescr_",
    "wrapper_",
    "wrap_",
    "slot_",
    "type_call",
    "PyType_GenericAlloc",
    "_PyType_Alloc",
    "_PyStack_",
    "_PyFrame_",
    "PyFrame_New",
    "_PyThreadState_",
    "push_chunk",
    "_PyDataStack",
    "PyNumber_",
    "PySequence_",
    "PyMapping_",
    "PyIter_",
    "binary_op",
    "binary_iop",
    "ternary_op",
    "_Py_Call",
    "_Py_Dealloc",
    "Py_RunMain",
    "Py_BytesMain",
    "Py_Main",
    "pymain_",
    "PyRun_",
    "_PyRun_",
    "run_mod",
    "run_eval_code_obj",
    "thread_run",
    "pythread_wrapper",
    "main",
];

/// Whether a function of the interpreter is one of these.
pub(super) fn is_machinery(symbol: &str) -> bool {
    STARTS.iter().any(|start| symbol.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builtin_is_told_from_the_way_to_it() {
        for way in [
            "_PyEval_Vector",
            "PyObject_Vectorcall",
            "_PyObject_GC_New",
            "PyMem_RawMalloc",
            "cfunction_vectorcall_FASTCALL",
            "method_vectorcall_O.lto_priv.0",
            "vectorcall_method",
            "call_function.isra.0",
        ] {
            assert!(is_machinery(way), "{way}");
        }
        for builtin in [
            "list_append",
            "dict_resize",
            "PyList_New",
            "builtin_sorted",
            "unicode_concatenate",
            "_PyLong_New",
        ] {
            assert!(!is_machinery(builtin), "{builtin}");
        }
    }
}
