//! Vectors that grow by doubling, with `realloc`. usage: vector one|many|done
//! one: a single one, for ever. many: forty, each of its own age, for ever. done: one, for a third of the time; from the
//! outside that shows when it would have doubled again.
#[path = "corpus.rs"]
mod corpus;

use corpus::Site;

static PUSH: Site = Site::new("site_push");

#[inline(never)]
fn site_push(vector: &mut Vec<u64>, value: u64) {
    let before = vector.capacity();
    vector.push(value);
    if vector.capacity() != before {
        PUSH.grew((vector.capacity() - before) as i64 * 8, i64::from(before == 0));
    }
}

fn main() {
    let mut run = corpus::begin(&PUSH);
    let (many, done_at) = (run.is("many"), if run.is("done") { run.part(1.0 / 3.0) } else { f64::MAX });
    let mut vectors = vec![Vec::new(); if many { 40 } else { 1 }];
    let (per_s, mut done, mut next, mut left_out) = (16_000.0, 0, 0u64, 0);
    // Doubling leaves capacities of 1 to 2 times the length: what is known of the slope is what happens.
    while run.tick() {
        let due = run.due(per_s, &mut done);
        if run.now() > done_at {
            left_out += due;
            if vectors[0].len() as u64 + left_out > vectors[0].capacity() as u64 {
                run.once("full");
            }
            continue;
        }
        for n in 0..due {
            // Older ones are longer: no two double at one time.
            let at = (next % vectors.len() as u64).min(next / 7 % vectors.len() as u64) as usize;
            next += 1;
            site_push(&mut vectors[at], n);
        }
    }
    assert!(vectors.iter().map(Vec::len).sum::<usize>() > 0);
    run.end()
}
