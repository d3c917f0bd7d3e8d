//! The report as JSON (docs/report-format.md): the model, field by field.

use std::io::{self, Write};

use serde::Serialize;

use super::{Renderer, model::Report};

/// The JSON format.
#[derive(Clone, Copy, Debug)]
pub struct Json {
    /// Indented, for the only report of a run; otherwise each is a line.
    pub pretty: bool,
}

impl Renderer for Json {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        write(report, self.pretty, out)
    }
}

/// Writes any report.
///
/// # Errors
/// Only those of `out`.
pub(super) fn write(report: &impl Serialize, pretty: bool, out: &mut dyn Write) -> io::Result<()> {
    if pretty {
        serde_json::to_writer_pretty(&mut *out, report)?;
    } else {
        serde_json::to_writer(&mut *out, report)?;
    }
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use leaktrace_common::call::Space;

    use super::*;
    use crate::report::{model::Container, sample};

    #[test]
    fn gpu_memory_is_there_kind_by_kind() {
        let rendered = |report: &Report| -> serde_json::Value {
            let mut out = Vec::new();
            Json { pretty: false }.render(report, &mut out).unwrap();
            serde_json::from_slice(&out).unwrap()
        };
        let report = rendered(&sample::gpu());
        let survivor = &report["survivors"][0];
        assert_eq!(
            (&survivor["device"], &survivor["reserved_by"]),
            (&0.into(), &"PyTorch".into())
        );
        assert_eq!(survivor.get("unsure"), None);
        assert_eq!(report["survivors"][1]["unsure"]["why"], "context destroyed");
        let by_space = report["totals"]["by_space"].as_object().unwrap();
        assert_eq!(by_space.len(), Space::ALL.len());
        assert_eq!(by_space["tensor"]["live_blocks"], 6);
        let gpu = &report["gpu"];
        assert_eq!(
            (&gpu["state"], &gpu["spaces"][1]["device"]),
            (&"followed".into(), &1.into())
        );
        assert_eq!(gpu["torch"][0]["outside_bytes"], 8 << 20);
        assert_eq!(gpu["errors"][0]["name"], "out of memory");
        assert_eq!(gpu["nvml"]["processes"][0]["devices"][0]["index"], 3);
        assert_eq!(gpu["not_tracked"]["calls"], 2);
        assert_eq!(report["omitted"]["gpu"][0]["space"], "device");

        let report = rendered(&sample::report());
        assert!(report["gpu"].is_null());
        for name in ["device", "reserved_by", "unsure"] {
            assert_eq!(report["survivors"][0].get(name), None);
        }
    }

    #[test]
    fn whose_a_site_is_and_where_its_process_runs_is_there() {
        let rendered = |report: &Report| -> serde_json::Value {
            let mut out = Vec::new();
            Json { pretty: false }.render(report, &mut out).unwrap();
            serde_json::from_slice(&out).unwrap()
        };
        let mut report = sample::report();
        let json = rendered(&report);
        assert_eq!(json["by"], "process");
        assert_eq!(json["target"]["members"]["joined"], 2);
        assert!(json["target"]["selection"].is_null());
        let survivor = &json["survivors"][0];
        assert_eq!(
            (&survivor["processes"], &survivor["pids"][0]),
            (&1.into(), &4242.into())
        );
        for name in ["container", "inner_pid"] {
            assert_eq!(survivor.get(name), None);
            assert!(json["target"]["processes"][0][name].is_null());
        }
        report.survivors[0].container = Some("web".to_owned());
        report.target.processes[0].container = Some(Container {
            id: "0123456789abcdef".to_owned(),
            runtime: "docker".to_owned(),
            ..Container::default()
        });
        let json = rendered(&report);
        assert_eq!(json["survivors"][0]["container"], "web");
        let container = &json["target"]["processes"][0]["container"];
        assert_eq!(
            (&container["runtime"], &container["pod"]),
            (&"docker".into(), &serde_json::Value::Null)
        );
    }

    #[test]
    fn all_frames_are_there_and_say_what_they_are() {
        let mut out = Vec::new();
        Json { pretty: false }
            .render(&sample::python(), &mut out)
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let frames = report["survivors"][0]["frames"].as_array().unwrap();
        let langs: Vec<_> = frames
            .iter()
            .map(|frame| frame["lang"].as_str().unwrap())
            .collect();
        assert_eq!(langs[2..5], ["native", "python", "python"]);
        assert_eq!(frames[1]["plumbing"], true);
        assert_eq!(frames[2].get("plumbing"), None);
        assert_eq!(frames[3]["file"], "/usr/lib/python3.13/json/decoder.py");
        assert_eq!(report["target"]["processes"][0]["python"]["state"], "followed");
        assert_eq!(report["stacks"]["python"]["with_lines_share"], 0.99);
        assert_eq!(report["types"]["list"][1]["module"], "sage.categories");
    }
}
