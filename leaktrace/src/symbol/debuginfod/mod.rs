//! Debug files from the servers in `DEBUGINFOD_URLS`: asked for when an object that is shown has no debug
//! information on this machine, fetched by threads of their own, kept where other clients keep theirs.
//!
//! Nobody waits here: whoever asks is told later that a file has come. Must not know what is in the files.

#[cfg(feature = "debuginfod")]
mod fetch;
#[cfg_attr(
    not(feature = "debuginfod"),
    expect(dead_code, reason = "only a client puts anything there")
)]
mod store;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use self::store::{Look, Store};
use super::debug_file::hexadecimal;
use super::mappings::ObjectId;

/// Files that are fetched at the same time.
const THREADS: usize = 4;

/// What became of a question for a debug file.
#[derive(Debug)]
pub(super) enum Answer {
    /// It is here.
    Here(File),
    /// It is being fetched; the object's number will be told when that has ended.
    Asked,
    /// No server has it, or none could be reached.
    None,
}

/// Gets one file: returns whether it is in the store now. A stand-in in tests.
type Fetch = dyn Fn(&str, &Store) -> Result<bool, String> + Send + Sync;

/// Told the number of the object for which a fetch has ended, and whether the file is here.
type Told = dyn Fn(ObjectId, bool) + Send + Sync;

/// The servers, and what has been asked of them in this run.
pub(super) struct Servers {
    active: Option<Active>,
}

struct Active {
    store: Arc<Store>,
    fetch: Arc<Fetch>,
    told: Arc<Told>,
    /// By build id; whether it was fetched, once that is known.
    asked: Arc<Mutex<HashMap<String, Option<bool>>>>,
    fetching: Arc<AtomicUsize>,
    queue: Option<mpsc::Sender<(String, ObjectId)>>,
}

impl fmt::Debug for Servers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Servers")
            .field("active", &self.active.is_some())
            .finish()
    }
}

impl Servers {
    /// Those that the environment names; none where it names none. `told` is called from another thread.
    #[cfg(feature = "debuginfod")]
    pub(super) fn from_environment(
        variable: impl Fn(&str) -> Option<OsString>,
        told: impl Fn(ObjectId, bool) + Send + Sync + 'static,
    ) -> Self {
        let Some(client) = fetch::Client::from_environment(&variable) else {
            return Self::none();
        };
        let Some(store) = Store::from_environment(&variable) else {
            tracing::warn!(
                "DEBUGINFOD_URLS is not used: there is no folder to keep files in; set DEBUGINFOD_CACHE_PATH"
            );
            return Self::none();
        };
        Self::new(store, move |id, store| client.fetch(id, store), told)
    }

    /// leaktrace was built without a client.
    #[cfg(not(feature = "debuginfod"))]
    pub(super) fn from_environment(
        variable: impl Fn(&str) -> Option<OsString>,
        _told: impl Fn(ObjectId, bool) + Send + Sync + 'static,
    ) -> Self {
        if variable("DEBUGINFOD_URLS").is_some_and(|urls| !urls.is_empty()) {
            tracing::warn!("DEBUGINFOD_URLS is not used: leaktrace was built without the feature debuginfod");
        }
        Self::none()
    }

    /// None at all.
    pub(super) const fn none() -> Self {
        Self { active: None }
    }

    #[cfg_attr(
        not(feature = "debuginfod"),
        expect(dead_code, reason = "only tests have something to fetch with")
    )]
    fn new(
        store: Store,
        fetch: impl Fn(&str, &Store) -> Result<bool, String> + Send + Sync + 'static,
        told: impl Fn(ObjectId, bool) + Send + Sync + 'static,
    ) -> Self {
        Self {
            active: Some(Active {
                store: Arc::new(store),
                fetch: Arc::new(fetch),
                told: Arc::new(told),
                asked: Arc::default(),
                fetching: Arc::default(),
                queue: None,
            }),
        }
    }

    /// How many files are on their way.
    pub(super) fn fetching(&self) -> usize {
        self.active
            .as_ref()
            .map_or(0, |active| active.fetching.load(Ordering::Acquire))
    }

    /// The debug file of a build id, from the store; else it is asked for, once in a run.
    pub(super) fn debug_file(&mut self, object: ObjectId, build_id: &[u8]) -> Answer {
        match &mut self.active {
            Some(active) => active.debug_file(object, hexadecimal(build_id)),
            None => Answer::None,
        }
    }
}

impl Active {
    fn debug_file(&mut self, object: ObjectId, build_id: String) -> Answer {
        let known = lock(&self.asked).get(&build_id).copied();
        match known {
            Some(None) => return Answer::Asked,
            Some(Some(false)) => return Answer::None,
            Some(Some(true)) | None => {}
        }
        match self.store.look(&build_id) {
            Look::Here(file) => return Answer::Here(file),
            Look::Absent => return Answer::None,
            Look::Unknown if known.is_some() => return Answer::None,
            Look::Unknown => {}
        }
        if self.queue.is_none() {
            self.queue = self.start();
        }
        lock(&self.asked).insert(build_id.clone(), None);
        self.fetching.fetch_add(1, Ordering::AcqRel);
        let sent = self
            .queue
            .as_ref()
            .is_some_and(|queue| queue.send((build_id.clone(), object)).is_ok());
        if sent {
            return Answer::Asked;
        }
        self.fetching.fetch_sub(1, Ordering::AcqRel);
        lock(&self.asked).insert(build_id, Some(false));
        Answer::None
    }

    /// Threads that end when the queue does.
    fn start(&self) -> Option<mpsc::Sender<(String, ObjectId)>> {
        let (queue, jobs) = mpsc::channel::<(String, ObjectId)>();
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..THREADS {
            let (jobs, store) = (Arc::clone(&jobs), Arc::clone(&self.store));
            let (fetch, told) = (Arc::clone(&self.fetch), Arc::clone(&self.told));
            let (asked, fetching) = (Arc::clone(&self.asked), Arc::clone(&self.fetching));
            let body = move || {
                loop {
                    let next = lock(&jobs).recv();
                    let Ok((build_id, object)) = next else { return };
                    let fetched = fetch(&build_id, &store).unwrap_or_else(|error| {
                        tracing::info!("cannot fetch debug information of {build_id}: {error}");
                        false
                    });
                    lock(&asked).insert(build_id, Some(fetched));
                    fetching.fetch_sub(1, Ordering::AcqRel);
                    told(object, fetched);
                }
            };
            if let Err(error) = thread::Builder::new().name("debuginfod".to_owned()).spawn(body) {
                tracing::warn!("cannot start a thread that fetches debug information: {error}");
                return None;
            }
        }
        Some(queue)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(feature = "debuginfod")]
#[cfg(test)]
#[path = "tests.rs"]
mod tests;
