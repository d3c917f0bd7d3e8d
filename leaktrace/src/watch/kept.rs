//! The sampled first touches of one process that still stand for memory: which stack touched which page, and how much a
//! sample stands for. Bounded. Must not know how a sample is taken, nor `/proc`.

use std::collections::{BTreeMap, HashMap};

/// Most samples of a process; beyond it half of them go, and the others stand for twice as much.
const SAMPLES_MAX: usize = 4096;

/// Bytes of a page, by which addresses are told apart.
const PAGE_BYTES: u64 = 4096;

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    stack: u32,
    /// What it stands for.
    bytes: u64,
}

/// What one stack has touched, as far as it is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched<'a> {
    /// Addresses, innermost first: that of an instruction, then return addresses.
    pub frames: &'a [u64],
    /// Estimated bytes.
    pub bytes: u64,
    /// Samples that this rests on.
    pub samples: u64,
}

/// Samples of one process.
#[derive(Clone, Debug)]
pub struct Kept {
    samples: BTreeMap<u64, Sample>,
    stacks: Vec<Box<[u64]>>,
    numbers: HashMap<Box<[u64]>, u32>,
    /// A page that comes now is kept every so many times, for so many times its bytes.
    thinned: u64,
    /// Samples that came since one was kept.
    passed: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            samples: BTreeMap::new(),
            stacks: Vec::new(),
            numbers: HashMap::new(),
            thinned: 1,
            passed: 0,
        }
    }
}

impl Kept {
    /// A sample: this page was touched, and that stands for so many bytes.
    pub fn push(&mut self, address: u64, bytes: u64, frames: Vec<u64>) {
        let page = address / PAGE_BYTES;
        // Touched anew: it had been given back in between.
        self.samples.remove(&page);
        self.passed += 1;
        if self.passed < self.thinned {
            return;
        }
        self.passed = 0;
        let stack = self.number(frames);
        let bytes = bytes.saturating_mul(self.thinned);
        self.samples.insert(page, Sample { stack, bytes });
        if self.samples.len() > SAMPLES_MAX {
            self.thin();
        }
    }

    /// Leaves out the samples whose page is not there any more.
    pub fn retain(&mut self, mut is_there: impl FnMut(u64) -> bool) {
        self.samples.retain(|page, _| is_there(page * PAGE_BYTES));
        if self.samples.is_empty() {
            *self = Self::default();
        }
    }

    /// By stack, the most bytes first.
    pub fn by_stack(&self) -> Vec<Touched<'_>> {
        let mut sums = vec![(0, 0); self.stacks.len()];
        for sample in self.samples.values() {
            let (bytes, samples) = &mut sums[sample.stack as usize];
            *bytes += sample.bytes;
            *samples += 1;
        }
        let touched = self
            .stacks
            .iter()
            .zip(sums)
            .map(|(frames, (bytes, samples))| Touched {
                frames,
                bytes,
                samples,
            });
        let mut touched: Vec<_> = touched.filter(|touched| touched.samples > 0).collect();
        touched.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.frames.cmp(b.frames)));
        touched
    }

    /// The samples: address of a page, and the bytes that it stands for.
    pub fn pages(&self) -> impl Iterator<Item = (u64, u64)> {
        self.samples
            .iter()
            .map(|(page, sample)| (page * PAGE_BYTES, sample.bytes))
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    fn number(&mut self, frames: Vec<u64>) -> u32 {
        let frames = frames.into_boxed_slice();
        if let Some(number) = self.numbers.get(&frames) {
            return *number;
        }
        let number = self.stacks.len() as u32;
        self.stacks.push(frames.clone());
        self.numbers.insert(frames, number);
        number
    }

    /// Every second sample goes, by address: neighbours were mostly touched by the same.
    fn thin(&mut self) {
        self.thinned *= 2;
        let mut odd = false;
        self.samples.retain(|_, sample| {
            sample.bytes = sample.bytes.saturating_mul(2);
            odd = !odd;
            odd
        });
        self.forget_stacks();
    }

    /// Stacks that no sample has go.
    fn forget_stacks(&mut self) {
        let mut old = Self::default();
        std::mem::swap(self, &mut old);
        self.thinned = old.thinned;
        for (page, sample) in old.samples {
            let stack = self.number(old.stacks[sample.stack as usize].to_vec());
            self.samples.insert(page, Sample { stack, ..sample });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_summed_by_stack() {
        let mut kept = Kept::default();
        kept.push(0x1000, 100, vec![1, 2]);
        kept.push(0x2000, 100, vec![1, 2]);
        kept.push(0x3000, 500, vec![3]);
        let sums: Vec<_> = kept
            .by_stack()
            .iter()
            .map(|touched| (touched.frames.to_vec(), touched.bytes, touched.samples))
            .collect();
        assert_eq!(sums, [(vec![3], 500, 1), (vec![1, 2], 200, 2)]);
    }

    #[test]
    fn a_page_belongs_to_whom_touched_it_last() {
        let mut kept = Kept::default();
        kept.push(0x1000, 100, vec![1]);
        kept.push(0x1fff, 100, vec![2]);
        assert_eq!(kept.by_stack().len(), 1);
        assert_eq!(kept.by_stack()[0].frames, [2]);
    }

    #[test]
    fn what_is_given_back_goes() {
        let mut kept = Kept::default();
        kept.push(0x1000, 100, vec![1]);
        kept.push(0x2000, 100, vec![2]);
        kept.retain(|address| address == 0x2000);
        assert_eq!(kept.pages().collect::<Vec<_>>(), [(0x2000, 100)]);
        kept.retain(|_| false);
        assert!(kept.is_empty() && kept.by_stack().is_empty());
    }

    #[test]
    fn beyond_the_bound_fewer_stand_for_as_much() {
        let mut kept = Kept::default();
        let pushed = 10 * SAMPLES_MAX as u64;
        for page in 0..pushed {
            kept.push(page * PAGE_BYTES, 4096, vec![page % 2]);
        }
        assert!(kept.samples.len() <= SAMPLES_MAX + 1);
        let bytes: u64 = kept.by_stack().iter().map(|touched| touched.bytes).sum();
        let truth = pushed * 4096;
        assert!(bytes.abs_diff(truth) < truth / 100, "{bytes} of {truth}");
    }
}
