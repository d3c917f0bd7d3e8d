//! For tests: an interpreter that says which code it has and runs, and waits. Must not know how that is read.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use serde::Deserialize;

use super::installed::Installed;

const SCRIPT: &str = include_str!("speaking.py");

/// A code object, or a frame, in the interpreter's words.
#[derive(Debug, Deserialize)]
pub(super) struct Said {
    /// Address of the frame object; 0 for none.
    pub(super) frame: u64,
    pub(super) code: u64,
    pub(super) name: String,
    pub(super) file: String,
    pub(super) first: u32,
    pub(super) line: Option<u32>,
    table: String,
}

impl Said {
    /// Its line table.
    pub(super) fn table_bytes(&self) -> Vec<u8> {
        (0..self.table.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&self.table[at..at + 2], 16).unwrap())
            .collect()
    }
}

#[derive(Deserialize)]
struct Words {
    code_type: u64,
    codes: Vec<Said>,
    frames: Vec<Said>,
}

/// It ends with this value.
#[derive(Debug)]
pub(super) struct Speaking {
    child: Child,
    /// Address of `PyCode_Type`.
    pub(super) code_type: u64,
    /// Every code object of every function that there is.
    pub(super) codes: Vec<Said>,
    /// The frames of its thread, innermost first.
    pub(super) frames: Vec<Said>,
}

impl Speaking {
    /// Starts one and hears what it has to say.
    pub(super) fn start(python: &Installed) -> Self {
        let mut child = Command::new(&python.program)
            .args(["-c", SCRIPT])
            .env("PYTHONIOENCODING", "utf-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let words: Words = serde_json::from_str(&line).unwrap();
        Self {
            child,
            code_type: words.code_type,
            codes: words.codes,
            frames: words.frames,
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Speaking {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
