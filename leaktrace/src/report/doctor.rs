//! What `leaktrace doctor` found, as text.
//!
//! Must not know how anything is found out: the checks are handed in.

use std::io::{self, Write};

use super::{
    frames::columns,
    style::{Ink, Style},
};

/// What this kernel and user can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doctor {
    /// The running kernel's release.
    pub kernel: String,
    /// What was looked at, in order.
    pub checks: Vec<Check>,
    /// The mechanism that will be used, if tracing is possible.
    pub attach: Option<String>,
    /// Whether tracing is possible: a sentence, or why not and the way out.
    pub verdict: Result<String, String>,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub name: String,
    /// How it is.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub fix: Option<String>,
}

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// As it should be.
    Ok,
    /// Not there.
    Missing,
    /// There, with less than it could be.
    Limited,
}

impl Status {
    /// Marks for a terminal, and in ASCII where it may not be one.
    const fn mark(self, terminal: bool) -> (&'static str, Ink) {
        match (self, terminal) {
            (Self::Ok, true) => ("✓", Ink::Good),
            (Self::Missing, true) => ("✗", Ink::Bad),
            (Self::Ok, false) => ("ok", Ink::Good),
            (Self::Missing, false) => ("no", Ink::Bad),
            (Self::Limited, _) => ("~", Ink::Warn),
        }
    }
}

impl Doctor {
    /// Writes the checks as a table, what to do below each, and the verdict last. `terminal` allows
    /// marks beyond ASCII, `color` colours.
    ///
    /// # Errors
    /// Only those of `out`.
    pub fn render(&self, terminal: bool, color: bool, out: &mut dyn Write) -> io::Result<()> {
        let style = Style { color };
        let w_name = self
            .checks
            .iter()
            .map(|check| columns(&check.name))
            .max()
            .unwrap_or(0);
        let w_mark = if terminal { 1 } else { 2 };
        writeln!(out, "kernel {}", self.kernel)?;
        for check in &self.checks {
            let (mark, ink) = check.status.mark(terminal);
            let mark = style.paint(ink, format!("{mark:<w_mark$}"));
            let name = format!("{:<w_name$}", check.name);
            writeln!(out, "{}", format!("  {mark} {name}  {}", check.found).trim_end())?;
            if let Some(fix) = &check.fix {
                writeln!(
                    out,
                    "  {:w_mark$} {:w_name$}  {}",
                    "",
                    "",
                    style.paint(Ink::Warn, format!("fix: {fix}"))
                )?;
            }
        }
        if let Some(attach) = &self.attach {
            writeln!(out, "attach by {attach}")?;
        }
        match &self.verdict {
            Ok(sentence) => writeln!(out, "{} {sentence}", style.paint(Ink::Good, "ready:")),
            Err(reason) => writeln!(out, "{} {reason}", style.paint(Ink::Bad, "cannot trace:")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, status: Status, found: &str, fix: Option<&str>) -> Check {
        Check {
            name: name.to_owned(),
            status,
            found: found.to_owned(),
            fix: fix.map(str::to_owned),
        }
    }

    fn rendered(doctor: &Doctor, terminal: bool, color: bool) -> String {
        let mut out = Vec::new();
        doctor.render(terminal, color, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn sample() -> Doctor {
        Doctor {
            kernel: "6.12.0".to_owned(),
            checks: vec![
                check("BTF", Status::Ok, "/sys/kernel/btf/vmlinux", None),
                check("uprobe session", Status::Limited, "no, from 6.13 on", None),
                check(
                    "privileges",
                    Status::Missing,
                    "uid 1000",
                    Some("run it with sudo"),
                ),
            ],
            attach: None,
            verdict: Err("this user may not: run 'sudo leaktrace doctor'".to_owned()),
        }
    }

    #[test]
    fn table_in_a_pipe() {
        let wanted = "\
kernel 6.12.0
  ok BTF             /sys/kernel/btf/vmlinux
  ~  uprobe session  no, from 6.13 on
  no privileges      uid 1000
                     fix: run it with sudo
cannot trace: this user may not: run 'sudo leaktrace doctor'
";
        assert_eq!(rendered(&sample(), false, false), wanted);
    }

    #[test]
    fn table_on_a_terminal() {
        let mut doctor = sample();
        doctor.checks.truncate(1);
        doctor.attach = Some("session".to_owned());
        doctor.verdict = Ok("try 'sudo leaktrace demo'".to_owned());
        let wanted = "\
kernel 6.12.0
  \u{1b}[32m✓\u{1b}[0m BTF  /sys/kernel/btf/vmlinux
attach by session
\u{1b}[32mready:\u{1b}[0m try 'sudo leaktrace demo'
";
        assert_eq!(rendered(&doctor, true, true), wanted);
    }
}
