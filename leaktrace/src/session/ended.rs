//! Process images that have ended: what is kept of each to show what it has left, and which processes need not be known
//! any more.
//!
//! Must not know what they have left: `track` says which of those that hold something are kept, and which stand for many
//! that are not.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::PathBuf,
};

use super::whereabouts::Whereabout;
use crate::{
    symbol::mappings::Mappings,
    track::{FrozenId, IMAGES_MAX, Image},
};

/// Processes that wait for a report to list them although they have left nothing.
const UNREPORTED_MAX: usize = 1000;

/// An image as it was when it ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Ended {
    /// Its name.
    pub comm: String,
    /// Its executable.
    pub exe: Option<PathBuf>,
    /// What was mapped in it.
    pub mappings: Mappings,
    /// Where it ran.
    pub whereabout: Whereabout,
}

/// All images that have ended and are shown, and the processes that need not be known any more.
#[derive(Debug, Default)]
pub(super) struct EndedImages {
    images: HashMap<FrozenId, (Image, Ended)>,
    /// Of those, the ones that are kept only because a site of theirs stands for those of others.
    standing: HashSet<FrozenId>,
    /// Of those, the ones without blocks, which are shown for what is beside them: the oldest first.
    without_blocks: VecDeque<Image>,
    /// Processes that no report has listed since they have ended, the oldest first.
    unreported: VecDeque<u32>,
    /// Processes that may be forgotten, and whether a report has had all they left.
    gone: Vec<(u32, bool)>,
    /// Those that the user has named or started: they stay in the list.
    named: HashSet<u32>,
    /// Processes that were forgotten although no report had all they left; part of the ledger.
    pub forgotten: u64,
    /// Processes that have ended.
    pub count: u64,
}

impl EndedImages {
    /// A process that the user has named or started.
    pub(super) fn name(&mut self, pid: u32) {
        self.named.insert(pid);
    }

    /// Keeps an image.
    pub(super) fn keep(&mut self, image: Image, ended: Ended, has_blocks: bool) {
        let Some(id) = image.frozen else { return };
        self.images.insert(id, (image, ended));
        if !has_blocks {
            self.without_blocks.push_back(image);
        }
    }

    /// An image that is kept.
    pub(super) fn get(&self, id: FrozenId) -> Option<&Ended> {
        self.images.get(&id).map(|(_, ended)| ended)
    }

    /// Keeps an image only for what it says of others' sites: nothing of its own is shown any more.
    pub(super) fn stand(&mut self, image: Image) {
        let is_new = image
            .frozen
            .is_some_and(|id| self.images.contains_key(&id) && self.standing.insert(id));
        let is_listed = self.named.contains(&image.tgid) || self.shown().any(|pid| pid == image.tgid);
        self.forgotten += u64::from(is_new && !is_listed);
    }

    /// The processes of images that are shown.
    fn shown(&self) -> impl Iterator<Item = u32> {
        let shown = self.images.iter().filter(|(id, _)| !self.standing.contains(id));
        shown.map(|(_, (image, _))| image.tgid)
    }

    /// Processes that have ended and are not listed any more: of each there are only images that stand for others.
    pub(super) fn standing(&self) -> HashSet<u32> {
        let standing = self.standing.iter().filter_map(|id| self.images.get(id));
        let mut pids: HashSet<u32> = standing.map(|(image, _)| image.tgid).collect();
        if !pids.is_empty() {
            self.shown().chain(self.named.iter().copied()).for_each(|pid| {
                pids.remove(&pid);
            });
        }
        pids
    }

    /// A process has ended; what it has left has been kept.
    pub(super) fn end(&mut self, pid: u32) {
        self.count += 1;
        self.unreported.push_back(pid);
        if self.unreported.len() > UNREPORTED_MAX {
            let oldest = self.unreported.pop_front();
            self.gone.extend(oldest.map(|pid| (pid, false)));
        }
    }

    /// A report lists all that have ended up to now.
    pub(super) fn reported(&mut self) {
        let reported = self.unreported.drain(..).map(|pid| (pid, true));
        self.gone.extend(reported);
    }

    /// Forgets images: these, of whose sites only sums are kept, and those without blocks that are too many. Hands all
    /// of them over.
    pub(super) fn forget(&mut self, mut images: Vec<Image>) -> Vec<Image> {
        let too_many = self.without_blocks.len().saturating_sub(IMAGES_MAX);
        images.extend(self.without_blocks.drain(..too_many));
        for image in &images {
            let id = image.frozen.unwrap_or(FrozenId(u64::MAX));
            self.images.remove(&id);
            // It was counted when it began to stand for others.
            let is_counted = self.standing.remove(&id);
            self.gone.push((image.tgid, is_counted));
        }
        images
    }

    /// Hands over the processes that need not be known any more.
    pub(super) fn take_gone(&mut self) -> Vec<u32> {
        if self.gone.is_empty() {
            return Vec::new();
        }
        let mut gone = std::mem::take(&mut self.gone);
        // They come back when their last image is forgotten.
        let kept: HashSet<u32> = self.images.values().map(|(image, _)| image.tgid).collect();
        gone.retain(|(pid, _)| !kept.contains(pid) && !self.named.contains(pid));
        gone.sort_unstable();
        gone.dedup_by_key(|(pid, _)| *pid);
        self.forgotten += gone.iter().filter(|(_, is_reported)| !is_reported).count() as u64;
        gone.into_iter().map(|(pid, _)| pid).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(tgid: u32, id: u64) -> Image {
        Image {
            tgid,
            image: 0,
            frozen: Some(FrozenId(id)),
        }
    }

    #[test]
    fn who_has_left_nothing_is_known_until_a_report_has_listed_it() {
        let mut ended = EndedImages::default();
        ended.name(1);
        for pid in 1..4 {
            ended.end(pid);
        }
        ended.keep(image(3, 0), Ended::default(), true);
        assert!(ended.take_gone().is_empty());
        ended.reported();
        assert_eq!(ended.take_gone(), [2], "1 was named, 3 has left something");
        assert!(ended.take_gone().is_empty());
        assert_eq!((ended.forgotten, ended.count), (0, 3));
        // What it has left is only a sum from now on.
        assert_eq!(ended.forget(vec![image(3, 0)]), [image(3, 0)]);
        assert!(ended.get(FrozenId(0)).is_none());
        assert_eq!(ended.take_gone(), [3]);
        assert_eq!(ended.forgotten, 1);
    }

    #[test]
    fn an_image_that_stands_for_others_is_kept_and_its_process_not_listed() {
        let mut ended = EndedImages::default();
        ended.name(1);
        for pid in 1..4 {
            ended.end(pid);
            ended.keep(image(pid, u64::from(pid)), Ended::default(), true);
        }
        ended.keep(image(3, 4), Ended::default(), true);
        ended.reported();
        for id in 1..4 {
            ended.stand(image(id as u32, id));
        }
        assert_eq!(ended.standing(), [2].into(), "1 was named, of 3 there is more");
        assert_eq!(ended.forgotten, 1);
        assert!(ended.get(FrozenId(2)).is_some());
        assert!(ended.take_gone().is_empty());
        // It is one too many, too.
        assert_eq!(ended.forget(vec![image(2, 2)]), [image(2, 2)]);
        assert!(ended.get(FrozenId(2)).is_none());
        assert_eq!(ended.take_gone(), [2]);
        assert_eq!((ended.standing(), ended.forgotten), (HashSet::new(), 1));
        // Of an image of which nothing was known there is nothing to keep.
        ended.stand(image(9, 9));
        assert_eq!((ended.standing(), ended.forgotten), (HashSet::new(), 1));
    }

    #[test]
    fn without_reports_the_oldest_are_forgotten_and_counted() {
        let mut ended = EndedImages::default();
        for pid in 0..UNREPORTED_MAX as u32 + 3 {
            ended.end(pid);
        }
        assert_eq!(ended.take_gone(), [0, 1, 2]);
        assert_eq!(ended.forgotten, 3);
        ended.reported();
        assert_eq!(ended.take_gone().len(), UNREPORTED_MAX);
        assert_eq!(ended.forgotten, 3);
    }

    #[test]
    fn of_images_without_blocks_the_latest_are_kept() {
        let mut ended = EndedImages::default();
        for id in 0..IMAGES_MAX as u64 + 2 {
            ended.keep(image(id as u32, id), Ended::default(), false);
        }
        let forgotten = ended.forget(Vec::new());
        assert_eq!(forgotten, [image(0, 0), image(1, 1)]);
        assert!(ended.get(FrozenId(1)).is_none() && ended.get(FrozenId(2)).is_some());
    }
}
