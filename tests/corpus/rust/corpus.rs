//! What the corpus's programs in Rust share: how they begin and end, pacing, and the truth about their site, of which each has one.
//! It does what `c/corpus.h` does, which says how programs and whoever runs them speak.
#![allow(dead_code)]

use std::{
    fs,
    io::{self, Write},
    sync::atomic::{AtomicI64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

pub const TICK: Duration = Duration::from_millis(10);

/// What a site holds.
pub struct Site {
    pub name: &'static str,
    bytes: AtomicI64,
    blocks: AtomicI64,
}

impl Site {
    pub const fn new(name: &'static str) -> Self {
        Self { name, bytes: AtomicI64::new(0), blocks: AtomicI64::new(0) }
    }
    pub fn took(&self, bytes: usize) {
        self.grew(bytes as i64, 1);
    }
    pub fn gave(&self, bytes: usize) {
        self.grew(-(bytes as i64), -1);
    }
    pub fn grew(&self, bytes: i64, blocks: i64) {
        self.bytes.fetch_add(bytes, Relaxed);
        self.blocks.fetch_add(blocks, Relaxed);
    }
}

pub struct Run {
    site: &'static Site,
    /// Bytes a second by design.
    rate: Option<f64>,
    /// Of what is needed to say how the site grew over the second half.
    sums: [f64; 5],
    /// The most that it held in that.
    most: f64,
    pub seconds: f64,
    pub speed: f64,
    pub variant: String,
    start: Instant,
    next: Duration,
    said: [&'static str; 8],
}

fn clock() -> f64 {
    // Of /proc/uptime, which is CLOCK_BOOTTIME: hundredths of a second are enough.
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

fn rss() -> i64 {
    let text = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<i64>().ok()).map_or(-1, |kib| kib * 1024)
}

fn wait() {
    io::stdin().read_line(&mut String::new()).ok();
}

/// Reads the options, says that it is there and waits.
pub fn begin(site: &'static Site) -> Run {
    let (mut seconds, mut speed, mut variant) = (30.0, 1.0, String::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match &*word {
            "--seconds" => seconds = words.next().and_then(|word| word.parse().ok()).expect("--seconds N"),
            "--speed" => speed = words.next().and_then(|word| word.parse().ok()).expect("--speed N"),
            _ => variant = word,
        }
    }
    println!("{{\"ready\":true,\"pid\":{},\"t\":{:.6},\"rss_bytes\":{}}}", std::process::id(), clock(), rss());
    wait();
    let mut run = Run {
        site,
        rate: None,
        sums: [0.0; 5],
        most: 0.0,
        seconds,
        speed,
        variant,
        start: Instant::now(),
        next: Duration::ZERO,
        said: [""; 8],
    };
    run.once("begin");
    run
}

impl Run {
    pub fn is(&self, variant: &str) -> bool {
        self.variant == variant
    }
    pub fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
    pub fn part(&self, part: f64) -> f64 {
        part * self.seconds
    }
    /// Bytes a second by design, at speed 1.
    pub fn rate(&mut self, bytes_per_s: f64) {
        self.rate = Some(bytes_per_s * self.speed);
    }
    /// Says it once.
    pub fn once(&mut self, event: &'static str) {
        if self.said.contains(&event) {
            return;
        }
        *self.said.iter_mut().find(|said| said.is_empty()).expect("few events") = event;
        println!("{{\"t\":{:.6},\"event\":\"{event}\",\"rss_bytes\":{}}}", clock(), rss());
    }
    /// How many of what comes `per_s` times a second at speed 1 are due.
    pub fn due(&self, per_s: f64, done: &mut u64) -> u64 {
        let all = (per_s * self.speed * self.now()) as u64;
        all - std::mem::replace(done, all.max(*done)).min(all)
    }
    /// Waits for the next tick; false when the time is over.
    pub fn tick(&mut self) -> bool {
        let now = self.now();
        if now > self.part(0.5) {
            let t = now - self.part(0.75);
            let b = self.site.bytes.load(Relaxed) as f64;
            for (sum, value) in self.sums.iter_mut().zip([1.0, t, b, t * t, t * b]) {
                *sum += value;
            }
            self.most = self.most.max(b);
        }
        self.next = (self.next + TICK).max(self.start.elapsed());
        thread::sleep(self.next.saturating_sub(self.start.elapsed()));
        self.now() < self.seconds
    }
    pub fn end(&self) -> ! {
        let [n, t, b, tt, tb] = self.sums;
        let below = n * tt - t * t;
        let slope = if below > 0.0 { (n * tb - t * b) / below } else { 0.0 };
        let rate = self.rate.map_or("null".to_owned(), |rate| format!("{rate:.1}"));
        let Site { name, bytes, blocks } = self.site;
        let (bytes, blocks) = (bytes.load(Relaxed), blocks.load(Relaxed));
        print!("{{\"t\":{:.6},\"event\":\"end\",\"rss_bytes\":{},\"sites\":[", clock(), rss());
        print!("{{\"name\":\"{name}\",\"bytes\":{bytes},\"blocks\":{blocks}");
        println!(",\"slope_bytes_per_s\":{slope:.1},\"rate_bytes_per_s\":{rate},\"most_bytes\":{:.1}}}]}}", self.most);
        io::stdout().flush().ok();
        wait();
        std::process::exit(0)
    }
}

/// The same numbers in every run: splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
