//! The programs in `programs/python/leaks`: what each says of itself, and where a report and a row of reports name it.
//!
//! Must not know how leaktrace reads Python; only the fields of its reports.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    fixtures,
    report::{Report, Survivor},
    target::Target,
};

/// What every one of the programs ends with.
pub const EXIT_CODE: i32 = 7;

/// The most that may come and go without a leak: an arena, the step in which CPython takes memory for small objects
/// (Objects/obmalloc.c: 1 MiB from 3.10, 256 KiB before).
pub const GRAIN_BYTES: u64 = 1 << 20;

/// Of how many last intervals each must see more of something for it to be said to grow.
const INTERVALS: usize = 3;

/// A leak program.
#[derive(Clone, Debug)]
pub struct Leak {
    /// Its path.
    pub path: PathBuf,
    /// The function that allocates what leaks, by its qualified name.
    pub function: String,
    /// The end of that function's file, where it is a library's.
    pub file: Option<String>,
    /// The program's own function on the way there.
    pub through: Option<String>,
    /// The type of which there are ever more, and how many more a unit of work.
    pub kind: Option<(String, u64)>,
    source: String,
}

impl Leak {
    /// The program `programs/python/leaks/NAME.py`.
    pub fn named(name: &str) -> Self {
        let path = fixtures::python(&format!("leaks/{name}"));
        let source = fs::read_to_string(&path).expect("a leak program can be read");
        let header = source
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# leak: "));
        let header: Value = header
            .and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_else(|| panic!("{} does not begin with `# leak: {{...}}`", path.display()));
        let text = |field: &str| header[field].as_str().map(str::to_owned);
        Self {
            function: text("function").expect("a leak is in a function"),
            file: text("file"),
            through: text("through"),
            kind: text("type").zip(header["objects"].as_u64()),
            path,
            source,
        }
    }

    /// Its command line: `variant` is `leak` or `fixed`.
    pub fn command(&self, python: &Path, variant: &str, seconds: &str) -> Command {
        let mut command = Command::new(python);
        // No compiled modules in the folder of the sources.
        command.arg("-B").arg(&self.path).args([variant, seconds]);
        command
    }

    /// Starts it; it warms up and waits at "ready".
    pub fn start(&self, python: &Path, variant: &str, seconds: &str) -> Target {
        Target::spawn(&mut self.command(python, variant, seconds))
    }

    /// Numbers of the lines that end with the comment `# MARK`.
    fn marked(&self, mark: &str) -> Vec<u64> {
        let comment = format!("# {mark}");
        let lines = self.source.lines().zip(1..);
        lines
            .filter(|(line, _)| line.ends_with(&comment))
            .map(|(_, number)| number)
            .collect()
    }

    /// What is wrong with a survivor as the site of this leak; nothing if it is the one.
    pub fn mismatch(&self, survivor: &Survivor<'_>) -> Option<String> {
        let frames = python_frames(survivor);
        let Some(innermost) = frames.first() else {
            return Some("it has no Python frames".to_owned());
        };
        let file = self
            .file
            .clone()
            .unwrap_or_else(|| self.path.display().to_string());
        if !innermost.is(&self.function) || !innermost.file.ends_with(&file) {
            return Some(format!("{innermost} is not {} of {file}", self.function));
        }
        if self.file.is_none() && !self.marked("leaks").contains(&innermost.line) {
            return Some(format!("line {} is not marked `# leaks`", innermost.line));
        }
        let through = self.through.as_ref()?;
        let lines = self.marked("through");
        let passed = |frame: &PythonFrame| frame.is(through) && lines.contains(&frame.line);
        (!frames.iter().any(passed)).then(|| format!("it does not come through {through}"))
    }
}

/// A Python frame of a report.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PythonFrame {
    /// Qualified name; before Python 3.11 the plain one.
    pub function: String,
    /// Path of the source.
    pub file: String,
    /// Line; 0 where there is none.
    pub line: u64,
}

impl PythonFrame {
    /// Whether it is the function with this qualified name, as far as its own tells.
    pub fn is(&self, function: &str) -> bool {
        let plain = function.rsplit('.').next();
        self.function == function || plain == Some(&self.function)
    }
}

impl std::fmt::Display for PythonFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{} in {}", self.file, self.line, self.function)
    }
}

/// The Python frames of a survivor, innermost first.
pub fn python_frames(survivor: &Survivor<'_>) -> Vec<PythonFrame> {
    let frames = survivor.frames().iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    frames
        .filter(|frame| frame["lang"] == "python")
        .map(|frame| PythonFrame {
            function: text(&frame["symbol"]),
            file: text(&frame["file"]),
            line: frame["line"].as_u64().unwrap_or_default(),
        })
        .collect()
}

/// The first survivors in few words, for messages.
pub fn brief(report: &Report) -> String {
    let lines = report.survivors().into_iter().take(12).map(|survivor| {
        let innermost = python_frames(&survivor).into_iter().next();
        format!(
            "  {} {} bytes, {:.0} a second, {}: {}",
            survivor.text("space"),
            survivor.number("bytes"),
            survivor.0["bytes_per_s"].as_f64().unwrap_or(f64::NAN),
            survivor.text("call"),
            innermost.map_or_else(|| survivor.symbols().join(" < "), |frame| frame.to_string()),
        )
    });
    let sites: Vec<String> = lines.collect();
    let types = types(report).into_iter().take(8).map(|kind| {
        format!(
            "  {} {:+} objects, {:+} bytes",
            kind["name"], kind["grown_objects"], kind["grown_bytes"]
        )
    });
    let types: Vec<String> = types.collect();
    format!(
        "sites:\n{}\ntypes:\n{}\nstacks: {}\nprocesses: {}\nwarnings: {}",
        sites.join("\n"),
        types.join("\n"),
        report.value()["stacks"],
        report.value()["target"]["processes"],
        report.value()["warnings"],
    )
}

/// The types of a report, in its order; none without a census.
pub fn types(report: &Report) -> Vec<&Value> {
    let list = report.value()["types"]["list"].as_array();
    list.into_iter().flatten().collect()
}

/// What grows in a row of reports taken at equal intervals, with the bytes it grew by: sites, told apart by their
/// innermost Python line or else by their stack, and types. Something grows if each of the last `INTERVALS` saw more
/// bytes of it, and all of them together more than `GRAIN_BYTES`. What merely fills up, as a bounded cache does, does so
/// once; what breathes does not rise at each of the steps; and less than an arena tells nothing.
pub fn growing(reports: &[Report]) -> Vec<(String, u64)> {
    assert!(
        reports.len() > INTERVALS,
        "{} reports are too few to see growth",
        reports.len()
    );
    let last: Vec<BTreeMap<String, u64>> = reports[reports.len() - INTERVALS - 1..]
        .iter()
        .map(holdings)
        .collect();
    let [first, .., end] = &last[..] else {
        unreachable!("there are more than {INTERVALS}")
    };
    end.iter()
        .filter_map(|(name, bytes)| {
            let held = |at: &BTreeMap<String, u64>| at.get(name).copied().unwrap_or_default();
            let rises = last.windows(2).all(|pair| held(&pair[0]) < held(&pair[1]));
            let grown = bytes.saturating_sub(held(first));
            (rises && grown > GRAIN_BYTES).then(|| (name.clone(), grown))
        })
        .collect()
}

/// Outstanding bytes by site and by type.
fn holdings(report: &Report) -> BTreeMap<String, u64> {
    let mut held = BTreeMap::new();
    for survivor in report.survivors() {
        let innermost = python_frames(&survivor).into_iter().next();
        let name = innermost.map_or_else(|| survivor.symbols().join(" < "), |frame| frame.to_string());
        *held.entry(name).or_default() += survivor.number("bytes");
    }
    for kind in types(report) {
        *held.entry(format!("type {}", kind["name"])).or_default() +=
            kind["bytes"].as_u64().unwrap_or_default();
    }
    held
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(bytes: u64) -> Report {
        let frame = json!({"lang": "python", "symbol": "f", "file": "/a.py", "line": 3});
        let native = json!({"lang": "native", "symbol": "malloc"});
        let survivor = json!({"bytes": bytes, "frames": [native, frame]});
        let breathing = json!({"name": "dict", "bytes": (bytes / GRAIN_BYTES + bytes) % 2 * 9 * GRAIN_BYTES});
        Report::from_value(json!({"survivors": [survivor], "types": {"list": [breathing]}}))
    }

    #[test]
    fn what_rises_at_every_step_grows_and_what_stops_does_not() {
        let row = |steps: &[u64]| {
            let reports: Vec<Report> = steps.iter().map(|step| report(step * GRAIN_BYTES)).collect();
            growing(&reports)
        };
        assert_eq!(row(&[1, 2, 3, 4]), [("/a.py:3 in f".to_owned(), 3 * GRAIN_BYTES)]);
        assert_eq!(row(&[1, 9, 9, 9, 9]), []);
        assert_eq!(row(&[1, 2, 2, 3]), []);
        assert_eq!(row(&[4, 3, 2, 1]), []);
    }

    #[test]
    fn less_than_an_arena_tells_nothing() {
        assert_eq!(growing(&[1, 2, 3, 4].map(report)), []);
    }

    #[test]
    fn programs_say_where_they_leak() {
        let leak = Leak::named("cache_on_method");
        assert_eq!(leak.function, "Model.solution");
        assert_eq!(leak.kind, Some(("Solution".to_owned(), 4)));
        assert_eq!(leak.marked("leaks").len(), 1);
        let frame = |function: &str| PythonFrame {
            function: function.to_owned(),
            file: String::new(),
            line: 1,
        };
        assert!(frame("Model.solution").is(&leak.function) && frame("solution").is(&leak.function));
        assert!(!frame("Other.solution").is(&leak.function));
    }
}
