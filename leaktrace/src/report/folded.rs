//! The report as folded stacks, for flame graph tools: `process;outermost;...;innermost;call bytes`. Where sites are
//! summed over processes, the first is the process's name alone, or that of its container.
//!
//! Such a tool draws a frame as wide as the sum of what is in it. Each kind of GPU memory is another memory, so it has an
//! outermost frame of its own, before the process: `[device];cuda:0;process;...`. A graph of one kind is that of the
//! lines which begin with it.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use super::{
    Renderer, frames,
    gpu::Table,
    model::{Frame, Lang, Report, Survivor},
};

/// The folded format. The values of its lines add up to the survivors' bytes, kind of memory by kind of memory.
#[derive(Clone, Copy, Debug)]
pub struct Folded {
    /// Also the frames of an interpreter itself.
    pub native: bool,
}

impl Renderer for Folded {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        report
            .survivors
            .iter()
            .try_for_each(|survivor| line(survivor, report.by, self.native, out))
    }
}

fn line(survivor: &Survivor, by: &str, native: bool, out: &mut dyn Write) -> io::Result<()> {
    let is_hosts = Table::of_name(&survivor.space) == Table::Host;
    if !is_hosts {
        write!(out, "[{}];", field(&survivor.space))?;
        if let Some(device) = survivor.device {
            write!(out, "cuda:{device};")?;
        }
    }
    match by {
        // Of many processes: whatever is one there is one here.
        "site" | "comm" if is_hosts => write!(out, "{}", field(&survivor.comm))?,
        "container" if is_hosts => {
            let container = survivor.container.as_deref().unwrap_or("[no container]");
            write!(out, "{}", field(container))?;
        }
        _ => write!(out, "{}-{}", field(&survivor.comm), survivor.pid)?,
    }
    for frame in frames::shown(survivor, native).into_iter().rev() {
        write!(out, ";{}", field(&frame_name(frame)))?;
    }
    writeln!(out, ";{} {}", field(&survivor.call), survivor.bytes)
}

/// The function; of Python with its line, without which two functions of a name would be one.
fn frame_name(frame: &Frame) -> Cow<'_, str> {
    let name = frames::name(frame);
    match frames::place(frame).filter(|_| frame.lang == Lang::Python) {
        Some(place) => Cow::Owned(format!("{name} ({place})")),
        None => name,
    }
}

/// A name that cannot be taken for the format's own marks: no separator, no line break, not empty.
fn field(name: &str) -> Cow<'_, str> {
    if name.is_empty() {
        return Cow::Borrowed("?");
    }
    if !name.contains(|c: char| c == ';' || c.is_control()) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(
        name.chars()
            .map(|c| match c {
                ';' => ':',
                c if c.is_control() => ' ',
                c => c,
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn folded(native: bool) -> String {
        let mut out = Vec::new();
        Folded { native }.render(&sample::python(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn python_frames_have_their_line_and_no_mark_of_the_format() {
        assert_eq!(
            folded(false),
            "server-4242;<lambda> (/srv/app/main:v2.py:3);call_back;Cache.load (/srv/app/cache.py:42);\
             raw_decode (python3.13/json/decoder.py:362);list_append;malloc 1258291\n"
        );
    }

    #[test]
    fn each_kind_of_gpu_memory_has_a_root_of_its_own() {
        let mut out = Vec::new();
        Folded { native: false }.render(&sample::gpu(), &mut out).unwrap();
        let lines = String::from_utf8(out).unwrap();
        let roots: Vec<&str> = lines
            .lines()
            .map(|line| &line[..line.find("server-").or_else(|| line.find("worker-")).unwrap()])
            .collect();
        assert_eq!(
            roots,
            ["[device];cuda:0;", "[pinned];cuda:1;", "[tensor];cuda:0;", "", ""]
        );
        assert!(
            lines.starts_with("[device];cuda:0;server-4242;load_weights;cudaMalloc 41943040\n"),
            "{lines}"
        );
    }

    #[test]
    fn what_is_summed_over_processes_is_one_root() {
        let mut report = sample::gpu();
        let roots = |report: &Report| {
            let mut out = Vec::new();
            Folded { native: false }.render(report, &mut out).unwrap();
            let lines = String::from_utf8(out).unwrap();
            let of_host = lines.lines().filter(|line| !line.starts_with('['));
            let roots: Vec<String> = of_host
                .map(|line| line[..line.find(';').unwrap()].to_owned())
                .collect();
            (roots, lines.contains("[device];cuda:0;server-4242;"))
        };
        report.by = "site";
        assert_eq!(
            roots(&report),
            (vec!["server".to_owned(), "worker".to_owned()], true)
        );
        report.by = "container";
        report.survivors.last_mut().unwrap().container = Some("web".to_owned());
        let mut out = Vec::new();
        Folded { native: false }.render(&report, &mut out).unwrap();
        let lines = String::from_utf8(out).unwrap();
        assert!(lines.contains("\n[no container];"), "{lines}");
        assert!(lines.lines().last().unwrap().starts_with("web;"), "{lines}");
    }

    #[test]
    fn plumbing_is_shown_when_asked_for() {
        let line = folded(true);
        assert!(line.starts_with("server-4242;Py_RunMain;<lambda>"), "{line}");
        assert!(line.contains(";call_back;slot_tp_call;Cache.load"), "{line}");
        assert!(
            line.ends_with(";list_append;PyMem_RawMalloc;malloc 1258291\n"),
            "{line}"
        );
    }
}
