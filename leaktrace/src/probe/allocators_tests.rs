//! The table is sound: names, numbers and shapes.

use super::*;
use std::collections::HashSet;

#[test]
fn prefixes_of_allocator_builds_lead_to_the_plain_row() {
    for name in [
        "malloc",
        "je_malloc",
        "_rjem_malloc",
        "_rjem_je_malloc",
        "tc_malloc",
        "duckdb_je_malloc",
    ] {
        assert_eq!(find(name).unwrap().call, "malloc", "{name}");
    }
    assert_eq!(find("je_mallocx").unwrap().call, "mallocx");
    assert_eq!(find("mi_malloc_aligned").unwrap().call, "mi_malloc_aligned");
    assert_eq!(find("tc_new").unwrap().call, "operator new");
    for name in [
        "tc_mallocx",
        "mi_mi_malloc",
        "je_mi_malloc",
        "xmalloc",
        "malloc_usable_size",
        "je_",
        "",
    ] {
        assert!(find(name).is_none(), "{name}");
    }
    assert!(find(&"m".repeat(100_000)).is_none());
}

#[test]
fn every_name_belongs_to_one_row_and_fits_the_length_test() {
    let mut seen = HashSet::new();
    for row in ROWS {
        for name in row.names {
            assert!(seen.insert(*name), "{name} is in two rows");
            assert!(name.len() + 20 < LONGEST_NAME_BYTES, "{name}");
        }
    }
    assert!(index().keys().all(|name| name.len() <= LONGEST_NAME_BYTES));
}

#[test]
fn call_numbers_lead_back_to_the_names() {
    for row in ROWS {
        let id = call_id(row);
        assert!(id > 0 && id < FIRST_CUSTOM_CALL);
        assert_eq!(call_name(id), row.call);
    }
    assert_eq!(
        call_id(find("__libc_malloc").unwrap()),
        call_id(find("malloc").unwrap())
    );
    assert_eq!(call_name(0), "unknown");
    assert_eq!(call_name(custom_call_id(3)), "custom");
    let pool = super::super::custom::parse_free("pool_put(ptr=arg0)").unwrap();
    assert_eq!(
        call_name_with(custom_call_id(0), std::slice::from_ref(&pool)),
        "pool_put"
    );
    assert_eq!(
        call_name_with(custom_call_id(1), std::slice::from_ref(&pool)),
        "custom"
    );
    assert_eq!(call_name_with(1, &[]), "malloc");
}

#[test]
fn shapes_say_where_size_pointer_and_result_are() {
    let shape = |name: &str| find(name).unwrap().shape;
    assert_eq!(shape("calloc"), alloc(Arg::new(1), Arg::new(0)));
    assert_eq!(shape("posix_memalign").result, ResultIn::OutPointer);
    assert_eq!(shape("aligned_alloc").size, Arg::new(1));
    assert!(shape("mi_reallocf").frees_on_failure && shape("reallocf").frees_on_failure);
    assert!(!shape("realloc").frees_on_failure);
    assert!(shape("free_sized").delegates && !shape("free").delegates && !shape("mi_free").delegates);
    assert_eq!(shape("mi_heap_recalloc_aligned_at").size, Arg::new(3));
    for row in ROWS {
        match row.shape.op {
            Op::Alloc if row.call == NEW_POOL => assert_eq!(row.shape.space, Space::PythonPool),
            Op::Alloc => assert!(row.shape.size != NONE, "{}", row.call),
            Op::Realloc => assert!(
                row.shape.size != NONE && row.shape.pointer != NONE,
                "{}",
                row.call
            ),
            Op::Free => assert!(row.shape.pointer != NONE && !row.may_throw, "{}", row.call),
        }
    }
}

#[test]
fn what_maps_arenas_is_of_their_space_and_of_no_heap() {
    for name in ["mmap", "mmap64", "munmap"] {
        let row = find(name).unwrap();
        assert_eq!(row.shape.space, Space::PythonArena, "{name}");
        assert_eq!(row.taken, Taken::WithInterpreter, "{name}");
    }
    assert_eq!(find("mmap").unwrap().shape.size, Arg::new(1));
    assert_eq!(find("mmap64").unwrap().call, "mmap");
    assert!(find("je_mmap").is_none() && find("__mmap").is_none() && find("mremap").is_none());
    for row in ROWS {
        let beside = row.taken == Taken::WithInterpreter;
        let space = row.shape.space;
        let of_python = space == Space::PythonArena || space == Space::PythonPool;
        assert_eq!(of_python, beside, "{}", row.call);
    }
}

#[test]
fn what_may_throw_is_marked() {
    for name in [
        "_Znwm",
        "_ZnamSt11align_val_t",
        "tc_new",
        "mi_new",
        "mi_new_reallocn",
    ] {
        assert!(find(name).unwrap().may_throw, "{name}");
    }
    for name in [
        "malloc",
        "_ZnwmRKSt9nothrow_t",
        "tc_new_nothrow",
        "mi_new_nothrow",
        "_ZdlPv",
    ] {
        assert!(!find(name).unwrap().may_throw, "{name}");
    }
}
