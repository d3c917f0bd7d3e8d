//! Nodes that know each other by `Rc`. usage: rc_cycle strong|weak
//! strong: both own each other, and live for ever. weak: the child does not own, and both go.
#[path = "corpus.rs"]
mod corpus;

use std::{cell::RefCell, rc::{Rc, Weak}};

use corpus::Site;

static NODE: Site = Site::new("site_node");

struct Node {
    peer: RefCell<Option<Rc<Node>>>,
    known: RefCell<Weak<Node>>,
    data: [u8; 1800],
}

// With the two counts of the `Rc`.
const SIZE: usize = size_of::<Node>() + 16;

impl Drop for Node {
    fn drop(&mut self) {
        NODE.gave(SIZE);
    }
}

#[inline(never)]
fn site_node(mark: u8) -> Rc<Node> {
    NODE.took(SIZE);
    Rc::new(Node { peer: RefCell::default(), known: RefCell::default(), data: [mark; 1800] })
}

fn main() {
    let mut run = corpus::begin(&NODE);
    let strong = run.is("strong");
    if strong {
        run.rate(2.0 * 50.0 * SIZE as f64);
    }
    let (mut done, mut seen) = (0, 0u64);
    let mut last = None;
    while run.tick() {
        for n in 0..run.due(50.0, &mut done) {
            // One call for both: two would be two stacks.
            let mut made = Vec::with_capacity(2);
            for _ in 0..std::hint::black_box(2) {
                made.push(site_node(n as u8 | 1));
            }
            let (child, parent) = (made.remove(1), made.remove(0));
            *parent.peer.borrow_mut() = Some(Rc::clone(&child));
            if strong {
                *child.peer.borrow_mut() = Some(Rc::clone(&parent));
            } else {
                *child.known.borrow_mut() = Rc::downgrade(&parent);
            }
            seen += u64::from(parent.data[9]);
            last = Some(parent);
            run.once("full");
        }
    }
    assert!(seen > 0 || last.is_none());
    run.end()
}
