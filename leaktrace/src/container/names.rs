//! What people call a container: asked of its runtime's socket where that answers, else read from the runtime's files.
//!
//! Must not know control groups nor processes: it is given an id.

use std::{
    collections::{BTreeMap, HashMap},
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{identity::Runtime, sockets, state};
use crate::probe::process::other_root;

/// How long a runtime may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_millis(300);

/// How long a socket that did not answer is left alone: with many containers each would wait for it again.
const SILENCE: Duration = Duration::from_secs(30);

/// The Kubernetes pod of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// The container's name in it; none for the one that only holds the namespaces.
    pub container: Option<String>,
    /// Its uid, with dashes.
    pub uid: Option<String>,
}

/// What is known of a container beside its id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Its name.
    pub name: Option<String>,
    /// Its image, as it was named when it was started.
    pub image: Option<String>,
    /// Labels, in the runtime's own words.
    pub labels: BTreeMap<String, String>,
    /// The pod, if it is in one.
    pub pod: Option<Pod>,
    /// Whose it is, if who says so knows: a path alone does not always tell.
    pub runtime: Option<Runtime>,
    /// Whether the runtime says that it has ended, or has not begun.
    pub has_ended: bool,
}

impl Names {
    /// The pod that labels and annotations speak of: those of the kubelet (Docker, CRI-O: pkg/kubelet/types/labels.go in
    /// Kubernetes) and those of containerd (internal/cri/annotations/annotations.go, 2.0).
    pub(super) fn set_pod(&mut self, said: &BTreeMap<String, String>) {
        let one_of = |names: [&str; 2]| names.iter().find_map(|name| said.get(*name)).cloned();
        let pod = Pod {
            namespace: one_of([
                "io.kubernetes.pod.namespace",
                "io.kubernetes.cri.sandbox-namespace",
            ]),
            name: one_of(["io.kubernetes.pod.name", "io.kubernetes.cri.sandbox-name"]),
            // Docker's shim and CRI-O call the one that only holds namespaces POD.
            container: one_of(["io.kubernetes.container.name", "io.kubernetes.cri.container-name"])
                .filter(|name| name != "POD"),
            uid: one_of(["io.kubernetes.pod.uid", "io.kubernetes.cri.sandbox-uid"]),
        };
        if pod.name.is_some() {
            self.pod = Some(pod);
        }
    }

    /// The same without control characters: who starts a container chooses its words, and they go to a terminal.
    fn printable(mut self) -> Self {
        let clean = |text: &mut String| {
            if text.chars().any(char::is_control) {
                *text = text.replace(char::is_control, "\u{fffd}");
            }
        };
        self.name.iter_mut().chain(&mut self.image).for_each(clean);
        // Podman writes down an empty image for a folder that is used as one.
        self.name.take_if(|name| name.is_empty());
        self.image.take_if(|image| image.is_empty());
        self.labels.values_mut().for_each(clean);
        if let Some(pod) = &mut self.pod {
            let fields = [
                &mut pod.namespace,
                &mut pod.name,
                &mut pod.container,
                &mut pod.uid,
            ];
            fields.into_iter().flatten().for_each(clean);
        }
        self
    }
}

/// Where runtimes listen and where they keep their files.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Sockets that speak Docker's HTTP API, and whose they are.
    pub sockets: Vec<(Runtime, PathBuf)>,
    /// Docker's folders of data.
    pub docker: Vec<PathBuf>,
    /// Folders of containers/storage, which CRI-O and Podman keep.
    pub storage: Vec<PathBuf>,
    /// containerd's folders of tasks.
    pub containerd: Vec<PathBuf>,
    /// Folders in which runc and crun keep a folder for each container.
    pub bare: Vec<(Runtime, PathBuf)>,
}

impl Places {
    /// Those of this machine: of leaktrace's own file system, and of the first process's where that is another one.
    pub fn here() -> Self {
        let mut places = Self::default();
        // Either may lead to the other's.
        for name in ["DOCKER_HOST", "CONTAINER_HOST"] {
            let host = env::var(name).unwrap_or_default();
            if let Some(path) = host.strip_prefix("unix://") {
                places.sockets.push((Runtime::Unknown, PathBuf::from(path)));
            }
        }
        places.add_below(Path::new("/"));
        if other_root(1).is_some() {
            places.add_below(Path::new("/proc/1/root"));
        }
        places
    }

    /// Those of a file system.
    pub fn below(root: &Path) -> Self {
        let mut places = Self::default();
        places.add_below(root);
        places
    }

    fn add_below(&mut self, root: &Path) {
        let at = |path: &str| root.join(path);
        self.sockets.push((Runtime::Docker, at("run/docker.sock")));
        // Mostly a link to /run, which in another file system would lead to ours.
        if at("var/run").symlink_metadata().is_ok_and(|facts| facts.is_dir()) {
            self.sockets.push((Runtime::Docker, at("var/run/docker.sock")));
        }
        self.sockets.push((Runtime::Podman, at("run/podman/podman.sock")));
        self.docker.push(at("var/lib/docker"));
        self.storage
            .extend([at("run/containers/storage"), at("var/lib/containers/storage")]);
        self.containerd
            .push(at("run/containerd/io.containerd.runtime.v2.task"));
        self.add_bare(&at("run"));
        // Without root each user has their own.
        for home in folders(&at("home")).into_iter().chain([at("root")]) {
            self.docker.push(home.join(".local/share/docker"));
            self.storage.push(home.join(".local/share/containers/storage"));
        }
        for run in folders(&at("run/user")) {
            self.sockets.push((Runtime::Docker, run.join("docker.sock")));
            self.sockets
                .push((Runtime::Podman, run.join("podman/podman.sock")));
            self.storage.push(run.join("containers"));
            self.add_bare(&run);
        }
    }

    fn add_bare(&mut self, run: &Path) {
        self.bare.extend([
            (Runtime::Runc, run.join("runc")),
            (Runtime::Crun, run.join("crun")),
        ]);
    }
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries
        .flatten()
        .filter(is_folder)
        .map(|entry| entry.path())
        .collect()
}

/// Asks for names.
#[derive(Debug)]
pub struct Namer {
    places: Places,
    /// Sockets that did not answer, and until when they are left alone.
    silent: HashMap<PathBuf, Instant>,
}

impl Namer {
    /// With these places to look at.
    pub fn new(places: Places) -> Self {
        Self {
            places,
            silent: HashMap::new(),
        }
    }

    /// What the container with this full id is called; none where nobody here says so. It waits for each socket
    /// 300 ms at the most.
    pub fn of(&mut self, runtime: Runtime, id: &str) -> Option<Names> {
        let speaks = match runtime {
            Runtime::Docker | Runtime::Podman => Some(runtime),
            // A pod's container by its id alone may be Docker's as well.
            Runtime::Containerd | Runtime::Unknown => None,
            Runtime::Crio | Runtime::Runc | Runtime::Crun => return self.of_files(runtime, id),
            Runtime::Lxc | Runtime::Machine | Runtime::Systemd => return None,
        };
        let by_files_first = (runtime == Runtime::Containerd)
            .then(|| self.of_files(runtime, id))
            .flatten();
        by_files_first
            .or_else(|| self.of_sockets(speaks, id))
            .or_else(|| self.of_files(runtime, id))
            .map(Names::printable)
    }

    fn of_sockets(&mut self, speaks: Option<Runtime>, id: &str) -> Option<Names> {
        let target = sockets::one(id);
        let listed = self.ask(speaks, &target);
        listed
            .into_iter()
            .find(|(other, _)| other == id)
            .map(|(_, names)| names)
    }

    fn of_files(&self, runtime: Runtime, id: &str) -> Option<Names> {
        let Places {
            docker,
            storage,
            containerd,
            bare,
            ..
        } = &self.places;
        let is = |one: Runtime| runtime == one || runtime == Runtime::Unknown;
        let of_docker = || docker.iter().find_map(|root| state::docker(root, id));
        // Where that is elsewhere, the runtime below knows.
        let of_storage = || {
            state::storage(storage, id).or_else(|| {
                let lists = bare.iter().filter_map(|(of, root)| state::list_of(*of, root, id));
                state::stored(&lists.collect::<Vec<_>>(), id)
            })
        };
        let of_containerd = || containerd.iter().find_map(|root| state::containerd(root, id));
        let of_bare = || {
            bare.iter()
                .find_map(|(of, root)| state::bare_bundle(*of, root, id))
        };
        None.or_else(|| is(Runtime::Docker).then(of_docker).flatten())
            .or_else(|| {
                (is(Runtime::Podman) || is(Runtime::Crio))
                    .then(of_storage)
                    .flatten()
            })
            .or_else(|| is(Runtime::Containerd).then(of_containerd).flatten())
            .or_else(|| (is(Runtime::Runc) || is(Runtime::Crun)).then(of_bare).flatten())
            .map(Names::printable)
    }

    /// All containers that sockets name, those that have ended too: ids and names.
    pub fn all(&mut self) -> Vec<(String, Names)> {
        let listed = self.ask(None, sockets::ALL);
        listed
            .into_iter()
            .map(|(id, names)| (id, names.printable()))
            .collect()
    }

    /// Containers of runc and crun that are in no other runtime's hands or whose groups have names of people's choice: the
    /// path of the group, the runtime and the id.
    pub fn bare(&self) -> Vec<(String, Runtime, String)> {
        self.places
            .bare
            .iter()
            .flat_map(|(runtime, root)| state::bare(*runtime, root))
            .collect()
    }

    /// What the sockets answer that speak for a runtime, or for any.
    fn ask(&mut self, speaks: Option<Runtime>, target: &str) -> Vec<(String, Names)> {
        let now = Instant::now();
        self.silent.retain(|_, until| *until > now);
        let mut listed = Vec::new();
        for (runtime, path) in &self.places.sockets {
            let is_other = speaks.is_some_and(|speaks| *runtime != Runtime::Unknown && *runtime != speaks);
            if is_other || self.silent.contains_key(path) {
                continue;
            }
            match sockets::ask(*runtime, path, target, ANSWER_LIMIT) {
                Ok(answer) => listed.extend(answer),
                Err(error) => {
                    // Most sockets are simply not there, which is found out at once.
                    if path.exists() {
                        tracing::info!("{runtime} at {} does not answer: {error}", path.display());
                        self.silent.insert(path.clone(), now + SILENCE);
                    }
                }
            }
        }
        listed
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
