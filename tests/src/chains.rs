//! Call chains that a fixture knows by itself (`programs/c/chain.h`), and their comparison with the report's
//! stacks, frame by frame.

use serde_json::Value;

use crate::report::{Report, Survivor, Truth};

/// An address that the fixture does not know.
const ANY: u64 = 0;

/// Most frames between the allocator's first and the function that the fixture asks from: `operator new[]`
/// calls `operator new`, which calls `aligned_alloc`.
const ALLOCATORS_MAX: usize = 3;

/// One chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// What is special about it, and how deep it was to be.
    pub name: String,
    /// The function that called `backtrace()` and then the allocator.
    pub function: String,
    /// Size of its block, which no other block has.
    pub bytes: u64,
    /// Return addresses, innermost first; the first is in `function`, and of another call there.
    pub frames: Vec<u64>,
}

/// The chains of a truth, of which there must be some.
pub fn of(truth: &Truth) -> Vec<Chain> {
    let chains = truth.raw["chains"].as_array();
    let chains = chains.filter(|chains| !chains.is_empty());
    let chains = chains.unwrap_or_else(|| panic!("the fixture has no chains: {}", truth.raw));
    chains.iter().map(Chain::parse).collect()
}

impl Chain {
    fn parse(value: &Value) -> Self {
        let text = |name: &str| value[name].as_str().expect("a text").to_owned();
        let number = |value: &Value| value.as_u64().expect("a number");
        let frames = value["frames"].as_array().expect("a list").iter();
        Self {
            name: format!("{} to depth {}", text("name"), value["depth"]),
            function: text("function"),
            bytes: number(&value["bytes"]),
            frames: frames.map(number).collect(),
        }
    }

    /// The one survivor that has this chain's block. Where several chains have the same frames, and so are one
    /// survivor, this needs `--show-blocks`.
    ///
    /// # Errors
    /// A sentence, when there is none, or more than one.
    pub fn survivor<'a>(&self, report: &'a Report, pid: u32) -> Result<Survivor<'a>, String> {
        let survivors = report.survivors();
        let mut of_this = survivors
            .into_iter()
            .filter(|survivor| survivor.number("pid") == u64::from(pid) && survivor.has_block_of(self.bytes));
        match (of_this.next(), of_this.next()) {
            (Some(survivor), None) => Ok(survivor),
            (None, _) => Err("its block is not in the report".to_owned()),
            (Some(_), Some(_)) => Err("two survivors have its size".to_owned()),
        }
    }

    /// What is wrong with the report's stack: every frame around [`Self::function`] must be there, and none
    /// else, up to the outermost.
    pub fn difference(&self, report: &Report, pid: u32) -> Option<String> {
        self.compare(report, pid, |seen, known| seen == known)
    }

    /// The same for a chain that the fixture cannot follow to its end: the report may know more.
    pub fn difference_from_start(&self, report: &Report, pid: u32) -> Option<String> {
        self.compare(report, pid, |seen, known| seen >= known)
    }

    fn compare(&self, report: &Report, pid: u32, length: fn(usize, usize) -> bool) -> Option<String> {
        let survivor = match self.survivor(report, pid) {
            Ok(survivor) => survivor,
            Err(why) => return Some(format!("{}: {why}", self.name)),
        };
        let seen = addresses(survivor);
        let outer = &self.frames[1..];
        // Frames before the first one that is known: the allocators' and the function's own.
        let inner = (1..=ALLOCATORS_MAX + 1).find(|inner| {
            let seen = seen.get(*inner + 1..).unwrap_or_default();
            length(seen.len(), outer.len())
                && outer.iter().zip(seen).all(|(known, seen)| matches(*known, *seen))
        });
        let Some(inner) = inner else {
            return Some(self.describe(&seen, survivor));
        };
        let function = symbols(survivor)[inner];
        (function != "?" && function != self.function).then(|| {
            format!(
                "{}: frame {inner} is in {function}, not {}",
                self.name, self.function
            )
        })
    }

    fn describe(&self, seen: &[u64], survivor: Survivor<'_>) -> String {
        let mut lines = vec![format!(
            "{}: {} frames known, {} seen",
            self.name,
            self.frames.len(),
            seen.len()
        )];
        for (index, (address, symbol)) in seen.iter().zip(symbols(survivor)).enumerate() {
            let place = if self.frames.contains(address) {
                ""
            } else {
                "  (not in the chain)"
            };
            lines.push(format!("    {index:3} {address:#x} {symbol}{place}"));
        }
        let mut known = self.frames[1..].iter();
        let missing = known.find(|known| **known != ANY && !seen.contains(known));
        lines.extend(missing.map(|missing| format!("    the first that is missing: {missing:#x}")));
        lines.join("\n")
    }
}

const fn matches(known: u64, seen: u64) -> bool {
    known == ANY || known == seen
}

/// Addresses of a survivor's frames, inlined functions left out: they have that of the frame around them.
pub fn addresses(survivor: Survivor<'_>) -> Vec<u64> {
    let frames = survivor.frames().iter().filter(|frame| frame["inlined"] != true);
    frames
        .map(|frame| {
            let text = frame["address"].as_str().expect("an address");
            let digits = text.strip_prefix("0x").expect("hexadecimal text");
            u64::from_str_radix(digits, 16).expect("hexadecimal digits")
        })
        .collect()
}

/// Names of the same frames.
fn symbols(survivor: Survivor<'_>) -> Vec<&str> {
    let names = survivor.symbols();
    let frames = survivor.frames().iter().zip(names);
    let frames = frames.filter(|(frame, _)| frame["inlined"] != true);
    frames.map(|(_, name)| name).collect()
}

/// Checks every chain, frame by frame, and tells of all that differ.
pub fn assert_equal(report: &Report, truth: &Truth) {
    assert_none(
        report,
        of(truth).iter().map(|chain| chain.difference(report, truth.pid)),
    );
}

/// The same for chains that the fixture cannot follow to their ends.
pub fn assert_equal_from_start(report: &Report, truth: &Truth) {
    let chains = of(truth);
    let differences = chains
        .iter()
        .map(|chain| chain.difference_from_start(report, truth.pid));
    assert_none(report, differences);
}

fn assert_none(report: &Report, differences: impl Iterator<Item = Option<String>>) {
    let all: Vec<Option<String>> = differences.collect();
    let differing: Vec<&String> = all.iter().flatten().collect();
    let shown: Vec<&str> = differing.iter().take(5).map(|text| text.as_str()).collect();
    assert!(
        differing.is_empty(),
        "{} of {} chains differ; the first:\n{}\nstacks {}",
        differing.len(),
        all.len(),
        shown.join("\n"),
        report.value()["stacks"]
    );
}

/// Checks that every stack of the report's run was followed to its outermost frame.
pub fn assert_all_complete(report: &Report) {
    let share = report.complete_share();
    assert!(
        (share - 1.0).abs() < f64::EPSILON,
        "{share} of the stacks are complete\n{}",
        report.summary()
    );
}
