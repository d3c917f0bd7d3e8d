//! Where reports go: standard output or a file, whole reports only; on a terminal each in the place
//! of the one before.
//!
//! The only module of `report` that knows terminals and files. Must not know what is in a report
//! beyond its number and whether it is the last.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use terminal_size::terminal_size_of;

use super::{Folded, Format, Json, Renderer, Text, WatchText, json, model::Report, watch};
use crate::config;

/// Cursor to the upper left, and clear what is below: no alternate screen, so that the last report
/// stays. ECMA-48 CUP and ED.
const HOME_AND_CLEAR: &[u8] = b"\x1b[H\x1b[J";

/// Reports could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The file cannot be opened for writing.
    #[error("cannot write to '{}': {source}; {}", .path.display(), way_out(.source))]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A report cannot be written to the file.
    #[error("cannot write the report to '{}': {source}; {}", .path.display(), way_out(.source))]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A report cannot be written to standard output.
    #[error("cannot write the report to standard output: {source}; {}", way_out(.source))]
    Stdout {
        /// Why.
        source: io::Error,
    },
}

impl OutputError {
    /// Whether the reader has gone, which is an end and no failure.
    pub fn is_broken_pipe(&self) -> bool {
        match self {
            Self::Open { source, .. } | Self::File { source, .. } | Self::Stdout { source } => {
                is_broken_pipe(source)
            }
        }
    }
}

/// Whether the reader has gone, which is an end and no failure.
pub fn is_broken_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "create the directory first",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "give -o a file where you may write"
        }
        io::ErrorKind::IsADirectory => "give -o a file in it",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "make room there or give -o a file elsewhere"
        }
        _ => "give -o another file",
    }
}

/// Where reports go. Open it before anything is attached, so that a bad path costs nothing.
pub struct Output {
    format: Format,
    color: bool,
    native: bool,
    sink: Sink,
    /// Whether a report is on the screen, to be replaced by the next.
    drawn: bool,
    /// The newest report of a format that is written once, at the end.
    held: Option<Vec<u8>>,
}

enum Sink {
    Stdout { terminal: bool },
    File { path: PathBuf, file: File },
}

impl Output {
    /// Opens the output; a file is created or emptied.
    ///
    /// # Errors
    /// When the file cannot be opened for writing.
    pub fn open(settings: &config::Output) -> Result<Self, OutputError> {
        let sink = match &settings.path {
            None => Sink::Stdout {
                terminal: io::stdout().is_terminal(),
            },
            Some(path) => {
                let file = File::create(path).map_err(|source| OutputError::Open {
                    path: path.clone(),
                    source,
                })?;
                Sink::File {
                    path: path.clone(),
                    file,
                }
            }
        };
        Ok(Self {
            format: settings.format,
            color: settings.color,
            native: settings.native,
            sink,
            drawn: false,
            held: None,
        })
    }

    /// Whether reports replace one another on a terminal, so that nothing else should be written there.
    pub const fn redraws(&self) -> bool {
        matches!(
            (&self.sink, self.format),
            (Sink::Stdout { terminal: true }, Format::Text)
        )
    }

    /// Writes a report, whole or not at all as far as the file system lets it. Of the folded format
    /// only the last is written; see [`Output::finish`].
    ///
    /// # Errors
    /// When it cannot be written; [`OutputError::is_broken_pipe`] when nobody reads any more.
    pub fn report(&mut self, report: &Report) -> Result<(), OutputError> {
        let only = report.sequence == 1 && report.last;
        let window = self.redraws().then(Window::of_stdout);
        let rendered = self.rendered(report, only, window)?;
        match (self.format, window) {
            (Format::Folded, _) => {
                self.held = Some(rendered);
                if report.last { self.finish() } else { Ok(()) }
            }
            (_, Some(window)) if !only => self.redraw(&rendered, window, report.last),
            _ => self.write(&rendered),
        }
    }

    /// Writes a report of `leaktrace watch`, as text or JSON.
    ///
    /// # Errors
    /// As [`Output::report`].
    pub fn watch(&mut self, report: &watch::Report) -> Result<(), OutputError> {
        let only = report.sequence == 1 && report.last;
        let window = self.redraws().then(Window::of_stdout);
        let mut rendered = Vec::new();
        let text = WatchText {
            color: self.color && window.is_some(),
            width: window.map(|window| window.columns),
        };
        let written = match self.format {
            Format::Text | Format::Folded => text.render(report, &mut rendered),
            Format::Json => json::write(report, only, &mut rendered),
        };
        written.map_err(|source| self.failed(source))?;
        if self.format == Format::Text && window.is_none() && !report.last {
            rendered.push(b'\n');
        }
        match window {
            Some(window) if !only => self.redraw(&rendered, window, report.last),
            _ => self.write(&rendered),
        }
    }

    /// Writes what was held back, if the run has ended without a last report.
    ///
    /// # Errors
    /// As [`Output::report`].
    pub fn finish(&mut self) -> Result<(), OutputError> {
        match self.held.take() {
            Some(held) => self.write(&held),
            None => Ok(()),
        }
    }

    fn rendered(&self, report: &Report, only: bool, window: Option<Window>) -> Result<Vec<u8>, OutputError> {
        let text = Text {
            color: self.color && window.is_some(),
            width: window.map(|window| window.columns),
            native: self.native,
        };
        let json = Json { pretty: only };
        let folded = Folded { native: self.native };
        let renderer: &dyn Renderer = match self.format {
            Format::Text => &text,
            Format::Json => &json,
            Format::Folded => &folded,
        };
        let mut rendered = Vec::new();
        renderer
            .render(report, &mut rendered)
            .map_err(|source| self.failed(source))?;
        // Appended reports are told apart by an empty line; those of a terminal replace one another.
        if self.format == Format::Text && window.is_none() && !report.last {
            rendered.push(b'\n');
        }
        Ok(rendered)
    }

    /// The last report is shown whole, whatever scrolls away; others only as far as the screen goes,
    /// since what scrolled away could not be replaced.
    fn redraw(&mut self, rendered: &[u8], window: Window, last: bool) -> Result<(), OutputError> {
        let mut frame = Vec::with_capacity(rendered.len() + 64);
        if !self.drawn {
            // What was on the screen moves up into the scrollback instead of being overwritten.
            frame.resize(window.rows.saturating_sub(1), b'\n');
        }
        frame.extend_from_slice(HOME_AND_CLEAR);
        if last {
            frame.extend_from_slice(rendered);
        } else {
            clip(rendered, window, &mut frame);
        }
        self.drawn = true;
        self.write(&frame)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        let written = match &mut self.sink {
            Sink::Stdout { .. } => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            Sink::File { file, .. } => append_whole(file, bytes),
        };
        written.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> OutputError {
        match &self.sink {
            Sink::Stdout { .. } => OutputError::Stdout { source },
            Sink::File { path, .. } => OutputError::File {
                path: path.clone(),
                source,
            },
        }
    }

    /// The file that reports go to, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match &self.sink {
            Sink::Stdout { .. } => None,
            Sink::File { path, .. } => Some(path),
        }
    }
}

/// Appends all of `bytes`, or takes back what the disk had room for: half a report would read as one.
fn append_whole(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let before = file.metadata()?;
    let written = file.write_all(bytes).and_then(|()| file.flush());
    if written.is_err() && before.is_file() {
        // The first error is the one to report, whether or not the file can be cut back.
        drop(file.set_len(before.len()));
    }
    written
}

/// Size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    columns: usize,
    rows: usize,
}

impl Window {
    /// Asked for at each report: windows are resized.
    fn of_stdout() -> Self {
        match terminal_size_of(io::stdout()) {
            Some((columns, rows)) if columns.0 > 0 && rows.0 > 0 => Self {
                columns: columns.0.into(),
                rows: rows.0.into(),
            },
            // A serial line or an emulator that does not say: the size of a VT100.
            _ => Self {
                columns: 80,
                rows: 24,
            },
        }
    }
}

/// Copies as many lines as fit the window, and says what is missing in the last.
fn clip(rendered: &[u8], window: Window, frame: &mut Vec<u8>) {
    let lines: Vec<&[u8]> = rendered.split_inclusive(|byte| *byte == b'\n').collect();
    let rows: Vec<usize> = lines.iter().map(|line| rows(line, window.columns)).collect();
    // The cursor stands below the last line.
    let room = window.rows.saturating_sub(1).max(1);
    if rows.iter().sum::<usize>() <= room {
        frame.extend_from_slice(rendered);
        return;
    }
    let mut used = 1;
    let shown = rows.iter().take_while(|rows| {
        used += **rows;
        used <= room
    });
    let shown = shown.count();
    frame.extend(lines[..shown].concat());
    let more = lines.len() - shown;
    frame.extend_from_slice(format!("... {more} more lines; the last report is shown whole\n").as_bytes());
}

/// Rows that a line takes on a terminal that wraps. Escape sequences take none.
fn rows(line: &[u8], columns: usize) -> usize {
    let mut width = 0_usize;
    let mut escape = false;
    for c in String::from_utf8_lossy(line).trim_end_matches('\n').chars() {
        match c {
            '\x1b' => escape = true,
            'a'..='z' | 'A'..='Z' if escape => escape = false,
            _ if escape => {}
            _ => width += 1,
        }
    }
    width.div_ceil(columns.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn to_file(path: &Path, format: Format) -> config::Output {
        config::Output {
            format,
            path: Some(path.to_owned()),
            color: true,
            native: false,
        }
    }

    fn numbered(sequence: u64, last: bool) -> Report {
        Report {
            sequence,
            last,
            ..sample::report()
        }
    }

    /// What a run with these reports leaves in its file.
    fn written(format: Format, reports: &[Report]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::fs::write(&path, "from an earlier run").unwrap();
        let mut output = Output::open(&to_file(&path, format)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"", "emptied at the start");
        for report in reports {
            output.report(report).unwrap();
        }
        output.finish().unwrap();
        std::fs::read_to_string(&path).unwrap()
    }

    #[test]
    fn json_is_pretty_alone_and_a_line_each_when_repeated() {
        let alone = written(Format::Json, &[numbered(1, true)]);
        assert!(alone.starts_with("{\n  \"schema\"") && alone.ends_with("}\n"));

        let repeated = written(Format::Json, &[numbered(1, false), numbered(2, true)]);
        let sequences: Vec<u64> = repeated
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["sequence"]
                    .as_u64()
                    .unwrap()
            })
            .collect();
        assert_eq!(sequences, [1, 2]);
    }

    #[test]
    fn text_is_appended_plain() {
        let text = written(Format::Text, &[numbered(1, false), numbered(2, true)]);
        assert_eq!(text.matches("ledger:").count(), 2);
        assert!(
            text.contains("\n\nserver") || text.contains("\n\n2 processes"),
            "{text}"
        );
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn folded_keeps_the_last_report_only() {
        let mut last = numbered(2, true);
        last.survivors.truncate(1);
        let lines = written(Format::Folded, &[numbered(1, false), last]);
        assert_eq!(lines.lines().count(), 1, "{lines}");
        // A run that broke off has no last report.
        let lines = written(Format::Folded, &[numbered(1, false), numbered(2, false)]);
        assert_eq!(lines.lines().count(), 2, "{lines}");
    }

    #[test]
    fn a_bad_path_fails_at_the_start_and_names_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        for (path, way_out) in [
            (dir.path().join("none/out"), "create the directory first"),
            (dir.path().to_owned(), "give -o a file in it"),
        ] {
            let error = Output::open(&to_file(&path, Format::Text)).err().unwrap();
            let line = error.to_string();
            assert!(
                line.starts_with(&format!("cannot write to '{}': ", path.display())),
                "{line}"
            );
            assert!(line.contains("(os error ") && line.ends_with(way_out), "{line}");
        }
    }

    #[test]
    fn a_full_disk_is_an_error_with_path_and_errno() {
        let mut output = Output::open(&to_file(Path::new("/dev/full"), Format::Json)).unwrap();
        let error = output.report(&numbered(1, true)).unwrap_err();
        assert!(!error.is_broken_pipe());
        assert_eq!(
            error.to_string(),
            "cannot write the report to '/dev/full': No space left on device (os error 28); make room there or \
             give -o a file elsewhere"
        );
    }

    #[test]
    fn a_closed_pipe_is_recognised() {
        let closed = OutputError::Stdout {
            source: io::ErrorKind::BrokenPipe.into(),
        };
        assert!(closed.is_broken_pipe());
        assert!(!is_broken_pipe(&io::ErrorKind::StorageFull.into()));
    }

    #[test]
    fn rows_count_wrapping_and_skip_escapes() {
        for (line, columns, wanted) in [
            ("\n", 10, 1),
            ("0123456789\n", 10, 1),
            ("0123456789a\n", 10, 2),
            ("\x1b[1;36m0123456789\x1b[0m\n", 10, 1),
            ("…………\n", 4, 1),
            ("x\n", 0, 1),
        ] {
            assert_eq!(rows(line.as_bytes(), columns), wanted, "{line:?} in {columns}");
        }
    }

    #[test]
    fn a_report_longer_than_the_window_is_clipped() {
        let clipped = |rows| {
            let mut frame = Vec::new();
            clip(b"a\nb\nc\nd\n", Window { columns: 80, rows }, &mut frame);
            String::from_utf8(frame).unwrap()
        };
        assert_eq!(clipped(5), "a\nb\nc\nd\n");
        assert_eq!(
            clipped(4),
            "a\nb\n... 2 more lines; the last report is shown whole\n"
        );
        assert_eq!(clipped(2), "... 4 more lines; the last report is shown whole\n");
    }
}
