//! `cargo xtask dist`: what a package is made of, in target/dist: the program, its manual page, its
//! completions, the documents.
//!
//! Manual page and completions come out of the program itself, so they cannot disagree with it.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    process::{output, step, workspace},
    test::{release_binary, target_dir},
};

/// Shell, and the name that its completions are installed under.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "leaktrace.bash"),
    ("fish", "leaktrace.fish"),
    ("zsh", "_leaktrace"),
];

const DOCUMENTS: [&str; 2] = ["README.md", "CHANGELOG.md"];

pub(crate) fn run() -> Result<()> {
    step("target/dist");
    let program = release_binary()?;
    let directory = target_dir().join("dist");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;

    copy(&program, &directory.join("leaktrace"))?;
    write(
        &directory.join("leaktrace.1"),
        &output(Command::new(&program).arg("man"))?,
    )?;
    for (shell, name) in COMPLETIONS {
        let script = output(Command::new(&program).args(["completions", shell]))?;
        write(&directory.join(name), &script)?;
    }
    for name in DOCUMENTS {
        copy(&workspace().join(name), &directory.join(name))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    println!("{}", to.display());
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}
