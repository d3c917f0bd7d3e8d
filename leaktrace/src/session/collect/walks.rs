//! How the walks of stacks ended, those of Python's frames included. Must not know what a site holds.

use std::collections::HashMap;

use leaktrace_common::{key::SiteKey, record::Site};

use crate::{
    kernel::maps::{TableError, Tables},
    report::python::{Outcome, PythonStacks},
    session::{
        python::Interpreters,
        stacks::{Stacks, last_object},
    },
    traced::set::TracedSet,
    track::ends::Ends,
};

/// How the walks of stacks ended, and what is known of the stacks.
pub(super) struct Walks<'a> {
    pub(super) ends: &'a mut Ends,
    pub(super) stacks: &'a mut Stacks,
    pub(super) python: &'a mut PythonStacks,
    pub(super) outcomes: &'a mut HashMap<u64, Outcome>,
    pub(super) interpreters: &'a dyn Interpreters,
}

impl Walks<'_> {
    /// Adds a site of an image that `traced` knows.
    pub(super) fn add(
        &mut self,
        tables: &Tables,
        traced: &TracedSet,
        key: &SiteKey,
        totals: &Site,
    ) -> Result<(), TableError> {
        self.add_python(tables, key, totals)?;
        let finished = self.stacks.is_finished(key.stack_id);
        self.ends.add(key.stack_id, totals.allocs, finished, || {
            let stack = self.stacks.read(tables, key.stack_id)?;
            let process = traced.get(key.process.tgid);
            let mappings = process.map(|process| process.of_image(key.process.image).1);
            Ok(last_object(&stack.frames, mappings, &traced.catalog.objects))
        })
    }

    /// The same of the Python frames.
    fn add_python(&mut self, tables: &Tables, key: &SiteKey, totals: &Site) -> Result<(), TableError> {
        let (id, tgid, image) = (key.stack_id, key.process.tgid, key.process.image);
        if id == 0 || !self.interpreters.is_followed(tgid, image) {
            return Ok(());
        }
        if let Some(&outcome) = self.outcomes.get(&id) {
            self.python.add(outcome, totals.allocs);
            return Ok(());
        }
        self.stacks.read(tables, id)?;
        // A stack is told of before it is in the table: that is the next reading's.
        let Some(stack) = self.stacks.known(id) else {
            return Ok(());
        };
        let (python, native) = (&stack.python, &stack.frames);
        let outcome = python.outcome(self.interpreters, tgid, image, native);
        if let Some(outcome) = outcome {
            self.outcomes.insert(id, outcome);
        }
        // What has not been read by the end of a process never is.
        self.python.add(outcome.unwrap_or(Outcome::Gone), totals.allocs);
        Ok(())
    }
}
