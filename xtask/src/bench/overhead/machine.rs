//! What a figure was measured on, from /proc, /sys and the programs themselves.

use std::{fs, process::Command};

use serde_json::{Value, json};

use crate::process::output;

pub(super) struct Machine {
    cpu: String,
    cores: usize,
    memory_bytes: u64,
    kernel: String,
    governor: String,
    libc: String,
    /// Name and first line of `--version` of each peer; absent ones are left out.
    peers: Vec<(&'static str, String)>,
    /// Mean number of runnable tasks over the last minute, as the bench began: 0 is a machine to oneself.
    load: String,
}

impl Machine {
    pub(super) fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpu = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown CPU".to_owned());
        let kibibytes = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        let peers = ["bpftrace", "heaptrack", "redis-server", "python3", "sqlite3"];
        Self {
            cpu,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: kibibytes.unwrap_or(0) * 1024,
            kernel: read("/proc/sys/kernel/osrelease"),
            governor: if governor.is_empty() {
                "none in sight".to_owned()
            } else {
                governor
            },
            libc: version(Command::new("getconf").arg("GNU_LIBC_VERSION")).unwrap_or_default(),
            peers: peers
                .into_iter()
                .filter_map(|peer| Some((peer, version(Command::new(peer).arg("--version"))?)))
                .collect(),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned(),
        }
    }

    /// One line, for a document.
    pub(super) fn line(&self) -> String {
        format!(
            "{} cores ({}), {} GiB, kernel {}, frequency governor: {}, {}, load {} at the start",
            self.cores,
            self.cpu,
            self.memory_bytes >> 30,
            self.kernel,
            self.governor,
            self.libc,
            self.load
        )
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "cores": self.cores,
            "memory_bytes": self.memory_bytes,
            "kernel": self.kernel,
            "governor": self.governor,
            "libc": self.libc,
            "load_1min": self.load,
            "versions": self.peers.iter().map(|(name, text)| (*name, text.as_str())).collect::<std::collections::BTreeMap<_, _>>(),
        })
    }
}

fn version(command: &mut Command) -> Option<String> {
    Some(output(command).ok()?.lines().next()?.trim().to_owned())
}

/// The value after `name` and a colon.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_files_are_found_by_name() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n";
        assert_eq!(field(text, "model name").as_deref(), Some("Some CPU @ 2 GHz"));
        assert_eq!(field(text, "MemTotal"), None);
    }
}
