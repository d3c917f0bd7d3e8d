//! Where the memory of the processes is, as text: a line of the header each, and what they have mapped by themselves.

use std::io;

use super::{LIST_MAX, PROSE_WIDTH, Page, clean, stack, words::name_of};
use crate::report::{
    account::{Account, Mapping},
    frames::columns,
    model::{Frame, Report},
    style::Ink,
    units::{counted, size},
};

/// Mappings that are shown with their stacks.
const MAPPINGS_MAX: usize = 3;

/// What is there of a mapping that is worth a stack: bytes, and its share of the process's memory.
const SHOWN_BYTES: u64 = 1 << 20;
const SHOWN_SHARE: f64 = 0.03;

/// Indentation of what belongs to a line of the header.
const UNDER: &str = "               ";

impl Page<'_> {
    /// A line a process: where most has changed first.
    pub(super) fn accounts(&mut self, report: &Report) -> io::Result<()> {
        let mut accounts: Vec<&Account> = report.accounts.iter().collect();
        accounts.retain(|account| !account.line.is_empty());
        accounts.sort_by_key(|account| std::cmp::Reverse(account.rss.change_bytes.unsigned_abs()));
        for account in accounts.iter().take(LIST_MAX) {
            let mut processes = report.target.processes.iter();
            let line = match processes.find(|process| process.pid == account.pid) {
                Some(process) if report.target.processes.len() > 1 => {
                    format!("{}: {}", name_of(process), clean(&account.line))
                }
                _ => clean(&account.line).into_owned(),
            };
            self.hanging("memory", &line)?;
        }
        if accounts.len() > LIST_MAX {
            let more = format!("{} more, all in --format json", accounts.len() - LIST_MAX);
            self.hanging("", &more)?;
        }
        Ok(())
    }

    /// What processes have mapped by themselves and is there: memory that is no site's.
    pub(super) fn mappings(&mut self, report: &Report) -> io::Result<()> {
        for account in &report.accounts {
            let least = SHOWN_BYTES.max((account.rss.bytes as f64 * SHOWN_SHARE) as u64);
            let shown = account
                .mappings
                .iter()
                .filter(|mapping| mapping.held_bytes >= least);
            for mapping in shown.take(MAPPINGS_MAX) {
                let line = self.style.paint(Ink::Strong, heading(account.pid, mapping));
                writeln!(self.out, "{line}")?;
                let frames: Vec<&Frame> = mapping
                    .frames
                    .iter()
                    .filter(|frame| self.native || !frame.plumbing)
                    .collect();
                if mapping.call.is_some() {
                    stack::write(self.out, &frames, self.width, self.style)?;
                }
                writeln!(self.out)?;
            }
        }
        Ok(())
    }

    /// A line of the header that may be longer than a terminal is wide.
    fn hanging(&mut self, name: &str, text: &str) -> io::Result<()> {
        let width = self
            .width
            .map_or(PROSE_WIDTH + UNDER.len(), |width| width.max(40));
        let mut line = format!("  {name:<11} ");
        for word in text.split(' ') {
            if line.trim().len() > name.len() && columns(&line) + 1 + columns(word) > width {
                writeln!(self.out, "{line}")?;
                UNDER[1..].clone_into(&mut line);
            }
            line.push(' ');
            line.push_str(word);
        }
        writeln!(self.out, "{line}")
    }
}

fn heading(pid: u32, mapping: &Mapping) -> String {
    let by = match mapping.call {
        Some(call) => format!("{call} by process {pid}"),
        None => format!("process {pid}, by which call is not known"),
    };
    format!(
        "mapped since the attach: {} there of {} in {}, {by}",
        size(mapping.held_bytes),
        size(mapping.mapped_bytes),
        counted(mapping.stretches, "range"),
    )
}

#[cfg(test)]
mod tests {
    use super::{super::tests::rendered, *};
    use crate::report::{account::Amount, sample};

    fn account(pid: u32) -> Account {
        Account {
            pid,
            over_s: 600.0,
            rss: Amount::since(0, 512 << 20),
            pss: None,
            anonymous: Amount::since(0, 512 << 20),
            file: Amount::default(),
            swap: Amount::default(),
            parts: Vec::new(),
            unexplained_bytes: 0,
            mappings: Vec::new(),
            line:
                "RSS +512.0 MiB in 10m 00s: 64 % heap held but free; 31 % load_rows, growing; 5 % unexplained"
                    .to_owned(),
        }
    }

    #[test]
    fn a_process_has_a_line() {
        let mut report = sample::report();
        report.target.processes.truncate(1);
        assert!(!rendered(&report, false, None).contains("\n  memory"));
        report.accounts = vec![account(4242)];
        let text = rendered(&report, false, None);
        let line = "\n  memory       RSS +512.0 MiB in 10m 00s: 64 % heap held but free; 31 % load_rows, growing; 5 % unexplained\n";
        assert!(text.contains(line), "{text}");
        let narrow = rendered(&report, false, Some(80));
        let lines = "
  memory       RSS +512.0 MiB in 10m 00s: 64 % heap held but free; 31 %
               load_rows, growing; 5 % unexplained
";
        assert!(narrow.contains(lines), "{narrow}");
    }

    #[test]
    fn of_many_the_first_are_told() {
        let mut report = sample::report();
        report.accounts = (0..10).map(|number| account(4242 + number)).collect();
        report.accounts[9].rss.change_bytes *= -2;
        report.accounts[9].line = "RSS -1.0 GiB in 10m 00s".to_owned();
        report.accounts[8].line.clear();
        let text = rendered(&report, false, None);
        let first = "\n  memory       RSS -1.0 GiB in 10m 00s\n  memory       server (4242): RSS +512.0 MiB";
        assert!(text.contains(first), "{text}");
        assert!(
            text.contains("\n               1 more, all in --format json\n"),
            "{text}"
        );
    }

    #[test]
    fn what_is_mapped_and_there_has_its_stack() {
        let mut report = sample::report();
        let mapping = |held_bytes, call| Mapping {
            call,
            held_bytes,
            mapped_bytes: 1 << 30,
            stretches: 2,
            stack_id: 7,
            frames: report.survivors[0].frames.clone(),
        };
        let mut of_process = account(4242);
        of_process.mappings = vec![
            mapping(100 << 20, Some("mmap")),
            mapping(20 << 20, None),
            mapping(1 << 20, Some("brk")),
        ];
        report.accounts = vec![of_process];
        let text = rendered(&report, false, None);
        let line =
            "\nmapped since the attach: 100.0 MiB there of 1.0 GiB in 2 ranges, mmap by process 4242\n";
        assert!(text.contains(line), "{text}");
        assert!(
            text.contains(" process 4242, by which call is not known\n\n"),
            "{text}"
        );
        assert!(!text.contains("brk"), "{text}");
    }
}
