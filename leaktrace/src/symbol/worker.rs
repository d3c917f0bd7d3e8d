//! The thread in which names are looked up: a first look at a large object takes seconds, and the processes
//! have to be followed meanwhile.
//!
//! Must not know stacks or mappings.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Instant;

use tokio::sync::Notify;

use super::debuginfod::Servers;
use super::mappings::ObjectId;
use super::objects::Object;
use super::reader::{Functions, Reader};

/// Told the number of an object for which a fetch has ended, and whether its debug file is here.
pub(super) type Told = Box<dyn Fn(ObjectId, bool) + Send + Sync>;

/// What the thread is asked to do.
enum Job {
    /// Look these addresses up.
    LookUp {
        id: ObjectId,
        object: Arc<Object>,
        addresses: Vec<u64>,
    },
    /// Fetching the object's debug file has ended; whether it is here.
    Fetched(ObjectId, bool),
}

/// What the thread says.
#[derive(Debug)]
pub(super) enum Said {
    /// What is at each address that was asked for.
    Found(ObjectId, Vec<(u64, Functions)>),
    /// What was said of this object before may be known better now.
    Better(ObjectId),
}

/// The thread; it ends when this is dropped.
pub(super) struct Worker {
    jobs: Sender<Job>,
    said: Receiver<Said>,
    heard: Arc<Notify>,
    fetching: Arc<AtomicUsize>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Worker").finish_non_exhaustive()
    }
}

impl Worker {
    /// Starts the thread. `servers` is given a way to say that a file has come.
    pub(super) fn start(servers: impl FnOnce(Told) -> Servers + Send + 'static) -> Self {
        let (jobs, to_do) = mpsc::channel();
        let (say, said) = mpsc::channel();
        let (heard, fetching) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (bell, fetched, on_its_way) = (Arc::clone(&heard), jobs.clone(), Arc::clone(&fetching));
        let body = move || {
            let told = move |id, here| {
                // Nobody may be there any more.
                drop(fetched.send(Job::Fetched(id, here)));
            };
            let mut reader = Reader::new(servers(Box::new(told)));
            for job in to_do {
                let answer = match job {
                    Job::LookUp {
                        id,
                        object,
                        addresses,
                    } => {
                        let began = Instant::now();
                        let found = reader.look_up(id, &object, &addresses);
                        tracing::debug!(
                            object = %object.path_in_process.display(),
                            addresses = addresses.len(),
                            elapsed_us = began.elapsed().as_micros(),
                            "names looked up"
                        );
                        Said::Found(id, found)
                    }
                    Job::Fetched(id, false) => Said::Found(id, Vec::new()),
                    Job::Fetched(id, true) => {
                        reader.forget(id);
                        Said::Better(id)
                    }
                };
                on_its_way.store(reader.fetching(), Ordering::Release);
                if say.send(answer).is_err() {
                    return;
                }
                bell.notify_one();
            }
        };
        if let Err(error) = thread::Builder::new().name("symbols".to_owned()).spawn(body) {
            tracing::warn!("cannot start the thread that looks up names: {error}; addresses have no names");
        }
        Self {
            jobs,
            said,
            heard,
            fetching,
        }
    }

    /// Asks for names. Whether they will be said.
    pub(super) fn look_up(&self, id: ObjectId, object: Arc<Object>, addresses: Vec<u64>) -> bool {
        self.jobs
            .send(Job::LookUp {
                id,
                object,
                addresses,
            })
            .is_ok()
    }

    /// What has been said, without waiting.
    pub(super) fn try_hear(&self) -> Option<Said> {
        self.said.try_recv().ok()
    }

    /// The next that is said; none if the thread is gone.
    pub(super) fn hear(&self) -> Option<Said> {
        self.said.recv().ok()
    }

    /// Ends when something has been said since the last time.
    pub(super) async fn has_said(&self) {
        self.heard.notified().await;
    }

    /// Debug files on their way here, as of what was said last.
    pub(super) fn fetching(&self) -> usize {
        self.fetching.load(Ordering::Acquire)
    }
}
