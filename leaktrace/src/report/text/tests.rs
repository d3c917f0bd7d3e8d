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
}
