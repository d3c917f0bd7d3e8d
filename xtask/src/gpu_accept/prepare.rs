//! What a run needs where there is neither Rust nor a network: the released program, this program, the sources of the
//! programs that are traced.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::compile;
use crate::{
    process::{output, step, workspace},
    test::release_binary,
};

/// So much can be carried along.
const MOST_BYTES: u64 = 64 << 20;

pub(super) fn run(directory: &Path) -> Result<()> {
    step("what a run on a GPU needs");
    let sources = directory.join("gpu");
    fs::create_dir_all(&sources).with_context(|| format!("cannot create {}", sources.display()))?;
    let own = env::current_exe().context("this program's own file is not known")?;
    let mut about = vec![format!("leaktrace {}.", revision())];
    let mut size_bytes = 0;
    for (from, name) in [(release_binary()?, "leaktrace"), (own, "xtask")] {
        let to = directory.join(name);
        carry(&from, &to)?;
        size_bytes += fs::metadata(&to)?.len();
        about.push(needs(&to, name)?);
    }
    size_bytes += copy_sources(&workspace().join("tests/programs/gpu"), &sources)?;
    compile::check_sources(&sources)?;
    let text = about.join("\n");
    fs::write(directory.join("about.txt"), &text).context("cannot write about.txt")?;
    ensure!(
        size_bytes < MOST_BYTES,
        "{} takes {size_bytes} bytes, more than {MOST_BYTES}",
        directory.display()
    );
    println!("{text}");
    println!(
        "{}: {size_bytes} bytes; there: {0}/xtask gpu-accept --prepared {0}",
        directory.display()
    );
    Ok(())
}

/// Without what only a debugger reads: a released program is six times as large with it. Over a file that may be running.
fn carry(from: &Path, to: &Path) -> Result<()> {
    let unfinished = to.with_extension("unfinished");
    let stripped = Command::new("strip")
        .arg("--strip-debug")
        .arg("-o")
        .args([&unfinished, &from.to_path_buf()])
        .status();
    if !stripped.is_ok_and(|status| status.success()) {
        println!("{} is carried whole: no strip (package binutils)", from.display());
        fs::copy(from, &unfinished).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    fs::rename(&unfinished, to).with_context(|| format!("cannot write {}", to.display()))
}

/// The libraries that a program is linked with, and the version of glibc that it asks for.
///
/// It is linked dynamically: leaktrace loads NVML at run time, which a static program cannot.
fn needs(program: &Path, name: &str) -> Result<String> {
    let headers = output(Command::new("objdump").arg("-p").arg(program))?;
    let libraries: Vec<_> = headers
        .lines()
        .filter_map(|line| line.trim().strip_prefix("NEEDED"))
        .map(str::trim)
        .collect();
    let newest = headers
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("GLIBC_"))
        .max_by_key(|version| numbers(version))
        .unwrap_or("?");
    Ok(format!(
        "`{name}` needs glibc {newest} and {}.",
        libraries.join(", ")
    ))
}

/// `2.34` and `2.4` in their order.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// Returns how many bytes there are.
fn copy_sources(from: &Path, to: &Path) -> Result<u64> {
    let unreadable = || format!("cannot read {}", from.display());
    let mut size_bytes = 0;
    for entry in fs::read_dir(from).with_context(unreadable)? {
        let path: PathBuf = entry.with_context(unreadable)?.path();
        let Some(name) = path.file_name().filter(|_| path.is_file()) else {
            continue;
        };
        size_bytes +=
            fs::copy(&path, to.join(name)).with_context(|| format!("cannot copy {}", path.display()))?;
    }
    Ok(size_bytes)
}

/// Of the working tree; what has no history has none.
fn revision() -> String {
    let mut git = Command::new("git");
    git.current_dir(workspace());
    output(git.args(["describe", "--always", "--dirty"])).map_or_else(
        |_no_history| "of an unknown revision".to_owned(),
        |text| text.trim().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(numbers("2.34") > numbers("2.4"));
        assert!(numbers("2.2.5") < numbers("2.3"));
    }
}
