//! What is made from the command line's definition: shell completions and the manual page.

use std::io::{self, Write};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::args::Cli;

/// Writes a completion script.
///
/// # Errors
/// When `out` cannot be written.
pub fn completions(shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    // Into memory first: the generators panic when they cannot write, such as into a closed pipe.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "leaktrace", &mut script);
    out.write_all(&script)?;
    out.flush()
}

/// Writes the manual page, in roff.
///
/// # Errors
/// When `out` cannot be written.
pub fn man_page(out: &mut dyn Write) -> io::Result<()> {
    clap_mangen::Man::new(Cli::command()).render(out)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_know_options_and_subcommands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            completions(shell, &mut script).unwrap();
            let script = String::from_utf8(script).unwrap();
            for word in ["older-than", "doctor", "folded"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }

    #[test]
    fn man_page_has_the_options_and_the_examples() {
        let mut page = Vec::new();
        man_page(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        assert!(
            page.starts_with(".ie") || page.contains(".TH leaktrace 1"),
            "{page}"
        );
        for word in ["older\\-than", "Exit status", "flamegraph.pl"] {
            assert!(page.contains(word), "{word}");
        }
        assert!(!page.contains("demo\\-target") && !page.contains("for tests"));
    }

    #[test]
    fn a_closed_pipe_is_an_error_and_no_panic() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert_eq!(
            completions(Shell::Bash, &mut Closed).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
        assert_eq!(
            man_page(&mut Closed).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }
}
