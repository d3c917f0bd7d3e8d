//! Verdicts on made-up sites whose truth is known: how often they are right.

use fastrand::Rng;

use super::{
    evidence::{Evidence, Run},
    judge,
    simulated::{Block, Life, arrivals, cache, read},
};
use crate::report::verdict::{Class, Verdict};

const SPAN_S: f64 = 30.0;
const READINGS: usize = 60;

/// Verdicts on `runs` sites.
fn verdicts(runs: u64, make: impl Fn(&mut Rng) -> Vec<Block>, mean_bytes: Option<f64>) -> Vec<Verdict> {
    (0..runs)
        .map(|seed| {
            let mut rng = Rng::with_seed(seed);
            let blocks = make(&mut rng);
            judge(&read(&mut rng, &blocks, SPAN_S, READINGS, mean_bytes))
        })
        .collect()
}

fn count(verdicts: &[Verdict], class: Class) -> usize {
    verdicts.iter().filter(|verdict| verdict.class == class).count()
}

fn tally(verdicts: &[Verdict]) -> Vec<(Class, usize)> {
    Class::ALL
        .into_iter()
        .map(|class| (class, count(verdicts, class)))
        .collect()
}

/// At least `least` of 100 are of one of these classes, and at most `most_wrong` of 100 say what is not so.
#[track_caller]
fn assert_mostly(name: &str, verdicts: &[Verdict], fair: &[Class], least: usize, most_wrong: usize) {
    let right: usize = fair.iter().map(|class| count(verdicts, *class)).sum();
    let wrong = verdicts.len() - right - count(verdicts, Class::Undecided);
    let strange = verdicts.iter().find(|verdict| !fair.contains(&verdict.class));
    assert!(
        right * 100 >= least * verdicts.len() && wrong * 100 <= most_wrong * verdicts.len(),
        "{name}: {:?}; {strange:?}",
        tally(verdicts)
    );
}

fn leak(per_s: f64, bytes: f64) -> impl Fn(&mut Rng) -> Vec<Block> {
    move |rng| arrivals(rng, (0.0, SPAN_S), per_s, bytes, Life::Ever)
}

fn both(
    first: impl Fn(&mut Rng) -> Vec<Block>,
    second: impl Fn(&mut Rng) -> Vec<Block>,
) -> impl Fn(&mut Rng) -> Vec<Block> {
    move |rng| {
        let mut blocks = first(rng);
        blocks.extend(second(rng));
        blocks
    }
}

fn churn(per_s: f64, bytes: f64, life: Life) -> impl Fn(&mut Rng) -> Vec<Block> {
    move |rng| arrivals(rng, (0.0, SPAN_S), per_s, bytes, life)
}

#[test]
fn a_leak_grows() {
    for (per_s, least) in [(2.0, 90), (10.0, 99), (300.0, 100)] {
        assert_mostly(
            "leak",
            &verdicts(200, leak(per_s, 1000.0), None),
            &[Class::Growing],
            least,
            0,
        );
    }
    assert_mostly(
        "sampled",
        &verdicts(200, leak(300.0, 1000.0), Some(16e3)),
        &[Class::Growing],
        97,
        0,
    );
    for period_s in [2.0, 4.0, 5.0] {
        let bursts = move |_: &mut Rng| {
            let times = (0..)
                .map(|index| 0.7 + period_s * f64::from(index))
                .take_while(|time| *time < SPAN_S);
            times
                .flat_map(|born_s| {
                    vec![
                        Block {
                            born_s,
                            dies_s: f64::INFINITY,
                            bytes: 100.0
                        };
                        200
                    ]
                })
                .collect()
        };
        assert_mostly("bursts", &verdicts(1, bursts, None), &[Class::Growing], 100, 0);
    }
}

#[test]
fn a_slow_leak_grows_under_heavy_churn() {
    for life in [
        Life::Exponential(0.05),
        Life::Exponential(0.5),
        Life::Bimodal(0.9, 0.01, 0.6),
    ] {
        let make = both(churn(2000.0, 1000.0, life), leak(10.0, 1000.0));
        assert_mostly("slow leak", &verdicts(60, make, None), &[Class::Growing], 97, 0);
    }
}

#[test]
fn what_comes_and_goes_does_not_grow() {
    for life in [
        Life::Exponential(0.05),
        Life::Exponential(0.5),
        Life::Exponential(2.0),
        Life::Bimodal(0.95, 0.1, 1.5),
        Life::Pareto(0.01, 1.8),
    ] {
        for mean_bytes in [None, Some(16e3)] {
            let verdicts = verdicts(100, churn(500.0, 1000.0, life), mean_bytes);
            assert_mostly(
                &format!("{life:?} {mean_bytes:?}"),
                &verdicts,
                &[Class::Churn, Class::Plateau],
                80,
                0,
            );
        }
    }
}

#[test]
fn a_full_cache_does_not_grow() {
    for by_chance in [false, true] {
        for full_s in [0.2, 2.0, 8.0, 14.0] {
            for mean_bytes in [None, Some(8e3)] {
                let make = move |rng: &mut Rng| {
                    cache(rng, SPAN_S, 1000.0, 500.0, (1000.0 * full_s) as usize, by_chance)
                };
                let verdicts = verdicts(30, make, mean_bytes);
                let name = format!("full after {full_s} s, by chance {by_chance}, {mean_bytes:?}");
                // Of a few hundred samples that go by chance, the level wavers by what is called flat.
                let least = if by_chance && mean_bytes.is_some() { 15 } else { 85 };
                // Samples of what is replaced all the time waver as what comes and goes does.
                let fair = [Class::Plateau, Class::Churn];
                let fair = if mean_bytes.is_some() {
                    &fair[..]
                } else {
                    &fair[..1]
                };
                assert_mostly(&name, &verdicts, fair, least, 0);
            }
        }
    }
}

#[test]
fn a_cache_is_not_called_growing_once_it_is_full() {
    for seconds_later in [1.0, 2.0, 4.0, 8.0, 12.0] {
        let full_s = SPAN_S - seconds_later;
        let make = move |rng: &mut Rng| cache(rng, SPAN_S, 1000.0, 500.0, (1000.0 * full_s) as usize, false);
        let verdicts = verdicts(50, make, None);
        assert_eq!(
            count(&verdicts, Class::Growing),
            0,
            "{seconds_later} s later: {:?}",
            tally(&verdicts)
        );
    }
}

#[test]
fn a_start_up_table_is_one_off() {
    let start = |rng: &mut Rng| arrivals(rng, (0.3, 1.5), 500.0, 100.0, Life::Ever);
    assert_mostly("table", &verdicts(20, start, None), &[Class::OneOff], 100, 0);
    let stops = |rng: &mut Rng| arrivals(rng, (0.0, 12.0), 50.0, 100.0, Life::Ever);
    assert_mostly(
        "leak that stops",
        &verdicts(20, stops, None),
        &[Class::Plateau],
        100,
        0,
    );
}

#[test]
fn a_cache_full_before_the_attach_is_not_called_growing() {
    // All that is new stays, and as many of before go.
    let mut rng = Rng::with_seed(3);
    let blocks = leak(100.0, 1000.0)(&mut rng);
    let mut evidence = read(&mut rng, &blocks, SPAN_S, READINGS, None);
    assert_eq!(judge(&evidence).class, Class::Growing);
    for (run, level) in evidence.runs.iter_mut().zip(&evidence.levels) {
        run.frees_unknown = level.allocs;
    }
    let verdict = judge(&evidence);
    assert_eq!(verdict.class, Class::Undecided);
    assert!(
        verdict.reason.contains("from before the attach were freed"),
        "{}",
        verdict.reason
    );
    // The same where frees of before cannot be told: then resident memory says it.
    evidence.sample_bytes = Some(512.0);
    evidence.ran_before = true;
    for level in &mut evidence.levels {
        level.live_bytes *= 100.0;
    }
    for cohort in evidence.cohorts.iter_mut().flatten() {
        cohort.live_bytes *= 100.0;
    }
    evidence.runs.fill(Run {
        frees_unknown: 0.0,
        resident_bytes: 1e9,
    });
    assert_eq!(judge(&evidence).class, Class::Undecided);
}

#[test]
fn a_vector_that_doubles_grows_until_it_does_not() {
    let vector = |until_s: f64| {
        move |_: &mut Rng| {
            let sizes = (0..)
                .map(|index| 0.4 * 2_f64.powi(index))
                .take_while(|time| *time < until_s);
            let times: Vec<f64> = sizes.collect();
            let ends = times[1..].iter().copied().chain([f64::INFINITY]);
            let made = times.iter().zip(ends).enumerate();
            made.map(|(index, (born_s, dies_s))| Block {
                born_s: *born_s,
                dies_s,
                bytes: 1000.0 * 2_f64.powi(index as i32),
            })
            .collect()
        }
    };
    assert_mostly(
        "vector",
        &verdicts(1, vector(SPAN_S), None),
        &[Class::Growing],
        100,
        0,
    );
    let done = verdicts(1, vector(4.0), None);
    assert_mostly("done", &done, &[Class::Plateau, Class::OneOff], 100, 0);
}

#[test]
fn the_slope_of_a_leak_is_in_its_interval() {
    for mean_bytes in [None, Some(16e3)] {
        let verdicts = verdicts(
            400,
            both(leak(100.0, 1000.0), churn(300.0, 1000.0, Life::Exponential(0.3))),
            mean_bytes,
        );
        let held = verdicts
            .iter()
            .filter(|verdict| (verdict.slope_interval[0]..=verdict.slope_interval[1]).contains(&100e3))
            .count();
        assert!((364..=396).contains(&held), "{mean_bytes:?}: {held} of 400");
    }
}

#[test]
fn too_early_is_said() {
    let mut rng = Rng::with_seed(1);
    let blocks = leak(100.0, 10.0)(&mut rng);
    let verdict = judge(&read(&mut rng, &blocks, 4.0, 8, None));
    assert_eq!((verdict.class, verdict.needs_s), (Class::Undecided, Some(6.0)));
    assert!(judge(&Evidence::default()).class == Class::Undecided);
}

#[test]
fn a_queue_that_falls_behind_grows_although_every_block_goes() {
    // Twice as many come as go, in order: each waits longer than the one before.
    let queue = |rng: &mut Rng| {
        let mut blocks = arrivals(rng, (0.0, SPAN_S), 400.0, 100.0, Life::Ever);
        for (index, block) in blocks.iter_mut().enumerate() {
            block.dies_s = (index as f64 / 200.0).max(block.born_s);
        }
        blocks
    };
    assert_mostly("queue", &verdicts(20, queue, None), &[Class::Growing], 90, 0);
}

#[test]
fn a_look_right_after_another_is_no_pause() {
    let mut rng = Rng::with_seed(5);
    let mut evidence = read(
        &mut rng,
        &leak(300.0, 100.0)(&mut Rng::with_seed(5)),
        SPAN_S,
        READINGS,
        None,
    );
    evidence.times_s.push(SPAN_S + 0.002);
    evidence.levels.extend(evidence.levels.last().copied());
    evidence.runs.extend(evidence.runs.last().copied());
    if let Some(cohorts) = &mut evidence.cohorts {
        cohorts.push(super::evidence::Cohort::default());
    }
    assert_eq!(judge(&evidence).class, Class::Growing);
}

#[test]
fn of_levels_alone_it_is_not_said_that_nothing_was_handed_out() {
    let mut rng = Rng::with_seed(9);
    let blocks = arrivals(&mut rng, (0.3, 1.5), 500.0, 100.0, Life::Ever);
    let mut evidence = read(&mut rng, &blocks, SPAN_S, READINGS, None);
    assert_eq!(judge(&evidence).class, Class::OneOff);
    // Of mappings it is counted what is made, and not known when what is there was touched.
    evidence.cohorts = None;
    assert_eq!(judge(&evidence).class, Class::OneOff);
    for level in &mut evidence.levels {
        (level.allocs, level.alloc_bytes) = (0.0, 0.0);
    }
    let verdict = judge(&evidence);
    assert_eq!(verdict.class, Class::Plateau, "{verdict:?}");
}

#[test]
fn a_vector_grows_whatever_else_is_freed() {
    let ends = |index: i32| 0.4 * 2_f64.powi(index + 1);
    let blocks: Vec<Block> = (0..7)
        .map(|index| Block {
            born_s: ends(index - 1),
            dies_s: if index == 6 { f64::INFINITY } else { ends(index) },
            bytes: 1000.0 * 2_f64.powi(index),
        })
        .collect();
    let mut evidence = read(&mut Rng::with_seed(1), &blocks, SPAN_S, READINGS, None);
    for (index, run) in evidence.runs.iter_mut().enumerate() {
        run.frees_unknown = index as f64;
    }
    assert_eq!(judge(&evidence).class, Class::Growing);
}

#[test]
fn forty_vectors_grow_and_so_does_one_that_grows_by_a_constant() {
    // Each is doubled when it is full; they fill at paces of their own.
    let vectors = |rng: &mut Rng| {
        let mut blocks = Vec::new();
        for _ in 0..40 {
            let (first_s, mut bytes) = (0.05 + rng.f64() * 0.4, 64.0);
            let mut born_s = first_s * rng.f64();
            while born_s < SPAN_S {
                let dies_s = born_s.max(first_s) * 2.0;
                blocks.push(Block {
                    born_s,
                    dies_s,
                    bytes,
                });
                (born_s, bytes) = (dies_s, 2.0 * bytes);
            }
        }
        blocks
    };
    assert_mostly("vectors", &verdicts(50, vectors, None), &[Class::Growing], 90, 0);
    let appended = |_: &mut Rng| {
        let steps = (0..3001).map(f64::from);
        steps
            .map(|step| Block {
                born_s: step / 100.0,
                dies_s: (step + 1.0) / 100.0,
                bytes: 4000.0 * (step + 1.0),
            })
            .collect()
    };
    assert_mostly(
        "appended",
        &verdicts(1, appended, None),
        &[Class::Growing],
        100,
        0,
    );
}

#[test]
fn a_vector_that_is_done_is_not_called_growing_once_its_next_step_is_overdue() {
    for done_at in 3..7 {
        let ends = |index: i32| 0.25 * 2_f64.powi(index + 1);
        let blocks = |_: &mut Rng| -> Vec<Block> {
            (0..=done_at)
                .map(|index| Block {
                    born_s: if index == 0 { 0.0 } else { ends(index - 1) },
                    dies_s: if index == done_at {
                        f64::INFINITY
                    } else {
                        ends(index)
                    },
                    bytes: 1000.0 * 2_f64.powi(index),
                })
                .collect()
        };
        let last_step_s = ends(done_at - 1);
        let verdict = verdicts(1, blocks, None).remove(0);
        let is_overdue = SPAN_S > 2.6 * last_step_s;
        assert!(
            verdict.class != Class::Growing || !is_overdue,
            "{last_step_s}: {verdict:?}"
        );
    }
}

#[test]
fn a_batch_that_forgets_a_part_each_time_grows_and_one_that_does_not_comes_and_goes() {
    let batches = |kept: usize| {
        move |rng: &mut Rng| {
            let period_s = 3.0 + 1.5 * rng.f64();
            let starts = (0..)
                .map(|index| f64::from(index) * period_s)
                .take_while(|at_s| *at_s < SPAN_S);
            let of_batch = |born_s: f64| {
                (0..200).map(move |index| Block {
                    born_s,
                    dies_s: if index < kept {
                        f64::INFINITY
                    } else {
                        born_s + 0.25 * period_s
                    },
                    bytes: 1e5,
                })
            };
            starts.flat_map(of_batch).collect::<Vec<_>>()
        }
    };
    // Seven to ten batches are few: at least every second is told in this time, and none taken for something else.
    assert_mostly(
        "batch",
        &verdicts(100, batches(20), None),
        &[Class::Growing],
        50,
        0,
    );
    let fair = [Class::Churn, Class::Plateau, Class::OneOff];
    assert_mostly("batch", &verdicts(100, batches(0), None), &fair, 80, 0);
}

#[test]
fn a_full_cache_of_which_a_part_is_never_thrown_out_is_not_growing() {
    // Full after a sixth of the time. Most of what is new goes soon; a few of a hundred stay, at the cost of the oldest.
    let least_used = |rng: &mut Rng| {
        let mut blocks = arrivals(rng, (0.0, SPAN_S), 200.0, 2000.0, Life::Exponential(4.0));
        let full_at = blocks.partition_point(|block| block.born_s < SPAN_S / 6.0);
        let number = blocks.len() - full_at;
        // What stays of the later ones takes the place of what was there first.
        for (index, block) in blocks[..full_at].iter_mut().rev().enumerate() {
            block.dies_s = SPAN_S / 6.0 + index as f64 / full_at as f64 * SPAN_S;
        }
        for _ in 0..number * 6 / 100 {
            blocks[full_at + rng.usize(..number)].dies_s = f64::INFINITY;
        }
        blocks
    };
    let all = verdicts(200, least_used, Some(16e3));
    assert!(count(&all, Class::Growing) <= 10, "{:?}", tally(&all));
}
