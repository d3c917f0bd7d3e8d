//! Requests, each with a box of its own. usage: requests leak|keep|drop
//! leak: made `'static` by `Box::leak`. keep: pushed onto a `Vec` of boxes. drop: held by the last hundred only.
#[path = "corpus.rs"]
mod corpus;

use std::collections::VecDeque;

use corpus::Site;

static REQUEST: Site = Site::new("site_request");

type Request = [u8; 2200];

#[inline(never)]
fn site_request(mark: u8) -> Box<Request> {
    REQUEST.took(size_of::<Request>());
    Box::new([mark; 2200])
}

fn main() {
    let mut run = corpus::begin(&REQUEST);
    let (leak, keep) = (run.is("leak"), run.is("keep"));
    if leak || keep {
        run.rate(70.0 * size_of::<Request>() as f64);
    }
    let mut kept: Vec<Box<Request>> = Vec::with_capacity(100_000);
    let mut last: VecDeque<Box<Request>> = VecDeque::with_capacity(101);
    let (mut done, mut seen) = (0, 0u64);
    while run.tick() {
        for n in 0..run.due(70.0, &mut done) {
            let request = site_request(n as u8 + 1);
            if leak {
                seen += u64::from(Box::leak(request)[3]);
            } else if keep {
                kept.push(request);
            } else {
                last.push_back(request);
                if last.len() > 100 {
                    drop(last.pop_front());
                    REQUEST.gave(size_of::<Request>());
                    run.once("full");
                }
            }
        }
    }
    assert!(seen + kept.len() as u64 + last.len() as u64 > 0);
    run.end()
}
