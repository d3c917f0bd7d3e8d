//! Tests of [`super::Namer`]: folders with what runtimes write, and daemons that answer.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixListener,
    thread,
};

use super::*;

const ID: &str = "b3df0ee6bdc9d7fff3215f0e5dd426d44c34e9370b45cc6042bf7ad9e0f16572";

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path.replace("ID", ID));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text.replace("ID", ID)).unwrap();
}

fn names(root: &Path, runtime: Runtime) -> Option<Names> {
    Namer::new(Places::below(root)).of(runtime, ID)
}

fn name_and_image(names: &Names) -> (Option<&str>, Option<&str>) {
    (names.name.as_deref(), names.image.as_deref())
}

#[test]
fn docker_keeps_a_file_for_each() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        "var/lib/docker/containers/ID/config.v2.json",
        r#"{"ID":"ID","Name":"/web","State":{"Running":true,"Pid":7},
            "Config":{"Hostname":"b3df","Image":"nginx:1","Labels":{"app":"sh\u001b[1mop"}}}"#,
    );
    for runtime in [Runtime::Docker, Runtime::Unknown] {
        let said = names(root.path(), runtime).unwrap();
        assert_eq!(name_and_image(&said), (Some("web"), Some("nginx:1")));
        assert_eq!(
            (&*said.labels["app"], said.runtime),
            ("sh\u{fffd}[1mop", Some(Runtime::Docker))
        );
        assert!(!said.has_ended);
    }
    assert_eq!(names(root.path(), Runtime::Podman), None);
    assert_eq!(names(root.path(), Runtime::Systemd), None);
}

#[test]
fn containerd_annotates_its_bundles() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        "run/containerd/io.containerd.runtime.v2.task/k8s.io/ID/config.json",
        r#"{"ociVersion":"1.1.0","annotations":{
            "io.kubernetes.cri.container-name":"nginx","io.kubernetes.cri.container-type":"container",
            "io.kubernetes.cri.image-name":"docker.io/library/nginx:1","io.kubernetes.cri.sandbox-name":"web-7d4",
            "io.kubernetes.cri.sandbox-namespace":"shop","io.kubernetes.cri.sandbox-uid":"0e5e"}}"#,
    );
    let said = names(root.path(), Runtime::Containerd).unwrap();
    assert_eq!(
        name_and_image(&said),
        (Some("nginx"), Some("docker.io/library/nginx:1"))
    );
    let pod = said.pod.unwrap();
    assert_eq!(pod.namespace.as_deref(), Some("shop"));
    assert_eq!(
        (pod.name.as_deref(), pod.uid.as_deref()),
        (Some("web-7d4"), Some("0e5e"))
    );
    assert_eq!(pod.container.as_deref(), Some("nginx"));
    assert!(said.labels.is_empty());
}

#[test]
fn crio_annotates_and_podman_lists() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        "var/lib/containers/storage/overlay-containers/containers.json",
        r#"[{"id":"00","names":["x"]},{"id":"ID","names":["web"],
            "metadata":"{\"image-name\":\"localhost/shop:2\",\"image-id\":\"\",\"name\":\"web\"}"}]"#,
    );
    write(
        root.path(),
        "run/containers/storage/overlay-containers/ID/userdata/config.json",
        r#"{"annotations":{"io.container.manager":"libpod"}}"#,
    );
    let said = names(root.path(), Runtime::Podman).unwrap();
    assert_eq!(name_and_image(&said), (Some("web"), Some("localhost/shop:2")));
    assert_eq!((said.runtime, said.pod), (Some(Runtime::Podman), None));

    write(
        root.path(),
        "run/containers/storage/overlay-containers/ID/userdata/config.json",
        r#"{"annotations":{"io.kubernetes.container.name":"nginx","io.kubernetes.pod.name":"web-7d4",
            "io.kubernetes.pod.namespace":"shop","io.kubernetes.cri-o.ImageName":"quay.io/nginx:1",
            "io.kubernetes.cri-o.Labels":"{\"app\":\"shop\"}"}}"#,
    );
    let said = names(root.path(), Runtime::Crio).unwrap();
    assert_eq!(name_and_image(&said), (Some("nginx"), Some("quay.io/nginx:1")));
    assert_eq!(
        (&*said.labels["app"], said.runtime),
        ("shop", Some(Runtime::Crio))
    );
    assert_eq!(said.pod.unwrap().name.as_deref(), Some("web-7d4"));
}

#[test]
fn rootless_podman_keeps_its_list_at_home() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        "home/ada/.local/share/containers/storage/vfs-containers/containers.json",
        r#"[{"id":"ID","names":["web"],"metadata":"no json"}]"#,
    );
    let said = names(root.path(), Runtime::Podman).unwrap();
    assert_eq!(name_and_image(&said), (Some("web"), None));
}

#[test]
fn a_storage_elsewhere_is_found_by_the_runtime_below() {
    let root = tempfile::tempdir().unwrap();
    let bundle = format!(
        "{}/elsewhere/overlay-containers/{ID}/userdata",
        root.path().display()
    );
    write(
        root.path(),
        "run/runc/ID/state.json",
        &format!(r#"{{"config":{{"labels":["bundle={bundle}"]}}}}"#),
    );
    write(
        root.path(),
        "elsewhere/overlay-containers/containers.json",
        r#"[{"id":"ID","names":["web"],"metadata":"{}"}]"#,
    );
    let said = names(root.path(), Runtime::Podman).unwrap();
    assert_eq!(name_and_image(&said), (Some("web"), None));
}

#[test]
fn containers_of_runc_and_crun_have_their_groups_in_their_state() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        "run/crun/shop/status",
        r#"{"pid":7,"cgroup-path":"/shop","bundle":"BUNDLE"}"#.replace("BUNDLE", root.path().to_str().unwrap()).as_str(),
    );
    write(root.path(), "config.json", r#"{"annotations":{"a":"b"}}"#);
    write(
        root.path(),
        "run/runc/db/state.json",
        r#"{"id":"db","init_process_pid":7,"cgroup_paths":{"memory":"/sys/fs/cgroup/memory/db","cpu":"/"},
            "config":{"labels":["bundle=/none"]}}"#,
    );
    write(root.path(), "run/runc/broken/state.json", "{");
    let mut namer = Namer::new(Places::below(root.path()));
    let mut all = namer.bare();
    all.sort();
    assert_eq!(
        all,
        [
            ("/shop".to_owned(), Runtime::Crun, "shop".to_owned()),
            (
                "/sys/fs/cgroup/memory/db".to_owned(),
                Runtime::Runc,
                "db".to_owned()
            ),
        ]
    );
    let shop = namer.of(Runtime::Crun, "shop").unwrap();
    assert_eq!((shop.name.as_deref(), &*shop.labels["a"]), (Some("shop"), "b"));
    assert_eq!(namer.of(Runtime::Runc, "db").unwrap().name.as_deref(), Some("db"));
}

#[test]
fn a_pipe_in_place_of_a_file_is_not_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("var/lib/docker/containers").join(ID);
    fs::create_dir_all(&folder).unwrap();
    nix::unistd::mkfifo(&folder.join("config.v2.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(names(root.path(), Runtime::Docker), None);
}

#[test]
fn a_socket_is_asked_first_and_left_alone_when_it_is_silent() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        "var/lib/docker/containers/ID/config.v2.json",
        r#"{"Name":"/by-file","Config":{}}"#,
    );
    let socket = root.path().join("run/docker.sock");
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let daemon = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 4096];
        let count = stream.read(&mut asked).unwrap();
        assert!(String::from_utf8_lossy(&asked[..count]).contains(ID));
        let answer = format!(r#"[{{"Id":"{ID}","Names":["/by-socket"],"State":"running"}}]"#);
        write!(stream, "HTTP/1.0 200 OK\r\n\r\n{answer}").unwrap();
        drop(stream);
        listener
    });
    let mut namer = Namer::new(Places::below(root.path()));
    let said = namer.of(Runtime::Docker, ID).unwrap();
    assert_eq!(said.name.as_deref(), Some("by-socket"));
    // From now on nobody answers: the connection is taken by the backlog alone.
    let _listener = daemon.join().unwrap();
    for _ in 0..3 {
        let said = namer.of(Runtime::Docker, ID).unwrap();
        assert_eq!(said.name.as_deref(), Some("by-file"));
        assert_eq!(namer.silent.len(), 1);
    }
    assert_eq!(namer.all(), []);
}
