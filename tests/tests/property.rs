//! Random sequences of allocator calls across threads, against a model.

use std::{collections::BTreeMap, fmt::Write as _, io::Write as _};

use leaktrace_tests::{fixtures, report::Report, target::Target, trace};
use proptest::prelude::*;

const SLOTS: usize = 64;
const THREADS: u64 = 4;
const OPERATIONS: usize = 2000;

/// What is asked for; what it means depends on what the slot holds.
#[derive(Clone, Debug)]
enum Wish {
    Malloc(u64),
    Calloc(u64, u64),
    Memalign(u32, u64),
    Realloc(u64),
    /// To no bytes, only of a block that is held.
    ReallocAway,
    ReallocFailing,
    MallocFailing,
    Free,
}

/// Sizes of at least `least` bytes.
fn wishes(least: u64) -> impl Strategy<Value = Vec<(u64, usize, Wish)>> {
    // Small blocks, page-sized ones, and some that the allocator maps by themselves.
    let size = prop_oneof![10 => 0_u64..600, 3 => 600_u64..20_000, 1 => 130_000_u64..400_000];
    let size = size.prop_map(move |bytes| bytes + least);
    let wish = prop_oneof![
        6 => size.clone().prop_map(Wish::Malloc),
        3 => (0_u64..40, 0_u64..80).prop_map(move |(count, size)| Wish::Calloc(count + least / 64, size + least.min(64))),
        2 => (3_u32..12, 1_u64..3000).prop_map(move |(power, size)| Wish::Memalign(power, size + least)),
        1 => Just(Wish::ReallocAway),
        5 => size.prop_map(Wish::Realloc),
        1 => Just(Wish::ReallocFailing),
        1 => Just(Wish::MallocFailing),
        8 => Just(Wish::Free),
    ];
    prop::collection::vec((0..THREADS, 0..SLOTS, wish), OPERATIONS)
}

/// What the tracer must say in the end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Model {
    /// Outstanding (blocks, bytes) by call.
    live: BTreeMap<&'static str, (u64, u64)>,
    allocs: u64,
    frees: u64,
    alloc_bytes: u64,
    failed: u64,
}

/// Turns wishes into a script that never leaks by itself, and the outcome.
fn play(wishes: &[(u64, usize, Wish)]) -> (String, Model) {
    let mut slots: [Option<(&'static str, u64)>; SLOTS] = [None; SLOTS];
    let mut model = Model::default();
    let mut script = String::new();
    for (thread, slot, wish) in wishes {
        let held = slots[*slot];
        let mut taken = |call: &'static str, bytes: u64| {
            model.allocs += 1;
            model.alloc_bytes += bytes;
            slots[*slot] = Some((call, bytes));
        };
        let operation = match (wish, held) {
            (Wish::MallocFailing, _) => {
                model.failed += 1;
                "M 0".to_owned()
            }
            (Wish::ReallocFailing, Some(_)) => {
                model.failed += 1;
                format!("R {slot}")
            }
            // realloc(p, 0) is free(p); realloc(NULL, 0) is malloc(0).
            (Wish::Realloc(0) | Wish::ReallocAway, Some(_)) => {
                model.frees += 1;
                slots[*slot] = None;
                format!("r {slot} 0")
            }
            (Wish::Realloc(bytes), _) => {
                taken("realloc", *bytes);
                model.frees += u64::from(held.is_some());
                format!("r {slot} {bytes}")
            }
            (Wish::ReallocFailing | Wish::ReallocAway, None) => continue,
            (Wish::Malloc(bytes), None) => {
                taken("malloc", *bytes);
                format!("m {slot} {bytes}")
            }
            (Wish::Calloc(count, bytes), None) => {
                taken("calloc", count * bytes);
                format!("c {slot} {count} {bytes}")
            }
            (Wish::Memalign(power, bytes), None) => {
                taken("posix_memalign", *bytes);
                format!("a {slot} {} {bytes}", 1_u64 << power)
            }
            // Freed first what would be lost; free(NULL) where nothing is held.
            (Wish::Free | Wish::Malloc(_) | Wish::Calloc(..) | Wish::Memalign(..), _) => {
                model.frees += u64::from(held.is_some());
                slots[*slot] = None;
                format!("f {slot}")
            }
        };
        writeln!(script, "{thread} {operation}").expect("text grows");
    }
    for (call, bytes) in slots.iter().flatten() {
        let live = model.live.entry(call).or_default();
        live.0 += 1;
        live.1 += bytes;
    }
    (script, model)
}

fn reported(report: &Report) -> Model {
    let mut live = BTreeMap::new();
    for call in ["malloc", "calloc", "posix_memalign", "realloc"] {
        let tally = report.tally(|survivor| survivor.text("call") == call);
        if tally.blocks > 0 {
            live.insert(call, (tally.blocks, tally.bytes));
        }
    }
    Model {
        live,
        allocs: report.total("allocs"),
        frees: report.total("frees"),
        alloc_bytes: report.total("alloc_bytes"),
        failed: report.ledger("failed"),
    }
}

/// Plays the wishes and compares.
fn check(wishes: &[(u64, usize, Wish)], options: &[&str]) -> Result<(), TestCaseError> {
    let (script, model) = play(wishes);
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    file.write_all(script.as_bytes())
        .expect("the script can be written");
    let path = file.path().to_str().expect("a plain path");
    let mut target = Target::program(&fixtures::c("random_ops"), &[path]);
    let traced = trace(&mut target, options);
    traced.report.assert_adds_up();
    traced.report.assert_no_losses();
    prop_assert_eq!(reported(&traced.report), model);
    for counter in ["free_unknown", "realloc_unknown", "free_missed", "abandoned"] {
        prop_assert_eq!(traced.report.ledger(counter), 0, "{}", counter);
    }
    target.finish_with(0);
    Ok(())
}

/// The mean gap between samples, the smallest there is, and a size that 32 of them fit in: a block of it is
/// left out once in 10^14.
const MEAN: &str = "1KiB";
const SURE_BYTES: u64 = 32 << 10;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 20,
        max_shrink_iters: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sequence_of_calls_is_matched_to_the_block(wishes in wishes(0)) {
        check(&wishes, &[])?;
    }

    #[test]
    fn any_sequence_of_calls_is_matched_where_sampling_takes_every_block(wishes in wishes(SURE_BYTES)) {
        check(&wishes, &["--sample-bytes", MEAN])?;
    }
}
