//! What runtimes write into their files: the names of containers where no socket answers.
//!
//! The files may belong to users: only regular files of moderate size are read, and no open waits. Must not know sockets.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};

use super::{identity::Runtime, names::Names};

/// Files that are larger are not read: the largest here, a list of all containers, has some 500 bytes for each.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// Reads a JSON file.
fn json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut options = OpenOptions::new();
    // A pipe in its place would be waited for.
    let file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .ok()?;
    let facts = file.metadata().ok()?;
    if !facts.is_file() || facts.len() > FILE_BYTES_MAX {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let read = serde_json::from_slice(&bytes);
    read.inspect_err(|error| tracing::debug!("{}: {error}", path.display()))
        .ok()
}

/// The folders in a folder.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).collect()
}

/// Docker's `containers/ID/config.v2.json` (daemon/container/container.go of Moby).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Docker {
    #[serde(default)]
    name: String,
    config: DockerConfig,
    #[serde(default)]
    state: DockerState,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerConfig {
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerState {
    #[serde(default)]
    running: bool,
}

/// What Docker's folder of data says of a container.
pub(super) fn docker(root: &Path, id: &str) -> Option<Names> {
    let said: Docker = json(&root.join("containers").join(id).join("config.v2.json"))?;
    let labels = said.config.labels.unwrap_or_default();
    let mut names = Names {
        name: Some(said.name.trim_start_matches('/').to_owned()).filter(|name| !name.is_empty()),
        image: said.config.image,
        runtime: Some(Runtime::Docker),
        has_ended: !said.state.running,
        ..Names::default()
    };
    names.set_pod(&labels);
    names.labels = labels;
    Some(names)
}

/// The bundle of a container: `config.json` of the OCI runtime specification.
#[derive(Deserialize)]
struct Bundle {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// What containerd's folder of tasks says of a container: `NAMESPACE/ID/config.json`.
pub(super) fn containerd(root: &Path, id: &str) -> Option<Names> {
    let bundle = folders(root)
        .into_iter()
        // Docker's own are in `moby`, without a name.
        .filter(|namespace| !namespace.ends_with("moby"))
        .find_map(|namespace| json::<Bundle>(&namespace.join(id).join("config.json")))?;
    let mut names = Names {
        runtime: Some(Runtime::Containerd),
        ..of_annotations(bundle.annotations)
    };
    // The labels that Kubernetes gives are not in the bundle, and its annotations are plumbing.
    names
        .labels
        .retain(|name, _| !name.starts_with("io.kubernetes.cri."));
    Some(names)
}

/// The names among annotations of containerd's CRI, CRI-O and nerdctl.
fn of_annotations(annotations: BTreeMap<String, String>) -> Names {
    let first = |keys: &[&str]| keys.iter().find_map(|key| annotations.get(*key)).cloned();
    let mut names = Names {
        name: first(&[
            "nerdctl/name",
            "io.kubernetes.cri.container-name",
            "io.kubernetes.container.name",
        ]),
        image: first(&[
            "io.kubernetes.cri.image-name",
            "io.kubernetes.cri-o.ImageName",
            "io.kubernetes.cri-o.Image",
            "nerdctl/image-ref",
        ]),
        ..Names::default()
    };
    names.set_pod(&annotations);
    // CRI-O has the labels as the text of a JSON object.
    let labels = annotations.get("io.kubernetes.cri-o.Labels");
    names.labels = labels
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or(annotations);
    names
}

/// An element of containers/storage's list (`Container` in container.go of containers/storage).
#[derive(Deserialize)]
struct Stored {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    /// JSON again, in the words of who stored it.
    #[serde(default)]
    metadata: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct StoredMetadata {
    #[serde(default)]
    image_name: Option<String>,
    #[serde(default)]
    name: Option<String>,
    /// CRI-O's.
    #[serde(default)]
    pod_name: Option<String>,
}

/// What folders of containers/storage say of a container: CRI-O annotates its bundle, Podman has a name in the list.
pub(super) fn storage(roots: &[PathBuf], id: &str) -> Option<Names> {
    // One for each driver: `overlay-containers`, `vfs-containers`.
    let lists: Vec<PathBuf> = roots
        .iter()
        .flat_map(|root| folders(root))
        .filter(|folder| folder.to_string_lossy().ends_with("-containers"))
        .collect();
    stored(&lists, id)
}

/// The same from folders of such lists.
pub(super) fn stored(lists: &[PathBuf], id: &str) -> Option<Names> {
    let bundled = lists
        .iter()
        .find_map(|list| json::<Bundle>(&list.join(id).join("userdata/config.json")))
        .map(|bundle| of_annotations(bundle.annotations));
    if let Some(names) = bundled.filter(|names| names.pod.is_some()) {
        return Some(Names {
            runtime: Some(Runtime::Crio),
            ..names
        });
    }
    let stored = lists.iter().find_map(|list| {
        let all: Vec<Stored> = json(&list.join("containers.json"))?;
        all.into_iter().find(|stored| stored.id == id)
    })?;
    let said: StoredMetadata = serde_json::from_str(&stored.metadata).unwrap_or_default();
    let is_crio = said.pod_name.is_some();
    Some(Names {
        name: said.name.or_else(|| stored.names.into_iter().next()),
        image: said.image_name,
        runtime: Some(if is_crio { Runtime::Crio } else { Runtime::Podman }),
        ..Names::default()
    })
}

/// `ROOT/ID/state.json` of runc (libcontainer's `State`) or `ROOT/ID/status` of crun, as far as it matters here.
#[derive(Deserialize)]
struct Bare {
    /// runc: the folders of its groups, by controller.
    #[serde(default)]
    cgroup_paths: BTreeMap<String, String>,
    /// crun: the path in the hierarchy.
    #[serde(default, rename = "cgroup-path")]
    cgroup_path: Option<String>,
    /// crun: the folder of the bundle.
    #[serde(default)]
    bundle: Option<PathBuf>,
    /// runc: the same, as `bundle=FOLDER` among labels.
    #[serde(default)]
    config: BareConfig,
}

#[derive(Default, Deserialize)]
struct BareConfig {
    #[serde(default)]
    labels: Vec<String>,
}

fn status(runtime: Runtime, root: &Path, id: &str) -> Option<Bare> {
    let name = if runtime == Runtime::Crun {
        "status"
    } else {
        "state.json"
    };
    json(&root.join(id).join(name))
}

/// Containers of runc and crun: the path of a group each is in, the runtime, the id. Of runc that is the path of a folder.
pub(super) fn bare(runtime: Runtime, root: &Path) -> Vec<(String, Runtime, String)> {
    let mut all = Vec::new();
    for folder in folders(root) {
        let Some(id) = folder.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let Some(said) = status(runtime, root, id) else {
            continue;
        };
        let paths = said.cgroup_paths.into_values().chain(said.cgroup_path);
        all.extend(
            paths
                .filter(|path| !path.trim_matches('/').is_empty())
                .map(|path| (path, runtime, id.to_owned())),
        );
    }
    all
}

impl Bare {
    fn bundle(&self) -> Option<PathBuf> {
        let label = |label: &String| label.strip_prefix("bundle=").map(PathBuf::from);
        self.bundle
            .clone()
            .or_else(|| self.config.labels.iter().find_map(label))
    }
}

/// The folder of the list of containers/storage in which the bundle of a container is, `LIST/ID/userdata`: Podman tells
/// runc or crun, wherever its storage is.
pub(super) fn list_of(runtime: Runtime, root: &Path, id: &str) -> Option<PathBuf> {
    let bundle = status(runtime, root, id)?.bundle()?;
    let of_container = bundle.parent().filter(|folder| folder.ends_with(id))?;
    of_container.parent().map(Path::to_owned)
}

/// What the bundle of a container of runc or crun says of it; its name is its id.
pub(super) fn bare_bundle(runtime: Runtime, root: &Path, id: &str) -> Option<Names> {
    let said = status(runtime, root, id)?;
    let bundle = said
        .bundle()
        .and_then(|folder| json::<Bundle>(&folder.join("config.json")));
    let mut names = bundle.map_or_else(Names::default, |bundle| of_annotations(bundle.annotations));
    names.name.get_or_insert_with(|| id.to_owned());
    names.runtime = Some(runtime);
    Some(names)
}
