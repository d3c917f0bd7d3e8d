//! Tests of [`super::identify`]: a path of every runtime and driver, in the form that it gives them.

use super::*;

const ID: &str = "b3df0ee6bdc9d7fff3215f0e5dd426d44c34e9370b45cc6042bf7ad9e0f16572";
const OTHER: &str = "1949051302eae62dcbb15d3ff20a3b102b7e311c7dd269fa15d30abb4f7aafb6";
const POD: &str = "0e5e5a7d-6f3b-4a1c-9f0b-6a3a4c7f3a11";
const POD_: &str = "0e5e5a7d_6f3b_4a1c_9f0b_6a3a4c7f3a11";

/// Runtime, id and length of the container's own part of the path, counted in names.
fn found(path: &str) -> Option<(Runtime, String, usize)> {
    let identity = identify(path)?;
    assert!(path.starts_with(&identity.path), "{path}");
    let own = identity.path.split('/').filter(|name| !name.is_empty()).count();
    Some((identity.runtime, identity.id, own))
}

#[test]
fn every_runtime_is_told_by_its_path() {
    use Runtime::{Containerd, Crio, Crun, Docker, Podman, Runc, Unknown};
    let table = [
        (Docker, 2, "/docker/ID"),
        (Docker, 2, "/system.slice/docker-ID.scope"),
        (Docker, 2, "/system.slice/docker-ID.scope/init.scope"),
        (Docker, 2, "/docker/ID/system.slice/nginx.service"),
        (Docker, 4, "/docker/OTHER/docker/ID"),
        (
            Docker,
            5,
            "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope",
        ),
        (Docker, 3, "/ecs/5c1f1f0a0d6a4c6b8a2a1c1e7f6d9a10/ID"),
        (Docker, 4, "/ecs/my-cluster/5c1f1f0a0d6a4c6b8a2a1c1e7f6d9a10/ID"),
        (
            Docker,
            3,
            "/ecstasks.slice/ecstasks-5c1f1f0a0d6a4c6b8a2a1c1e7f6d9a10.slice/docker-ID.scope",
        ),
        (
            Docker,
            4,
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/docker-ID.scope",
        ),
        (Containerd, 4, "/kubepods/besteffort/podUID/ID"),
        (Containerd, 3, "/kubepods/podUID/ID"),
        (
            Containerd,
            3,
            "/kubepods.slice/kubepods-podUID_.slice/cri-containerd-ID.scope",
        ),
        (
            Containerd,
            4,
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUID_.slice/cri-containerd-ID.scope",
        ),
        (
            Containerd,
            3,
            "/system.slice/containerd.service/kubepods-besteffort-podUID_.slice:cri-containerd:ID",
        ),
        (Containerd, 2, "/default/ID"),
        (Containerd, 2, "/k8s.io/ID"),
        (Containerd, 2, "/system.slice/nerdctl-ID.scope"),
        (
            Containerd,
            5,
            "/docker/OTHER/kubelet.slice/kubelet-kubepods.slice/cri-containerd-ID.scope/x",
        ),
        (
            Containerd,
            7,
            "/docker/OTHER/kubelet/kubepods/burstable/podUID/ID",
        ),
        (
            Crio,
            4,
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/crio-ID.scope",
        ),
        (
            Crio,
            4,
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/crio-ID.scope/container",
        ),
        (Crio, 4, "/kubepods/burstable/podUID/crio-ID"),
        (Podman, 2, "/machine.slice/libpod-ID.scope"),
        (Podman, 2, "/machine.slice/libpod-ID.scope/container"),
        (
            Podman,
            3,
            "/machine.slice/machine-libpod_pod_OTHER.slice/libpod-ID.scope/container",
        ),
        (Podman, 2, "/libpod_parent/libpod-ID"),
        (Podman, 3, "/libpod_parent/OTHER/ID"),
        (
            Podman,
            5,
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
        ),
        (Unknown, 2, "/../ID"),
        (Unknown, 1, "/ID"),
        (Runc, 2, "/system.slice/runc-ID.scope"),
        (Crun, 2, "/user.slice/crun-ID.scope"),
    ];
    for (runtime, own, path) in table {
        let path = path
            .replace("OTHER", OTHER)
            .replace("podUID_", &format!("pod{POD_}"))
            .replace("podUID", &format!("pod{POD}"))
            .replace("ID", ID);
        assert_eq!(found(&path), Some((runtime, ID.to_owned(), own)), "{path}");
        let pod = path.contains("kubepods") && path.contains("pod0e5e");
        assert_eq!(
            identify(&path).unwrap().pod_uid,
            pod.then(|| POD.to_owned()),
            "{path}"
        );
    }
}

#[test]
fn those_whose_id_is_a_name_are_told() {
    use Runtime::{Crun, Docker, Lxc, Machine, Runc, Systemd};
    let table = [
        (Lxc, "web", 1, "/lxc.payload.web"),
        (Lxc, "web", 1, "/lxc.payload.web/system.slice/nginx.service"),
        (Lxc, "web", 2, "/lxc/web/init.scope"),
        (
            Machine,
            "deb",
            2,
            "/machine.slice/systemd-nspawn@deb.service/payload/system.slice/ssh.service",
        ),
        (
            Machine,
            "qemu-1-vm",
            2,
            r"/machine.slice/machine-qemu\x2d1\x2dvm.scope",
        ),
        (Systemd, "nginx.service", 2, "/system.slice/nginx.service"),
        (
            Systemd,
            "getty@tty1.service",
            3,
            "/system.slice/system-getty.slice/getty@tty1.service",
        ),
        (
            Systemd,
            "postgresql@15-main.service",
            3,
            r"/system.slice/system-postgresql.slice/postgresql@15-main.service",
        ),
        (
            Systemd,
            "pulse.service",
            5,
            "/user.slice/user-1000.slice/user@1000.service/session.slice/pulse.service",
        ),
        (Systemd, "run-r12.scope", 2, "/system.slice/run-r12.scope"),
        (Systemd, "a-b.service", 2, r"/system.slice/a\x2db.service"),
        // The daemon itself is a service, not a container.
        (Systemd, "docker.service", 2, "/system.slice/docker.service"),
        (Runc, "shop-db", 2, "/system.slice/runc-shop-db.scope"),
        (Crun, "shop", 2, "/user.slice/crun-shop.scope"),
        (
            Docker,
            "5c1f1f0a0d6a4c6b8a2a1c1e7f6d9a10-0123456789",
            3,
            "/ecs/5c1f1f0a0d6a4c6b8a2a1c1e7f6d9a10/5c1f1f0a0d6a4c6b8a2a1c1e7f6d9a10-0123456789",
        ),
    ];
    for (runtime, id, own, path) in table {
        assert_eq!(found(path), Some((runtime, id.to_owned(), own)), "{path}");
    }
}

#[test]
fn what_is_in_no_container_is_in_none() {
    for path in [
        "/",
        "",
        "/user.slice/user-1000.slice/session-3.scope",
        "/init.scope",
        "/system.slice",
        "/process_api/1441beda281d45135b9842ad84570a6f",
        "/docker/buildkit",
        "/docker",
        "/kubepods/besteffort",
        "/lxc.monitor.web",
        "/..",
    ] {
        assert_eq!(found(path), None, "{path}");
    }
    // A monitor is beside its container, not in it.
    let monitor = format!("/libpod_parent/libpod-conmon-{ID}");
    assert_eq!(found(&monitor), None);
    let monitor = format!("/kubepods/burstable/pod{POD}/crio-conmon-{ID}");
    assert_eq!(found(&monitor), None);
}

#[test]
fn a_pod_of_the_kubelets_own_files_has_a_uid_without_dashes() {
    let uid = "0f4ee1f5b2d4c3a29b8e7d6c5b4a3921";
    let path = format!("/kubepods.slice/kubepods-burstable-pod{uid}.slice/crio-{ID}.scope");
    assert_eq!(identify(&path).unwrap().pod_uid.as_deref(), Some(uid));
    assert_eq!(identify(&format!("/podman/{ID}")).unwrap().pod_uid, None);
}

proptest::proptest! {
    #[test]
    fn no_path_makes_it_fail(path in "\\PC*") {
        identify(&path);
    }

    #[test]
    fn what_is_below_a_container_changes_nothing(below in "[a-z]{1,8}(/[a-z.]{1,9}){0,3}") {
        let own = identify(&format!("/docker/{ID}"));
        proptest::prop_assert_eq!(identify(&format!("/docker/{ID}/{below}")), own);
    }
}
