//! A queue between two threads, whose consumer lags for half of each sixth of the time and then drains it. usage: channel
#[path = "corpus.rs"]
mod corpus;

use std::{sync::mpsc, thread, time::Duration};

use corpus::Site;

static MESSAGE: Site = Site::new("site_message");

const SIZE: usize = 5000;

#[inline(never)]
fn site_message(mark: u8) -> Box<[u8]> {
    MESSAGE.took(SIZE);
    vec![mark | 1; SIZE].into_boxed_slice()
}

fn main() {
    let mut run = corpus::begin(&MESSAGE);
    let (sender, receiver) = mpsc::channel::<Box<[u8]>>();
    let (tell, awake) = mpsc::channel::<bool>();
    thread::spawn(move || {
        let mut drains = false;
        loop {
            match awake.try_recv() {
                Ok(now) => drains = now,
                Err(mpsc::TryRecvError::Disconnected) => return,
                Err(mpsc::TryRecvError::Empty) => {}
            }
            while let Some(message) = drains.then(|| receiver.try_recv().ok()).flatten() {
                assert!(message[7] & 1 == 1);
                drop(message);
                MESSAGE.gave(SIZE);
            }
            thread::sleep(Duration::from_millis(5));
        }
    });
    let (mut done, period, mut drains) = (0, run.part(1.0 / 6.0), false);
    while run.tick() {
        for n in 0..run.due(200.0, &mut done) {
            sender.send(site_message(n as u8)).expect("the consumer is there");
        }
        let lags = run.now() % period < period / 2.0;
        if lags == drains {
            drains = !lags;
            tell.send(drains).expect("the consumer is there");
            if run.now() > period {
                run.once("full");
            }
        }
    }
    run.end()
}
