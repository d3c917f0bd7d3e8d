//! What was measured, as Markdown and as JSON, and beside the bounds that it should keep. Pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    rounds::{Measured, Row},
    setup::Setup,
    stats::Summary,
    workload::Workload,
};

/// What the ratios of a table are to.
const BASES: [(Setup, &str); 5] = [
    (Setup::Untraced, "untraced"),
    (Setup::FloorReturn, "floor with return"),
    (Setup::FloorSkip, "without"),
    (Setup::Heaptrack, "heaptrack"),
    (Setup::Bpftrace, "bpftrace"),
];

/// A ratio that should stay at or below a bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) of: Setup,
    pub(super) to: Setup,
    pub(super) most: f64,
}

impl Bound {
    /// One line, and whether the bound is kept; `None` where either was not measured.
    pub(super) fn judge(&self, measured: &Measured) -> (String, Option<bool>) {
        let ratio = measured.ratio(self.of, self.to);
        let kept = ratio.map(|ratio| ratio.median <= self.most);
        let found = ratio.map_or_else(
            || "not measured".to_owned(),
            |ratio| format!("{:.3} ({:.3} to {:.3})", ratio.median, ratio.min, ratio.max),
        );
        let verdict = match kept {
            Some(true) => ": kept",
            Some(false) => ": EXCEEDED",
            None => "",
        };
        let line = format!(
            "{} / {} = {found}, bound {:.3}{verdict}",
            self.of.title(),
            self.to.title(),
            self.most
        );
        (line, kept)
    }

    pub(super) fn json(&self, measured: &Measured) -> Value {
        json!({
            "of": self.of.name(),
            "to": self.to.name(),
            "ratio": measured.ratio(self.of, self.to).map(summary_json),
            "bound": self.most,
            "kept": self.judge(measured).1,
        })
    }
}

/// The table of a workload.
pub(super) fn markdown(measured: &Measured) -> String {
    let (unit, scale, _) = measured.workload.unit();
    let bases: Vec<_> = BASES
        .iter()
        .filter(|(base, _)| measured.row(*base).is_some())
        .collect();
    let mut text = format!("### {}\n\n", measured.workload);
    let mut line = format!("| under | CPU {scale} a {unit} | spread | wall {scale} |");
    let mut rule = "|---|---:|---:|---:|".to_owned();
    for (_, title) in &bases {
        push(&mut line, format_args!(" / {title} |"));
        rule.push_str("---:|");
    }
    push(&mut text, format_args!("{line}\n{rule}\n"));
    let mut notes = String::new();
    for row in &measured.rows {
        let cells = cells(measured.workload, row);
        push(
            &mut text,
            format_args!("| {} | {} |", row.setup.title(), cells.join(" | ")),
        );
        for (base, _) in &bases {
            let ratio = measured.ratio(row.setup, *base);
            let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| multiple(ratio.median));
            push(&mut text, format_args!(" {ratio} |"));
        }
        text.push('\n');
        if let Some(failure) = &row.failure {
            push(&mut notes, format_args!("- {}: {failure}\n", row.setup.title()));
        }
    }
    if !notes.is_empty() {
        push(
            &mut text,
            format_args!("\nNot measured, or not in every round:\n\n{notes}"),
        );
    }
    text
}

/// Processor time of a pair by the number of threads; empty if there is only one such workload.
pub(super) fn scaling(all: &[Measured]) -> String {
    let pairs: Vec<_> = all
        .iter()
        .filter(|measured| matches!(measured.workload, Workload::Pairs { .. }))
        .collect();
    let [first, _, ..] = pairs.as_slice() else {
        return String::new();
    };
    let mut text = "### CPU ns a pair, by threads\n\n| under |".to_owned();
    for measured in &pairs {
        push(&mut text, format_args!(" {} |", measured.workload.threads()));
    }
    push(
        &mut text,
        format_args!("\n|---|{}\n", "---:|".repeat(pairs.len())),
    );
    for row in &first.rows {
        push(&mut text, format_args!("| {} |", row.setup.title()));
        for measured in &pairs {
            let figure = measured.row(row.setup).and_then(Row::cpu_ns);
            push(
                &mut text,
                format_args!(
                    " {} |",
                    figure.map_or_else(|| "-".to_owned(), |figure| short(figure.median))
                ),
            );
        }
        text.push('\n');
    }
    text
}

/// The same with every round.
pub(super) fn json(measured: &Measured) -> Value {
    let rows: Vec<Value> = measured
        .rows
        .iter()
        .map(|row| {
            let samples = row.samples.iter().map(|sample| {
                sample.map(|sample| {
                    json!({"units": sample.units, "cpu_ns": sample.cpu_ns, "wall_ns": sample.wall_ns})
                })
            });
            json!({
                "setup": row.setup.name(),
                "cpu_ns_per_unit": row.cpu_ns().map(summary_json),
                "wall_ns_per_unit": row.wall_ns().map(summary_json),
                "rounds": samples.collect::<Vec<_>>(),
                "failure": row.failure,
            })
        })
        .collect();
    json!({
        "workload": measured.workload.name(),
        "title": measured.workload.to_string(),
        "threads": measured.workload.threads(),
        "unit": measured.workload.unit().0,
        "rows": rows,
    })
}

fn summary_json(summary: Summary) -> Value {
    json!({"median": summary.median, "min": summary.min, "max": summary.max})
}

/// Median, spread, wall.
fn cells(workload: Workload, row: &Row) -> [String; 3] {
    let (_, _, nanoseconds) = workload.unit();
    let (Some(cpu), Some(wall)) = (row.cpu_ns(), row.wall_ns()) else {
        return ["failed".to_owned(), "-".to_owned(), "-".to_owned()];
    };
    [
        short(cpu.median / nanoseconds),
        format!(
            "{} to {}",
            short(cpu.min / nanoseconds),
            short(cpu.max / nanoseconds)
        ),
        short(wall.median / nanoseconds),
    ]
}

/// A time to what the spread leaves of it.
fn short(time: f64) -> String {
    if time < 100.0 {
        format!("{time:.1}")
    } else {
        format!("{time:.0}")
    }
}

/// A ratio to two or three digits; small ones are those to slower peers.
fn multiple(ratio: f64) -> String {
    let digits = match ratio {
        10.0.. => 0,
        0.1.. => 2,
        0.01.. => 3,
        _ => 5,
    };
    format!("{ratio:.digits$}")
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing into a string cannot fail.
    let _infallible = text.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::{super::workload::Sample, *};

    fn row(setup: Setup, rounds: &[u64]) -> Row {
        let samples = rounds.iter().map(|&cpu_ns| {
            Some(Sample {
                units: 1,
                cpu_ns,
                wall_ns: cpu_ns,
            })
        });
        Row {
            setup,
            samples: samples.collect(),
            failure: None,
        }
    }

    fn measured(threads: u32) -> Measured {
        Measured {
            workload: Workload::Pairs { threads },
            rows: vec![
                row(Setup::Untraced, &[10, 12, 11]),
                row(Setup::Full, &[4000, 4800, 4400]),
                Row {
                    setup: Setup::Bpftrace,
                    samples: vec![None, None, None],
                    failure: Some("not installed".to_owned()),
                },
            ],
        }
    }

    #[test]
    fn table_has_a_row_a_setup_and_says_what_failed() {
        assert_eq!(
            markdown(&measured(1)),
            "### malloc/free pairs of 64 to 575 bytes, 1 thread\n\n\
             | under | CPU ns a pair | spread | wall ns | / untraced | / bpftrace |\n\
             |---|---:|---:|---:|---:|---:|\n\
             | untraced | 11.0 | 10.0 to 12.0 | 11.0 | 1.00 | - |\n\
             | leaktrace | 4400 | 4000 to 4800 | 4400 | 400 | - |\n\
             | bpftrace script | failed | - | - | - | - |\n\
             \n\
             Not measured, or not in every round:\n\n\
             - bpftrace script: not installed\n"
        );
    }

    #[test]
    fn ratios_keep_two_or_three_digits() {
        assert_eq!(
            [400.4, 2.0, 0.1111, 0.0123, 0.000_434].map(multiple),
            ["400", "2.00", "0.11", "0.012", "0.00043"]
        );
    }

    #[test]
    fn scaling_has_a_column_a_number_of_threads_and_needs_two() {
        assert_eq!(scaling(&[measured(1)]), "");
        let text = scaling(&[measured(1), measured(8)]);
        assert!(text.contains("| under | 1 | 8 |\n|---|---:|---:|\n"), "{text}");
        assert!(
            text.contains("| leaktrace | 4400 | 4400 |\n| bpftrace script | - | - |\n"),
            "{text}"
        );
    }

    #[test]
    fn bound_is_kept_exceeded_or_open() {
        let bound = |to, most| {
            Bound {
                of: Setup::Full,
                to,
                most,
            }
            .judge(&measured(1))
        };
        assert_eq!(
            bound(Setup::Untraced, 400.0),
            (
                "leaktrace / untraced = 400.000 (400.000 to 400.000), bound 400.000: kept".to_owned(),
                Some(true)
            )
        );
        assert_eq!(bound(Setup::Untraced, 399.0).1, Some(false));
        let (line, kept) = bound(Setup::Bpftrace, 0.2);
        assert_eq!(
            (line.as_str(), kept),
            ("leaktrace / bpftrace script = not measured, bound 0.200", None)
        );
    }

    #[test]
    fn json_has_every_round() {
        let value = json(&measured(2));
        assert_eq!(value["threads"], 2);
        assert_eq!(value["rows"][1]["rounds"][2]["cpu_ns"], 4400);
        assert_eq!(value["rows"][1]["cpu_ns_per_unit"]["median"], 4400.0);
        assert_eq!(value["rows"][2]["rounds"][0], Value::Null);
        assert_eq!(value["rows"][2]["failure"], "not installed");
    }
}
