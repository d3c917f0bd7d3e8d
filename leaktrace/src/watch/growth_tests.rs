use super::*;

const S: u64 = 1_000_000_000;
const MIB: u64 = 1 << 20;
const WINDOW: Duration = Duration::from_mins(10);

/// Reads `held` every 5 s from 0 up to `end_s`.
fn history(end_s: u64, held: impl Fn(u64) -> u64) -> History {
    let mut history = History::new(WINDOW, 0, held(0));
    for second in (5..=end_s).step_by(5) {
        history.push(second * S, held(second));
    }
    history
}

fn course(end_s: u64, held: impl Fn(u64) -> u64) -> Course {
    history(end_s, held).growth().course
}

/// A day's curve between 100 and 300 MiB, lowest at 0.
fn diurnal(second: u64) -> u64 {
    let turn = second as f64 / 86_400.0 * std::f64::consts::TAU;
    (200.0 * MIB as f64 - 100.0 * MIB as f64 * turn.cos()) as u64
}

#[test]
fn what_rises_grows() {
    let leak = |second: u64| 50 * MIB + second * MIB / 20;
    let growth = history(1800, leak).growth();
    assert_eq!(growth.course, Course::Growing);
    assert_eq!(growth.covered, WINDOW);
    // 30 MiB in ten minutes, of which the floor of the last stretch sees three quarters and what a span takes.
    assert!(
        (20 * MIB as i64..=30 * MIB as i64).contains(&growth.bytes),
        "{growth:?}"
    );
}

#[test]
fn what_stays_is_idle_and_takes_one_span() {
    let still = history(7200, |_| 80 * MIB);
    assert_eq!((still.growth().course, still.growth().bytes), (Course::Idle, 0));
    assert_eq!(still.spans.len(), 1);
    assert!(!still.is_above_start());
}

#[test]
fn what_is_taken_once_does_not_grow() {
    assert_eq!(
        course(1500, |second| if second < 1100 { MIB } else { 500 * MIB }),
        Course::Flat
    );
}

#[test]
fn a_sawtooth_does_not_grow() {
    for period in [20, 60, 120, 150] {
        let saw = |second: u64| 100 * MIB + second % period * MIB;
        for end in [600, 1200, 1230, 1790, 3600] {
            assert_eq!(course(end, saw), Course::Flat, "period {period}, end {end}");
        }
    }
}

#[test]
fn a_sawtooth_whose_floor_rises_grows() {
    let saw = |second: u64| 100 * MIB + second % 60 * 3 * MIB + second / 60 * 2 * MIB;
    assert_eq!(course(3600, saw), Course::Growing);
}

#[test]
fn a_day_that_returns_is_told_from_growth() {
    // On the first day nothing says that it will come back.
    assert_eq!(course(6 * 3600, diurnal), Course::Growing);
    // At night it falls, and on the next day it only returns.
    for hour in [13, 18, 23] {
        let growth = history(hour * 3600, diurnal).growth();
        assert_ne!(growth.course, Course::Growing, "hour {hour}");
        assert!(growth.bytes <= 0, "hour {hour}");
    }
    for hour in [27, 30, 33] {
        let growth = history(hour * 3600, diurnal).growth();
        assert_eq!(growth.course, Course::Returning, "hour {hour}");
        assert_eq!(growth.bytes, 0, "hour {hour}");
    }
}

#[test]
fn a_leak_under_a_day_shows_beyond_the_day() {
    let leak = |second: u64| diurnal(second) + second * MIB / 900;
    let growth = history(30 * 3600, leak).growth();
    assert_eq!(growth.course, Course::Returning);
    // Noon of the second day: above all that was on the first, and still rising.
    let growth = history(35 * 3600 + 1800, leak).growth();
    assert_eq!(growth.course, Course::Growing, "{growth:?}");
}

#[test]
fn the_bound_of_spans_holds_and_the_window_stays_exact() {
    let noisy = |second: u64| 100 * MIB + second * 7919 % 64 * MIB;
    let long = history(2 * 86_400, noisy);
    assert!(long.spans.len() <= SPANS_MAX + 1);
    let from_ns = 2 * 86_400 * S - WINDOW.as_nanos() as u64;
    let recent = long.spans.iter().filter(|span| span.start_ns >= from_ns).count();
    assert!(recent >= 8, "{recent} spans in the window");
    assert!(long.spans[0].start_ns + REMEMBERED_NS + 3600 * S >= 2 * 86_400 * S - 4 * 3600 * S);
}

#[test]
fn a_part_of_a_window_says_how_much_it_covers() {
    let growth = history(60, |second| second * MIB).growth();
    assert_eq!(growth.covered, Duration::from_mins(1));
    let single = History::new(WINDOW, 7 * S, 5);
    assert_eq!(
        single.growth(),
        Growth {
            course: Course::Idle,
            bytes: 0,
            covered: Duration::ZERO
        }
    );
}

#[test]
fn what_was_not_read_because_nothing_changed_is_as_if_it_was() {
    let mut history = History::new(WINDOW, 0, MIB);
    history.push(S, 2 * MIB);
    for second in (5..=1200).step_by(5) {
        history.unchanged(second * S);
    }
    assert_eq!(history.growth().course, Course::Idle);
    assert_eq!(history.bytes(), 2 * MIB);
}
