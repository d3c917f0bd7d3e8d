//! What the counts of each census of objects mean: how each type has grown since the first, and how fast it grows.
//!
//! Pure, as all of `track`. Must not know how objects are counted, nor what names their types: `K` does that.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;

use super::{
    Image, Sort,
    history::{History, Level},
    timeline::{RunReading, Timeline},
};
use crate::{
    report::verdict::Verdict,
    verdict::{
        self,
        evidence::{self, Evidence},
    },
};

/// Types of an image beyond which those without objects are forgotten: a program can make classes without end.
const TYPES_MAX: usize = 1 << 16;

/// Objects and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What is known of a type.
#[derive(Clone, Debug, Default)]
struct OfType {
    /// In the image's first census.
    first: Held,
    /// In the last of the interval before.
    before: Held,
    /// In the last.
    now: Held,
    /// The most of each.
    most: Held,
    /// How it has gone, at the censuses that are kept.
    history: History,
}

/// The censuses of one image.
#[derive(Clone, Debug)]
struct ImageTypes<K> {
    types: HashMap<K, OfType>,
    /// When the censuses were.
    timeline: Timeline,
    censuses: u64,
    before_ns: u64,
    now_ns: u64,
    /// The next census is the first of its interval.
    begins: bool,
    is_partial: bool,
}

impl<K> ImageTypes<K> {
    const fn interval_ns(&self) -> u64 {
        self.now_ns.saturating_sub(self.before_ns)
    }
}

/// How types grow, by image.
#[derive(Clone, Debug)]
pub struct TypeTracker<K> {
    images: HashMap<Image, ImageTypes<K>>,
}

/// The types of all images at their last census.
#[derive(Clone, Debug, PartialEq)]
pub struct TypesSnapshot<K> {
    /// The longest of the images' intervals, nanoseconds: from the last census of the interval before, or from the first
    /// of all, to the last.
    pub interval_ns: u64,
    /// Censuses that were finished.
    pub censuses: u64,
    /// Images whose last census was not: the numbers are those of the one before.
    pub partial: u64,
    /// All objects.
    pub held: Held,
    /// The types, those that have grown most first.
    pub list: Vec<TypeSnapshot<K>>,
    /// Types that are not listed.
    pub omitted: u64,
}

/// A type of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct TypeSnapshot<K> {
    /// Whose it is.
    pub image: Image,
    /// Which one.
    pub key: K,
    /// In the first census.
    pub first: Held,
    /// In the last.
    pub now: Held,
    /// The most of each in any census.
    pub most: Held,
    /// Objects more than in the first census.
    pub grown_objects: i64,
    /// Bytes more than in the first census.
    pub grown_bytes: i64,
    /// Objects more per second, over the image's interval.
    pub objects_per_s: f64,
    /// Bytes more per second, over the image's interval.
    pub bytes_per_s: f64,
    /// What it is taken for; none before there are several censuses.
    pub verdict: Option<Verdict>,
}

impl<K> Default for TypeTracker<K> {
    fn default() -> Self {
        Self {
            images: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> TypeTracker<K> {
    /// Takes a finished census of an image, taken at `now_ns`: a type it does not name has no objects.
    pub fn add(&mut self, image: Image, now_ns: u64, counts: impl IntoIterator<Item = (K, Held)>) {
        let of_image = self.images.entry(image).or_insert_with(|| ImageTypes {
            types: HashMap::new(),
            timeline: Timeline::new(now_ns),
            censuses: 0,
            before_ns: now_ns,
            now_ns,
            begins: false,
            is_partial: false,
        });
        for history in of_image.types.values_mut() {
            if of_image.begins {
                history.before = history.now;
            }
            history.now = Held::default();
        }
        if std::mem::take(&mut of_image.begins) {
            of_image.before_ns = of_image.now_ns;
        }
        let is_first = of_image.censuses == 0;
        for (key, held) in counts {
            let history = of_image.types.entry(key).or_default();
            history.now = held;
            history.most.objects = history.most.objects.max(held.objects);
            history.most.bytes = history.most.bytes.max(held.bytes);
            if is_first {
                history.first = held;
                history.before = held;
            }
        }
        if of_image.types.len() > TYPES_MAX {
            of_image
                .types
                .retain(|_, history| history.now != Held::default() || history.first != Held::default());
        }
        of_image.timeline.push(now_ns, RunReading::default());
        let readings = of_image.timeline.readings();
        for of_type in of_image.types.values_mut() {
            let level = Level {
                live_bytes: of_type.now.bytes,
                live_blocks: of_type.now.objects,
                ..Level::default()
            };
            of_type.history.push(now_ns, level, readings);
        }
        of_image.now_ns = now_ns;
        of_image.censuses += 1;
        of_image.is_partial = false;
    }

    /// From here on rates count anew: from the last census of each image, as soon as there is another.
    pub fn begin_interval(&mut self) {
        for of_image in self.images.values_mut() {
            of_image.begins = true;
        }
    }

    /// A census of an image was not finished: what was known stays.
    pub fn add_partial(&mut self, image: Image) {
        if let Some(of_image) = self.images.get_mut(&image) {
            of_image.is_partial = true;
        }
    }

    /// Another number for an image, such as that of its end.
    pub fn rename(&mut self, from: Image, to: Image) {
        if let Some(types) = self.images.remove(&from) {
            self.images.insert(to, types);
        }
    }

    /// Forgets an image.
    pub fn remove(&mut self, image: Image) {
        self.images.remove(&image);
    }

    /// The types that have grown most, at most `top` of them; `None` before the first finished census.
    ///
    /// Growth counts in bytes, and in objects with [`Sort::Blocks`].
    pub fn snapshot(&self, sort: Sort, top: usize) -> Option<TypesSnapshot<K>> {
        if self.images.is_empty() {
            return None;
        }
        let mut snapshot = TypesSnapshot {
            interval_ns: 0,
            censuses: 0,
            partial: 0,
            held: Held::default(),
            list: Vec::new(),
            omitted: 0,
        };
        for (image, of_image) in &self.images {
            snapshot.interval_ns = snapshot.interval_ns.max(of_image.interval_ns());
            snapshot.censuses += of_image.censuses;
            snapshot.partial += u64::from(of_image.is_partial);
            for (key, history) in &of_image.types {
                snapshot.held.objects += history.now.objects;
                snapshot.held.bytes += history.now.bytes;
                if history.now.objects > 0 {
                    snapshot
                        .list
                        .push(history.snapshot(*image, key.clone(), of_image.interval_ns()));
                }
            }
        }
        snapshot.list.sort_by(|a, b| {
            let (by_growth, by_size) = match sort {
                Sort::Blocks => (
                    b.grown_objects.cmp(&a.grown_objects),
                    b.now.objects.cmp(&a.now.objects),
                ),
                Sort::Loss | Sort::Bytes | Sort::Growth | Sort::Age => {
                    (b.grown_bytes.cmp(&a.grown_bytes), b.now.bytes.cmp(&a.now.bytes))
                }
            };
            by_growth
                .then(by_size)
                .then_with(|| (a.image, &a.key).cmp(&(b.image, &b.key)))
        });
        snapshot.omitted = snapshot.list.len().saturating_sub(top) as u64;
        snapshot.list.truncate(top);
        for listed in &mut snapshot.list {
            listed.verdict = self.verdict(listed);
        }
        if sort == Sort::Loss {
            // Of those that have grown most, first those that go on.
            let loss =
                |of: &TypeSnapshot<K>| of.verdict.as_ref().map_or(0, |verdict| verdict.loss_bytes_per_h);
            snapshot.list.sort_by_key(|of| Reverse(loss(of)));
        }
        Some(snapshot)
    }

    /// What a type is taken for; none before there are several censuses.
    fn verdict(&self, of: &TypeSnapshot<K>) -> Option<Verdict> {
        let of_image = self.images.get(&of.image)?;
        let of_type = of_image.types.get(&of.key)?;
        let times_ns: Vec<u64> = of_image
            .timeline
            .readings()
            .iter()
            .map(|reading| reading.at_ns)
            .collect();
        if times_ns.len() < 2 {
            return None;
        }
        let levels = of_type.history.at(&times_ns).map(|level| evidence::Level {
            live_bytes: level.live_bytes as f64,
            live_blocks: level.live_blocks as f64,
            ..evidence::Level::default()
        });
        let start_ns = times_ns[0];
        Some(verdict::judge(&Evidence {
            levels: levels.collect(),
            times_s: times_ns
                .iter()
                .map(|at_ns| (at_ns - start_ns) as f64 / 1e9)
                .collect(),
            ran_before: true,
            ..Evidence::default()
        }))
    }
}

impl OfType {
    fn snapshot<K>(&self, image: Image, key: K, interval_ns: u64) -> TypeSnapshot<K> {
        TypeSnapshot {
            image,
            key,
            first: self.first,
            now: self.now,
            most: self.most,
            grown_objects: more(self.now.objects, self.first.objects),
            grown_bytes: more(self.now.bytes, self.first.bytes),
            objects_per_s: per_s(more(self.now.objects, self.before.objects), interval_ns),
            bytes_per_s: per_s(more(self.now.bytes, self.before.bytes), interval_ns),
            verdict: None,
        }
    }
}

const fn more(now: u64, before: u64) -> i64 {
    now.saturating_sub(before) as i64 - before.saturating_sub(now) as i64
}

fn per_s(more: i64, interval_ns: u64) -> f64 {
    if interval_ns == 0 {
        return 0.0;
    }
    more as f64 * 1e9 / interval_ns as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    const fn image(tgid: u32) -> Image {
        Image {
            tgid,
            image: 0,
            frozen: None,
        }
    }

    const fn held(objects: u64, bytes: u64) -> Held {
        Held { objects, bytes }
    }

    #[test]
    fn growth_counts_from_the_first_census_and_rates_from_the_interval_before() {
        let mut tracker = TypeTracker::default();
        assert_eq!(tracker.snapshot(Sort::Bytes, 9), None);
        tracker.add(
            image(1),
            10 * S,
            [("dict", held(100, 6400)), ("list", held(50, 9000))],
        );
        let first = tracker.snapshot(Sort::Bytes, 9).unwrap();
        assert_eq!(first.list[0].key, "list", "nothing has grown: the largest");
        assert_eq!(
            (first.list[0].grown_objects, first.censuses, first.interval_ns),
            (0, 1, 0)
        );
        tracker.add(
            image(1),
            15 * S,
            [("dict", held(200, 12_800)), ("list", held(10, 1800))],
        );
        let second = tracker.snapshot(Sort::Bytes, 9).unwrap();
        assert_eq!((second.list[0].objects_per_s, second.interval_ns), (20.0, 5 * S));
        tracker.begin_interval();
        let reported = tracker.snapshot(Sort::Bytes, 9).unwrap();
        assert_eq!(
            reported, second,
            "nothing is known of the interval that has begun"
        );
        tracker.add(
            image(1),
            25 * S,
            [
                ("dict", held(150, 9600)),
                ("list", held(10, 1800)),
                ("new", held(5, 80)),
            ],
        );
        let third = tracker.snapshot(Sort::Bytes, 9).unwrap();
        let keys: Vec<_> = third.list.iter().map(|of_type| of_type.key).collect();
        assert_eq!(keys, ["dict", "new", "list"]);
        let dict = &third.list[0];
        assert_eq!((dict.grown_objects, dict.grown_bytes), (50, 3200));
        assert_eq!((dict.objects_per_s, dict.bytes_per_s), (-5.0, -320.0));
        assert_eq!((dict.first, dict.most), (held(100, 6400), held(200, 12_800)));
        assert_eq!(third.list[1].grown_objects, 5, "it was not there at first");
        assert_eq!(third.list[2].grown_objects, -40);
        assert_eq!(
            (third.held, third.interval_ns, third.censuses),
            (held(165, 11_480), 10 * S, 3)
        );
    }

    #[test]
    fn an_interval_of_several_censuses_is_one() {
        let mut tracker = TypeTracker::default();
        for (at_s, objects) in [(0, 100), (1, 110), (4, 180)] {
            tracker.add(image(1), at_s * S, [("a", held(objects, objects))]);
        }
        let first = tracker.snapshot(Sort::Bytes, 9).unwrap();
        assert_eq!((first.list[0].objects_per_s, first.interval_ns), (20.0, 4 * S));
        tracker.begin_interval();
        for (at_s, objects) in [(5, 170), (6, 200)] {
            tracker.add(image(1), at_s * S, [("a", held(objects, objects))]);
        }
        let snapshot = tracker.snapshot(Sort::Bytes, 9).unwrap();
        assert_eq!(
            (snapshot.list[0].objects_per_s, snapshot.interval_ns),
            (10.0, 2 * S)
        );
    }

    #[test]
    fn a_type_without_objects_is_not_listed_and_not_forgotten() {
        let mut tracker = TypeTracker::default();
        tracker.add(image(1), 0, [("a", held(3, 30))]);
        tracker.add(image(1), S, []);
        assert_eq!(tracker.snapshot(Sort::Bytes, 9).unwrap().list, []);
        tracker.add(image(1), 2 * S, [("a", held(4, 40))]);
        assert_eq!(tracker.snapshot(Sort::Bytes, 9).unwrap().list[0].grown_objects, 1);
    }

    #[test]
    fn images_are_apart_and_the_list_is_cut() {
        let mut tracker = TypeTracker::default();
        for tgid in [1, 2] {
            tracker.add(image(tgid), 0, [("a", held(1, 10)), ("b", held(1, 1))]);
            tracker.add(
                image(tgid),
                S,
                [("a", held(1, 10)), ("b", held(1 + u64::from(tgid), 1))],
            );
        }
        tracker.add_partial(image(2));
        let snapshot = tracker.snapshot(Sort::Blocks, 3).unwrap();
        let list: Vec<_> = snapshot.list.iter().map(|t| (t.image.tgid, t.key)).collect();
        assert_eq!(list, [(2, "b"), (1, "b"), (1, "a")]);
        assert_eq!((snapshot.omitted, snapshot.partial), (1, 1));
        tracker.remove(image(2));
        tracker.rename(image(1), image(7));
        let snapshot = tracker.snapshot(Sort::Blocks, 3).unwrap();
        assert!(snapshot.partial == 0 && snapshot.list.iter().all(|of_type| of_type.image.tgid == 7));
    }
}
