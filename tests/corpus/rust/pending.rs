//! Requests that wait for their answers, in a `HashMap` by number; one in ten is never answered. usage: pending lost|swept
//! lost: those stay in the map. swept: ten times in the run, those are taken out that have waited for a tenth of it.
#[path = "corpus.rs"]
mod corpus;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use corpus::{Random, Site};

static REQUEST: Site = Site::new("site_request");

const SIZE: usize = 2500;

struct Request {
    sent_at: f64,
    body: Vec<u8>,
}

impl Drop for Request {
    fn drop(&mut self) {
        assert!(self.body[7] & 1 == 1);
        REQUEST.gave(SIZE);
    }
}

#[inline(never)]
fn site_request(sent_at: f64, mark: u8) -> Request {
    REQUEST.took(SIZE);
    Request { sent_at, body: vec![mark | 1; SIZE] }
}

fn main() {
    // With room for what is lost in half a minute: what grows is the requests.
    let mut waiting: HashMap<u64, Request> = HashMap::with_capacity(1 << 13);
    let mut answers = BinaryHeap::with_capacity(1 << 12);
    let mut run = corpus::begin(&REQUEST);
    let (mut random, mut number, mut done, mut sweeps) = (Random(3), 0u64, 0, 0);
    if run.is("lost") {
        run.rate(200.0 / 10.0 * SIZE as f64);
    }
    while run.tick() {
        let now = run.now();
        for _ in 0..run.due(200.0, &mut done) {
            number += 1;
            waiting.insert(number, site_request(now, number as u8));
            if random.below(10) > 0 {
                let takes_ms = 20 + random.below(300);
                answers.push(Reverse(((now * 1000.0) as u64 + takes_ms, number)));
            }
        }
        while let Some(Reverse((at_ms, answered))) = answers.peek().copied()
            && at_ms as f64 <= now * 1000.0
        {
            answers.pop();
            waiting.remove(&answered);
        }
        if run.is("swept") && now >= run.part(0.1) * f64::from(sweeps + 1) {
            sweeps += 1;
            let limit = now - run.part(0.1);
            waiting.retain(|_, request| request.sent_at > limit);
            if sweeps == 2 {
                run.once("full");
            }
        }
    }
    run.end()
}
