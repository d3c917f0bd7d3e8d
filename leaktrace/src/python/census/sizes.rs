//! What an object takes: the bytes that `sys.getsizeof` would name, for the builtin types and for what behaves like
//! them.
//!
//! That is the object with the heads in front of it, its items, and the one table that hangs at a list, dictionary, set
//! or bytearray; not what it refers to, and of a type not its tables. An instance's attributes are in its dictionary,
//! where it has one, and are not counted where the interpreter keeps them without one (from 3.11).

use super::layout::{GC_HEAD_BYTES, Layout, flags};
use super::snapshot::Snapshot;
use super::types::{Kind, Table, Type};

/// More bytes than this no object has: it was torn.
const BYTES_MAX: u64 = 1 << 42;

/// First words of an object that say how long it is.
const WORDS: usize = 5;

/// Bytes of the object at an address with what hangs at it; of one that was torn, the type's.
pub(super) fn of(address: u64, of_type: &Type, layout: Layout, snapshot: &mut Snapshot<'_>) -> u64 {
    let heads = heads(of_type, layout);
    let words = if of_type.item_bytes == 0 && of_type.kind != Kind::Str {
        Some([0; WORDS])
    } else if of_type.kind == Kind::Str {
        snapshot.words(address)
    } else {
        snapshot.words(address).map(|[a, b, c]| [a, b, c, 0, 0])
    };
    let bytes = words
        .and_then(|words| own(&words, of_type, layout))
        .and_then(|own| Some(own + hanging(address, of_type, layout, snapshot)?))
        .filter(|bytes| *bytes < BYTES_MAX);
    heads + bytes.unwrap_or(of_type.basic_bytes)
}

/// Bytes in front of an object.
pub(super) const fn heads(of_type: &Type, layout: Layout) -> u64 {
    if of_type.flags & flags::HAVE_GC == 0 {
        return 0;
    }
    GC_HEAD_BYTES + layout.pre_header_bytes(of_type.flags)
}

/// Bytes of the object itself, which begins with these bytes; `None` if it was torn.
pub(super) fn own_in(bytes: &[u8], of_type: &Type, layout: Layout) -> Option<u64> {
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    own(&words, of_type, layout)
}

/// Bytes of the object itself, from its first words.
fn own(words: &[u64; WORDS], of_type: &Type, layout: Layout) -> Option<u64> {
    let [_, _, size, _, state] = *words;
    if of_type.kind == Kind::Str {
        return string(size, state, of_type, layout);
    }
    if of_type.item_bytes == 0 {
        return Some(of_type.basic_bytes);
    }
    let items = match of_type.kind {
        // 3.12 keeps the sign in the lowest three bits (`lv_tag`), and room for a digit from 3.11 on.
        Kind::Int if layout.minor >= 12 => (size >> 3).max(1),
        Kind::Int if layout.minor == 11 => (size as i64).unsigned_abs().max(1),
        _ => (size as i64).unsigned_abs(),
    };
    let items = items.checked_mul(of_type.item_bytes)?;
    of_type
        .basic_bytes
        .checked_add(items)
        .filter(|bytes| *bytes < BYTES_MAX)
}

/// Bytes of a string without its UTF-8, where that is kept with it (`unicode_sizeof`).
fn string(length: u64, state: u64, of_type: &Type, layout: Layout) -> Option<u64> {
    if length >= BYTES_MAX {
        return None;
    }
    let bits = state as u32 >> layout.text.kind_shift;
    let (kind, is_compact, is_ascii) = (u64::from(bits & 7), bits >> 3 & 1 == 1, bits >> 4 & 1 == 1);
    Some(if !is_compact {
        of_type.basic_bytes
    } else if is_ascii {
        u64::from(layout.text.ascii) + length + 1
    } else {
        u64::from(layout.text.compact) + (length + 1) * kind
    })
}

/// Bytes of the table that hangs at an object.
fn hanging(address: u64, of_type: &Type, layout: Layout, snapshot: &mut Snapshot<'_>) -> Option<u64> {
    match of_type.kind {
        Kind::List => snapshot.word(address + 32)?.checked_mul(8),
        Kind::ByteArray => snapshot.word(address + 24),
        Kind::Dict => dict(address, layout, snapshot),
        Kind::Set => {
            let [mask, table] = snapshot.words(address + 32)?;
            // A set begins with a table of its own.
            if table == address + 64 {
                return Some(0);
            }
            mask.checked_add(1)?.checked_mul(16)
        }
        Kind::Plain | Kind::Int | Kind::Str | Kind::Type => Some(0),
    }
}

/// Keys that several dictionaries share are nobody's (`_PyDict_SizeOf`).
fn dict(address: u64, layout: Layout, snapshot: &mut Snapshot<'_>) -> Option<u64> {
    let [keys, values] = snapshot.words(address + 32)?;
    let table = Table::read(keys, layout, snapshot)?;
    let values_bytes = match values {
        0 => 0,
        _ if layout.minor <= 10 => table.usable * 8,
        // `dk_usable` and `dk_nentries`: entries that are left and entries that are used.
        _ => {
            let [left, used] = snapshot.words(keys + 16)?;
            left.checked_add(used)?.checked_mul(8)?
        }
    };
    let keys_bytes = if table.references == 1 { table.bytes() } else { 0 };
    values_bytes.checked_add(keys_bytes)
}
