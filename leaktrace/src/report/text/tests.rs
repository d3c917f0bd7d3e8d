//! The text of one whole report, of an empty one, and what must not get out of hand.

use super::*;
use crate::report::sample;

fn rendered(report: &Report, color: bool, width: Option<usize>) -> String {
    let mut out = Vec::new();
    Text { color, width }.render(report, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn show() {
    println!("{}", rendered(&sample::report(), false, None));
    println!("{}", rendered(&sample::report(), true, Some(80)));
    println!("{}", rendered(&sample::empty(), false, None));
    println!("{}", rendered(&sample::sampled(), false, None));
}

#[test]
fn an_estimate_says_so_and_how_far_to_trust_it() {
    let exact = rendered(&sample::report(), false, None);
    let sampled = rendered(&sample::sampled(), false, None);
    for line in [
        "  sampling     every 512.0 KiB per thread: numbers are estimates, ranges are 95 %\n",
        "    range      432.6 KiB to 4.0 MiB, from 3 samples\n",
        "       212.8 KiB to 3.2 MiB, from 2 samples\n",
        " old, stands for 128.5\n",
    ] {
        assert!(sampled.contains(line), "{line}in\n{sampled}");
        assert!(!exact.contains(line), "{line}in\n{exact}");
    }
}

#[test]
fn no_sample_is_not_called_nothing() {
    let mut report = sample::empty();
    report.tracing.sampling = sample::sampled().tracing.sampling;
    let text = rendered(&report, false, None);
    assert!(
        text.contains("\nno sample is outstanding: every sampled block was freed\n"),
        "{text}"
    );
    report.totals.allocs = 0;
    let text = rendered(&report, false, None);
    assert!(
        text.contains("\nno allocation was sampled since the attach\n"),
        "{text}"
    );
}

#[test]
fn the_cost_is_a_sentence_and_a_budget_says_what_it_took() {
    let text = rendered(&sample::report(), false, None);
    assert!(
        text.contains(
            "  tracing      costs the target 3.1 % of its CPU time (3.1 % in all: 72,000,000 traps x 0.03 \u{b5}s + \
             0.01 \u{b5}s in programs), leaktrace itself 0.3 % of a CPU\n"
        ),
        "{text}"
    );
    assert!(!text.contains("held to"), "{text}");
    let text = rendered(&sample::budgeted(), false, None);
    for line in [
        "  held to      3.0 %: sampling every 512.0 KiB; malloc paused at times (malloc seen 12 % of the time)\n",
        "  not seen     about 1.0 GiB in 1,000,000 blocks handed out while paused\n",
        "  unsure       1.2 MiB in 1,300 blocks of the outstanding: frees were unseen for 85 % of the time\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let mut report = sample::report();
    report.overhead.calibration = None;
    report.overhead.unknown = Some("no probe".to_owned());
    let text = rendered(&report, false, None);
    assert!(
        text.contains(
            "  tracing      costs the target an unknown share: no probe; leaktrace itself 0.3 % of a CPU\n"
        ),
        "{text}"
    );
}
