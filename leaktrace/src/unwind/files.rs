//! Which table a mapped file has: asks the library for it, once a content, and knows what has come.
//!
//! Must not know the kernel's arrays, nor processes.

use std::{
    collections::HashMap,
    fs::File,
    io,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    time::Instant,
};

use tokio::sync::Notify;

use super::{
    library::{Library, Loaded, Source, TableKey},
    shelf::TableId,
    table::Table,
};
use crate::symbol::objects::{Object, ObjectId, Objects};

/// What is known of a file.
#[derive(Clone, Debug)]
pub enum Known {
    /// It has no table and will have none: no ELF file, or one that cannot be understood.
    None,
    /// Its table is being made.
    Pending,
    /// Its table.
    Ready(TableId, Arc<Table>),
}

/// The table of a content.
#[derive(Clone, Debug)]
enum State {
    Loading,
    Ready(Arc<Table>),
    Failed,
}

/// The files and their tables.
#[derive(Debug)]
pub struct Files {
    library: Library,
    /// By number.
    states: Vec<State>,
    by_key: HashMap<TableKey, TableId>,
    /// None for what is no ELF file.
    of_object: HashMap<ObjectId, Option<TableId>>,
    vdso: Option<TableId>,
    sender: Sender<(TableId, Loaded)>,
    loaded: Receiver<(TableId, Loaded)>,
    wake: Arc<Notify>,
}

impl Files {
    /// No table has been asked for. `cache` is a folder to keep tables in.
    pub fn new(cache: Option<PathBuf>) -> Self {
        let (sender, loaded) = channel();
        Self {
            library: Library::new(cache),
            states: Vec::new(),
            by_key: HashMap::new(),
            of_object: HashMap::new(),
            vdso: None,
            sender,
            loaded,
            wake: Arc::new(Notify::new()),
        }
    }

    /// Notified whenever [`Self::take_over`] has something to do.
    pub fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    /// Loads the tables of files, in parallel, and returns when they are there.
    pub fn prepare(&mut self, objects: &Objects, ids: impl IntoIterator<Item = ObjectId>) {
        let started = Instant::now();
        let mut tables = Vec::new();
        let mut sources = Vec::new();
        for id in ids {
            if let Some((table, source)) = self.introduce(id, objects) {
                tables.push(table);
                sources.push(source);
            }
        }
        if tables.is_empty() {
            return;
        }
        let results = self.library.load_all(sources);
        for (table, result) in tables.iter().zip(results) {
            self.settle(*table, result);
        }
        let ready = tables
            .iter()
            .filter_map(|table| match &self.states[table.0 as usize] {
                State::Ready(table) => Some(table),
                _ => None,
            });
        let (count, rows, bytes) = ready.fold((0, 0, 0), |(count, rows, bytes), table| {
            (count + 1, rows + table.rows.len(), bytes + table.size_bytes())
        });
        tracing::info!(
            "{count} unwind tables: {rows} rows, {} KiB, in {} ms",
            bytes / 1024,
            started.elapsed().as_millis()
        );
    }

    /// Rows of all tables that are there.
    pub fn rows(&self) -> usize {
        let rows = |state: &State| match state {
            State::Ready(table) => table.rows.len(),
            _ => 0,
        };
        self.states.iter().map(rows).sum()
    }

    /// What is known of a file. One not heard of before is asked for.
    pub fn of_object(&mut self, id: ObjectId, objects: &Objects) -> Known {
        if let Some((table, source)) = self.introduce(id, objects) {
            let (sender, wake) = (self.sender.clone(), Arc::clone(&self.wake));
            self.library.request(source, move |result| {
                // Nobody waits for it where the run has ended.
                let _run_over: Result<(), _> = sender.send((table, result));
                wake.notify_one();
            });
        }
        match self.of_object.get(&id) {
            Some(Some(table)) => self.known(*table),
            Some(None) => Known::None,
            None => Known::Pending,
        }
    }

    /// What is known of the code that the kernel maps into every process.
    pub fn vdso(&mut self) -> Known {
        let id = if let Some(id) = self.vdso {
            id
        } else {
            let id = self.add();
            self.settle(id, Library::vdso());
            self.vdso = Some(id);
            id
        };
        self.known(id)
    }

    /// Takes over tables that have come since the last time. Whether there were any.
    pub fn take_over(&mut self) -> bool {
        let loaded: Vec<(TableId, Loaded)> = self.loaded.try_iter().collect();
        let any = !loaded.is_empty();
        for (table, result) in loaded {
            self.settle(table, result);
        }
        any
    }

    fn known(&self, id: TableId) -> Known {
        match self.states.get(id.0 as usize) {
            Some(State::Ready(table)) => Known::Ready(id, Arc::clone(table)),
            Some(State::Loading) => Known::Pending,
            Some(State::Failed) | None => Known::None,
        }
    }

    /// Takes a file in. Its table's number and what to make it from, if its content is new.
    fn introduce(&mut self, id: ObjectId, objects: &Objects) -> Option<(TableId, Source)> {
        if self.of_object.contains_key(&id) {
            return None;
        }
        let object = objects.get(id)?;
        if !object.is_elf {
            self.of_object.insert(id, None);
            return None;
        }
        // Not remembered where it fails: for want of descriptors it may be, and those come back.
        let (key, file) = key(object).ok()?;
        if let Some(table) = self.by_key.get(&key) {
            self.of_object.insert(id, Some(*table));
            return None;
        }
        let table = self.add();
        self.by_key.insert(key.clone(), table);
        self.of_object.insert(id, Some(table));
        let name = object.path_in_process.display().to_string();
        Some((table, Source { file, name, key }))
    }

    fn add(&mut self) -> TableId {
        self.states.push(State::Loading);
        TableId(self.states.len() as u32 - 1)
    }

    fn settle(&mut self, id: TableId, result: Loaded) {
        let Some(state) = self.states.get_mut(id.0 as usize) else {
            return;
        };
        *state = match result {
            Ok(table) => State::Ready(table),
            Err(error) => {
                tracing::warn!("{error}");
                State::Failed
            }
        };
    }
}

fn key(object: &Object) -> io::Result<(TableKey, File)> {
    let file = object.file.try_clone()?;
    Ok((TableKey::of(&file)?, file))
}
