//! What is made of an interpreter without a process.

use super::*;

fn known(proof: Proof) -> Known {
    Known {
        name: "CPython",
        version: Some(Version {
            major: 3,
            minor: 11,
            micro: 2,
        }),
        object: ObjectId(1),
        bias: 0,
        runtime: None,
        proof,
        reads_code: false,
        keys: None,
        key: None,
        refusals: 0,
        again_ns: 0,
        wait_ns: 0,
    }
}

#[test]
fn it_is_looked_at_less_and_less_often() {
    let mut known = known(Proof::Expected);
    let mut waits = Vec::new();
    for _ in 0..12 {
        known.put_off(100);
        waits.push(known.again_ns - 100);
    }
    assert_eq!(waits.first(), Some(&AGAIN_NS.0));
    assert_eq!(waits.last(), Some(&AGAIN_NS.1));
    assert!(waits.is_sorted());
}

#[test]
fn it_is_settled_when_nothing_more_can_come() {
    assert!(!known(Proof::Expected).is_settled());
    assert!(known(Proof::Verified).is_settled());
    let mut native = known(Proof::Native("unknown".to_owned()));
    assert!(native.is_settled());
    // What was found in the process may have been half made.
    native.refusals = 1;
    assert!(!native.is_settled());
    native.refusals = REFUSALS_MAX;
    assert!(native.is_settled());
    assert_eq!(native.why_native(), Some("unknown"));
    assert!(!native.stacks() && !native.lines());
    assert_eq!(native.title(), "CPython 3.11.2");
}
