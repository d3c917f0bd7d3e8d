//! `str` and `bytes` objects of CPython, read from outside. Must not know what they are the names of.
//!
//! A `str` has its characters behind its head, one, two or four bytes each, as its widest needs (PEP 393; the head is
//! smaller from 3.12 on, which dropped `wstr`). One that is of a subclass, or was made the old way, has a pointer to
//! them instead. Up to 3.11 such a one may have no characters yet: that is an error here.

use super::{
    memory::{Memory, Piece},
    offsets::TextOffsets,
};

/// Most characters of a `str` that are read, or bytes of a `bytes`, where nothing else is asked for.
pub const LEN_MAX: usize = 4096;

/// Bytes of an object that are read at first, as long as they lie in one page: most names are shorter.
const FIRST_BYTES: usize = 256;

const PAGE_BYTES: u64 = 4096;

/// What stands for a character that would change more than a line of text, or that is none.
const REPLACEMENT: char = '\u{fffd}';

/// What stands for the rest of a text that is too long.
const CUT: char = '…';

/// What an object is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A `str`.
    Str,
    /// A `bytes`.
    Bytes,
}

/// An object to read.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Its address.
    pub address: u64,
    /// What it is.
    pub kind: Kind,
    /// Most characters or bytes to take of it; the rest is cut off.
    pub len_max: usize,
}

/// It could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Its memory is not mapped.
    #[error("it is not mapped any more; it was freed before it was read")]
    Unmapped,
    /// What is there is no such object.
    #[error("no text is there; it was freed before it was read")]
    NoText,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Bytes a character: 1, 2 or 4. Those of a `bytes` are characters of 1.
    width: usize,
    bytes: Vec<u8>,
    cut: bool,
}

impl Text {
    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The characters. Those that would break a line or do more, and surrogates, are replaced; the end shows whether
    /// some are missing.
    pub fn into_string(self) -> String {
        let mut text: String = self
            .bytes
            .chunks_exact(self.width)
            .map(|character| {
                let code = character
                    .iter()
                    .rev()
                    .fold(0_u32, |code, &byte| code << 8 | u32::from(byte));
                char::from_u32(code)
                    .filter(|&character| !is_disruptive(character))
                    .unwrap_or(REPLACEMENT)
            })
            .collect();
        if self.cut {
            text.push(CUT);
        }
        text
    }
}

/// Whether a character moves the cursor, ends the line or turns the direction of what follows (Unicode's line and
/// paragraph separators, and its bidirectional formatting characters).
fn is_disruptive(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Reads a `str`, at most [`LEN_MAX`] characters of it.
///
/// # Errors
/// [`TextError`].
pub fn read_str(memory: &dyn Memory, offsets: &TextOffsets, address: u64) -> Result<String, TextError> {
    let wanted = Wanted {
        address,
        kind: Kind::Str,
        len_max: LEN_MAX,
    };
    let mut found = read_many(memory, offsets, &[wanted]);
    found
        .pop()
        .unwrap_or(Err(TextError::NoText))
        .map(Text::into_string)
}

/// Reads many objects by two calls of [`Memory::read_many`]; the result has one element for each, in order.
pub fn read_many(
    memory: &dyn Memory,
    offsets: &TextOffsets,
    wanted: &[Wanted],
) -> Vec<Result<Text, TextError>> {
    let mut heads: Vec<Vec<u8>> = wanted
        .iter()
        .map(|wanted| vec![0; first_bytes(offsets, wanted)])
        .collect();
    let read = read_all(
        memory,
        wanted.iter().map(|wanted| wanted.address),
        heads.iter_mut(),
    );
    let plans: Vec<Result<Plan, TextError>> = wanted
        .iter()
        .zip(heads.iter().zip(read))
        .map(|(wanted, (head, read))| {
            if read {
                plan(memory, offsets, *wanted, head)
            } else {
                Err(TextError::Unmapped)
            }
        })
        .collect();

    let mut texts: Vec<Result<Text, TextError>> = plans
        .iter()
        .zip(wanted.iter().zip(&heads))
        .map(|(plan, (wanted, head))| {
            plan.map(|plan| Text {
                width: plan.width,
                bytes: plan
                    .within(wanted.address, head)
                    .map_or_else(|| vec![0; plan.len_bytes], <[u8]>::to_vec),
                cut: plan.cut,
            })
        })
        .collect();
    let mut rest: Vec<(u64, &mut Result<Text, TextError>)> = plans
        .iter()
        .zip(wanted.iter().zip(&heads))
        .zip(&mut texts)
        .filter_map(|((plan, (wanted, head)), text)| {
            let plan = (*plan).ok()?;
            plan.within(wanted.address, head)
                .is_none()
                .then_some((plan.data, text))
        })
        .collect();
    let addresses: Vec<u64> = rest.iter().map(|(address, _)| *address).collect();
    let buffers = rest
        .iter_mut()
        .filter_map(|(_, text)| text.as_mut().ok().map(|text| &mut text.bytes));
    let read = read_all(memory, addresses.into_iter(), buffers);
    for ((_, text), read) in rest.into_iter().zip(read) {
        if !read {
            *text = Err(TextError::Unmapped);
        }
    }
    texts
}

/// Fills buffers from addresses; which were filled.
pub(super) fn read_all<'a>(
    memory: &dyn Memory,
    addresses: impl Iterator<Item = u64>,
    buffers: impl Iterator<Item = &'a mut Vec<u8>>,
) -> Vec<bool> {
    let mut pieces: Vec<Piece<'_>> = addresses
        .zip(buffers)
        .map(|(address, into)| Piece::new(address, into))
        .collect();
    memory.read_many(&mut pieces);
    pieces.iter().map(|piece| piece.done).collect()
}

/// Bytes to read of an object whose length is not known: its head, which is there, and what follows it in the page.
fn first_bytes(offsets: &TextOffsets, wanted: &Wanted) -> usize {
    let head_bytes = match wanted.kind {
        Kind::Str => offsets.ascii,
        Kind::Bytes => offsets.bytes,
    };
    let to_page_end = (PAGE_BYTES - wanted.address % PAGE_BYTES) as usize;
    usize::from(head_bytes).max(to_page_end.min(FIRST_BYTES))
}

/// Where the characters are.
#[derive(Clone, Copy)]
struct Plan {
    data: u64,
    width: usize,
    len_bytes: usize,
    cut: bool,
}

impl Plan {
    /// The characters, if they are among the bytes read at an object's address.
    fn within(self, address: u64, head: &[u8]) -> Option<&[u8]> {
        let from = usize::try_from(self.data.checked_sub(address)?).ok()?;
        head.get(from..from.checked_add(self.len_bytes)?)
    }
}

fn plan(memory: &dyn Memory, offsets: &TextOffsets, wanted: Wanted, head: &[u8]) -> Result<Plan, TextError> {
    let (length_at, mut width, mut data) = match wanted.kind {
        Kind::Str => (offsets.length, 0, 0),
        Kind::Bytes => (
            offsets.bytes_length,
            1,
            wanted.address.wrapping_add(offsets.bytes.into()),
        ),
    };
    // A negative length is one too large for any memory.
    let len = word(head, length_at)
        .filter(|&len| len <= i64::MAX as u64 / 4)
        .ok_or(TextError::NoText)?;
    if wanted.kind == Kind::Str {
        let state = word(head, offsets.state).ok_or(TextError::NoText)? as u32;
        let Form {
            width: found,
            is_compact,
            is_ascii,
        } = form(state, offsets.kind_shift).ok_or(TextError::NoText)?;
        width = found;
        let offset = match (is_compact, is_ascii) {
            (true, true) => offsets.ascii,
            (true, false) => offsets.compact,
            (false, _) => offsets.data,
        };
        data = wanted.address.wrapping_add(offset.into());
        if !is_compact {
            data = memory.u64(data).map_err(|_error| TextError::Unmapped)?;
        }
    }
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    Ok(Plan {
        data,
        width,
        len_bytes: len.min(wanted.len_max).saturating_mul(width),
        cut: len > wanted.len_max,
    })
}

/// What the state of a `str` says.
struct Form {
    width: usize,
    is_compact: bool,
    is_ascii: bool,
}

/// Bits from which on the form stands in the state, behind whether the `str` is interned: 2 up to 3.13, 16 later, and 8 in
/// some builds without the global lock. The bits before it and behind it are 0 but for the first two, so at most one of
/// these gives a form.
const KIND_SHIFTS: [u16; 3] = [2, 16, 8];

fn form(state: u32, kind_shift: u16) -> Option<Form> {
    [kind_shift].into_iter().chain(KIND_SHIFTS).find_map(|shift| {
        let form = state.checked_shr(shift.into())?;
        let (is_compact, is_ascii) = (form & 8 != 0, form & 16 != 0);
        let width = match form & 7 {
            1 => 1,
            2 if !is_ascii => 2,
            4 if !is_ascii => 4,
            _ => return None,
        };
        Some(Form {
            width,
            is_compact,
            is_ascii,
        })
    })
}

/// The word at an offset.
fn word(bytes: &[u8], offset: u16) -> Option<u64> {
    let word = bytes.get(usize::from(offset)..)?.first_chunk()?;
    Some(u64::from_le_bytes(*word))
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
