//! The kernel side of leaktrace: entry points only. What happens at each moment of an allocation's life
//! is in the module of that name.
//!
//! It never decides what a leak is: it matches, counts and keeps.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomic;
mod config;
mod counter;
mod enter;
mod exit;
mod filter;
mod free;
mod gpu;
mod hits;
mod lifecycle;
mod live;
mod mapping;
mod maps;
mod members;
mod opaque;
mod python;
mod registers;
mod site;
mod stack;
mod thread;
mod watch;

use aya_ebpf::{
    macros::{raw_tracepoint, tracepoint},
    programs::{ProbeContext, RawTracePointContext, TracePointContext},
};
use core::ffi::c_void;

/// Value of a uprobe.session program that keeps the return probe; other kinds ignore it.
const KEEP_RETURN: u32 = 0;
/// Value of a uprobe.session program's entry run that skips the return probe and its trap
/// (kernel 6.13, kernel/trace/bpf_trace.c: `uprobe_multi_link_handler`).
const SKIP_RETURN: u32 = 1;

/// A uprobe program that returns its own value: aya's `#[uprobe]` always returns 0, which would keep the
/// return probe of a session.
macro_rules! uprobe {
    ($(#[doc = $doc:literal])+ $name:ident => $body:expr) => {
        $(#[doc = $doc])+
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "uprobe")]
        extern "C" fn $name(ctx: *mut c_void) -> u32 {
            let body: fn(&ProbeContext) -> u32 = $body;
            body(&ProbeContext::new(ctx))
        }
    };
}

uprobe! {
    /// An allocation call is entered.
    alloc_enter => |ctx| enter::enter(ctx)
}

uprobe! {
    /// An allocation call returns, by return probe or at one of its `ret` instructions.
    alloc_exit => |ctx| exit::exit(ctx)
}

uprobe! {
    /// Both of the above as one session.
    alloc_session => |ctx| if registers::at_entry(ctx) { enter::enter(ctx) } else { exit::exit(ctx) }
}

uprobe! {
    /// A block is handed back.
    free_enter => |ctx| free::free(ctx)
}

uprobe! {
    /// A call of CUDA is entered.
    gpu_enter => |ctx| gpu::enter(ctx)
}

uprobe! {
    /// A call of CUDA returns.
    gpu_exit => |ctx| gpu::exit(ctx)
}

uprobe! {
    /// Both of the above as one session.
    gpu_session => |ctx| if registers::at_entry(ctx) { gpu::enter(ctx) } else { gpu::exit(ctx) }
}

uprobe! {
    /// A call of CUDA is entered of which nothing else is of interest.
    gpu_note => |ctx| gpu::note(ctx)
}

uprobe! {
    /// A tensor comes or goes. A program of its own and none of a session: those see the return of every process in
    /// which another tracer's filter keeps them from running (kernel 6.13, kernel/trace/bpf_trace.c:
    /// `uprobe_multi_link_handler` keeps the return where `uprobe_prog_run` answers 0), and an exception would end it.
    gpu_tensor => |ctx| gpu::tensor(ctx)
}

uprobe! {
    /// The dynamic linker of a process changes what is mapped.
    linker_state => |ctx| lifecycle::linker(ctx)
}

/// A process replaces its image. Raw, as is the next: that needs no tracefs, which containers and small
/// machines do without.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn process_exec(ctx: RawTracePointContext) -> i32 {
    lifecycle::exec(&ctx)
}

/// A process or a thread is forked.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn process_fork(ctx: RawTracePointContext) -> i32 {
    members::forked(&ctx);
    0
}

/// The resident memory of a process has changed.
#[raw_tracepoint(tracepoint = "rss_stat")]
fn resident_memory(ctx: RawTracePointContext) -> i32 {
    watch::resident(&ctx);
    0
}

/// A system call is entered that gives back what is mapped: munmap, mremap.
#[tracepoint]
fn unmapping_enter(_ctx: TracePointContext) -> u32 {
    mapping::enter();
    0
}

/// A system call returns that changes what is mapped: mmap, munmap, mremap, brk.
#[tracepoint]
fn mapping_exit(ctx: TracePointContext) -> u32 {
    mapping::exit(&ctx);
    0
}

/// A thread ends.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn thread_exit(ctx: RawTracePointContext) -> i32 {
    lifecycle::thread_exit(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Unreachable in what the verifier accepts; the linker wants it.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
