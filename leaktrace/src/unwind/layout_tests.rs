//! Layouts of address spaces as they are found.

use leaktrace_common::unwind::Row;

use super::*;
use crate::unwind::table::Segment;

fn mapped(start: u64, end: u64, file_offset: u64, name: &str) -> Mapping {
    Mapping {
        start,
        end,
        file_offset,
        object: None,
        name: name.to_owned(),
        executable: true,
    }
}

/// As lld lays a program out: its code begins within a page of the file and is mapped one page further.
fn lld() -> Table {
    Table {
        segments: vec![Segment {
            file_offset: 0x1640,
            address: 0x20_2640,
            size_bytes: 0x5000,
        }],
        first_page: 0x20,
        page_rows: vec![0, 1],
        rows: vec![Row::new(0, 0)],
        ..Table::default()
    }
}

fn kinds(plan: &Plan) -> Vec<(u64, u64, u32)> {
    let stretch = |mapping: &CodeMapping| (mapping.begin, mapping.end, mapping.kind);
    plan.mappings.iter().map(stretch).collect()
}

#[test]
fn code_that_begins_within_a_page_has_the_right_bias() {
    let table = lld();
    let mappings = [mapped(0x5555_0000_3000, 0x5555_0000_9000, 0x1000, "/a")];
    let plan = plan(&mappings, |_| Code::Table {
        table: &table,
        page_base: 7,
    });
    let expected = CodeMapping {
        begin: 0x5555_0000_3000,
        end: 0x5555_0000_9000,
        bias: 0x5555_0000_3000 - 0x20_2000,
        page_base: 7,
        first_page: 0x20,
        page_count: 1,
        kind: mapping::TABLE,
    };
    assert_eq!(plan.mappings, [expected]);
}

#[test]
fn a_mapping_that_was_cut_is_one_stretch_unless_something_lies_between() {
    let table = lld();
    let code = |_: &Mapping| Code::Table {
        table: &table,
        page_base: 7,
    };
    let whole = [
        mapped(0x10_0000, 0x10_2000, 0x1000, "/a"),
        mapped(0x10_2000, 0x10_3000, 0x3000, "/a"),
    ];
    let plan_of_both = plan(&whole, code);
    assert_eq!(kinds(&plan_of_both), [(0x10_0000, 0x10_3000, mapping::TABLE)]);
    let apart = [
        mapped(0x10_0000, 0x10_2000, 0x1000, "/a"),
        // The same file once more, elsewhere.
        mapped(0x10_2000, 0x10_3000, 0x1000, "/a"),
    ];
    assert_eq!(plan(&apart, code).mappings.len(), 2);
}

#[test]
fn code_without_tables_is_walked_by_frame_pointers() {
    let (table, empty) = (lld(), Table::default());
    let mappings = [
        mapped(0x1000, 0x2000, 0, ""),
        mapped(0x2000, 0x3000, 0, "//anon"),
        mapped(0x4000, 0x5000, 0, "/go"),
        // Of a file with a table, but from where that has no code.
        mapped(0x6000, 0x7000, 0x1_0000, "/a"),
        mapped(0x8000, 0x9000, 0, "/new"),
    ];
    let plan = plan(&mappings, |mapping| match mapping.name.as_str() {
        "/go" => Code::Table {
            table: &empty,
            page_base: 0,
        },
        "/a" => Code::Table {
            table: &table,
            page_base: 0,
        },
        "/new" => Code::Pending,
        _ => Code::FramePointer,
    });
    let expected = [
        (0x1000, 0x3000, mapping::FRAME_POINTER),
        (0x4000, 0x5000, mapping::FRAME_POINTER),
        (0x6000, 0x7000, mapping::FRAME_POINTER),
        (0x8000, 0x9000, mapping::PENDING),
    ];
    assert_eq!(kinds(&plan), expected);
}

#[test]
fn what_is_no_code_of_the_program_is_left_out() {
    let data = Mapping {
        executable: false,
        ..mapped(0x3000, 0x4000, 0, "/a")
    };
    let mappings = [
        mapped(0x1000, 0x2000, 0, "[uprobes]"),
        mapped(0x2000, 0x3000, 0, "[vdso]"),
        data,
        mapped(0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000, 0, "[vsyscall]"),
    ];
    let plan = plan(&mappings, |_| Code::FramePointer);
    assert_eq!(kinds(&plan), [(0x2000, 0x3000, mapping::FRAME_POINTER)]);
    assert_eq!(plan.left_out, 0);
}

#[test]
fn hundreds_of_mappings_fit_and_what_does_not_is_counted() {
    let table = lld();
    let code = |_: &Mapping| Code::Table {
        table: &table,
        page_base: 7,
    };
    let many = |count: u64| -> Vec<Mapping> {
        (1..=count)
            .map(|at| mapped(at << 20, (at << 20) + 0x5000, 0x1000, "/a"))
            .collect()
    };
    for count in [300, LAYOUT_MAPPINGS_MAX as u64] {
        let mappings = many(count);
        let plan = plan(&mappings, code);
        assert_eq!((plan.mappings.len() as u64, plan.left_out), (count, 0));
        assert!(plan.mappings.is_sorted_by_key(|mapping| mapping.begin));
    }
    let mappings = many(LAYOUT_MAPPINGS_MAX as u64 + 9);
    let plan = plan(&mappings, code);
    assert_eq!((plan.mappings.len(), plan.left_out), (LAYOUT_MAPPINGS_MAX, 9));
}
