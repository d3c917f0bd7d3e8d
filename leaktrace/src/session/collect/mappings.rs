//! What processes have mapped by themselves, as sites among the others. Must not know how that is found out.

use leaktrace_common::key::SiteKey;

use super::Collector;
use crate::track::{LiveBlock, MappingLevel};

impl Collector {
    /// What processes have mapped by themselves: those that are not named any more are gone.
    pub(in crate::session) fn set_mappings(
        &mut self,
        mappings: impl Iterator<Item = (SiteKey, MappingLevel)>,
    ) {
        let mut gone = std::mem::take(&mut self.mappings);
        for (key, level) in mappings {
            gone.remove(&key);
            self.mappings.insert(key);
            self.tracker.set_level(key, &level);
        }
        for key in gone {
            self.tracker.set_level(key, &MappingLevel::default());
        }
    }

    /// One of them, on its way into a snapshot.
    pub(in crate::session) fn add_stretch(&mut self, stretch: &LiveBlock) {
        self.tracker.add_block(stretch);
    }
}
