//! What a report says of GPU memory, as far as a run on a GPU compares it. Pure; the fields are those of
//! docs/report-format.md.

use std::{
    collections::BTreeSet,
    fmt::{self, Display},
};

use serde_json::Value;

/// Counters of the ledger that are above zero only where the report misses something.
const LOSSES: [&str; 9] = [
    "events_lost",
    "gpu_errors_full",
    "gpu_full",
    "live_full",
    "live_no_memory",
    "result_unreadable",
    "sites_full",
    "stacks_full",
    "threads_full",
];

/// Kinds of memory that the driver's management library counts on a device.
const ON_DEVICE: [&str; 3] = ["array", "device", "vmm"];

/// One report.
#[derive(Clone, Debug)]
pub(super) struct Report(pub(super) Value);

/// Survivors summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) blocks: u64,
    pub(super) bytes: u64,
    pub(super) calls: BTreeSet<String>,
}

impl Sum {
    pub(super) fn of(call: &str, blocks: u64, bytes: u64) -> Self {
        Self {
            blocks,
            bytes,
            calls: [call.to_owned()].into(),
        }
    }
}

impl Display for Sum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.blocks == 0 && self.bytes == 0 {
            return formatter.write_str("nothing");
        }
        let calls: Vec<_> = self.calls.iter().map(String::as_str).collect();
        write!(
            formatter,
            "{} blocks, {} bytes by {}",
            self.blocks,
            self.bytes,
            calls.join(" and ")
        )
    }
}

impl Report {
    /// The last of the documents that a file holds.
    pub(super) fn last(text: &str) -> Option<Self> {
        let documents = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        documents.map_while(Result::ok).last().map(Self)
    }

    fn list(&self, pointer: &str) -> &[Value] {
        self.0
            .pointer(pointer)
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    /// Whether GPU memory was followed: without that, nothing outstanding says nothing.
    pub(super) fn follows_gpu(&self) -> bool {
        self.0["gpu"]["state"] == "followed"
    }

    /// Blocks and tensors handed out since the attach.
    pub(super) fn handed_out(&self) -> u64 {
        let spaces = self.list("/gpu/spaces").iter();
        spaces.map(|space| number(space, "allocs")).sum()
    }

    /// Survivors of GPU memory, or of tensors, that a function is in the stack of.
    pub(super) fn at(&self, function: &str, tensors: bool) -> Sum {
        self.sum(tensors, |survivor| has_frame(survivor, function))
    }

    /// All survivors of GPU memory or of tensors.
    pub(super) fn all(&self, tensors: bool) -> Sum {
        self.sum(tensors, |_| true)
    }

    fn sum(&self, tensors: bool, wanted: impl Fn(&Value) -> bool) -> Sum {
        let mut sum = Sum::default();
        let host = ["heap", "custom", "python-arena", "python-pool"];
        for survivor in self.list("/survivors") {
            let space = survivor["space"].as_str().unwrap_or_default();
            if host.contains(&space) || (space == "tensor") != tensors || !wanted(survivor) {
                continue;
            }
            sum.blocks += number(survivor, "blocks");
            sum.bytes += number(survivor, "bytes");
            sum.calls
                .insert(survivor["call"].as_str().unwrap_or_default().to_owned());
        }
        sum
    }

    /// Bytes of device memory, all devices and kinds together: what NVML's number stands beside.
    pub(super) fn device_bytes(&self) -> u64 {
        let spaces = self.list("/gpu/spaces").iter();
        spaces
            .filter(|space| ON_DEVICE.contains(&space["space"].as_str().unwrap_or_default()))
            .map(|space| number(space, "live_bytes"))
            .sum()
    }

    /// How often calls failed for lack of memory, by call.
    pub(super) fn out_of_memory(&self) -> Vec<(String, u64)> {
        let mut counts: Vec<(String, u64)> = Vec::new();
        for error in self.list("/gpu/errors").iter().filter(|error| error["code"] == 2) {
            let call = error["call"].as_str().unwrap_or_default();
            match counts.iter_mut().find(|(known, _)| known == call) {
                Some((_, count)) => *count += number(error, "count"),
                None => counts.push((call.to_owned(), number(error, "count"))),
            }
        }
        counts
    }

    /// A number of what `PyTorch` says of its only device.
    pub(super) fn torch(&self, field: &str) -> Option<u64> {
        self.list("/gpu/torch").first()?.get(field)?.as_u64()
    }

    /// What NVML says that the process uses.
    pub(super) fn nvml(&self, pid: u32) -> Option<u64> {
        let processes = self.list("/gpu/nvml/processes");
        let process = processes.iter().find(|process| process["pid"] == pid)?;
        process["used_bytes"].as_u64()
    }

    /// Paths of the files of CUDA's driver that are probed.
    pub(super) fn probed_drivers(&self) -> BTreeSet<String> {
        self.list("/tracing/sites")
            .iter()
            .filter_map(|site| site["object"].as_str())
            .filter(|object| object.contains("libcuda.so"))
            .map(str::to_owned)
            .collect()
    }

    /// Counters of losses that are not zero, in words.
    pub(super) fn losses(&self) -> String {
        let lost: Vec<_> = LOSSES
            .iter()
            .filter_map(|name| {
                let count = self.0["ledger"][*name].as_u64().unwrap_or(0);
                (count > 0).then(|| format!("{name} {count}"))
            })
            .collect();
        if lost.is_empty() {
            "nothing lost".to_owned()
        } else {
            lost.join(", ")
        }
    }

    /// A counter of the ledger.
    pub(super) fn ledger(&self, name: &str) -> u64 {
        number(&self.0["ledger"], name)
    }
}

/// Python's functions are named by their qualified names, C++'s with their parameters.
fn has_frame(survivor: &Value, function: &str) -> bool {
    let frames = survivor["frames"].as_array();
    let mut symbols = frames
        .into_iter()
        .flatten()
        .filter_map(|frame| frame["symbol"].as_str());
    symbols.any(|symbol| symbol.split('(').next() == Some(function))
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn survivors_are_summed_by_function_and_kind() {
        let stack = |symbol: &str| json!([{"symbol": "cudaMalloc"}, {"symbol": symbol}, {"symbol": null}]);
        let document = json!({
            "survivors": [
                {"space": "device", "call": "cudaMalloc", "blocks": 7, "bytes": 70, "frames": stack("leak_here(int)")},
                {"space": "tensor", "call": "tensor", "blocks": 2, "bytes": 20, "frames": stack("leak_here")},
                {"space": "heap", "call": "malloc", "blocks": 9, "bytes": 90, "frames": stack("leak_here")},
                {"space": "vmm", "call": "cuMemCreate", "blocks": 1, "bytes": 4, "frames": stack("other")},
            ],
            "gpu": {
                "state": "followed",
                "spaces": [
                    {"space": "device", "live_bytes": 70, "allocs": 8}, {"space": "vmm", "live_bytes": 4},
                    {"space": "pinned", "live_bytes": 1000},
                ],
                "torch": [{"allocated_bytes": 5}],
                "errors": [
                    {"call": "cudaMalloc", "code": 2, "count": 3}, {"call": "cudaMalloc", "code": 2, "count": 1},
                    {"call": "cudaMalloc", "code": 35, "count": 8},
                ],
                "nvml": {"processes": [{"pid": 8, "used_bytes": 99}]},
            },
            "tracing": {"sites": [{"object": "/lib/libcuda.so.1"}, {"object": "/lib/libc.so.6"}]},
            "ledger": {"events_lost": 0, "gpu_full": 2},
        });
        let report = Report::last(&format!("{{}}\n{document}\n")).expect("there are two documents");
        assert_eq!(report.at("leak_here", false), Sum::of("cudaMalloc", 7, 70));
        assert_eq!(report.at("leak_here", true), Sum::of("tensor", 2, 20));
        assert_eq!(report.at("nowhere", false).to_string(), "nothing");
        assert_eq!(
            report.all(false).to_string(),
            "8 blocks, 74 bytes by cuMemCreate and cudaMalloc"
        );
        assert!(report.follows_gpu() && !Report(json!({"gpu": null})).follows_gpu());
        assert_eq!((report.device_bytes(), report.handed_out()), (74, 8));
        assert_eq!(report.out_of_memory(), [("cudaMalloc".to_owned(), 4)]);
        assert_eq!(
            (report.torch("allocated_bytes"), report.torch("reserved_bytes")),
            (Some(5), None)
        );
        assert_eq!((report.nvml(8), report.nvml(9)), (Some(99), None));
        assert_eq!(report.probed_drivers().len(), 1);
        assert_eq!(report.losses(), "gpu_full 2");
    }
}
