//! A Rust program with leaks of known sizes through Box, Vec, zeroed and aligned memory, and growth by
//! realloc. It prints its truth in the form of `programs/c/truth.h`.
use std::alloc::{Layout, alloc};
use std::hint::black_box;
use std::io::{Read as _, Write as _};

#[inline(never)]
fn inner_box() -> Box<[u8; 333]> {
    black_box(Box::new(black_box([7; 333])))
}
#[inline(never)]
fn leak_box() {
    black_box(Box::leak(inner_box()));
}
#[inline(never)]
fn inner_vec() -> Vec<u8> {
    black_box(Vec::with_capacity(black_box(1000)))
}
#[inline(never)]
fn leak_vec() {
    black_box(inner_vec().leak());
}
#[inline(never)]
fn inner_zeroed() -> Vec<u64> {
    black_box(vec![0; black_box(50)])
}
#[inline(never)]
fn leak_zeroed() {
    black_box(inner_zeroed().leak());
}
#[inline(never)]
fn inner_grown() -> Vec<u32> {
    let mut numbers = Vec::with_capacity(black_box(4));
    numbers.extend([1, 2, 3, 4]);
    numbers.reserve_exact(black_box(96));
    black_box(numbers)
}
#[inline(never)]
fn leak_grown() {
    black_box(inner_grown().leak());
}
#[inline(never)]
fn inner_aligned() -> *mut u8 {
    // SAFETY: the layout has a size.
    unsafe { alloc(Layout::from_size_align(black_box(700), 128).expect("a valid layout")) }
}
#[inline(never)]
fn leak_aligned() {
    black_box(inner_aligned());
}
#[inline(never)]
fn churn() {
    drop(inner_box());
    drop(inner_vec());
    drop(inner_zeroed());
    drop(inner_grown());
}

fn await_byte() {
    let mut byte = [0];
    let _ = std::io::stdin().lock().read(&mut byte);
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

fn main() {
    // The buffers of the standard streams are made before the tracer looks.
    let _ = std::io::stdin().lock();
    say("ready");
    await_byte();
    for _ in 0..12 {
        leak_box();
        leak_vec();
        leak_zeroed();
        leak_grown();
        leak_aligned();
        churn();
    }
    let site = |name: &str, bytes: u64| {
        format!(
            "\"{name}\":{{\"call\":\"*\",\"blocks\":12,\"bytes\":{},\"allocs\":12,\"frees\":0,\"line\":0}}",
            12 * bytes
        )
    };
    let sites = [
        site("leak_box", 333),
        site("leak_vec", 1000),
        site("leak_zeroed", 400),
        site("leak_grown", 400),
        site("leak_aligned", 700),
    ]
    .join(",");
    say(&format!("{{\"pid\":{},\"sites\":{{{sites}}},\"ledger\":{{}},\"facts\":{{}}}}", std::process::id()));
    await_byte();
}
