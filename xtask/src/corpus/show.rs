//! Shows a score: as markdown, and as JSON.

use serde_json::{Value, json};

use super::{
    class::Class,
    judge::{GRACE, Judged, Line},
    record::Sampling,
    score::{Growing, MOST_OFF, Score, Spread, share},
};

/// How many of the worst process lines are listed.
const LINES: usize = 15;

/// A table of markdown.
struct Table(String);

impl Table {
    fn new(columns: &[&str]) -> Self {
        let line = format!("| {} |\n|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
        Self(line)
    }

    fn row(&mut self, cells: &[String]) {
        // A bar would end the cell.
        let cells: Vec<_> = cells
            .iter()
            .map(|cell| cell.replace('|', "\\|").replace('\n', " "))
            .collect();
        self.0.extend(["| ", &cells.join(" | "), " |\n"]);
    }
}

/// All of it, with headings.
pub(super) fn markdown(score: &Score) -> String {
    let mut text = format!(
        "# Corpus: {} runs, {} labelled sites\n",
        score.runs,
        score.judged.len()
    );
    let mut section = |title: &str, body: &str| {
        text.extend(["\n## ", title, "\n\n", body.trim_end(), "\n"]);
    };
    for sampling in Sampling::ALL {
        section(
            &format!("Label by verdict at the end, {}", sampling.name()),
            &confusion(score, Some(sampling)),
        );
    }
    section("Label by verdict at the end, all", &confusion(score, None));
    section("Growing", &growing(score));
    section(
        "Bounded, and called growing since the label's event",
        &grew(score),
    );
    section("Seconds to the verdict that stays right", &times(score));
    section("Calibration", &calibration(score));
    section("Process line", &lines(score));
    section("Wrong verdicts, and leaks not found", &wrong(score));
    if !score.never.is_empty() {
        section("Labels whose event never came", &score.never.join("\n"));
    }
    let failures = score.failures();
    let result = if failures.is_empty() {
        "passed".to_owned()
    } else {
        failures.join("\n")
    };
    section("Result", &result);
    text
}

fn confusion(score: &Score, sampling: Option<Sampling>) -> String {
    let counts = score.confusion(sampling);
    let columns: Vec<_> = Class::ALL
        .into_iter()
        .filter(|class| class.is_decided() || counts.keys().any(|(_, verdict)| verdict == class))
        .collect();
    let names = std::iter::once("label").chain(columns.iter().map(|class| class.name()));
    let mut table = Table::new(&names.collect::<Vec<_>>());
    for label in Class::ALL.into_iter().filter(|class| class.is_decided()) {
        let count = |verdict: &Class| {
            counts
                .get(&(label, *verdict))
                .map_or_else(String::new, ToString::to_string)
        };
        let cells = std::iter::once(label.name().to_owned()).chain(columns.iter().map(count));
        table.row(&cells.collect::<Vec<_>>());
    }
    table.0
}

fn growing(score: &Score) -> String {
    let mut table = Table::new(&["sampling", "precision", "recall", "found", "missed", "wrong"]);
    let mut row = |name: &str, growing: Growing| {
        let counts = [growing.found, growing.missed, growing.wrong].map(|count| count.to_string());
        let [found, missed, wrong] = counts;
        table.row(&[
            name.to_owned(),
            part(growing.precision()),
            part(growing.recall()),
            found,
            missed,
            wrong,
        ]);
    };
    for sampling in Sampling::ALL {
        row(sampling.name(), score.growing(Some(sampling)));
    }
    row("all", score.growing(None));
    let mut text = table.0;
    if !score.strays.is_empty() {
        text += "\nCalled growing, without a label, where nothing grows (counted as wrong in all):\n\n";
        for stray in &score.strays {
            text.extend(["- ", stray, "\n"]);
        }
    }
    if score.strays_beside > 0 {
        let count = score.strays_beside.to_string();
        text.extend(["\n", &count, " more without a label beside a leak.\n"]);
    }
    text
}

fn grew(score: &Score) -> String {
    let mut table = Table::new(&[
        "case",
        "site",
        "speed",
        "sampling",
        "until s after",
        "beyond the grace",
    ]);
    let mut count = 0;
    for judged in score.grew() {
        count += 1;
        let until = judged.grew_for_s.map_or_else(String::new, |s| format!("{s:.1}"));
        let beyond = if judged.grew_too_long { "yes" } else { "" };
        table.row(&[&run(judged)[..], &[until, beyond.to_owned()]].concat());
    }
    if count == 0 {
        return "None.".to_owned();
    }
    format!("{}\nThe grace is {GRACE} of the run.", table.0)
}

fn times(score: &Score) -> String {
    let mut table = Table::new(&["label", "median", "90 %", "most", "never"]);
    for (class, spread, never) in score.times() {
        let seconds = |of: fn(&Spread) -> f64| {
            spread
                .as_ref()
                .map_or_else(String::new, |spread| format!("{:.1}", of(spread)))
        };
        let cells = [
            seconds(|of| of.median),
            seconds(|of| of.nine_tenths),
            seconds(|of| of.most),
        ];
        table.row(&[&[class.name().to_owned()], &cells[..], &[never.to_string()]].concat());
    }
    table.0
}

fn calibration(score: &Score) -> String {
    let mut table = Table::new(&[
        "confidence from",
        "at the end",
        "right",
        "in all reports",
        "right",
    ]);
    for (last, every) in score.calibration(false).into_iter().zip(score.calibration(true)) {
        let counts = [last, every].map(|(_, count, right)| [count.to_string(), part(share(right, count))]);
        table.row(&[&[format!("{:.2}", last.0)], &counts.concat()[..]].concat());
    }
    let (slopes, held) = score.slopes();
    let (bounds, near, median) = score.bounds();
    format!(
        "{}\nSlope intervals of leaks that hold the true slope: {held} of {slopes} ({}).\n\
         Bounds between 0.8 and 2 times the most that was held: {near} of {bounds} ({}); median {}.\n",
        table.0,
        part(share(held, slopes)),
        part(share(near, bounds)),
        median.map_or_else(|| "-".to_owned(), |median| format!("{median:.2}")),
    )
}

fn lines(score: &Score) -> String {
    let mut table = Table::new(&[
        "case",
        "speed",
        "sampling",
        "RSS change",
        "sum of parts",
        "off",
        "unexplained",
        "line",
    ]);
    let worst = score.worst_lines();
    for line in worst.iter().take(LINES) {
        table.row(&[
            line.case.to_owned(),
            line.speed.to_string(),
            line.sampling.name().to_owned(),
            mib(line.true_bytes),
            mib(line.parts_bytes),
            part(Some(line.off)),
            part(Some(line.unexplained)),
            line.text.clone(),
        ]);
    }
    let off = worst.iter().filter(|line| line.off > MOST_OFF).count();
    let spread = Spread::of(&worst.iter().map(|line| line.off).collect::<Vec<_>>());
    let median = spread.map_or_else(|| "-".to_owned(), |spread| part(Some(spread.median)));
    format!(
        "{off} of {} are off by more than {MOST_OFF} (those with a change of 4 MiB or more; median {median}); {} runs have none. The worst:\n\n{}",
        worst.len(),
        score.without_line,
        table.0
    )
}

fn wrong(score: &Score) -> String {
    let mut table = Table::new(&[
        "case",
        "site",
        "speed",
        "sampling",
        "label",
        "verdict",
        "confidence",
        "slope B/s",
        "reason",
    ]);
    let mut count = 0;
    for judged in score.wrong() {
        count += 1;
        table.row(
            &[
                &run(judged)[..],
                &[
                    fair(judged),
                    judged.verdict().name().to_owned(),
                    format!("{:.3}", judged.last.confidence),
                    format!("{:.0}", judged.last.slope_bytes_per_s),
                    judged.last.reason.clone(),
                ],
            ]
            .concat(),
        );
    }
    if count == 0 {
        return "None.".to_owned();
    }
    table.0
}

fn run(judged: &Judged) -> [String; 4] {
    [
        judged.case.to_owned(),
        judged.label.site.to_owned(),
        judged.speed.to_string(),
        judged.sampling.name().to_owned(),
    ]
}

fn fair(judged: &Judged) -> String {
    judged
        .label
        .fair
        .iter()
        .map(|class| class.name())
        .collect::<Vec<_>>()
        .join(" or ")
}

fn part(part: Option<f64>) -> String {
    part.map_or_else(|| "-".to_owned(), |part| format!("{part:.3}"))
}

fn mib(bytes: f64) -> String {
    format!("{:+.1} MiB", bytes / f64::from(1 << 20))
}

/// The same for programs.
pub(super) fn json(score: &Score) -> Value {
    let rates = |growing: Growing| {
        json!({"found": growing.found, "missed": growing.missed, "wrong": growing.wrong,
            "precision": growing.precision(), "recall": growing.recall()})
    };
    let confusion = |sampling: Option<Sampling>| -> Value {
        let counts = score.confusion(sampling);
        let row = |((label, verdict), count): (&(Class, Class), &usize)| json!({"label": label.name(), "verdict": verdict.name(), "count": count});
        counts.iter().map(row).collect()
    };
    let by_sampling = |of: &dyn Fn(Option<Sampling>) -> Value| {
        let named = Sampling::ALL.map(|sampling| (sampling.name(), of(Some(sampling))));
        let all = std::iter::once(("all", of(None)));
        let named = named
            .into_iter()
            .chain(all)
            .map(|(name, value)| (name.to_owned(), value));
        Value::Object(named.collect())
    };
    let bins = |every| -> Value {
        let bin = |(least, count, right)| json!({"from": least, "count": count, "right": right});
        score.calibration(every).into_iter().map(bin).collect()
    };
    let (slopes, held) = score.slopes();
    json!({
        "runs": score.runs,
        "confusion": by_sampling(&confusion),
        "growing": by_sampling(&|sampling| rates(score.growing(sampling))),
        "times": score.times().into_iter().map(|(class, spread, never)| json!({
            "label": class.name(), "never": never,
            "median_s": spread.map(|spread| spread.median),
            "nine_tenths_s": spread.map(|spread| spread.nine_tenths),
            "most_s": spread.map(|spread| spread.most),
        })).collect::<Vec<_>>(),
        "calibration": {"last": bins(false), "every": bins(true)},
        "slopes": {"count": slopes, "held": held},
        "sites": score.judged.iter().map(judged_json).collect::<Vec<_>>(),
        "process_lines": score.worst_lines().into_iter().map(line_json).collect::<Vec<_>>(),
        "without_process_line": score.without_line,
        "strays": score.strays,
        "never": score.never,
        "failures": score.failures(),
    })
}

fn judged_json(judged: &Judged) -> Value {
    json!({
        "case": judged.case, "site": judged.label.site, "speed": judged.speed, "sampling": judged.sampling.name(),
        "label": judged.label.fair.iter().map(|class| class.name()).collect::<Vec<_>>(),
        "verdict": judged.verdict().name(), "right": judged.is_right, "confidence": judged.last.confidence,
        "slope_bytes_per_s": judged.last.slope_bytes_per_s, "slope_interval": judged.last.slope_interval,
        "true_slope_bytes_per_s": judged.slope.map(|(slope, _)| slope), "bound_ratio": judged.bound_ratio,
        "reason": judged.last.reason, "bytes": judged.last.bytes, "true_bytes": judged.true_bytes, "right_after_s": judged.right_after_s,
        "grew_for_s": judged.grew_for_s, "grew_too_long": judged.grew_too_long, "wrongly_first": judged.is_wrongly_first,
    })
}

fn line_json(line: &Line) -> Value {
    json!({
        "case": line.case, "speed": line.speed, "sampling": line.sampling.name(), "rss_change_bytes": line.true_bytes,
        "parts_bytes": line.parts_bytes, "off": line.off, "unexplained": line.unexplained, "line": line.text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::judge::tests::record;

    #[test]
    fn a_score_is_shown_whole() {
        let mut wrong = record("pool", &[Class::Growing; 9], 0.0);
        wrong.sites[0].said[8].reason = "a | b".to_owned();
        let score = Score::of(&[record("box-leak", &[Class::Growing], 0.0), wrong]);
        let text = markdown(&score);
        for line in [
            "# Corpus: 2 runs, 2 labelled sites",
            "| growing | 1 |  |  |  |",
            "| plateau | 1 |  |  |  |",
            "| exact | 0.500 | 1.000 | 1 | 0 | 1 |",
            "| pool | site_chunk | 1 | exact | 9.0 | yes |",
            "| pool | site_chunk | 1 | exact | plateau or one-off | growing | 0.960 | 10 | a \\| b |",
            "1 bounded sites were called growing once full",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        let value = json(&score);
        assert_eq!(value["growing"]["all"]["wrong"], 1);
        assert_eq!(value["sites"][1]["grew_for_s"], 9.0);
    }
}
