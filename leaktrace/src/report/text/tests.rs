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
