//! What is known of code objects while memory changes under them.

use super::{
    super::{
        code::tests::{AT, interpreted, put_code},
        memory::fake::Fake,
    },
    *,
};

const TGID: u32 = 7;

fn frame(id: CodeId) -> PythonFrame {
    PythonFrame {
        code: id.address | PythonFrame::ENTRY,
        position: 192,
        guard: id.guard,
    }
}

fn known() -> Codes {
    let codes = Codes::default();
    codes.publish(TGID, 0, interpreted());
    codes
}

fn name(resolved: Option<Resolved>) -> Option<String> {
    match resolved? {
        Resolved::Code(code) => Some(code.name.to_string()),
        Resolved::Gone => Some("gone".to_owned()),
    }
}

/// Lets what was read grow old.
fn age(codes: &Codes) {
    for known in codes.lock().processes.values_mut() {
        for entry in known.codes.values_mut() {
            entry.verified = entry.verified.checked_sub(VERIFIED_FOR).unwrap();
        }
    }
}

#[test]
fn a_code_object_is_read_once_and_stays_known() {
    let (memory, codes) = (Fake::default(), known());
    let id = put_code(&memory, AT, "f", 1);
    assert_eq!(codes.get(TGID, 0, &frame(id)), None);
    codes.resolve(
        TGID,
        0,
        &memory,
        &[1],
        &[frame(id), PythonFrame::default(), frame(id)],
    );
    let reads = memory.reads.get();
    codes.resolve(TGID, 0, &memory, &[2], &[frame(id)]);
    assert_eq!(memory.reads.get(), reads);
    memory.unmap(AT);
    age(&codes);
    codes.resolve(TGID, 0, &memory, &[3], &[frame(id)]);
    assert_eq!(name(codes.get(TGID, 0, &frame(id))).as_deref(), Some("f"));
    assert_eq!(codes.get(TGID, 0, &PythonFrame::default()), None);
    assert_eq!(
        codes.counts(),
        Counts {
            read: 1,
            ..Counts::default()
        }
    );
}

#[test]
fn another_guard_at_the_address_is_another_code_object() {
    let (memory, codes) = (Fake::default(), known());
    let first = put_code(&memory, AT, "f", 1);
    codes.resolve(TGID, 0, &memory, &[1], &[frame(first)]);
    let second = put_code(&memory, AT, "g", 2);
    codes.resolve(TGID, 0, &memory, &[2], &[frame(second)]);
    assert_eq!(name(codes.get(TGID, 0, &frame(first))).as_deref(), Some("f"));
    assert_eq!(name(codes.get(TGID, 0, &frame(second))).as_deref(), Some("g"));
}

#[test]
fn a_guard_that_comes_again_is_noticed_and_older_parts_keep_what_they_had() {
    let (memory, codes) = (Fake::default(), known());
    let id = put_code(&memory, AT, "f", 1);
    codes.resolve(TGID, 0, &memory, &[1], &[frame(id)]);
    assert_eq!(put_code(&memory, AT, "g", 1), id);
    // Not yet.
    codes.resolve(TGID, 0, &memory, &[2], &[frame(id)]);
    age(&codes);
    codes.resolve(TGID, 0, &memory, &[3], &[frame(id)]);
    let in_part = |part| name(codes.get_in_part(TGID, 0, part, &frame(id)));
    assert_eq!(
        [in_part(1), in_part(2), in_part(3), in_part(99)].map(Option::unwrap),
        ["f", "f", "g", "g"]
    );
    assert_eq!(name(codes.get(TGID, 0, &frame(id))).as_deref(), Some("g"));
    assert_eq!(codes.counts().replaced, 1);
}

#[test]
fn what_was_gone_stays_gone_for_the_parts_of_that_time() {
    let (memory, codes) = (Fake::default(), known());
    let id = put_code(&memory, AT, "f", 1);
    memory.unmap(AT);
    codes.resolve(TGID, 0, &memory, &[1], &[frame(id)]);
    put_code(&memory, AT, "f", 1);
    age(&codes);
    codes.resolve(TGID, 0, &memory, &[2], &[frame(id)]);
    assert_eq!(codes.get_in_part(TGID, 0, 1, &frame(id)), Some(Resolved::Gone));
    assert_eq!(
        name(codes.get_in_part(TGID, 0, 2, &frame(id))).as_deref(),
        Some("f")
    );
    assert_eq!(codes.counts().gone, 1);
}

#[test]
fn generations_and_entries_are_bounded() {
    let (memory, codes) = (Fake::default(), known());
    let mut id = None;
    for generation in 0..100 {
        id = Some(put_code(&memory, AT, &format!("f{generation}"), 1));
        codes.resolve(TGID, 0, &memory, &[generation], &[frame(id.unwrap())]);
        age(&codes);
    }
    let id = id.unwrap();
    assert_eq!(
        name(codes.get_in_part(TGID, 0, 0, &frame(id))).as_deref(),
        Some("f0")
    );
    assert_eq!(
        name(codes.get_in_part(TGID, 0, 99, &frame(id))).as_deref(),
        Some("f99")
    );

    let mut frames = Vec::new();
    for index in 0..CODES_MAX as u64 + 10 {
        frames.push(PythonFrame {
            code: 0x10_0000 + index * 16,
            ..PythonFrame::default()
        });
    }
    codes.resolve(TGID, 0, &memory, &[], &frames[..10]);
    codes.resolve(TGID, 0, &memory, &[], &frames[10..]);
    let inner = codes.lock();
    let known = &inner.processes[&(TGID, 0)];
    assert!(known.codes.len() <= CODES_MAX / 2 + 10, "{}", known.codes.len());
    let resolved = known.codes.values().flat_map(|entry| &entry.generations);
    assert_eq!(
        known.len_bytes,
        resolved.map(|(_, resolved)| len_bytes(resolved)).sum::<usize>()
    );
}

#[test]
fn a_process_that_is_not_known_loses_its_parts() {
    let (memory, codes) = (Fake::default(), known());
    let id = put_code(&memory, AT, "f", 1);
    codes.resolve(TGID, 1, &memory, &[1, 2], &[frame(id)]);
    codes.forget(TGID, 0);
    codes.resolve(TGID, 0, &memory, &[3], &[frame(id)]);
    assert_eq!(codes.counts().parts_lost, 3);
    assert_eq!(codes.get(TGID, 0, &frame(id)), None);
}
