//! Tensors: what `PyTorch`'s allocator reports of each (c10/core/Allocator.h: `reportMemoryUsageToProfiler`, with the address,
//! the bytes more or less, the totals of the device and the device).

use aya_ebpf::{EbpfContext as _, bindings::BPF_ANY, helpers::bpf_get_attach_cookie, programs::ProbeContext};
use leaktrace_common::{
    call::Space,
    counter::Counter,
    gpu::{Domain, GpuCookie, GpuLive, TorchTotals, device_code},
    key::Process,
    record::Live,
};

use super::live;
use crate::{
    KEEP_RETURN, config,
    counter::bump,
    hits,
    live::now_ns,
    maps::TORCH_TOTALS,
    members,
    registers::{Arguments, UserRegisters},
    stack::{self, Begin},
    thread as threads,
};

/// A tensor comes or goes. Always 0: the function can be left by an exception, and its return is none of ours.
#[inline(always)]
pub fn tensor(ctx: &ProbeContext) -> u32 {
    // SAFETY: the helper takes the context of this program.
    let cookie = GpuCookie(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) });
    hits::entry(cookie.plain());
    let arguments = Arguments::read(ctx);
    let Some(report) = read(&arguments) else {
        return KEEP_RETURN;
    };
    let Some(state) = threads::current() else {
        return KEEP_RETURN;
    };
    let process = state.process;
    note_totals(process, &report, &arguments);
    if report.bytes < 0 {
        gone(process, &report);
    } else if report.bytes > 0 && members::meet(state).is_some() {
        let stack_id = stack::capture(UserRegisters::of_probe(ctx), Begin::Probe, state).id;
        came(process, &report, cookie, stack_id);
    }
    KEEP_RETURN
}

/// `c10::DeviceType::CUDA`.
const CUDA: u8 = 1;

/// A report.
struct Report {
    address: u64,
    /// Of a tensor that goes, below 0.
    bytes: i64,
    device: u8,
}

/// What a call reports; none of other devices than GPUs.
#[inline(always)]
fn read(arguments: &Arguments) -> Option<Report> {
    // `c10::Device` is two bytes: its type and its number.
    let device = arguments.get(4, 0) as u16;
    if device as u8 != CUDA {
        return None;
    }
    Some(Report {
        address: arguments.get(0, 0),
        bytes: arguments.get(1, 0) as i64,
        device: (device >> 8) as u8,
    })
}

/// Notes what the allocator says of the device.
#[inline(always)]
fn note_totals(process: Process, report: &Report, arguments: &Arguments) {
    let key = live::key(process, u64::from(report.device), Domain::Tensor as u8);
    // SAFETY: a copy of a word; of two reports at once one may be uncounted.
    let reports = unsafe { TORCH_TOTALS.get(key) }.map_or(0, |totals| totals.reports);
    let totals = TorchTotals {
        allocated_bytes: arguments.get(2, 0),
        reserved_bytes: arguments.get(3, 0),
        reports: reports + 1,
        time_ns: now_ns(),
    };
    if TORCH_TOTALS.insert(key, totals, u64::from(BPF_ANY)).is_err() {
        bump(Counter::GpuFull);
    }
}

/// A tensor has gone.
#[inline(always)]
fn gone(process: Process, report: &Report) {
    let key = live::key(process, report.address, Domain::Tensor as u8);
    let mut record = live::NONE;
    if live::take(&key, &mut record) {
        live::freed(&key, &record);
    } else {
        bump(Counter::TensorFreeUnknown);
    }
}

/// A tensor has come.
#[inline(always)]
fn came(process: Process, report: &Report, cookie: GpuCookie, stack_id: u64) {
    let size_bytes = report.bytes as u64;
    if config::is_filtered(size_bytes) {
        bump(Counter::FilteredSize);
        return;
    }
    let key = live::key(process, report.address, Domain::Tensor as u8);
    let mut record = GpuLive {
        block: Live {
            size_bytes,
            stack_id,
            call: cookie.call(),
            ..live::NONE.block
        },
        space: Space::Tensor as u8,
        device: device_code(i64::from(report.device)),
        ..live::NONE
    };
    live::insert(&key, &mut record);
}
