//! Looks into a target's code: which of its instructions differ from the file that they were mapped
//! from. In a process without relocated code those are the breakpoints.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

/// One differing byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breakpoint {
    /// The mapped file, as /proc/PID/maps has it.
    pub object: String,
    /// Offset in the file.
    pub offset: u64,
}

/// All differences between the executable mappings of a process and their files. Empty for a process
/// that has gone.
pub fn breakpoints(pid: u32) -> Vec<Breakpoint> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let Ok(memory) = File::open(format!("/proc/{pid}/mem")) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(mode), Some(offset)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let object = fields.nth(2).unwrap_or_default();
        if !mode.contains('x') || !object.starts_with('/') {
            continue;
        }
        let Some((start, end)) = range.split_once('-') else {
            continue;
        };
        let (start, end, offset) = (hexadecimal(start), hexadecimal(end), hexadecimal(offset));
        // By this way a deleted file can be read too. Its names have no leading zeros, those of maps have.
        let Ok(file) = File::open(format!("/proc/{pid}/map_files/{start:x}-{end:x}")) else {
            continue;
        };
        let (mut there, mut here) = (vec![0; (end - start) as usize], vec![0; (end - start) as usize]);
        if memory.read_exact_at(&mut there, start).is_err() {
            continue;
        }
        // The last page of a file may be short.
        let mut filled = 0;
        while let Ok(read @ 1..) = file.read_at(&mut here[filled..], offset + filled as u64) {
            filled += read;
        }
        for (index, _) in there[..filled]
            .iter()
            .zip(&here[..filled])
            .enumerate()
            .filter(|(_, (a, b))| a != b)
        {
            found.push(Breakpoint {
                object: object.to_owned(),
                offset: offset + index as u64,
            });
        }
    }
    found
}

fn hexadecimal(digits: &str) -> u64 {
    u64::from_str_radix(digits, 16).expect("/proc/PID/maps has hexadecimal numbers")
}
