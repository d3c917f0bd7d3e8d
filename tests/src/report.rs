//! Reads leaktrace's JSON and compares it with the truth that a fixture printed.

mod gpu;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

pub use gpu::{GPU_SPACES, GpuSpace, Held};

/// Counters of the ledger above zero only when the report misses something.
const LOSSES: &[&str] = &[
    "live_full",
    "live_full_bytes",
    "live_no_memory",
    "stacks_full",
    "sites_full",
    "threads_full",
    "result_unreadable",
    "events_lost",
    "gpu_full",
];

/// Counters that a fixture knows exactly; zero unless its truth names them.
const CAUSES: &[&str] = &[
    "abandoned",
    "failed",
    "filtered_size",
    "free_unknown",
    "realloc_unknown",
    "free_missed",
    "stacks_truncated",
];

/// What a fixture did at one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrueSite {
    /// Names the report may give the call; empty when any will do.
    pub calls: Vec<String>,
    /// Blocks outstanding.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks handed out.
    pub allocs: u64,
    /// Blocks taken back.
    pub frees: u64,
    /// Source line of the call; 0 when not known.
    pub line: u64,
    /// Which memory, as the report names it; none where the fixture does not say, and any will do.
    pub space: Option<String>,
}

/// What a fixture did, in its own words.
#[derive(Clone, Debug, PartialEq)]
pub struct Truth {
    /// Its process.
    pub pid: u32,
    /// Its sites by the name of the function.
    pub sites: BTreeMap<String, TrueSite>,
    /// What the ledger must say.
    pub ledger: BTreeMap<String, u64>,
    /// The line as a whole, for what only one fixture says.
    pub raw: Value,
}

impl Truth {
    /// Parses the line that a fixture prints.
    pub fn parse(line: &str) -> Self {
        let raw: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let site = |site: &Value| TrueSite {
            calls: match text(site, "call") {
                "*" => Vec::new(),
                calls => calls.split('|').map(str::to_owned).collect(),
            },
            blocks: count(site, "blocks"),
            bytes: count(site, "bytes"),
            allocs: count(site, "allocs"),
            frees: count(site, "frees"),
            line: count(site, "line"),
            space: site["space"].as_str().map(str::to_owned),
        };
        Self {
            pid: count(&raw, "pid") as u32,
            sites: object(&raw, "sites")
                .map(|(name, value)| (name.clone(), site(value)))
                .collect(),
            ledger: object(&raw, "ledger")
                .filter(|(name, _)| *name != "_")
                .map(|(name, value)| (name.clone(), value.as_u64().expect("a number")))
                .collect(),
            raw,
        }
    }

    /// A site, which must exist.
    pub fn site(&self, name: &str) -> &TrueSite {
        self.sites
            .get(name)
            .unwrap_or_else(|| panic!("the fixture has no site {name}: {}", self.raw))
    }

    /// A further fact, which must be there.
    pub fn fact(&self, name: &str) -> u64 {
        count(&self.raw["facts"], name)
    }
}

/// What a report says about a group of survivors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Outstanding blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks handed out by these sites.
    pub allocs: u64,
    /// Blocks taken back.
    pub frees: u64,
    /// Names of the calls.
    pub calls: BTreeSet<String>,
}

/// One report.
#[derive(Clone, Debug, PartialEq)]
pub struct Report(Value);

/// Parses the documents in `text`, one after another.
///
/// # Errors
/// When something in it is no JSON.
pub fn parse_all(text: &str) -> Result<Vec<Report>, String> {
    serde_json::Deserializer::from_str(text)
        .into_iter::<Value>()
        .map(|value| {
            value
                .map(Report::from_value)
                .map_err(|error| format!("not JSON: {error}"))
        })
        .collect()
}

impl Report {
    /// Wraps a parsed document.
    pub const fn from_value(value: Value) -> Self {
        Self(value)
    }

    /// The document.
    pub const fn value(&self) -> &Value {
        &self.0
    }

    /// The number at a JSON pointer, which must be there.
    pub fn number(&self, pointer: &str) -> u64 {
        let value = self.0.pointer(pointer).and_then(Value::as_u64);
        value.unwrap_or_else(|| panic!("no number at {pointer} in\n{}", self.summary()))
    }

    /// A field of `totals`.
    pub fn total(&self, name: &str) -> u64 {
        self.number(&format!("/totals/{name}"))
    }

    /// A counter of the ledger.
    pub fn ledger(&self, name: &str) -> u64 {
        self.number(&format!("/ledger/{name}"))
    }

    /// The share of the recorded allocations whose stack is known to its outermost frame.
    pub fn complete_share(&self) -> f64 {
        let share = self.0["stacks"]["complete_share"].as_f64();
        share.unwrap_or_else(|| panic!("no share of complete stacks in\n{}", self.summary()))
    }

    /// How many recorded allocations have a stack that ended for this reason; see `stacks` of the report.
    pub fn stacks(&self, end: &str) -> u64 {
        self.number(&format!("/stacks/{end}"))
    }

    /// The survivors.
    pub fn survivors(&self) -> Vec<Survivor<'_>> {
        list(&self.0, "survivors").iter().map(Survivor).collect()
    }

    /// The warnings.
    pub fn warnings(&self) -> Vec<&str> {
        list(&self.0, "warnings")
            .iter()
            .filter_map(Value::as_str)
            .collect()
    }

    /// Sums the survivors that `wanted` accepts.
    pub fn tally(&self, wanted: impl Fn(&Survivor<'_>) -> bool) -> Tally {
        let mut tally = Tally::default();
        for survivor in self.survivors().iter().filter(|survivor| wanted(survivor)) {
            tally.blocks += survivor.number("blocks");
            tally.bytes += survivor.number("bytes");
            tally.allocs += survivor.number("allocs");
            tally.frees += survivor.number("frees");
            tally.calls.insert(survivor.text("call").to_owned());
        }
        tally
    }

    /// Sums the survivors with a caller named `function`.
    pub fn site(&self, function: &str) -> Tally {
        self.tally(|survivor| survivor.has_caller(function))
    }

    /// Number of outstanding blocks of exactly `bytes` bytes; needs `--show-blocks`.
    pub fn blocks_of(&self, bytes: u64) -> usize {
        let blocks = self
            .survivors()
            .into_iter()
            .flat_map(|survivor| list(survivor.0, "block_list"));
        blocks.filter(|block| count(block, "bytes") == bytes).count()
    }

    /// How many processes were traced.
    pub fn processes(&self) -> usize {
        list(&self.0["target"], "processes").len()
    }

    /// The process with this id, which must be there.
    pub fn process(&self, pid: u32) -> &Value {
        let mut processes = list(&self.0["target"], "processes").iter();
        let process = processes.find(|process| count(process, "pid") == u64::from(pid));
        process.unwrap_or_else(|| panic!("process {pid} is not in\n{}", self.summary()))
    }

    /// Checks that the report adds up to the block, in every way it can be added.
    pub fn assert_adds_up(&self) {
        let summary = self.summary();
        let total = |name| self.total(name);
        assert_eq!(self.0["schema"], "leaktrace.report/1", "{summary}");
        assert_eq!(
            total("allocs") - total("frees"),
            total("live_blocks"),
            "allocs - frees\n{summary}"
        );
        assert_eq!(
            total("alloc_bytes") - total("freed_bytes"),
            total("live_bytes"),
            "bytes\n{summary}"
        );
        let listed = self.tally(|survivor| !survivor.is_gpus());
        let suppressed = |name| -> u64 {
            let all = list(&self.0, "suppressed").iter();
            all.map(|one| count(one, name)).sum()
        };
        let blocks = self.number("/omitted/blocks") + suppressed("blocks");
        let bytes = self.number("/omitted/bytes") + suppressed("bytes");
        // Pools lie in arenas, and mappings are no allocator's: they are listed, and of no sum.
        let beside = |name| -> u64 {
            let of = |space| self.number(&format!("/totals/by_space/{space}/{name}"));
            of("python-pool") + of("mapping")
        };
        assert_eq!(
            listed.blocks + blocks,
            total("live_blocks") + beside("live_blocks"),
            "blocks of all survivors\n{summary}"
        );
        assert_eq!(
            listed.bytes + bytes,
            total("live_bytes") + beside("live_bytes"),
            "bytes of all survivors\n{summary}"
        );
        let processes = list(&self.0["target"], "processes");
        // Those that have ended and were one too many are not in the list.
        let sum = |name| {
            let listed: u64 = processes.iter().map(|process| count(process, name)).sum();
            listed + self.number(&format!("/target/forgotten/{name}"))
        };
        assert_eq!(
            sum("live_blocks"),
            total("live_blocks"),
            "blocks of all processes\n{summary}"
        );
        assert_eq!(
            sum("live_bytes"),
            total("live_bytes"),
            "bytes of all processes\n{summary}"
        );
        self.assert_spaces_add_up();
    }

    /// Checks that nothing was lost.
    pub fn assert_no_losses(&self) {
        for name in LOSSES {
            assert_eq!(self.ledger(name), 0, "{name}\n{}", self.summary());
        }
    }

    /// Checks that a site has exactly so many blocks and bytes outstanding.
    pub fn assert_site(&self, function: &str, blocks: u64, bytes: u64) {
        let tally = self.site(function);
        assert_eq!(
            (tally.blocks, tally.bytes),
            (blocks, bytes),
            "site {function}\n{}",
            self.summary()
        );
    }

    /// Checks every site of `truth`, to the block and to the byte, and that the report adds up without
    /// losses. Other survivors of the process (of its C library, say) are allowed.
    pub fn assert_sites(&self, truth: &Truth) {
        self.assert_adds_up();
        self.assert_no_losses();
        for (name, site) in &truth.sites {
            let here = |survivor: &Survivor<'_>| {
                let space = site.space.as_deref();
                survivor.number("pid") == u64::from(truth.pid)
                    && survivor.has_caller(name)
                    && space.is_none_or(|space| survivor.text("space") == space)
            };
            let tally = self.tally(here);
            let summary = || format!("site {name}\ntruth: {}\n{}", truth.raw, self.summary());
            assert_eq!(
                (tally.blocks, tally.bytes),
                (site.blocks, site.bytes),
                "{}",
                summary()
            );
            let known = |call: &String| site.calls.is_empty() || site.calls.contains(&unprefixed(call));
            assert!(
                tally.calls.iter().all(known),
                "call {:?} of {}",
                tally.calls,
                summary()
            );
            for survivor in self.survivors().iter().filter(|survivor| here(survivor)) {
                assert_eq!(
                    survivor.number("allocs") - survivor.number("frees"),
                    survivor.number("blocks"),
                    "allocs - frees of {}",
                    summary()
                );
                if let (Some(line), 1..) = (survivor.line_in(name), site.line) {
                    assert_eq!(line, site.line, "line of {}", summary());
                }
            }
        }
    }

    /// Checks everything: the sites, no others, the totals and the ledger, except the counters named.
    pub fn assert_exact_but(&self, truth: &Truth, unchecked: &[&str]) {
        self.assert_sites(truth);
        let summary = || format!("truth: {}\n{}", truth.raw, self.summary());
        for name in ["allocs", "frees", "alloc_bytes", "freed_bytes"] {
            assert_eq!(
                self.total(name),
                count(&truth.raw, name),
                "totals.{name}\n{}",
                summary()
            );
        }
        for name in CAUSES.iter().filter(|name| !unchecked.contains(name)) {
            let expected = truth.ledger.get(*name).copied().unwrap_or(0);
            assert_eq!(self.ledger(name), expected, "ledger.{name}\n{}", summary());
        }
        if let Some(nested) = truth.ledger.get("nested") {
            assert_eq!(self.ledger("nested"), *nested, "ledger.nested\n{}", summary());
        }
        let foreign = |survivor: &Survivor<'_>| !truth.sites.keys().any(|name| survivor.has_caller(name));
        assert_eq!(
            self.tally(foreign).blocks,
            0,
            "survivors of no site\n{}",
            summary()
        );
    }

    /// Checks everything.
    pub fn assert_exact(&self, truth: &Truth) {
        self.assert_exact_but(truth, &[]);
    }

    /// The report in short, for messages.
    pub fn summary(&self) -> String {
        let mut lines = vec![format!(
            "report: totals {} omitted {}",
            self.0["totals"], self.0["omitted"]
        )];
        lines.push(format!("  ledger {}", self.0["ledger"]));
        lines.push(format!("  stacks {}", self.0["stacks"]));
        lines.push(format!("  warnings {}", self.0["warnings"]));
        lines.push(format!("  processes {}", self.0["target"]["processes"]));
        if let Some(gpu) = self.gpu() {
            lines.push(format!("  gpu {gpu}"));
        }
        let survivors = self.survivors();
        for survivor in survivors.iter().take(40) {
            lines.push(format!(
                "  pid {} {} ({}) blocks {} bytes {} allocs {} frees {}: {}",
                survivor.0["pid"],
                survivor.0["call"],
                survivor.text("space"),
                survivor.0["blocks"],
                survivor.0["bytes"],
                survivor.0["allocs"],
                survivor.0["frees"],
                survivor.symbols().join(" < ")
            ));
        }
        if survivors.len() > 40 {
            lines.push(format!("  and {} more", survivors.len() - 40));
        }
        lines.join("\n")
    }
}

/// One survivor of a report.
#[derive(Clone, Copy, Debug)]
pub struct Survivor<'a>(pub &'a Value);

impl<'a> Survivor<'a> {
    /// A field that is a number.
    pub fn number(&self, name: &str) -> u64 {
        count(self.0, name)
    }

    /// A field that is text.
    pub fn text(&self, name: &str) -> &'a str {
        text(self.0, name)
    }

    /// Whether it has a block of exactly `bytes` bytes: its only one, or one that `--show-blocks` lists.
    pub fn has_block_of(&self, bytes: u64) -> bool {
        let listed = self.0["block_list"].as_array().into_iter().flatten();
        (self.number("blocks") == 1 && self.number("bytes") == bytes)
            || listed.into_iter().any(|block| count(block, "bytes") == bytes)
    }

    /// Its frames, the allocator's function first.
    pub fn frames(&self) -> &'a [Value] {
        list(self.0, "frames")
    }

    /// The names of its frames without paths, hashes and parameters; `?` where there is none.
    pub fn symbols(&self) -> Vec<&'a str> {
        self.frames()
            .iter()
            .map(|frame| frame["symbol"].as_str().map_or("?", plain_name))
            .collect()
    }

    /// Whether one of its callers has this name.
    pub fn has_caller(&self, function: &str) -> bool {
        self.symbols().iter().skip(1).any(|symbol| *symbol == function)
    }

    /// Whether the allocator's immediate caller has this name.
    pub fn called_by(&self, function: &str) -> bool {
        self.symbols().get(1) == Some(&function)
    }

    /// The line in the caller with this name, if the report has one.
    pub fn line_in(&self, function: &str) -> Option<u64> {
        let index = self
            .symbols()
            .iter()
            .skip(1)
            .position(|symbol| *symbol == function)?
            + 1;
        self.frames()[index]["line"].as_u64()
    }
}

/// Checks the sites of the fixture `news`, and that the stacks have the function that contains the `new`: between
/// it and the allocator are functions of the C++ library, which keeps no frame pointers.
pub fn assert_cpp_sites(report: &Report, truth: &Truth) {
    report.assert_sites(truth);
    for name in truth.sites.keys() {
        let inner = name.replace("leak_", "inner_");
        for survivor in report
            .survivors()
            .iter()
            .filter(|survivor| survivor.has_caller(name))
        {
            let symbols = survivor.symbols();
            let at = symbols.iter().position(|symbol| symbol == name);
            let below = at.and_then(|at| symbols.get(at - 1));
            assert_eq!(below, Some(&inner.as_str()), "{name}\n{}", report.summary());
        }
    }
}

/// `leak::leak_box::h0123456789abcdef` and `leak_box(unsigned long)` are both `leak_box`.
pub fn plain_name(symbol: &str) -> &str {
    let without_parameters = symbol.split_once('(').map_or(symbol, |(name, _)| name);
    let is_hash = |part: &str| {
        part.len() == 17 && part.starts_with('h') && part[1..].bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    without_parameters
        .rsplit("::")
        .find(|part| !is_hash(part))
        .unwrap_or(without_parameters)
}

/// An allocator may have two names for one function, of which one has its prefix.
fn unprefixed(call: &str) -> String {
    let prefix = ["mi_", "je_", "_rjem_", "tc_"]
        .into_iter()
        .find(|prefix| call.starts_with(prefix));
    call[prefix.map_or(0, str::len)..].to_owned()
}

fn count(value: &Value, name: &str) -> u64 {
    value[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} is no number in {value}"))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name]
        .as_str()
        .unwrap_or_else(|| panic!("{name} is no text in {value}"))
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name]
        .as_array()
        .unwrap_or_else(|| panic!("{name} is no list in {value}"))
}

fn object<'a>(value: &'a Value, name: &str) -> serde_json::map::Iter<'a> {
    value[name]
        .as_object()
        .unwrap_or_else(|| panic!("{name} is no object in {value}"))
        .iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_of_c_cpp_and_rust() {
        assert_eq!(plain_name("leak_box"), "leak_box");
        assert_eq!(plain_name("leak_box(unsigned long)"), "leak_box");
        assert_eq!(plain_name("ns::leak_box(char const*)"), "leak_box");
        assert_eq!(plain_name("leak::leak_box::h0123456789abcdef"), "leak_box");
        assert_eq!(plain_name("leak::leak_box"), "leak_box");
    }

    #[test]
    fn truth_is_read_field_by_field() {
        let truth = Truth::parse(
            r#"{"pid":7,"sites":{"a":{"call":"x|y","blocks":1,"bytes":2,"allocs":4,"frees":3,"line":9}},
                "ledger":{"_":0,"failed":5},"facts":{"_":0,"k":6}}"#,
        );
        assert_eq!((truth.pid, truth.fact("k"), truth.ledger["failed"]), (7, 6, 5));
        assert_eq!(truth.ledger.len(), 1);
        let site = truth.site("a");
        assert_eq!(
            (site.blocks, site.bytes, site.allocs, site.frees, site.line),
            (1, 2, 4, 3, 9)
        );
        assert_eq!(site.calls, ["x", "y"]);
    }
}
