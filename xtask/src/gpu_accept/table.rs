//! What was expected and what was seen. Pure.

use std::fmt::{Display, Write as _};

/// What became of one expectation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Ok,
    Differs,
    NotRun,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Differs => "DIFFERS",
            Self::NotRun => "not run",
        }
    }
}

/// One expectation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    what: String,
    expected: String,
    seen: String,
    verdict: Verdict,
}

impl Row {
    /// Right if both read the same.
    pub(super) fn same(what: impl Display, expected: impl Display, seen: impl Display) -> Self {
        let (expected, seen) = (expected.to_string(), seen.to_string());
        let is = expected == seen;
        Self::judged(what, expected, seen, is)
    }

    /// Right or not, as the caller has found.
    pub(super) fn judged(
        what: impl Display,
        expected: impl Display,
        seen: impl Display,
        is_right: bool,
    ) -> Self {
        Self {
            what: what.to_string(),
            expected: expected.to_string(),
            seen: seen.to_string(),
            verdict: if is_right { Verdict::Ok } else { Verdict::Differs },
        }
    }

    /// Not right.
    pub(super) fn differs(what: impl Display, expected: impl Display, seen: impl Display) -> Self {
        Self::judged(what, expected, seen, false)
    }

    /// Not looked at, and why.
    pub(super) fn not_run(what: impl Display, why: impl Display) -> Self {
        Self {
            what: what.to_string(),
            expected: String::new(),
            seen: why.to_string(),
            verdict: Verdict::NotRun,
        }
    }

    /// For the terminal.
    pub(super) fn line(&self) -> String {
        let verdict = self.verdict.word();
        match self.verdict {
            Verdict::Differs => format!(
                "{verdict:8} {}: {}, expected {}",
                self.what, self.seen, self.expected
            ),
            _ => format!("{verdict:8} {}: {}", self.what, self.seen),
        }
    }
}

/// All rows, by the number of their step.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<(u8, Row)>,
}

impl Table {
    pub(super) fn add(&mut self, step: u8, rows: Vec<Row>) {
        self.rows.extend(rows.into_iter().map(|row| (step, row)));
        self.rows.sort_by_key(|(step, _)| *step);
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.rows.iter().filter(|(_, row)| row.verdict == verdict).count()
    }

    pub(super) fn differing(&self) -> usize {
        self.count(Verdict::Differs)
    }

    /// How many of each kind.
    pub(super) fn summary(&self) -> String {
        format!(
            "{} ok, {} differ, {} not run",
            self.count(Verdict::Ok),
            self.count(Verdict::Differs),
            self.count(Verdict::NotRun)
        )
    }

    /// The document, below a sentence about the machine.
    pub(super) fn markdown(&self, about: &str) -> String {
        let mut text = format!("# leaktrace on a GPU\n\n{about}\n\n{}.\n\n", self.summary());
        text.push_str("| step | what | expected | seen | verdict |\n|---:|---|---|---|---|\n");
        for (step, row) in &self.rows {
            // Writing to a string cannot fail.
            let _infallible = writeln!(
                text,
                "| {step} | {} | {} | {} | {} |",
                cell(&row.what),
                cell(&row.expected),
                cell(&row.seen),
                row.verdict.word()
            );
        }
        text
    }
}

/// What would end the cell or the row is written otherwise.
fn cell(text: &str) -> String {
    text.trim().replace('|', "\\|").replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_judged_counted_and_written_in_the_order_of_their_steps() {
        let mut table = Table::default();
        table.add(7, vec![Row::not_run("PyTorch", "no torch | here\nat all")]);
        table.add(3, vec![Row::same("a", 7, "7"), Row::same("b", 1, 2)]);
        assert_eq!(table.summary(), "1 ok, 1 differ, 1 not run");
        assert_eq!(table.differing(), 1);
        let text = table.markdown("Some machine.");
        let rows: Vec<_> = text.lines().filter(|line| line.ends_with(" |")).collect();
        assert_eq!(
            rows,
            [
                "| step | what | expected | seen | verdict |",
                "| 3 | a | 7 | 7 | ok |",
                "| 3 | b | 1 | 2 | DIFFERS |",
                "| 7 | PyTorch |  | no torch \\| here; at all | not run |",
            ]
        );
        assert_eq!(Row::differs("b", 1, 2).line(), "DIFFERS  b: 2, expected 1");
    }
}
