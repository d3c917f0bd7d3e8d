//! What a report says of GPU memory.
//!
//! Kinds of memory (`space`) are never one sum here, as they are not in the report.

use serde_json::Value;

use super::{Report, Survivor, Tally, count, list, text};

/// Kinds of memory of a GPU or for one, as `totals.by_space` names them.
pub const GPU_SPACES: [&str; 10] = [
    "device",
    "managed",
    "pinned",
    "registered",
    "array",
    "vmm",
    "vmm-host",
    "ipc",
    "reservation",
    "tensor",
];

/// What is outstanding of one kind of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Bytes.
    pub bytes: u64,
    /// Blocks.
    pub blocks: u64,
}

/// A row of `gpu.spaces`: one kind of memory on one device.
#[derive(Clone, Copy, Debug)]
pub struct GpuSpace<'a>(pub &'a Value);

impl<'a> GpuSpace<'a> {
    /// Which memory.
    pub fn space(&self) -> &'a str {
        text(self.0, "space")
    }

    /// On which device; none where that is not known.
    pub fn device(&self) -> Option<u64> {
        self.0["device"].as_u64()
    }

    /// A field that is a whole number: `live_bytes`, `live_blocks`, `alloc_bytes`, `allocs`, `frees`, `freed_bytes`.
    pub fn number(&self, name: &str) -> u64 {
        count(self.0, name)
    }
}

impl Report {
    /// What is outstanding of a kind of memory (`totals.by_space`).
    pub fn space(&self, name: &str) -> Held {
        Held {
            bytes: self.number(&format!("/totals/by_space/{name}/live_bytes")),
            blocks: self.number(&format!("/totals/by_space/{name}/live_blocks")),
        }
    }

    /// The part about GPU memory; none where no target uses a GPU.
    pub fn gpu(&self) -> Option<&Value> {
        Some(&self.value()["gpu"]).filter(|gpu| !gpu.is_null())
    }

    /// The same, which must be there.
    pub fn the_gpu(&self) -> &Value {
        self.gpu()
            .unwrap_or_else(|| panic!("no GPU part in\n{}", self.summary()))
    }

    /// Sums by kind of memory and device.
    pub fn gpu_spaces(&self) -> Vec<GpuSpace<'_>> {
        list(self.the_gpu(), "spaces").iter().map(GpuSpace).collect()
    }

    /// A number of `gpu.spaces`, over all devices of that kind of memory.
    pub fn gpu_number(&self, space: &str, name: &str) -> u64 {
        let rows = self.gpu_spaces().into_iter();
        rows.filter(|row| row.space() == space)
            .map(|row| row.number(name))
            .sum()
    }

    /// What `PyTorch` has said of its devices.
    pub fn torch(&self) -> &[Value] {
        list(self.the_gpu(), "torch")
    }

    /// What `PyTorch` has last said of a device, which must be there.
    pub fn torch_of(&self, device: u64) -> &Value {
        let found = self.torch().iter().find(|torch| count(torch, "device") == device);
        found.unwrap_or_else(|| panic!("nothing of PyTorch's cuda:{device} in\n{}", self.summary()))
    }

    /// Failed calls, one entry a stack and result.
    pub fn gpu_errors(&self) -> &[Value] {
        list(self.the_gpu(), "errors")
    }

    /// How often a call has failed with a result: (count, bytes asked for, bytes of the largest).
    pub fn gpu_failures(&self, call: &str, code: u64) -> (u64, u64, u64) {
        let errors = self.gpu_errors().iter();
        let those = errors.filter(|error| text(error, "call") == call && count(error, "code") == code);
        those.fold((0, 0, 0), |(number, bytes, largest), error| {
            (
                number + count(error, "count"),
                bytes + count(error, "bytes"),
                largest.max(count(error, "largest_bytes")),
            )
        })
    }

    /// Sums the survivors of one kind of memory with a caller named `function`.
    pub fn gpu_site(&self, space: &str, function: &str) -> Tally {
        self.tally(|survivor| survivor.text("space") == space && survivor.has_caller(function))
    }

    /// Checks that `function` holds exactly so many blocks and bytes of a kind of memory, all from `call`.
    pub fn assert_gpu_site(&self, space: &str, function: &str, call: &str, blocks: u64, bytes: u64) {
        let tally = self.gpu_site(space, function);
        let calls: Vec<&str> = tally.calls.iter().map(String::as_str).collect();
        let wanted: &[&str] = if blocks == 0 { &[] } else { &[call] };
        assert_eq!(
            (tally.blocks, tally.bytes, calls.as_slice()),
            (blocks, bytes, wanted),
            "{space} memory of {function}\n{}",
            self.summary()
        );
    }

    /// Checks that each kind of GPU memory adds up: survivors and what is not listed, the devices, allocations and frees.
    pub(super) fn assert_spaces_add_up(&self) {
        let omitted = &self.value()["omitted"]["gpu"];
        for space in GPU_SPACES {
            let held = self.space(space);
            let listed = self.tally(|survivor| survivor.text("space") == space);
            let hidden = omitted.as_array().into_iter().flatten();
            let hidden: Vec<&Value> = hidden.filter(|entry| text(entry, "space") == space).collect();
            let of_hidden = |name| hidden.iter().map(|entry| count(entry, name)).sum::<u64>();
            assert_eq!(
                (
                    listed.blocks + of_hidden("blocks"),
                    listed.bytes + of_hidden("bytes")
                ),
                (held.blocks, held.bytes),
                "{space} memory of all survivors\n{}",
                self.summary()
            );
            if self.gpu().is_none() {
                assert_eq!(held, Held::default(), "{space} without a GPU\n{}", self.summary());
                continue;
            }
            let sum = |name| self.gpu_number(space, name);
            assert_eq!(
                (
                    sum("allocs") - sum("frees"),
                    sum("alloc_bytes") - sum("freed_bytes")
                ),
                (held.blocks, held.bytes),
                "{space}: allocs - frees\n{}",
                self.summary()
            );
            assert_eq!(
                (sum("live_blocks"), sum("live_bytes")),
                (held.blocks, held.bytes),
                "{space} of all devices\n{}",
                self.summary()
            );
        }
    }
}

impl Survivor<'_> {
    /// Whether it is of a GPU or for one, tensors included.
    pub fn is_gpus(&self) -> bool {
        GPU_SPACES.contains(&self.text("space"))
    }

    /// On which device; none where that is not known.
    pub fn device(&self) -> Option<u64> {
        self.0["device"].as_u64()
    }

    /// What of it may be gone because a context has ended that may have been its own.
    pub fn unsure(&self) -> Held {
        let unsure = &self.0["unsure"];
        if unsure.is_null() {
            return Held::default();
        }
        assert_eq!(text(unsure, "why"), "context destroyed", "{}", self.0);
        Held {
            bytes: count(unsure, "bytes"),
            blocks: count(unsure, "blocks"),
        }
    }

    /// Whose cache it is, if it is one's.
    pub fn reserved_by(&self) -> Option<&str> {
        self.0["reserved_by"].as_str()
    }
}
