//! How the anonymous memory of one process has gone, and whether it grows: from readings, by the clock that comes with them.
//!
//! What counts is the *floor*: the least that a process held in a stretch of time. What is taken and given back within
//! such a stretch (a garbage collector's sawtooth, a request's buffers) does not show in it. Must not know `/proc`, a
//! clock, nor what is done about growth.

use std::time::Duration;

/// Stretches that the window is cut into; the floor of each is compared with that before it.
pub const STRETCHES: usize = 4;

/// How many of the steps between those must go up. One alone is memory that was taken once.
const STEPS_UP_MIN: usize = 2;

/// Spans in a stretch: how exactly its borders are kept.
const SPANS_PER_STRETCH: u64 = 4;

/// Most spans of a process: 32 bytes each, so that 10 000 processes take 20 MiB at most. One that does not change has one.
const SPANS_MAX: usize = 64;

/// How long it is remembered where memory has been before: a day, and what its busiest hour may shift.
const REMEMBERED_NS: u64 = 26 * 3600 * 1_000_000_000;

/// What is less is no change: a page here and there comes and goes in any process.
const NOISE_BYTES: u64 = 64 << 10;

/// How a process goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Course {
    /// Nothing has changed over the window.
    Idle,
    /// Memory comes and goes; its floor does not keep rising.
    Flat,
    /// Its floor rises, but to where it has been before: as by day, after a night.
    Returning,
    /// Its floor keeps rising, to where it has not been.
    Growing,
}

impl Course {
    /// The name, as reported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Flat => "flat",
            Self::Returning => "returning",
            Self::Growing => "growing",
        }
    }
}

/// What the readings of a window say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// How it goes.
    pub course: Course,
    /// By how much the floor has risen over the window, beyond where it has been before; negative where it fell.
    pub bytes: i64,
    /// The part of the window that readings cover.
    pub covered: Duration,
}

/// Readings of a stretch of time that belong together. It lasts until the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start_ns: u64,
    /// The least that was read.
    low: u64,
    /// The highest floor in it: `low`, unless it is longer than a stretch.
    high: u64,
    /// The most that was read.
    top: u64,
}

impl Span {
    const fn new(start_ns: u64, bytes: u64) -> Self {
        Self {
            start_ns,
            low: bytes,
            high: bytes,
            top: bytes,
        }
    }
}

/// The anonymous memory of one process, exact for the window and coarser the longer ago.
#[derive(Clone, Debug)]
pub struct History {
    spans: Vec<Span>,
    window_ns: u64,
    last_ns: u64,
    last_bytes: u64,
}

impl History {
    /// From the first reading on: `window` is the time over which growth is asked for.
    pub fn new(window: Duration, now_ns: u64, bytes: u64) -> Self {
        Self {
            spans: vec![Span::new(now_ns, bytes)],
            window_ns: (window.as_nanos() as u64).max(1),
            last_ns: now_ns,
            last_bytes: bytes,
        }
    }

    /// A reading; not before the one before it.
    pub fn push(&mut self, now_ns: u64, bytes: u64) {
        let same = bytes == self.last_bytes;
        self.last_ns = now_ns;
        self.last_bytes = bytes;
        let span_ns = self.stretch_ns() / SPANS_PER_STRETCH;
        let Some(last) = self.spans.last_mut() else { return };
        if now_ns.saturating_sub(last.start_ns) < span_ns {
            last.low = last.low.min(bytes);
            last.high = last.low;
            last.top = last.top.max(bytes);
        } else if !same || last.low != bytes || last.top != bytes {
            self.spans.push(Span::new(now_ns, bytes));
            self.thin(now_ns);
        }
    }

    /// Nothing was read at this time because nothing has changed.
    pub fn unchanged(&mut self, now_ns: u64) {
        self.push(now_ns, self.last_bytes);
    }

    /// What was read last, in bytes.
    pub const fn bytes(&self) -> u64 {
        self.last_bytes
    }

    /// When the last reading was, nanoseconds.
    pub const fn read_ns(&self) -> u64 {
        self.last_ns
    }

    /// Whether more is held than at the beginning of the window, by more than noise.
    pub fn is_above_start(&self) -> bool {
        let from_ns = self.last_ns.saturating_sub(self.window_ns);
        let low = self.floor(from_ns, from_ns + self.stretch_ns());
        self.last_bytes > low.unwrap_or(self.spans[0].low) + NOISE_BYTES
    }

    /// How it has gone over the window that ends with the last reading.
    pub fn growth(&self) -> Growth {
        let from_ns = self.last_ns.saturating_sub(self.window_ns);
        let first_ns = from_ns.max(self.spans[0].start_ns);
        let covered_ns = self.last_ns - first_ns;
        // Where less is known, what is known is cut up.
        let stretch_ns = (covered_ns / STRETCHES as u64).max(1);
        let mut floors = [0; STRETCHES];
        for (index, floor) in floors.iter_mut().enumerate() {
            let start_ns = first_ns + index as u64 * stretch_ns;
            let end_ns = if index + 1 == STRETCHES {
                self.last_ns + 1
            } else {
                start_ns + stretch_ns
            };
            *floor = self.floor(start_ns, end_ns).unwrap_or(self.last_bytes);
        }
        let (first, last) = (floors[0], floors[STRETCHES - 1]);
        let been = self.highest_before(first_ns);
        let ups = floors
            .windows(2)
            .filter(|pair| pair[1] > pair[0] + NOISE_BYTES)
            .count();
        let rises = ups >= STEPS_UP_MIN && last > first + NOISE_BYTES && rises_throughout(&floors);
        let course = match () {
            () if rises && last > been + NOISE_BYTES => Course::Growing,
            () if rises => Course::Returning,
            () if self.changed_since(first_ns) => Course::Flat,
            () => Course::Idle,
        };
        let from = if last > first {
            first.max(been.min(last))
        } else {
            first
        };
        Growth {
            course,
            bytes: last as i64 - from as i64,
            covered: Duration::from_nanos(covered_ns),
        }
    }

    const fn stretch_ns(&self) -> u64 {
        self.window_ns / STRETCHES as u64
    }

    /// The least of what was held from one time until before the other; none where nothing is known of that.
    fn floor(&self, start_ns: u64, end_ns: u64) -> Option<u64> {
        // The span that had begun before lasts into it.
        let first = self
            .spans
            .partition_point(|span| span.start_ns <= start_ns)
            .saturating_sub(1);
        let overlapping = self.spans[first..]
            .iter()
            .take_while(|span| span.start_ns < end_ns);
        overlapping.map(|span| span.low).min()
    }

    /// The highest floor of the time before.
    fn highest_before(&self, before_ns: u64) -> u64 {
        let stretch_ns = self.stretch_ns();
        let ended = self
            .spans
            .windows(2)
            .take_while(|pair| pair[1].start_ns <= before_ns)
            .count();
        // Floors are those of a stretch, also where spans are shorter: a tooth's tip is none.
        let floor = |index: usize| {
            let span = &self.spans[index];
            let until_ns = span.start_ns + stretch_ns;
            let next = self.spans[index + 1..]
                .iter()
                .take_while(|next| next.start_ns < until_ns);
            next.map(|next| next.low)
                .min()
                .map_or(span.high, |low| low.min(span.high))
        };
        (0..ended).map(floor).max().unwrap_or(0)
    }

    fn changed_since(&self, from_ns: u64) -> bool {
        let first = self
            .spans
            .partition_point(|span| span.start_ns <= from_ns)
            .saturating_sub(1);
        let spans = self.spans[first..].iter();
        let (low, top) = spans.fold((u64::MAX, 0), |(low, top), span| {
            (low.min(span.low), top.max(span.top))
        });
        top > low + NOISE_BYTES
    }

    /// Makes room: what is too long ago is forgotten, what is older than the window is joined, the oldest most.
    fn thin(&mut self, now_ns: u64) {
        while self.spans.len() > 1 && self.spans[1].start_ns + REMEMBERED_NS < now_ns {
            self.spans.remove(0);
        }
        if self.spans.len() <= SPANS_MAX {
            return;
        }
        let length_by_age = |index: usize| {
            let start_ns = self.spans[index].start_ns;
            let end_ns = self.spans.get(index + 2).map_or(now_ns, |span| span.start_ns);
            (end_ns - start_ns) as f64 / (now_ns - start_ns).max(1) as f64
        };
        // The window needs 16 spans, so there are always older ones.
        let shortest =
            (0..self.spans.len() - 1).min_by(|a, b| length_by_age(*a).total_cmp(&length_by_age(*b)));
        if let Some(at) = shortest {
            self.join(at, now_ns);
        }
    }

    /// Joins a span with the next.
    fn join(&mut self, at: usize, now_ns: u64) {
        let end_ns = self.spans.get(at + 2).map_or(now_ns, |span| span.start_ns);
        let stretch_ns = self.stretch_ns();
        let next = self.spans.remove(at + 1);
        let span = &mut self.spans[at];
        let is_long = next.start_ns - span.start_ns >= stretch_ns;
        span.low = span.low.min(next.low);
        span.top = span.top.max(next.top);
        // The floor of less than a stretch is no floor.
        span.high = match (is_long, end_ns - next.start_ns >= stretch_ns) {
            (true, true) => span.high.max(next.high),
            (true, false) => span.high,
            (false, true) => next.high,
            (false, false) => span.low,
        };
    }
}

/// Whether no step goes down by more than an eighth of the whole rise: what falls in between comes and goes.
fn rises_throughout(floors: &[u64; STRETCHES]) -> bool {
    let rise = floors[STRETCHES - 1].saturating_sub(floors[0]);
    let slack = (rise / 8).max(NOISE_BYTES);
    floors.windows(2).all(|pair| pair[1] + slack >= pair[0])
}

#[cfg(test)]
#[path = "growth_tests.rs"]
mod tests;
