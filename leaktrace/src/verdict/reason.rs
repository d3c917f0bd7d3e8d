//! A finding in one sentence.
//!
//! Must not decide anything.

use super::{Finding, Why, evidence::Evidence, trend::Slope};
use crate::report::{
    units::{counted, duration_s, percent, size_f64},
    verdict::Class,
};

/// The sentence, without a full stop.
pub(super) fn sentence(finding: &Finding, evidence: &Evidence) -> String {
    let why = why(finding, evidence);
    let needs = match (finding.class, finding.needs_s) {
        (Class::Undecided, Some(needs_s)) => {
            format!("; {} more may tell", duration_s(needs_s.max(1.0).ceil()))
        }
        _ => String::new(),
    };
    format!("{why}{needs}")
}

fn why(finding: &Finding, evidence: &Evidence) -> String {
    let rate = rate(&finding.slope);
    match finding.why {
        Why::TooEarly { takes_s } => format!("seen for less than {}", duration_s(takes_s.ceil())),
        Why::Stays { share, over_s } => stays(share, over_s, &rate),
        Why::Resizes { factor, over_s } => format!(
            "its blocks are replaced by larger ones: {factor:.1} times as large as {} ago; {rate}",
            duration_s(over_s)
        ),
        Why::Rises { over_s } => format!("it has risen all through the last {}; {rate}", duration_s(over_s)),
        Why::Stopped { ago_s } => format!("it grew, but not in the last {}", duration_s(ago_s)),
        Why::Replaces { frees, gained } => format!(
            "{} more live here, but {} from before the attach were freed meanwhile, maybe their predecessors",
            counted(gained.max(0.0) as u64, "block"),
            counted(frees as u64, "block")
        ),
        Why::NotResident {
            grown_bytes,
            resident_bytes,
        } => format!(
            "it grew by {}, but the memory of the process by {} only: blocks from before the attach may have made room",
            size_f64(grown_bytes),
            size_f64(resident_bytes.max(0.0))
        ),
        Why::Bounded { for_s, turned_over } => bounded(finding, evidence, for_s, turned_over),
        Why::Fell { most_bytes } => format!(
            "it has fallen from {} to {}",
            size_f64(most_bytes),
            size_f64(evidence.now().live_bytes)
        ),
        Why::Quiet { within_s, for_s } => {
            let within = if within_s < 1.0 {
                "at once".to_owned()
            } else {
                format!("within {}", duration_s(within_s))
            };
            format!(
                "allocated {within}, and nothing in the {} since",
                duration_s(for_s)
            )
        }
        Why::Young { older_s, share } => young(finding, older_s, share),
        Why::Unclear { rising } if rising > 0.5 => format!("it may grow: {rate}"),
        Why::Unclear { .. } => format!("no trend is clear: {rate}"),
    }
}

fn stays(share: f64, over_s: f64, rate: &str) -> String {
    let over = duration_s(over_s);
    if share >= 0.9995 {
        format!("every block allocated here in the last {over} still lives; {rate}")
    } else if share >= 0.95 {
        format!(
            "{} of what was allocated here in the last {over} still lives; {rate}",
            percent(share)
        )
    } else {
        let share = percent(share);
        format!(
            "of what is allocated here {share} stays, whether it is old or young, for the last {over}; {rate}"
        )
    }
}

fn young(finding: &Finding, older_s: f64, share: f64) -> String {
    let old = if share <= 0.0 {
        format!("nothing older than {} lives", duration_s(older_s))
    } else {
        format!(
            "{} of what is older than {} lives, too little to add up",
            percent(share),
            duration_s(older_s)
        )
    };
    match finding.class {
        Class::Plateau => format!(
            "never above {} of late, and {old}",
            size_f64(finding.bound_bytes.unwrap_or(0.0))
        ),
        _ => old,
    }
}

fn bounded(finding: &Finding, evidence: &Evidence, for_s: f64, turned_over: f64) -> String {
    let most = size_f64(finding.bound_bytes.unwrap_or(0.0));
    let for_s = duration_s(for_s);
    if turned_over >= 1.5 {
        format!("never above {most} in the last {for_s}, while {turned_over:.0} times as much was allocated")
    } else if evidence.is_counted() && turned_over >= 0.05 {
        format!(
            "never above {most} in the last {for_s}, while {} as much was allocated",
            percent(turned_over)
        )
    } else {
        format!("never above {most} in the last {for_s}")
    }
}

/// The slope with its interval.
fn rate(slope: &Slope) -> String {
    let [low, high] = slope.interval();
    let signed = |per_s: f64| format!("{}{}", if per_s < 0.0 { "-" } else { "" }, size_f64(per_s.abs()));
    let sign = if slope.per_s < 0.0 { "-" } else { "+" };
    let value = format!("{sign}{}/s", size_f64(slope.per_s.abs()));
    if !low.is_finite() || !high.is_finite() || signed(low) == signed(high) {
        return value;
    }
    format!("{value}, 95 % {} to {}", signed(low), signed(high))
}
