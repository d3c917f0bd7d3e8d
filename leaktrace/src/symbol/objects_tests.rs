//! Tests of [`super::Objects`], some with layers of overlayfs as containers have them.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::*;

fn open(path: &Path) -> File {
    File::open(path).unwrap()
}

#[test]
fn one_file_under_two_names_is_one_object() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a"), folder.path().join("b"));
    fs::write(&first, "text").unwrap();
    fs::hard_link(&first, &second).unwrap();
    let mut objects = Objects::new();
    let id = objects.insert(&first, open(&first)).unwrap();
    assert_eq!(objects.insert(&second, open(&second)).unwrap(), id);
    assert_eq!(objects.len(), 1);
    let object = objects.get(id).unwrap();
    assert!(!object.is_elf && object.build_id.is_none());
    assert_eq!(objects.find(object.device, object.inode), Some(id));
    assert_eq!(objects.get(ObjectId(1)).map(|object| object.inode), None);
}

#[test]
fn path_falls_back_to_the_descriptor_when_the_name_leads_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lib.so");
    fs::write(&path, "old").unwrap();
    let mut objects = Objects::new();
    let id = objects.insert(&path, open(&path)).unwrap();
    assert_eq!(objects.get(id).unwrap().usable_path(), path);

    fs::write(folder.path().join("new"), "new").unwrap();
    fs::rename(folder.path().join("new"), &path).unwrap();
    let usable = objects.get(id).unwrap().usable_path();
    assert_ne!(usable, path);
    assert_eq!(fs::read_to_string(&usable).unwrap(), "old");
    assert_ne!(objects.insert(&path, open(&path)).unwrap(), id);

    fs::remove_file(&path).unwrap();
    assert_eq!(fs::read_to_string(usable).unwrap(), "old");
}

#[test]
fn an_empty_file_is_no_elf_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty");
    fs::write(&path, "").unwrap();
    let mut objects = Objects::new();
    let id = objects.insert(&path, open(&path)).unwrap();
    assert!(!objects.get(id).unwrap().is_elf);
}

/// A mount of overlayfs over a folder `lower`, as a container has it; taken away at the end.
struct Layers {
    merged: PathBuf,
}

impl Layers {
    /// None where this may not be done: it needs root.
    fn mount(folder: &Path, name: &str) -> Option<Self> {
        let at = |part: &str| folder.join(format!("{name}-{part}"));
        for part in ["upper", "work", "merged"] {
            fs::create_dir(at(part)).unwrap();
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            folder.join("lower").display(),
            at("upper").display(),
            at("work").display()
        );
        let status = Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", &options])
            .arg(at("merged"))
            .output();
        let is_there = status.is_ok_and(|output| output.status.success());
        is_there.then(|| Self { merged: at("merged") })
    }

    fn unmount(&self) {
        // Lazily: files of it may be open.
        let _status = Command::new("umount").arg("-l").arg(&self.merged).output();
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Two containers of an image in which there is this very test, as an ELF file, and `data`.
fn two_containers(folder: &Path) -> Option<(Layers, Layers)> {
    fs::create_dir(folder.join("lower")).unwrap();
    fs::copy(std::env::current_exe().unwrap(), folder.join("lower/program")).unwrap();
    fs::write(folder.join("lower/data"), "data").unwrap();
    let both = Layers::mount(folder, "a").zip(Layers::mount(folder, "b"));
    if both.is_none() {
        eprintln!("SKIPPED: overlayfs cannot be mounted here");
    }
    both
}

#[test]
fn a_file_of_one_layer_is_one_object_in_all_containers() {
    let folder = tempfile::tempdir().unwrap();
    let Some((a, b)) = two_containers(folder.path()) else {
        return;
    };
    let mut objects = Objects::new();
    for name in ["program", "data"] {
        let mut insert = |path: &Path| objects.insert(path, open(path)).unwrap();
        let id = insert(&a.merged.join(name));
        assert_eq!(insert(&b.merged.join(name)), id, "{name}");
        assert_eq!(insert(&folder.path().join("lower").join(name)), id, "{name}");
        // Under all its numbers.
        assert_eq!(insert(&b.merged.join(name)), id, "{name}");
    }
    assert_eq!(objects.len(), 2);
    // Equal bytes in another file are another object with the same code.
    let copy = folder.path().join("copy");
    fs::copy(folder.path().join("lower/program"), &copy).unwrap();
    let id = objects.insert(&copy, open(&copy)).unwrap();
    assert_eq!((id, objects.first_alike(id)), (ObjectId(2), ObjectId(0)));
}

#[test]
fn a_file_that_a_container_changes_is_another_one_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let Some((a, b)) = two_containers(folder.path()) else {
        return;
    };
    let mut objects = Objects::new();
    let (in_a, in_b) = (a.merged.join("program"), b.merged.join("program"));
    let first = objects.insert(&in_a, open(&in_a)).unwrap();
    assert_eq!(objects.insert(&in_b, open(&in_b)).unwrap(), first);
    let numbers = |path: &Path| {
        fs::metadata(path)
            .map(|facts| (facts.dev(), facts.ino()))
            .unwrap()
    };
    let before = numbers(&in_b);
    fs::set_permissions(&in_b, fs::Permissions::from_mode(0o700)).unwrap();
    // It is copied up and keeps its numbers.
    assert_eq!(numbers(&in_b), before);
    let changed = objects.insert(&in_b, open(&in_b)).unwrap();
    assert_ne!(changed, first);
    assert_eq!(objects.insert(&in_b, open(&in_b)).unwrap(), changed);
    assert_eq!(objects.insert(&in_a, open(&in_a)).unwrap(), first);
}

#[test]
fn a_file_that_grows_in_a_container_stays_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let Some((a, _)) = two_containers(folder.path()) else {
        return;
    };
    let mut objects = Objects::new();
    let path = a.merged.join("dump");
    fs::write(&path, "begin").unwrap();
    let id = objects.insert(&path, open(&path)).unwrap();
    fs::write(&path, "begin, and more").unwrap();
    assert_eq!(objects.insert(&path, open(&path)).unwrap(), id);
}

#[test]
fn an_object_outlives_the_container_in_which_it_was_seen_first() {
    let folder = tempfile::tempdir().unwrap();
    let Some((a, b)) = two_containers(folder.path()) else {
        return;
    };
    let mut objects = Objects::new();
    let (in_a, in_b) = (a.merged.join("program"), b.merged.join("program"));
    let id = objects.insert(&in_a, open(&in_a)).unwrap();
    // As a process has it mapped.
    let mapped_in_b = open(&in_b);
    a.unmount();
    fs::remove_file(folder.path().join("lower/program")).unwrap();
    let usable = objects.get(id).unwrap().usable_path();
    assert!(starts_as_elf(&open(&usable)));
    assert_eq!(objects.insert(&in_b, mapped_in_b).unwrap(), id);
}
