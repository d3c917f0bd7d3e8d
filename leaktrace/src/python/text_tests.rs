//! Objects made up as the headers say (Include/cpython/unicodeobject.h, bytesobject.h).

use proptest::prelude::*;

use super::{
    super::{memory::fake::Fake, offsets::Offsets, version::Version},
    *,
};

const AT: u64 = 0x7f00_0000_0000;

fn offsets(minor: u8) -> TextOffsets {
    let version = Version {
        major: 3,
        minor,
        micro: 0,
    };
    Offsets::of_version(version).unwrap().text
}

/// A `str` of that many bytes a character.
fn object(offsets: &TextOffsets, text: &[u32], width: usize, is_ascii: bool) -> Vec<u8> {
    let data = if is_ascii { offsets.ascii } else { offsets.compact };
    let mut bytes = vec![0xee; data.into()];
    let state = (width as u32 | 8 | if is_ascii { 16 } else { 0 }) << offsets.kind_shift | 1;
    bytes[offsets.length.into()..][..8].copy_from_slice(&(text.len() as u64).to_le_bytes());
    bytes[offsets.state.into()..][..4].copy_from_slice(&state.to_le_bytes());
    for character in text {
        bytes.extend(&character.to_le_bytes()[..width]);
    }
    bytes
}

fn codes(text: &str) -> Vec<u32> {
    text.chars().map(u32::from).collect()
}

#[test]
fn characters_of_every_width_are_read_wherever_the_object_ends() {
    for minor in 8..=14 {
        let offsets = offsets(minor);
        for (text, width, is_ascii) in [
            ("", 1, true),
            ("main", 1, true),
            ("naïve", 1, false),
            ("日本", 2, false),
            ("𐐀é🎉", 4, false),
        ] {
            for long in [1, 500] {
                let text = text.repeat(long);
                let bytes = object(&offsets, &codes(&text), width, is_ascii);
                // At the start of a page, across two, and up to the end of the last that is mapped.
                for address in [AT, AT + 4096 - 30, AT + 8192 - bytes.len() as u64] {
                    let memory = Fake::default();
                    memory.put(address, &bytes);
                    assert_eq!(
                        read_str(&memory, &offsets, address).as_deref(),
                        Ok(&*text),
                        "3.{minor}"
                    );
                }
            }
        }
    }
}

#[test]
fn an_object_with_a_pointer_to_its_characters_is_read() {
    for minor in [8, 12] {
        let offsets = offsets(minor);
        let memory = Fake::default();
        let mut bytes = object(&offsets, &[], 2, false);
        bytes[usize::from(offsets.length)] = 2;
        bytes[offsets.state.into()..][..4].copy_from_slice(&(2_u32 << offsets.kind_shift).to_le_bytes());
        bytes.extend((AT + 0x5000).to_le_bytes());
        memory.put(AT, &bytes);
        memory.put(AT + 0x5000, &[0xe5, 0x65, 0x2c, 0x67]);
        assert_eq!(read_str(&memory, &offsets, AT).as_deref(), Ok("日本"));
    }
}

#[test]
fn the_state_says_itself_where_the_form_stands() {
    let offsets = offsets(14);
    for kind_shift in [2, 8, 16] {
        let memory = Fake::default();
        let actual = TextOffsets {
            kind_shift,
            ..offsets
        };
        memory.put(AT, &object(&actual, &codes("naïve"), 1, false));
        assert_eq!(
            read_str(&memory, &offsets, AT).as_deref(),
            Ok("naïve"),
            "{kind_shift}"
        );
    }
}

#[test]
fn what_would_break_a_line_is_replaced_and_what_is_long_is_cut() {
    let offsets = offsets(11);
    let memory = Fake::default();
    let text = [0x61, 0x0a, 0x1b, 0x202e, 0x2028, 0xd800, 0x62];
    memory.put(AT, &object(&offsets, &text, 2, false));
    assert_eq!(
        read_str(&memory, &offsets, AT).as_deref(),
        Ok("a\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}b")
    );
    memory.put(AT, &object(&offsets, &vec![0x61; LEN_MAX + 1], 1, true));
    let cut = read_str(&memory, &offsets, AT).unwrap();
    assert_eq!(cut.chars().count(), LEN_MAX + 1);
    assert!(cut.ends_with("a…"));
}

#[test]
fn bytes_objects_are_read_and_cut() {
    let offsets = offsets(8);
    let memory = Fake::default();
    let mut bytes = vec![0; 32];
    bytes[16] = 200;
    bytes[17] = 1;
    bytes.extend((0..456).map(|byte| byte as u8));
    memory.put(AT, &bytes);
    let wanted = |len_max| Wanted {
        address: AT,
        kind: Kind::Bytes,
        len_max,
    };
    let read = read_many(&memory, &offsets, &[wanted(1 << 20), wanted(3), wanted(0)]);
    let read: Vec<Vec<u8>> = read.into_iter().map(|text| text.unwrap().into_bytes()).collect();
    assert_eq!(read, [bytes[32..].to_vec(), vec![0, 1, 2], vec![]]);
}

#[test]
fn each_object_fails_for_itself() {
    let offsets = offsets(13);
    let memory = Fake::default();
    memory.put(AT, &object(&offsets, &codes("here"), 1, true));
    let mut broken = object(&offsets, &codes("broken"), 1, true);
    broken[usize::from(offsets.length) + 7] = 0x80;
    memory.put(AT + 0x1000, &broken);
    let mut endless = object(&offsets, &codes("endless"), 1, true);
    endless[usize::from(offsets.length) + 2] = 1;
    memory.put(AT + 0x2000, &endless);
    memory.put(AT + 0x6000, &[0; 400]);
    let wanted = [0x1000, 0, 0x2000, 0x9000, 0x6000].map(|more| Wanted {
        address: AT + more,
        kind: Kind::Str,
        len_max: LEN_MAX,
    });
    let read: Vec<Result<String, TextError>> = read_many(&memory, &offsets, &wanted)
        .into_iter()
        .map(|text| text.map(Text::into_string))
        .collect();
    assert_eq!(
        read,
        [
            Err(TextError::NoText),
            Ok("here".to_owned()),
            Err(TextError::Unmapped),
            Err(TextError::Unmapped),
            Err(TextError::NoText)
        ]
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        minor in 8_u8..=14,
        high in any::<bool>(),
    ) {
        let address = if high { u64::MAX - 200 } else { AT };
        let memory = Fake::default();
        memory.put(address, &bytes);
        for kind in [Kind::Str, Kind::Bytes] {
            let wanted = Wanted { address, kind, len_max: LEN_MAX };
            for text in read_many(&memory, &offsets(minor), &[wanted]).into_iter().flatten() {
                text.into_string();
            }
        }
    }
}
