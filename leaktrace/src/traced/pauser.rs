//! Takes probes of single functions out and puts them back, in threads of its own: the kernel waits for grace
//! periods at both, tens of milliseconds in which the loop has other things to do.
//!
//! Must not know which processes there are.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
};

use crate::{
    kernel::clock::now_ns,
    probe::{
        attach::{self, AttachError, Attacher, Links},
        elf::Function,
    },
    symbol::objects::ObjectId,
};

/// A function to be probed in a process.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) pid: u32,
    pub(super) object: ObjectId,
    /// The object's file.
    pub(super) path: PathBuf,
    pub(super) function: Function,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) pid: u32,
    pub(super) object: ObjectId,
    pub(super) slot: u16,
    pub(super) links: Result<Links, AttachError>,
    /// When, nanoseconds of `CLOCK_BOOTTIME`.
    pub(super) at_ns: u64,
}

enum Message {
    Placed(Box<Placed>),
    Done,
}

/// The threads and what they have to say.
#[derive(Debug)]
pub(super) struct Pauser {
    attacher: Arc<Attacher>,
    sender: Sender<Message>,
    messages: Receiver<Message>,
    under_way: usize,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Placed(_) => "Placed",
            Self::Done => "Done",
        })
    }
}

impl Pauser {
    pub(super) fn new(attacher: Arc<Attacher>) -> Self {
        let (sender, messages) = channel();
        Self {
            attacher,
            sender,
            messages,
            under_way: 0,
        }
    }

    /// Whether everything that was begun is done.
    pub(super) const fn is_settled(&self) -> bool {
        self.under_way == 0
    }

    /// Takes out.
    pub(super) fn take_out(&mut self, links: Vec<Links>) {
        if links.is_empty() {
            return;
        }
        self.under_way += 1;
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            attach::release(links);
            let _nobody_waits: Result<_, _> = sender.send(Message::Done);
        });
    }

    /// Puts in, in this order.
    pub(super) fn put_in(&mut self, wanted: Vec<Wanted>) {
        if wanted.is_empty() {
            return;
        }
        self.under_way += 1;
        let sender = self.sender.clone();
        let attacher = Arc::clone(&self.attacher);
        std::thread::spawn(move || {
            for one in wanted {
                let function = std::slice::from_ref(&one.function);
                let placed = Placed {
                    pid: one.pid,
                    object: one.object,
                    slot: one.function.cookie.slot(),
                    links: attacher.attach(&one.path, one.pid, function),
                    at_ns: now_ns(),
                };
                // With nobody to take them the links go with the message.
                let _nobody_waits: Result<_, _> = sender.send(Message::Placed(Box::new(placed)));
            }
            let _nobody_waits: Result<_, _> = sender.send(Message::Done);
        });
    }

    /// What has been put in since the last call.
    pub(super) fn poll(&mut self) -> Vec<Placed> {
        let mut all = Vec::new();
        while let Ok(message) = self.messages.try_recv() {
            self.take(message, &mut all);
        }
        all
    }

    /// The same, once everything that was begun is done.
    pub(super) fn wait(&mut self) -> Vec<Placed> {
        let mut all = Vec::new();
        while !self.is_settled() {
            let Ok(message) = self.messages.recv() else { break };
            self.take(message, &mut all);
        }
        all
    }

    fn take(&mut self, message: Message, all: &mut Vec<Placed>) {
        match message {
            Message::Placed(placed) => all.push(*placed),
            Message::Done => self.under_way -= 1,
        }
    }
}
