//! From addresses to functions, files and lines, for processes that live and processes that are gone.
//!
//! [`mappings`] says what was mapped where, [`objects`] holds the mapped files open, a [`Symbolizer`]
//! names what lies in them. Nothing here reads `/proc/PID` or knows of probes and blocks.

mod beneath;
pub mod blaze;
mod cache;
mod compressed;
mod content;
mod debug_file;
mod debuginfod;
mod demangle;
pub mod jit;
mod jitdump;
pub mod mappings;
pub mod objects;
mod reader;
mod worker;

use std::sync::Arc;

use crate::report::model;
use mappings::{Mapping, Mappings};
use objects::Objects;

/// One function at one address. An address in an inlined function has a frame for that and one for
/// each function around it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SymbolFrame {
    /// As the stack has it: for callers, the return address.
    pub address: u64,
    /// Path of the mapped file as the process sees it, `[vdso]` or `[anon]`; none where nothing is mapped.
    pub object: Option<Arc<str>>,
    /// Offset of `address` in that file.
    pub offset: Option<u64>,
    /// Build id of the file, hexadecimal.
    pub build_id: Option<Arc<str>>,
    /// Function, demangled.
    pub symbol: Option<Arc<str>>,
    /// Source file.
    pub file: Option<Arc<str>>,
    /// Line in it.
    pub line: Option<u32>,
    /// Whether the function was inlined into the next frame.
    pub inlined: bool,
    /// Of what language it is.
    pub lang: model::Lang,
    /// Whether it is only how an interpreter runs its programs.
    pub plumbing: bool,
}

impl SymbolFrame {
    /// The frame as the report shows it.
    pub fn to_report(&self) -> model::Frame {
        let text = |shared: &Option<Arc<str>>| shared.as_deref().map(str::to_owned);
        model::Frame {
            address: format!("{:#x}", self.address),
            lang: self.lang,
            object: text(&self.object),
            offset: self.offset.map(|offset| format!("{offset:#x}")),
            build_id: text(&self.build_id),
            symbol: text(&self.symbol),
            file: text(&self.file),
            line: self.line,
            inlined: self.inlined,
            plumbing: self.plumbing,
        }
    }
}

/// Names addresses.
pub trait Symbolizer {
    /// The frames of a stack: for each address at least one, innermost first. The first address is that
    /// of an instruction, all others are return addresses. What cannot be named is still a frame.
    ///
    /// All calls must be made with the same table of objects: what was found is kept by its numbers.
    fn frames(&mut self, mappings: &Mappings, objects: &Objects, addresses: &[u64]) -> Vec<Vec<SymbolFrame>>;
}

/// Index of the first address of a stack that a walk over frame pointers found. Those before are the
/// probed function and what its stack pointer led to: certain.
const FIRST_WALKED: usize = 2;

/// How many addresses of a stack to keep, and whether that is not all of them.
///
/// In code built without frame pointers the walk follows whatever is in the register: sooner or later
/// it yields an address that never held code, and nothing after that means anything.
pub fn clean(addresses: &[u64], mappings: &Mappings) -> (usize, bool) {
    if mappings.is_empty() {
        return (addresses.len(), false);
    }
    let garbage = |address: &u64| mappings.find_code(address.wrapping_sub(1)).is_none();
    match addresses.iter().skip(FIRST_WALKED).position(garbage) {
        Some(position) => (FIRST_WALKED + position, true),
        None => (addresses.len(), false),
    }
}

/// The address inside the instruction that a frame stands for: a return address belongs to the call
/// before it, which may be the last instruction of its function and of its line.
const fn lookup_address(index: usize, address: u64) -> u64 {
    if index == 0 {
        address
    } else {
        address.saturating_sub(1)
    }
}

/// What is known of a frame without any symbols.
fn bare_frame(address: u64, lookup: u64, mapping: Option<&Mapping>, objects: &Objects) -> SymbolFrame {
    let mut frame = SymbolFrame {
        address,
        ..SymbolFrame::default()
    };
    let Some(mapping) = mapping else {
        return frame;
    };
    // The offset of the return address, not of the instruction looked up, so that it fits `address`.
    let offset = mapping.offset_of(lookup).wrapping_add(address - lookup);
    let object = mapping.object.and_then(|id| objects.get(id));
    frame.build_id = object
        .and_then(|object| object.build_id.as_deref())
        .map(Arc::from);
    let anonymous = object.is_none() && !mapping.name.starts_with(['/', '[']) || mapping.name == "//anon";
    if anonymous {
        frame.object = Some(Arc::from("[anon]"));
    } else {
        let path = object.map(|object| object.path_in_process.to_string_lossy());
        let name = if mapping.name.is_empty() {
            path.as_deref().unwrap_or_default()
        } else {
            &mapping.name
        };
        frame.object = Some(printable(name));
        frame.offset = Some(offset);
    }
    frame
}

/// The text without control characters: names come from the target's files, and a report goes to a
/// terminal.
fn printable(text: &str) -> Arc<str> {
    if text.chars().any(char::is_control) {
        let replaced: String = text
            .chars()
            .map(|c| {
                if c.is_control() {
                    char::REPLACEMENT_CHARACTER
                } else {
                    c
                }
            })
            .collect();
        Arc::from(replaced)
    } else {
        Arc::from(text)
    }
}

#[cfg(test)]
mod tests {
    use super::mappings::ObjectId;
    use super::*;

    fn code(start: u64, end: u64, name: &str) -> Mapping {
        Mapping {
            start,
            end,
            file_offset: 0x1000,
            object: None,
            name: name.to_owned(),
            executable: true,
        }
    }

    #[test]
    fn chain_is_cut_at_the_first_address_outside_code() {
        let mut mappings = Mappings::new();
        mappings.insert(code(0x1000, 0x2000, "/bin/a"));
        mappings.insert(Mapping {
            executable: false,
            ..code(0x2000, 0x3000, "[heap]")
        });
        let stack = [0x1100, 0x1200, 0x1300, 0x2400, 0x1500];
        assert_eq!(clean(&stack, &mappings), (3, true));
        assert_eq!(clean(&stack[..3], &mappings), (3, false));
        // A call may be the last instruction of a mapping, never stand before its first.
        assert_eq!(clean(&[0, 0, 0x2000], &mappings), (3, false));
        assert_eq!(clean(&[0, 0, 0x1000], &mappings), (2, true));
        assert_eq!(clean(&[0, 0, 0], &mappings), (2, true));
    }

    #[test]
    fn the_first_two_addresses_are_certain() {
        let mut mappings = Mappings::new();
        mappings.insert(code(0x1000, 0x2000, "/bin/a"));
        assert_eq!(clean(&[7, 8], &mappings), (2, false));
        assert_eq!(clean(&[7, 8, 9], &mappings), (2, true));
        assert_eq!(clean(&[], &mappings), (0, false));
        assert_eq!(clean(&[7], &mappings), (1, false));
    }

    #[test]
    fn nothing_is_cut_where_no_mapping_is_known() {
        assert_eq!(clean(&[1, 2, 3, 4], &Mappings::new()), (4, false));
    }

    #[test]
    fn addresses_outside_files_keep_what_is_known_of_them() {
        let objects = Objects::new();
        let vdso = code(0x1000, 0x2000, "[vdso]");
        let frame = bare_frame(0x1800, 0x17ff, Some(&vdso), &objects);
        assert_eq!(
            (frame.object.as_deref(), frame.offset),
            (Some("[vdso]"), Some(0x1800))
        );
        for name in ["", "//anon"] {
            let frame = bare_frame(0x1800, 0x1800, Some(&code(0x1000, 0x2000, name)), &objects);
            assert_eq!((frame.object.as_deref(), frame.offset), (Some("[anon]"), None));
        }
        let frame = bare_frame(0x1800, 0x1800, None, &objects);
        assert_eq!((frame.address, frame.object, frame.offset), (0x1800, None, None));
    }

    #[test]
    fn a_file_that_could_not_be_opened_is_named() {
        let lost = Mapping {
            object: Some(ObjectId(7)),
            ..code(0x1000, 0x2000, "/lib/x\u{1b}[31m.so")
        };
        let frame = bare_frame(0x1000, 0x1000, Some(&lost), &Objects::new());
        assert_eq!(frame.object.as_deref(), Some("/lib/x\u{fffd}[31m.so"));
        assert_eq!(frame.offset, Some(0x1000));
    }

    #[test]
    fn report_frame_shows_numbers_as_text() {
        let frame = SymbolFrame {
            address: 0x7f00,
            object: Some(Arc::from("/bin/a")),
            offset: Some(0x10),
            build_id: Some(Arc::from("ab")),
            symbol: Some(Arc::from("main")),
            file: Some(Arc::from("/src/a.c")),
            line: Some(3),
            inlined: true,
            ..SymbolFrame::default()
        };
        let shown = frame.to_report();
        assert_eq!(
            (shown.address.as_str(), shown.offset.as_deref()),
            ("0x7f00", Some("0x10"))
        );
        assert_eq!(
            (shown.object.as_deref(), shown.build_id.as_deref()),
            (Some("/bin/a"), Some("ab"))
        );
        assert_eq!(
            (shown.symbol.as_deref(), shown.line, shown.inlined),
            (Some("main"), Some(3), true)
        );
        assert_eq!(shown.file.as_deref(), Some("/src/a.c"));
        assert_eq!(SymbolFrame::default().to_report().object, None);
    }
}
