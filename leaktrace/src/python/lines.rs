//! The line tables of CPython's code objects, of all versions. Must not know where they come from.
//!
//! | version | table | an entry |
//! |---|---|---|
//! | up to 3.9 | `co_lnotab` (Objects/lnotab_notes.txt) | bytes of code, then a signed step of the line before the next |
//! | 3.10 | `co_linetable` (the same file; PEP 626) | bytes of code on a line, and the signed step to it; -128 for no line |
//! | from 3.11 | `co_linetable` (Objects/locations.md; PEP 657) | code units and where their source is, in five forms |

use super::offsets::Offsets;

/// Bytes of a code unit: an instruction, or a part of its inline cache.
const UNIT_BYTES: u64 = 2;

/// How a table is written, and what a position is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Up to 3.9: steps. A position is the byte of the last instruction, -1 before the first.
    Steps,
    /// 3.10: ranges. A position is the code unit of the last instruction, -1 before the first.
    Ranges,
    /// From 3.11 on: locations. A position is the byte of an instruction from the start of the code object.
    Locations {
        /// Where the first one is.
        bytecode: u16,
    },
}

impl Form {
    /// That of an interpreter.
    pub const fn of(offsets: &Offsets) -> Self {
        match offsets.version.minor {
            ..10 => Self::Steps,
            10 => Self::Ranges,
            _ => Self::Locations {
                bytecode: offsets.code.bytecode,
            },
        }
    }
}

/// Where a frame is in its code.
enum Place {
    BeforeFirst,
    /// The byte of the code, from the first instruction.
    Byte(u64),
}

/// A code object's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineTable {
    form: Form,
    first_line: u32,
    bytes: Box<[u8]>,
}

impl LineTable {
    /// The bytes as they are in the object. Behind the end of bytes that were cut off there are no lines.
    pub fn new(form: Form, first_line: u32, bytes: impl Into<Box<[u8]>>) -> Self {
        Self {
            form,
            first_line,
            bytes: bytes.into(),
        }
    }

    /// Bytes it takes.
    pub(super) const fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The line at a position (see [`Form`] for what that is); `None` for code that has no line, as the interpreter
    /// makes it up now and then, and for a position outside of the code.
    pub fn line(&self, position: u32) -> Option<u32> {
        let line = match self.place(position)? {
            Place::BeforeFirst => Some(self.first_line.into()),
            Place::Byte(byte) => match self.form {
                Form::Steps => Some(self.line_by_steps(byte)),
                Form::Ranges => self.line_by_ranges(byte),
                Form::Locations { .. } => self.line_by_locations(byte),
            },
        };
        line.and_then(|line| u32::try_from(line).ok())
    }

    /// What a position stands for; `None` if that is outside of the code.
    fn place(&self, position: u32) -> Option<Place> {
        let is_negative = position.cast_signed() < 0;
        Some(match self.form {
            Form::Steps | Form::Ranges if is_negative => Place::BeforeFirst,
            Form::Steps => Place::Byte(position.into()),
            Form::Ranges => Place::Byte(u64::from(position) * UNIT_BYTES),
            Form::Locations { bytecode } => {
                let (position, bytecode) = (u64::from(position), u64::from(bytecode));
                if position + UNIT_BYTES == bytecode {
                    Place::BeforeFirst
                } else {
                    // What is further before the first is bytecode elsewhere, or none.
                    Place::Byte(position.checked_sub(bytecode)?)
                }
            }
        })
    }

    fn pairs(&self) -> impl Iterator<Item = (u64, i64)> {
        self.bytes
            .chunks_exact(2)
            .map(|pair| (pair[0].into(), pair[1].cast_signed().into()))
    }

    fn line_by_steps(&self, byte: u64) -> i64 {
        let (mut begin, mut line) = (0, i64::from(self.first_line));
        for (bytes, step) in self.pairs() {
            begin += bytes;
            if begin > byte {
                break;
            }
            line += step;
        }
        line
    }

    fn line_by_ranges(&self, byte: u64) -> Option<i64> {
        const NO_LINE: i64 = -128;
        let (mut end, mut line) = (0, i64::from(self.first_line));
        for (bytes, step) in self.pairs() {
            end += bytes;
            line += if step == NO_LINE { 0 } else { step };
            if end > byte {
                return (step != NO_LINE).then_some(line);
            }
        }
        None
    }

    fn line_by_locations(&self, byte: u64) -> Option<i64> {
        let (mut end, mut line) = (0, i64::from(self.first_line));
        let mut rest = &*self.bytes;
        while let Some((&head, after)) = rest.split_first() {
            // Only the first byte of an entry has the highest bit.
            let len = after
                .iter()
                .position(|byte| byte & 0x80 != 0)
                .unwrap_or(after.len());
            let (body, next) = after.split_at(len);
            end += (u64::from(head & 7) + 1) * UNIT_BYTES;
            let step = match head >> 3 & 15 {
                form @ 10..=12 => Some(i64::from(form) - 10),
                13 | 14 => Some(signed(body)),
                15 => None,
                _ => Some(0),
            };
            line = line.wrapping_add(step.unwrap_or(0));
            if end > byte {
                return step.map(|_| line);
            }
            rest = next;
        }
        None
    }
}

/// The number at the start: six bits a byte, the lowest first, bit 6 where there are more; of the number the lowest bit
/// is the sign.
fn signed(bytes: &[u8]) -> i64 {
    let mut number = 0_u64;
    for (index, byte) in bytes.iter().enumerate() {
        if index < 10 {
            number |= u64::from(byte & 63) << (6 * index);
        }
        if byte & 64 == 0 {
            break;
        }
    }
    let size = (number >> 1).cast_signed();
    if number & 1 == 0 { size } else { -size }
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
