//! From what a process has mapped to what the kernel side searches: its code, sorted, each stretch with how to find
//! the rules for it. Pure.

use leaktrace_common::unwind::{CodeMapping, LAYOUT_MAPPINGS_MAX, mapping};

use super::table::Table;
use crate::symbol::mappings::Mapping;

/// What is known of the code in a mapping.
#[derive(Clone, Copy, Debug)]
pub enum Code<'a> {
    /// It has a table.
    Table {
        /// The table.
        table: &'a Table,
        /// Index of its first page in the kernel.
        page_base: u32,
    },
    /// It has none and never will have.
    FramePointer,
    /// Its table is not there yet, or could not be kept.
    Pending,
}

/// The name of the kernel's own code in every process.
pub const VDSO: &str = "[vdso]";

/// Mappings of the kernel's that no frame is ever in: the code of `[vsyscall]` is emulated, and the kernel side puts
/// the true return address in the place of one that leads to `[uprobes]`.
const NEVER_IN_A_STACK: [&str; 2] = ["[vsyscall]", "[uprobes]"];

/// The layout of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Sorted by address, without overlaps.
    pub mappings: Vec<CodeMapping>,
    /// Mappings for which there was no room.
    pub left_out: usize,
}

/// Makes the layout of mappings, which must be sorted and not overlap. `code` says what is known of one.
pub fn plan<'m, 't>(
    mappings: impl IntoIterator<Item = &'m Mapping>,
    mut code: impl FnMut(&Mapping) -> Code<'t>,
) -> Plan {
    let mut plan = Plan::default();
    for mapping in mappings {
        if !mapping.executable || NEVER_IN_A_STACK.contains(&mapping.name.as_str()) {
            continue;
        }
        let new = code_mapping(mapping, code(mapping));
        if let Some(last) = plan.mappings.last_mut()
            && continues(last, &new)
        {
            last.end = new.end;
        } else if plan.mappings.len() < LAYOUT_MAPPINGS_MAX {
            plan.mappings.push(new);
        } else {
            plan.left_out += 1;
        }
    }
    plan
}

fn code_mapping(at: &Mapping, code: Code<'_>) -> CodeMapping {
    let stretch = CodeMapping {
        begin: at.start,
        end: at.end,
        ..CodeMapping::default()
    };
    let kind = match code {
        Code::Table { table, page_base } if !table.rows.is_empty() => {
            if let Some(bias) = table.bias(at.start, at.file_offset) {
                return CodeMapping {
                    bias,
                    page_base,
                    first_page: table.first_page,
                    page_count: table.page_count(),
                    kind: mapping::TABLE,
                    ..stretch
                };
            }
            // Executed from where its file has no code: whatever it is, the file does not describe it.
            mapping::FRAME_POINTER
        }
        // A file without any rows, as Go's linker makes them: built with frame pointers.
        Code::Table { .. } | Code::FramePointer => mapping::FRAME_POINTER,
        Code::Pending => mapping::PENDING,
    };
    CodeMapping { kind, ..stretch }
}

/// Whether one stretch goes on where the other ends.
fn continues(last: &CodeMapping, next: &CodeMapping) -> bool {
    last.end == next.begin
        && *last
            == CodeMapping {
                begin: last.begin,
                end: last.end,
                ..*next
            }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
