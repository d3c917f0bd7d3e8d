//! Slopes of series whose true slope is known: how often the interval holds it.

use fastrand::Rng;

use super::*;

/// Standard normal.
fn gauss(rng: &mut Rng) -> f64 {
    let (u, v) = (1.0 - rng.f64(), rng.f64());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// A line with noise of this memory.
fn series(rng: &mut Rng, count: usize, per_step: f64, memory: f64) -> Vec<f64> {
    let mut noise = if memory < 1.0 {
        gauss(rng) / (1.0 - memory * memory).sqrt()
    } else {
        0.0
    };
    (0..count)
        .map(|index| {
            noise = memory * noise + gauss(rng);
            per_step * index as f64 + noise
        })
        .collect()
}

/// How often of 100 the interval holds the slope.
fn coverage(count: usize, memory: f64) -> f64 {
    let mut rng = Rng::with_seed(7);
    let runs = 2000;
    let held = (0..runs)
        .filter(|_| {
            let slope = slope(&series(&mut rng, count, 0.3, memory), 2.0).unwrap();
            let [low, high] = slope.interval();
            (low..=high).contains(&0.15)
        })
        .count();
    100.0 * held as f64 / f64::from(runs)
}

#[test]
fn the_interval_holds_the_slope_whatever_the_noise_remembers() {
    for count in [16, 24, 32] {
        for memory in [0.0, 0.3, 0.6, 0.9, 1.0] {
            let held = coverage(count, memory);
            assert!(
                (86.0..=99.5).contains(&held),
                "{count} values, memory {memory}: {held} %"
            );
        }
    }
}

#[test]
fn what_lies_on_a_line_is_known() {
    let values: Vec<f64> = (0..20).map(|index| 5.0 + 3.0 * f64::from(index)).collect();
    let slope = slope(&values, 0.5).unwrap();
    assert!((slope.per_s - 6.0).abs() < 1e-9 && slope.error < 1e-9 && slope.above(5.9) > 0.999);
    assert!(no_rise(&values) < 1e-6);
    let flat = [3.0; 12];
    assert!(
        super::slope(&flat, 1.0)
            .unwrap()
            .interval()
            .iter()
            .all(|bound| bound.abs() < 1e-9)
    );
    assert!(no_rise(&flat) >= 0.5);
    assert_eq!(super::slope(&flat[..VALUES_MIN - 1], 1.0), None);
}

#[test]
fn without_a_trend_one_is_seldom_seen() {
    for memory in [0.0, 0.5, 0.9, 1.0] {
        let mut rng = Rng::with_seed(11);
        let seen = (0..2000)
            .filter(|_| no_rise(&series(&mut rng, 24, 0.0, memory)) < 0.05)
            .count();
        assert!(
            seen < 260,
            "memory {memory}: {seen} of 2000 where 100 were stated"
        );
    }
}

#[test]
fn the_median_is_the_middle() {
    for (mut values, middle) in [
        (vec![], 0.0),
        (vec![4.0], 4.0),
        (vec![9.0, 1.0], 5.0),
        (vec![7.0, 1.0, 3.0], 3.0),
    ] {
        assert!((median(&mut values) - middle).abs() < 1e-12);
    }
}
