//! A memo of answers in a `HashMap`. usage: memo all|some
//! all: no answer is ever taken out. some: 800 are kept, and one of them, whichever it is, goes for each that comes.
#[path = "corpus.rs"]
mod corpus;

use std::collections::HashMap;

use corpus::{Random, Site};

static ANSWER: Site = Site::new("site_answer");

const SIZE: usize = 3000;

#[inline(never)]
fn site_answer(mark: u8) -> Vec<u8> {
    ANSWER.took(SIZE);
    vec![mark | 1; SIZE]
}

fn main() {
    let mut run = corpus::begin(&ANSWER);
    let (all, mut random) = (run.is("all"), Random(7));
    let mut memo: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut keys: Vec<u64> = Vec::with_capacity(1000);
    let mut done = 0;
    let per_s = if all { 60.0 } else { 800.0 / run.part(0.2) };
    if all {
        run.rate(60.0 * SIZE as f64);
    }
    while run.tick() {
        for _ in 0..run.due(per_s, &mut done) {
            let key = random.next();
            if !all {
                if keys.len() == 800 {
                    let at = random.below(800) as usize;
                    memo.remove(&keys.swap_remove(at));
                    ANSWER.gave(SIZE);
                    run.once("full");
                }
                keys.push(key);
            }
            memo.entry(key).or_insert_with(|| site_answer(key as u8));
        }
    }
    assert!(!memo.is_empty());
    run.end()
}
