//! Types of objects: whether an address is that of a type, what it is called, and what its objects take.
//!
//! Everything is read anew in every census: a type that has gone leaves its address to another. Must not know lists or
//! pools.

use std::collections::HashMap;
use std::sync::Arc;

use super::layout::{Layout, flags};
use super::snapshot::{ByAddress, Snapshot};

/// Bytes of a name that are read.
const NAME_MAX: usize = 512;

/// Entries of a type's dictionary among which its module is looked for; it is one of the first.
const ENTRIES_MAX: u64 = 1024;

/// Bases up to which a type is followed.
const BASES_MAX: usize = 32;

/// Types of types up to which one is followed.
const METATYPES_MAX: usize = 8;

/// Types of a process beyond which none is looked at any more.
const TYPES_MAX: usize = 1 << 18;

/// Addresses that are none of types, beyond which none is looked at any more.
const OTHERS_MAX: usize = 1 << 16;

/// Name of a type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeName {
    /// Its module; none where that is not known, or is that of the builtins.
    pub module: Option<Arc<str>>,
    /// Its qualified name in the module.
    pub name: Arc<str>,
}

/// How the bytes of a type's objects are found, where it takes more than the type's own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// By size and items.
    Plain,
    Int,
    Str,
    List,
    Dict,
    Set,
    ByteArray,
    /// A type itself.
    Type,
}

/// What a census keeps of a type.
#[derive(Clone, Debug)]
pub(super) struct Type {
    pub(super) name: TypeName,
    pub(super) basic_bytes: u64,
    pub(super) item_bytes: u64,
    pub(super) flags: u64,
    pub(super) kind: Kind,
}

/// The types met so far, by address; a type's number is its place.
#[derive(Debug)]
pub(super) struct Types {
    layout: Layout,
    list: Vec<Type>,
    by_address: HashMap<u64, Option<usize>, ByAddress>,
    others: usize,
    last: (u64, Option<usize>),
    /// Address of the string `__module__`, which is kept once.
    module_key: Option<u64>,
}

impl Types {
    pub(super) fn new(layout: Layout) -> Self {
        Self {
            layout,
            list: Vec::new(),
            by_address: HashMap::default(),
            others: 0,
            last: (0, None),
            module_key: None,
        }
    }

    /// All, by number.
    pub(super) fn list(&self) -> &[Type] {
        &self.list
    }

    /// Number of the type at an address; `None` if there is none.
    pub(super) fn number(&mut self, address: u64, snapshot: &mut Snapshot<'_>) -> Option<usize> {
        if self.last.0 == address {
            return self.last.1;
        }
        let number = if let Some(number) = self.by_address.get(&address) {
            *number
        } else {
            self.learn(address, snapshot)
        };
        self.last = (address, number);
        number
    }

    /// What was taken for no type is looked at again: its memory may have been read too early.
    pub(super) fn forget(&mut self, address: u64) {
        if let Some(None) = self.by_address.get(&address) {
            self.by_address.remove(&address);
            self.last = (0, None);
        }
    }

    fn learn(&mut self, address: u64, snapshot: &mut Snapshot<'_>) -> Option<usize> {
        if self.list.len() >= TYPES_MAX || self.others >= OTHERS_MAX {
            return None;
        }
        let number = read(address, self.layout, &mut self.module_key, snapshot).map(|read| {
            self.list.push(read);
            self.list.len() - 1
        });
        self.others += usize::from(number.is_none());
        self.by_address.insert(address, number);
        number
    }
}

/// Flags, size and items of what may be a type: `None` if it is not one.
fn shape(address: u64, layout: Layout, snapshot: &mut Snapshot<'_>) -> Option<(u64, u64, u64)> {
    let [basic_bytes, item_bytes] = snapshot.words(address.checked_add(layout.types.basic_bytes.into())?)?;
    let flags = snapshot.word(address.checked_add(layout.types.flags.into())?)?;
    let is_type = (16..1 << 20).contains(&basic_bytes)
        && item_bytes < 1 << 16
        && flags & flags::READY != 0
        && snapshot.word(address.checked_add(layout.types.name.into())?)? != 0;
    is_type.then_some((flags, basic_bytes, item_bytes))
}

/// Whether the types of the type end at the type whose type is itself.
fn is_type(address: u64, layout: Layout, snapshot: &mut Snapshot<'_>) -> Option<()> {
    let mut at = address;
    for _ in 0..METATYPES_MAX {
        let above = snapshot.word(at.checked_add(8)?)?;
        let (flags, ..) = shape(above, layout, snapshot)?;
        if flags & flags::TYPE == 0 {
            return None;
        }
        if above == at {
            return Some(());
        }
        at = above;
    }
    None
}

fn read(
    address: u64,
    layout: Layout,
    module_key: &mut Option<u64>,
    snapshot: &mut Snapshot<'_>,
) -> Option<Type> {
    is_type(address, layout, snapshot)?;
    let (flags, basic_bytes, item_bytes) = shape(address, layout, snapshot)?;
    let name = snapshot.word(address + u64::from(layout.types.name))?;
    let full = snapshot.c_string(name, NAME_MAX)?;
    let full = String::from_utf8(full).ok()?;
    if full.is_empty() || full.chars().any(char::is_control) {
        return None;
    }
    let mut name = split(&full);
    if flags & flags::HEAP_TYPE != 0 {
        if let Some(qualified) = snapshot
            .word(address + u64::from(layout.types.heap_qualname))
            .and_then(|at| text(at, layout, snapshot))
            .filter(|text| !text.is_empty())
        {
            name.name = qualified.into();
        }
        if let Some(module) = module(address, layout, module_key, snapshot) {
            name.module = (module != "builtins").then(|| module.into());
        }
    }
    Some(Type {
        name,
        basic_bytes,
        item_bytes,
        flags,
        kind: kind(address, flags, layout, snapshot),
    })
}

/// A type that no `class` statement made has module and name in one (`type_module`, Objects/typeobject.c).
fn split(full: &str) -> TypeName {
    match full.rsplit_once('.') {
        Some((module, name)) if !module.is_empty() && !name.is_empty() => TypeName {
            module: (module != "builtins").then(|| module.into()),
            name: name.into(),
        },
        _ => TypeName {
            module: None,
            name: full.into(),
        },
    }
}

fn kind(address: u64, flags: u64, layout: Layout, snapshot: &mut Snapshot<'_>) -> Kind {
    const BY_FLAG: [(u64, Kind); 5] = [
        (flags::LIST, Kind::List),
        (flags::DICT, Kind::Dict),
        (flags::UNICODE, Kind::Str),
        (flags::LONG, Kind::Int),
        (flags::TYPE, Kind::Type),
    ];
    if let Some((_, kind)) = BY_FLAG.iter().find(|(flag, _)| flags & flag != 0) {
        return *kind;
    }
    by_base(address, layout, snapshot).unwrap_or(Kind::Plain)
}

/// The kinds that no flag tells.
fn by_base(address: u64, layout: Layout, snapshot: &mut Snapshot<'_>) -> Option<Kind> {
    let mut at = address;
    for _ in 0..BASES_MAX {
        let (flags, ..) = shape(at, layout, snapshot)?;
        if flags & flags::HEAP_TYPE == 0 {
            let name = snapshot.word(at + u64::from(layout.types.name))?;
            match snapshot.c_string(name, NAME_MAX)?.as_slice() {
                b"set" | b"frozenset" => return Some(Kind::Set),
                b"bytearray" => return Some(Kind::ByteArray),
                _ => {}
            }
        }
        at = snapshot.word(at.checked_add(u64::from(layout.types.base))?)?;
    }
    None
}

/// A string.
fn text(address: u64, layout: Layout, snapshot: &mut Snapshot<'_>) -> Option<String> {
    let [_, _, length, _, state] = snapshot.words(address)?;
    if length > NAME_MAX as u64 {
        return None;
    }
    let bits = state as u32 >> layout.text.kind_shift;
    let (kind, is_compact, is_ascii) = (bits & 7, bits >> 3 & 1 == 1, bits >> 4 & 1 == 1);
    if !is_compact {
        return None;
    }
    let head_bytes = if is_ascii {
        u64::from(layout.text.ascii)
    } else {
        u64::from(layout.text.compact)
    };
    let bytes = snapshot.bytes(address.checked_add(head_bytes)?, length as usize * kind as usize)?;
    match kind {
        1 => Some(bytes.iter().map(|byte| char::from(*byte)).collect()),
        2 => {
            let units = bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|unit| u16::from_le_bytes(*unit));
            units.map(|unit| char::from_u32(unit.into())).collect()
        }
        4 => {
            let units = bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|unit| u32::from_le_bytes(*unit));
            units.map(char::from_u32).collect()
        }
        _ => None,
    }
}

/// `__module__` in the dictionary of a type.
fn module(
    address: u64,
    layout: Layout,
    module_key: &mut Option<u64>,
    snapshot: &mut Snapshot<'_>,
) -> Option<String> {
    let dict = snapshot.word(address + u64::from(layout.types.dict))?;
    let entries = Entries::of(dict, layout, snapshot)?;
    for index in 0..entries.count.min(ENTRIES_MAX) {
        let at = entries.first + index * entries.stride + entries.stride - 16;
        let [key, value] = snapshot.words(at)?;
        if value == 0 {
            continue;
        }
        let found = match *module_key {
            Some(known) if known == key => true,
            _ => key != 0 && text(key, layout, snapshot).as_deref() == Some("__module__"),
        };
        if found {
            *module_key = Some(key);
            return text(value, layout, snapshot);
        }
    }
    None
}

/// The table of a dictionary.
#[derive(Clone, Copy, Debug)]
struct Entries {
    first: u64,
    count: u64,
    /// Bytes of one: with the hash in front of key and value, or without.
    stride: u64,
}

impl Entries {
    /// `PyDictKeysObject`: `Objects/dict-common.h` up to 3.10, `pycore_dict.h` from 3.11.
    fn of(dict: u64, layout: Layout, snapshot: &mut Snapshot<'_>) -> Option<Self> {
        let [keys, values] = snapshot.words(dict.checked_add(32)?)?;
        if values != 0 {
            return None;
        }
        let table = Table::read(keys, layout, snapshot)?;
        Some(Self {
            first: keys + table.head_bytes + table.index_bytes,
            count: snapshot.word(keys + table.head_bytes - 8)?,
            stride: table.entry_bytes,
        })
    }
}

/// The table of a dictionary's keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) references: u64,
    pub(super) head_bytes: u64,
    pub(super) index_bytes: u64,
    pub(super) entry_bytes: u64,
    /// Entries there is room for.
    pub(super) usable: u64,
}

impl Table {
    pub(super) fn read(keys: u64, layout: Layout, snapshot: &mut Snapshot<'_>) -> Option<Self> {
        let [references, second] = snapshot.words(keys)?;
        let (size, index_bytes, head_bytes, entry_bytes) = if layout.minor <= 10 {
            if !second.is_power_of_two() || second > 1 << 40 {
                return None;
            }
            let width = match second {
                ..=0xff => 1,
                0x100..=0xffff => 2,
                0x1_0000..=0xffff_ffff => 4,
                _ => 8,
            };
            (second, second * width, 40, 24)
        } else {
            let [log_size, log_index, kind, ..] = second.to_le_bytes();
            if log_size > 40 || log_index > 43 || kind > 2 {
                return None;
            }
            (1 << log_size, 1 << log_index, 32, if kind == 0 { 24 } else { 16 })
        };
        Some(Self {
            references,
            head_bytes,
            index_bytes,
            entry_bytes,
            usable: (size << 1) / 3,
        })
    }

    /// Bytes of all of it (`_PyDict_KeysSize`).
    pub(super) const fn bytes(&self) -> u64 {
        self.head_bytes + self.index_bytes + self.entry_bytes * self.usable
    }
}
