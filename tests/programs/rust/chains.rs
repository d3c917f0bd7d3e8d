//! Call chains of the shapes that Rust makes, each allocated at its end by a size of its own. The truth, in the
//! form of `programs/c/chain.h`, is what the C library's backtrace() says at the same place.
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;

unsafe extern "C" {
    fn backtrace(frames: *mut *mut c_void, most: c_int) -> c_int;
}

struct Chain {
    name: &'static str,
    depth: usize,
    bytes: usize,
    frames: Vec<usize>,
}

static CHAINS: Mutex<Vec<Chain>> = Mutex::new(Vec::new());

/// The frames of the caller and of those around it.
#[inline(always)]
fn trace(frames: &mut [*mut c_void; 250]) -> usize {
    // SAFETY: the room is as large as it says.
    unsafe { backtrace(frames.as_mut_ptr(), 250) as usize }
}

#[inline(never)]
fn is_deep(depth: usize) -> bool {
    let mut frames = [std::ptr::null_mut(); 250];
    trace(&mut frames) - 1 >= depth
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_here(bytes: usize, frames: &mut [*mut c_void; 250]) -> usize {
    let count = trace(frames);
    let layout = std::alloc::Layout::from_size_align(bytes, 8).expect("a valid layout");
    // SAFETY: the layout has a size.
    black_box(unsafe { std::alloc::alloc(black_box(layout)) });
    count
}

#[inline(never)]
fn take(name: &'static str, depth: usize) {
    let mut frames = [std::ptr::null_mut(); 250];
    let mut chains = CHAINS.lock().expect("nobody panics with it");
    let bytes = 20011 + 16 * chains.len();
    let count = take_here(bytes, &mut frames);
    let frames = frames[..count].iter().map(|frame| *frame as usize).collect();
    chains.push(Chain { name, depth, bytes, frames });
}

#[derive(Clone, Copy)]
struct Walk {
    name: &'static str,
    depth: usize,
    level: fn(Walk),
}

#[inline(never)]
fn deeper(walk: Walk) {
    if is_deep(walk.depth) {
        take(walk.name, walk.depth);
    } else {
        (black_box(walk.level))(walk);
    }
    black_box(());
}

#[inline(never)]
fn plain(walk: Walk) {
    deeper(walk);
    black_box(());
}

#[inline(never)]
fn sorted(walk: Walk) {
    let mut numbers = [3, 1, 2];
    let mut done = false;
    numbers.sort_by(|left, right| {
        if !done {
            done = true;
            deeper(walk);
        }
        left.cmp(right)
    });
    black_box(numbers);
}

#[inline(never)]
fn boxed(walk: Walk) {
    let call: Box<dyn Fn()> = black_box(Box::new(move || deeper(walk)));
    call();
    black_box(());
}

#[inline(never)]
fn iterated(walk: Walk) {
    let map: BTreeMap<u32, u32> = (0..2).map(|number| (number, number)).collect();
    map.iter().take(1).for_each(|_| deeper(black_box(walk)));
    black_box(());
}

#[inline(never)]
fn unwinds(walk: Walk) {
    struct Deeper(Walk);
    impl Drop for Deeper {
        fn drop(&mut self) {
            deeper(self.0);
        }
    }
    let _guard = black_box(Deeper(walk));
    // Not by `panic!`, which would print.
    resume_unwind(Box::new(1));
}

/// Deeper in a destructor that runs while the stack is unwound.
#[inline(never)]
fn in_drop(walk: Walk) {
    let end = catch_unwind(AssertUnwindSafe(|| unwinds(walk)));
    black_box(end.is_err());
}

/// Deeper after an unwinding was caught.
#[inline(never)]
fn after_catch(walk: Walk) {
    let end = catch_unwind(|| resume_unwind(Box::new(2)));
    black_box(end.is_err());
    deeper(walk);
    black_box(());
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
    let mut frames = [std::ptr::null_mut(); 250];
    trace(&mut frames);
    let _ = catch_unwind(|| resume_unwind(Box::new(3)));
    say("ready");
    await_byte();
    let levels: [(&str, fn(Walk)); 6] = [
        ("plain", plain),
        ("sorted", sorted),
        ("boxed", boxed),
        ("iterated", iterated),
        ("in_drop", in_drop),
        ("after_catch", after_catch),
    ];
    for (name, level) in levels {
        for depth in [2, 20, 60, 112] {
            level(Walk { name, depth, level });
        }
    }
    let walk = Walk { name: "thread", depth: 20, level: sorted };
    std::thread::spawn(move || sorted(walk)).join().expect("the thread ends well");
    let chains = CHAINS.lock().expect("nobody panics with it");
    let chains: Vec<String> = chains
        .iter()
        .map(|Chain { name, depth, bytes, frames }| {
            format!(
                "{{\"name\":\"{name}\",\"function\":\"take_here\",\"depth\":{depth},\"bytes\":{bytes},\"frames\":{frames:?}}}"
            )
        })
        .collect();
    say(&format!(
        "{{\"pid\":{},\"sites\":{{}},\"allocs\":0,\"frees\":0,\"alloc_bytes\":0,\"freed_bytes\":0,\
         \"ledger\":{{\"_\":0}},\"facts\":{{\"_\":0}},\"chains\":[{}]}}",
        std::process::id(),
        chains.join(",")
    ));
    await_byte();
}
