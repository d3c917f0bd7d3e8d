//! What a run's file says of the labelled sites: pure, from JSON values to plain data.
//!
//! Must not know how the file was made, nor what is a good verdict.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    cases::{CASES, Case, Label},
    class::Class,
};

/// How allocations were sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sampling {
    /// Not at all.
    Exact,
    /// One in 16 KiB.
    Sampled,
}

impl Sampling {
    pub(super) const ALL: [Self; 2] = [Self::Exact, Self::Sampled];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Sampled => "16KiB",
        }
    }

    /// As leaktrace's option has it.
    pub(super) const fn bytes(self) -> &'static str {
        match self {
            Self::Exact => "0",
            Self::Sampled => "16KiB",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sampling| sampling.name() == name)
    }
}

/// A run.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) case: &'static Case,
    pub(super) speed: u64,
    pub(super) sampling: Sampling,
    /// How long the program ran.
    pub(super) seconds: f64,
    /// One for each of the case's labels.
    pub(super) sites: Vec<Site>,
    /// Sites that have no label and were called growing in the last report: the innermost symbols of their stacks.
    pub(super) strays: Vec<String>,
    /// None where there is no account of the process.
    pub(super) process: Option<Process>,
}

/// A labelled site in a run.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) label: &'static Label,
    /// Seconds from the attach until the label holds; none if that never came.
    pub(super) since_s: Option<f64>,
    pub(super) truth: Truth,
    /// One for each report.
    pub(super) said: Vec<Said>,
}

/// What the program says of a site.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Truth {
    pub(super) bytes: f64,
    /// By design where it has one, else as it was over the last half.
    pub(super) slope_bytes_per_s: Option<f64>,
    /// The most in the last half.
    pub(super) most_bytes: f64,
}

/// What a report says of a site.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    /// Since the attach.
    pub(super) elapsed_s: f64,
    /// Of the stack that holds most, where several have the site.
    pub(super) class: Class,
    /// Whether any of the stacks that have the site is called growing.
    pub(super) grows: bool,
    pub(super) confidence: f64,
    pub(super) slope_bytes_per_s: f64,
    pub(super) slope_interval: [f64; 2],
    pub(super) bound_bytes: Option<f64>,
    pub(super) reason: String,
    pub(super) bytes: f64,
    /// Whether it stands first in the list.
    pub(super) first: bool,
}

/// The process line of the last report, beside what the process says itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Process {
    /// Change of resident memory since the attach, as the page tables have it.
    pub(super) true_bytes: f64,
    /// The same, as the report says.
    pub(super) said_bytes: f64,
    /// Sum of its parts.
    pub(super) parts_bytes: f64,
    pub(super) unexplained_bytes: f64,
    pub(super) line: String,
}

impl Record {
    /// Reads a run's lines.
    ///
    /// # Errors
    /// When it is not whole, or of a case that there is no more.
    pub(super) fn read(lines: &[Value]) -> Result<Self> {
        let run = lines
            .iter()
            .find_map(|line| line.get("run"))
            .context("no line says what was run")?;
        let name = run["case"].as_str().unwrap_or_default();
        let case = CASES.iter().find(|case| case.name == name);
        let case = case.with_context(|| format!("there is no case {name:?} any more"))?;
        let sampling = run["sampling"]
            .as_str()
            .and_then(Sampling::named)
            .context("no sampling")?;
        let program: Vec<&Value> = lines.iter().filter_map(|line| line.get("program")).collect();
        let end = program
            .iter()
            .find(|line| line["event"] == "end")
            .context("the program has not come to its end")?;
        let reports: Vec<(f64, &Value)> = lines
            .iter()
            .filter_map(|line| Some((line.get("t")?.as_f64()?, line.get("report")?)))
            .collect();
        let (_, last) = reports.last().context("there is no report")?;
        // A report is read a moment after it was made; the shortest of these moments is nearly none.
        let attached_t = reports
            .iter()
            .map(|(t, report)| t - number(&report["elapsed_s"]))
            .fold(f64::INFINITY, f64::min);
        // It stands still from its end on, which is no part of what it shows; the process line is that of the end.
        let end_s = number(&end["t"]) - attached_t;
        let in_run: Vec<&Value> = reports
            .iter()
            .map(|(_, report)| *report)
            .filter(|report| number(&report["elapsed_s"]) <= end_s)
            .collect();
        let since = |label: &Label| match label.since {
            None => Some(0.0),
            Some(event) => program
                .iter()
                .find(|line| line["event"] == event)
                .map(|line| (number(&line["t"]) - attached_t).max(0.0)),
        };
        let sites = case.labels.iter().map(|label| Site {
            label,
            since_s: since(label),
            truth: truth(end, label.site),
            said: in_run.iter().map(|report| said(report, case, label)).collect(),
        });
        Ok(Self {
            case,
            speed: run["speed"].as_u64().context("no speed")?,
            sampling,
            seconds: number(&run["seconds"]),
            sites: sites.collect(),
            strays: in_run.last().map_or_else(Vec::new, |report| strays(report, case)),
            process: process(
                last,
                number(&end["rss_bytes"]) - number(&run["attached_rss_bytes"]),
            ),
        })
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

fn truth(end: &Value, site: &str) -> Truth {
    let of = list(&end["sites"]).find(|of| of["name"] == site);
    of.map_or_else(Truth::default, |of| Truth {
        bytes: number(&of["bytes"]),
        slope_bytes_per_s: of["rate_bytes_per_s"]
            .as_f64()
            .or_else(|| of["slope_bytes_per_s"].as_f64()),
        most_bytes: number(&of["most_bytes"]),
    })
}

fn list(value: &Value) -> impl DoubleEndedIterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Whether a symbol, however a language writes it, is of the function.
fn is_of(symbol: &Value, function: &str) -> bool {
    let symbol = symbol.as_str().unwrap_or_default();
    symbol
        .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .any(|word| word == function)
}

/// The label of a stack: that of its innermost frame that has one.
fn label_of(survivor: &Value, case: &'static Case) -> Option<&'static Label> {
    list(&survivor["frames"]).find_map(|symbol| case.labels.iter().find(|label| is_of(symbol, label.site)))
}

fn class_of(survivor: &Value) -> Class {
    let class = survivor["verdict"]["class"].as_str();
    class.and_then(Class::named).unwrap_or(Class::Without)
}

fn said(report: &Value, case: &'static Case, label: &'static Label) -> Said {
    let of = |survivor: &&Value| label_of(survivor, case).is_some_and(|found| found.site == label.site);
    let most = list(&report["survivors"])
        .filter(of)
        .max_by(|one, other| number(&one["bytes"]).total_cmp(&number(&other["bytes"])));
    let absent = Value::Null;
    let most_or_none = most.unwrap_or(&absent);
    let verdict = &most_or_none["verdict"];
    Said {
        elapsed_s: number(&report["elapsed_s"]),
        class: most.map_or(Class::Unlisted, class_of),
        grows: list(&report["survivors"])
            .filter(of)
            .any(|survivor| class_of(survivor) == Class::Growing),
        confidence: number(&verdict["confidence"]),
        slope_bytes_per_s: number(&verdict["slope_bytes_per_s"]),
        slope_interval: [0, 1].map(|bound| number(&verdict["slope_interval"][bound])),
        bound_bytes: verdict["bound_bytes"].as_f64(),
        reason: verdict["reason"].as_str().unwrap_or_default().to_owned(),
        bytes: number(&most_or_none["bytes"]),
        first: list(&report["survivors"]).next().is_some_and(|first| of(&first)),
    }
}

fn strays(report: &Value, case: &'static Case) -> Vec<String> {
    list(&report["survivors"])
        .filter(|survivor| class_of(survivor) == Class::Growing && label_of(survivor, case).is_none())
        .map(|survivor| {
            let symbols = list(&survivor["frames"]).map(|symbol| symbol.as_str().unwrap_or("?"));
            let symbols: Vec<_> = symbols.take(6).collect();
            format!("{} ({} bytes)", symbols.join(" < "), number(&survivor["bytes"]))
        })
        .collect()
}

fn process(report: &Value, true_bytes: f64) -> Option<Process> {
    let account = list(&report["accounts"]).next()?;
    Some(Process {
        true_bytes,
        said_bytes: number(&account["rss"]["change_bytes"]),
        parts_bytes: list(&account["parts"])
            .map(|part| number(&part["change_bytes"]))
            .sum(),
        unexplained_bytes: number(&account["unexplained_bytes"]),
        line: account["line"].as_str().unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn survivor(symbols: &[&str], bytes: u64, class: &str) -> Value {
        json!({"frames": symbols, "bytes": bytes, "verdict": {"class": class, "confidence": 0.97,
            "slope_bytes_per_s": 5.0, "slope_interval": [4.0, 6.0], "bound_bytes": null, "reason": "so"}})
    }

    fn run() -> Vec<Value> {
        let report = |survivors: Value| {
            json!({"schema": "leaktrace.report/1", "elapsed_s": 2.0, "survivors": survivors, "accounts": [{
                "rss": {"bytes": 900, "change_bytes": 800}, "unexplained_bytes": 30, "line": "RSS +800",
                "parts": [{"kind": "site", "bytes": 1, "change_bytes": 700}, {"kind": "files", "change_bytes": 70}],
            }]})
        };
        vec![
            json!({"program": {"ready": true, "pid": 1}}),
            json!({"run": {"case": "leak-beside-lru", "speed": 4, "sampling": "16KiB", "seconds": 30, "attached_rss_bytes": 100}}),
            json!({"program": {"t": 101.5, "event": "full"}}),
            json!({"t": 102.25, "report": report(json!([
                survivor(&["operator new", "cache::site_entry(unsigned long)", "main"], 10, "plateau"),
                survivor(&["malloc", "site_leak(unsigned long)", "main"], 10, "undecided"),
                survivor(&["malloc", "site_leak(unsigned long)", "other"], 9, "growing"),
                survivor(&["malloc", "my_site_leak", "main"], 11, "growing"),
            ]))}),
            json!({"t": 102.0, "report": report(json!([survivor(&["malloc"], 1, "churn")]))}),
            json!({"program": {"t": 103.0, "event": "end", "rss_bytes": 950, "sites": [
                {"name": "site_leak", "bytes": 70, "slope_bytes_per_s": 7.0, "rate_bytes_per_s": 8.0, "most_bytes": 75.0},
                {"name": "site_entry", "bytes": 7, "slope_bytes_per_s": 0.5, "rate_bytes_per_s": null, "most_bytes": 9.0},
            ]}}),
        ]
    }

    #[test]
    fn a_run_is_read() {
        let record = Record::read(&run()).expect("it is whole");
        assert_eq!(
            (record.speed, record.sampling, record.seconds),
            (4, Sampling::Sampled, 30.0)
        );
        let [leak, entry] = &record.sites[..] else {
            panic!("{record:?}")
        };
        // The innermost symbol decides, whole words count, and the stack that holds most speaks for the site.
        assert_eq!(
            (leak.said[0].class, leak.said[0].grows, leak.said[0].bytes),
            (Class::Undecided, true, 10.0)
        );
        assert_eq!((leak.said[1].class, leak.said[1].grows), (Class::Unlisted, false));
        assert_eq!(leak.truth.slope_bytes_per_s, Some(8.0));
        assert_eq!(entry.truth.slope_bytes_per_s, Some(0.5));
        assert_eq!((leak.since_s, entry.since_s), (Some(0.0), Some(1.5)));
    }

    #[test]
    fn the_process_line_is_compared_with_what_the_process_says() {
        let record = Record::read(&run()).expect("it is whole");
        let process = record.process.expect("there is an account");
        assert_eq!(
            (process.true_bytes, process.said_bytes, process.parts_bytes),
            (850.0, 800.0, 770.0)
        );
    }

    #[test]
    fn what_grows_and_has_no_label_is_a_stray_of_the_last_report() {
        let mut lines = run();
        assert_eq!(
            Record::read(&lines).expect("it is whole").strays,
            Vec::<String>::new()
        );
        lines.remove(4);
        let strays = Record::read(&lines).expect("it is whole").strays;
        assert_eq!(strays, ["malloc < my_site_leak < main (11 bytes)"]);
    }

    #[test]
    fn a_program_that_has_ended_says_no_more_of_its_sites() {
        let mut lines = run();
        let mut late = lines[3].clone();
        late["t"] = json!(104.0);
        late["report"]["elapsed_s"] = json!(3.75);
        late["report"]["accounts"][0]["unexplained_bytes"] = json!(77);
        lines.push(late);
        let record = Record::read(&lines).expect("it is whole");
        assert!(record.sites.iter().all(|site| site.said.len() == 2));
        let process = record.process.expect("there is an account");
        assert!(process.unexplained_bytes > 76.0, "of the last report of all");
    }

    #[test]
    fn half_a_run_is_none() {
        let mut lines = run();
        lines.pop();
        let error = Record::read(&lines).expect_err("the end is missing");
        assert_eq!(error.to_string(), "the program has not come to its end");
    }
}
