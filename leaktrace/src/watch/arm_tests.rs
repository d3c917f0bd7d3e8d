use super::*;
use crate::watch::growth::History;

const S: u64 = 1_000_000_000;
const MIB: u64 = 1 << 20;

fn condition(text: &str) -> Condition {
    text.parse().unwrap()
}

/// Processes by number, and what each holds at a second.
struct Host<F> {
    armory: Armory<u32>,
    histories: Vec<History>,
    held: F,
    /// Every order with its second.
    orders: Vec<(u64, Order<u32>)>,
}

impl<F: Fn(u32, u64) -> u64> Host<F> {
    fn new(condition: Condition, processes: u32, places: usize, held: F) -> Self {
        Self {
            armory: Armory::new(condition, places),
            histories: (0..processes)
                .map(|process| History::new(condition.window, 0, held(process, 0)))
                .collect(),
            held,
            orders: Vec::new(),
        }
    }

    fn run(&mut self, from_s: u64, to_s: u64) {
        for second in (from_s + 5..=to_s).step_by(5) {
            let mut all = Vec::new();
            for (process, history) in self.histories.iter_mut().enumerate() {
                history.push(second * S, (self.held)(process as u32, second));
                all.push((process as u32, history.growth()));
            }
            let orders = self.armory.decide(second * S, &all);
            self.orders
                .extend(orders.into_iter().map(|order| (second, order)));
        }
    }

    fn armed(&self) -> Vec<u32> {
        self.armory.armed().map(|(id, _)| id).collect()
    }
}

#[test]
fn conditions_are_read() {
    let ten = Condition::default();
    for text in [
        "rss>10MiB/10min",
        "rss > 10MiB / 10m",
        "anon>10MiB/600",
        "rss>10485760/10m",
    ] {
        assert_eq!(text.parse(), Ok(ten), "{text}");
    }
    assert_eq!(ten.to_string(), "rss>10MiB/10m");
    assert_eq!(condition(&ten.to_string()), ten);
    for text in [
        "",
        "10MiB/10min",
        "rss>10MiB",
        "cpu>10MiB/10min",
        "rss<10MiB/10min",
    ] {
        assert_eq!(text.parse::<Condition>(), Err(ConditionError::Form), "{text}");
    }
    assert_eq!("rss>10MiB/0".parse::<Condition>(), Err(ConditionError::TooShort));
    let error = "rss>x/10min".parse::<Condition>().unwrap_err().to_string();
    assert!(error.contains("size is not a size: write bytes"), "{error}");
    let error = "rss>1MiB/soon".parse::<Condition>().unwrap_err().to_string();
    assert!(error.contains("time is not a time: write seconds"), "{error}");
}

#[test]
fn of_fifty_only_the_growing_one_is_armed() {
    // 17 leaks 3 MiB a minute; the others are still, saw-toothed, or take much once.
    let held = |process: u32, second: u64| match process {
        17 => 20 * MIB + second * MIB / 20,
        saw if saw % 3 == 0 => 50 * MIB + second * (1 + u64::from(saw % 5)) % 90 * MIB,
        once if once % 3 == 1 => 10 * MIB + if second > 700 { 400 * MIB } else { 0 },
        _ => 30 * MIB,
    };
    let mut host = Host::new(Condition::default(), 50, 8, held);
    host.run(0, 595);
    assert_eq!(host.orders, [], "nothing is armed before the time is over");
    host.run(595, 3600);
    assert_eq!(host.armed(), [17]);
    assert_eq!(host.orders.len(), 1, "{:?}", host.orders);
}

#[test]
fn what_stops_growing_is_disarmed_once() {
    let held = |_, second: u64| 20 * MIB + second.min(1800) * MIB / 20;
    let mut host = Host::new(Condition::default(), 1, 8, held);
    host.run(0, 1800);
    assert_eq!(host.armed(), [0]);
    host.run(1800, 6 * 3600);
    let orders: Vec<_> = host.orders.iter().map(|(_, order)| *order).collect();
    assert_eq!(orders, [Order::Arm(0), Order::Disarm(0, Why::Stopped)]);
    let (second, _) = host.orders[1];
    assert!((1801..=2400).contains(&second), "disarmed at {second} s");
}

#[test]
fn a_diurnal_one_is_disarmed_and_stays_so_on_the_next_day() {
    // 100 to 1100 MiB and back in a day.
    let held = |_, second: u64| {
        let turn = second as f64 / 86_400.0 * std::f64::consts::TAU;
        (600.0 * MIB as f64 - 500.0 * MIB as f64 * turn.cos()) as u64
    };
    let mut host = Host::new(Condition::default(), 1, 8, held);
    host.run(0, 12 * 3600);
    assert_eq!(host.orders.first().map(|(_, order)| *order), Some(Order::Arm(0)));
    assert_eq!(host.armed(), [0_u32; 0], "it is disarmed before its peak is over");
    let so_far = host.orders.len();
    host.run(12 * 3600, 48 * 3600);
    assert_eq!(&host.orders[so_far..], []);
}

#[test]
fn places_go_to_those_that_grow_most_and_to_much_faster_ones_after_a_turn() {
    // Process n leaks n + 1 MiB in 20 s; the last begins late and leaks ten times as fast as any.
    let held = |process: u32, second: u64| match process {
        3 => second.saturating_sub(1500) * 2 * MIB,
        slow => (u64::from(slow) + 1) * second * MIB / 20,
    };
    let mut host = Host::new(Condition::default(), 4, 2, held);
    host.run(0, 900);
    assert_eq!(host.armed(), [1, 2]);
    host.run(900, 3600);
    assert_eq!(host.armed(), [2, 3]);
    let displaced = host
        .orders
        .iter()
        .filter(|(_, order)| *order == Order::Disarm(1, Why::Displaced));
    assert_eq!(displaced.count(), 1);
}

#[test]
fn one_that_could_not_be_armed_rests() {
    let mut armory = Armory::new(Condition::default(), 8);
    let growing = Growth {
        course: Course::Growing,
        bytes: 50 * MIB as i64,
        covered: Duration::from_mins(10),
    };
    assert_eq!(armory.decide(0, &[(1, growing)]), [Order::Arm(1)]);
    armory.rest(1, 0);
    assert_eq!(armory.decide(299 * S, &[(1, growing)]), []);
    assert_eq!(armory.decide(301 * S, &[(1, growing)]), [Order::Arm(1)]);
}

#[test]
fn a_budget_is_shared_by_growth() {
    let budget = Share::of_percent(2.0);
    let parts = shares(budget, &[30 << 20, 10 << 20]);
    assert_eq!(parts, [Share::of_percent(1.5), Share::of_percent(0.5)]);
    assert_eq!(shares(budget, &[1, i64::MAX / 2])[0], Share::LEAST_OVERHEAD);
    assert_eq!(shares(budget, &[]), []);
}
