//! The hashes that tie the checked-in object to its sources, in the format of `sha256sum`: `sha256sum
//! --check leaktrace-ebpf/prebuilt/SOURCES.sha256` in the workspace's root verifies them as well.
//!
//! Times would not do: git sets them at checkout.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

/// Everything that decides what the object is; directories stand for all files below them.
const INPUTS: [&str; 4] = [
    "leaktrace-common/src",
    "leaktrace-ebpf/Cargo.lock",
    "leaktrace-ebpf/Cargo.toml",
    "leaktrace-ebpf/src",
];

/// Writes the hashes of the sources and of the object to `list`, a path relative to `root`.
pub(super) fn write(root: &Path, list: &str) -> Result<()> {
    let mut text = String::new();
    for (path, hash) in hashes(root)? {
        writeln!(text, "{hash}  {path}")?;
    }
    fs::write(root.join(list), text).with_context(|| format!("cannot write {list}"))
}

/// Fails, naming the files, unless `list` is what [`write()`] would write now.
pub(super) fn verify(root: &Path, list: &str) -> Result<()> {
    const FIX: &str = "run `cargo xtask ebpf` and commit leaktrace-ebpf/prebuilt";
    let text = fs::read_to_string(root.join(list)).with_context(|| format!("cannot read {list}: {FIX}"))?;
    let changed = differences(&parse(&text), &hashes(root)?);
    ensure!(
        changed.is_empty(),
        "the checked-in BPF object does not belong to its sources ({}): {FIX}",
        changed.join(", ")
    );
    Ok(())
}

/// Hash by path.
type Hashes = BTreeMap<String, String>;

fn parse(text: &str) -> Hashes {
    text.lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(hash, path)| (path.to_owned(), hash.to_owned()))
        .collect()
}

/// Paths that are in one of the two only, or differ.
fn differences(recorded: &Hashes, actual: &Hashes) -> Vec<String> {
    let missing = recorded.keys().filter(|path| !actual.contains_key(*path));
    let changed = actual
        .iter()
        .filter(|(path, hash)| recorded.get(*path) != Some(*hash));
    let mut paths: Vec<_> = missing.chain(changed.map(|(path, _)| path)).cloned().collect();
    paths.sort();
    paths
}

fn hashes(root: &Path) -> Result<Hashes> {
    let mut files = vec![root.join(super::OBJECT)];
    for input in INPUTS {
        collect(&root.join(input), &mut files)?;
    }
    files
        .iter()
        .map(|file| {
            let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            let path = file
                .strip_prefix(root)
                .unwrap_or(file)
                .to_string_lossy()
                .into_owned();
            Ok((path, hex(&Sha256::digest(bytes))))
        })
        .collect()
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let unreadable = || format!("cannot read {}", path.display());
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        // An editor's backup is no source.
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden {
            collect(&entry.path(), files)?;
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a String does not fail.
            let _infallible: std::fmt::Result = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_that_of_sha256sum() {
        // printf abc | sha256sum
        assert_eq!(
            hex(&Sha256::digest(b"abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn changed_added_and_removed_files_are_named() {
        let recorded = parse("1  same\n2  changed\n3  removed\n");
        let actual = parse("1  same\n9  changed\n4  added\n");
        assert_eq!(differences(&recorded, &actual), ["added", "changed", "removed"]);
        assert!(differences(&recorded, &recorded).is_empty());
    }
}
