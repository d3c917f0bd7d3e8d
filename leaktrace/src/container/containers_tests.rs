//! Tests of [`super::Containers`]: trees of groups and what runtimes say, in folders.

use std::{fs, path::Path};

use super::*;
use crate::container::cgroup::{Hierarchy, Mount};

const WEB: &str = "b3df0ee6bdc9d7fff3215f0e5dd426d44c34e9370b45cc6042bf7ad9e0f16572";
const DB: &str = "b3df0e77bdc9d7fff3215f0e5dd426d44c34e9370b45cc6042bf7ad9e0f16573";
const POD: &str = "1949051302eae62dcbb15d3ff20a3b102b7e311c7dd269fa15d30abb4f7aafb6";

/// A machine: two of Docker's, a pod, one of crun, two services.
fn machine(root: &Path) -> Containers {
    let pod = format!("kubepods/burstable/pod0e5e5a7d-6f3b-4a1c-9f0b-6a3a4c7f3a11/{POD}");
    for group in [
        &format!("v2/docker/{WEB}/system.slice/inner.service"),
        &format!("v2/docker/{DB}"),
        &format!("v2/{pod}"),
        "v2/system.slice/nginx.service",
        "v2/system.slice/docker.service",
        "v2/mine/shop/below",
        &format!("memory/docker/{WEB}"),
    ] {
        fs::create_dir_all(root.join(group)).unwrap();
    }
    let write = |path: String, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    for (id, name) in [(WEB, "web"), (DB, "db")] {
        write(
            format!("var/lib/docker/containers/{id}/config.v2.json"),
            &format!(
                r#"{{"Name":"/{name}","State":{{"Running":true}},"Config":{{"Image":"shop:1","Labels":{{"a":"b"}}}}}}"#
            ),
        );
    }
    write(
        format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{POD}/config.json"),
        r#"{"annotations":{"io.kubernetes.cri.container-name":"nginx","io.kubernetes.cri.sandbox-name":"front-7d4",
            "io.kubernetes.cri.sandbox-namespace":"prod"}}"#,
    );
    write(
        "run/crun/till/status".to_owned(),
        r#"{"cgroup-path":"/mine/shop"}"#,
    );
    let mount = |hierarchy, name| Mount {
        hierarchy,
        root: "/".to_owned(),
        point: root.join(name),
    };
    let memory = Hierarchy::V1("memory".to_owned());
    let mounts = vec![mount(memory, "memory"), mount(Hierarchy::V2, "v2")];
    Containers::new(Hierarchies::new(mounts, &[]), Places::below(root))
}

#[test]
fn a_process_is_in_the_container_of_its_groups() {
    let root = tempfile::tempdir().unwrap();
    let mut containers = machine(root.path());
    let text =
        format!("4:memory:/docker/{WEB}\n1:name=systemd:/system.slice/docker.service\n0::/docker/{WEB}/a\n");
    let web = containers.of_text(&text).unwrap();
    assert_eq!(
        (&*web.id, web.runtime, web.name.as_deref()),
        (WEB, Runtime::Docker, Some("web"))
    );
    assert_eq!((web.image.as_deref(), &*web.labels["a"]), (Some("shop:1"), "b"));
    assert_eq!(
        (web.short_id(), web.display_name()),
        ("b3df0ee6bdc9", "web".to_owned())
    );
    // One container is one, whatever text says so.
    let again = containers.of_text(&format!("0::/docker/{WEB}\n")).unwrap();
    assert!(Arc::ptr_eq(&web, &again));

    let mut name = |text: &str| Some(containers.of_text(text)?.display_name());
    assert_eq!(
        name("0::/system.slice/nginx.service\n").as_deref(),
        Some("nginx.service")
    );
    assert_eq!(name("0::/mine/shop/below\n").as_deref(), Some("till"));
    assert_eq!(name("0::/user.slice/user-0.slice/session-1.scope\n"), None);
    assert_eq!(name(""), None);
    let unnamed = format!("0::/system.slice/docker-{}.scope\n", "0".repeat(64));
    assert_eq!(name(&unnamed).as_deref(), Some("000000000000"));
    let pod = containers.of_text(&format!(
        "0::/kubepods/burstable/pod0e5e5a7d-6f3b-4a1c-9f0b-6a3a4c7f3a11/{POD}\n"
    ));
    assert_eq!(pod.unwrap().display_name(), "prod/front-7d4/nginx");
}

#[test]
fn names_ids_pods_and_units_are_resolved() {
    let root = tempfile::tempdir().unwrap();
    let mut containers = machine(root.path());
    let mut of = |text: &str| {
        let found = containers.resolve(text).unwrap();
        assert_eq!(found.len(), 1, "{text}");
        let paths: Vec<String> = found[0].1.iter().map(|cgroup| cgroup.path.clone()).collect();
        (found[0].0.display_name(), paths)
    };
    let web = ("web".to_owned(), vec![format!("/docker/{WEB}"); 2]);
    assert_eq!(of("web"), web);
    assert_eq!(of(WEB), web);
    assert_eq!(of("b3df0ee"), web);
    assert_eq!(of("db").0, "db");
    for text in ["front-7d4", "prod/front-7d4", "prod/front-7d4/nginx", &POD[..8]] {
        assert_eq!(of(text).0, "prod/front-7d4/nginx", "{text}");
    }
    // The container in a pod is called so by its runtime; the service needs its suffix then.
    assert_eq!(of("nginx").0, "prod/front-7d4/nginx");
    assert_eq!(
        of("nginx.service"),
        (
            "nginx.service".to_owned(),
            vec!["/system.slice/nginx.service".to_owned()]
        )
    );
    assert_eq!(of("docker").0, "docker.service");
    assert_eq!(of("till"), ("till".to_owned(), vec!["/mine/shop".to_owned()]));
}

#[test]
fn errors_say_what_is_there() {
    let root = tempfile::tempdir().unwrap();
    let mut containers = machine(root.path());
    let mut said = |text: &str| containers.resolve(text).unwrap_err().to_string();
    assert_eq!(
        said("webb"),
        "no container, pod or unit is called webb; there are db (b3df0e77bdc9), prod/front-7d4/nginx (1949051302ea), \
         till, web (b3df0ee6bdc9); name one of those"
            .replace("1949051302ea", &POD[..12])
    );
    assert_eq!(
        said("b3df0e"),
        "b3df0e begins the ids of db (b3df0e77bdc9), web (b3df0ee6bdc9); write more digits or a name"
    );
    // Too few digits stand for nothing.
    assert!(said("b3df0").starts_with("no container"));
    assert!(said("").starts_with("no container"));
    let mut nothing = Containers::new(Hierarchies::default(), Places::default());
    let said = nothing.resolve("web").unwrap_err().to_string();
    assert!(said.contains("no container is to be seen from here"), "{said}");
}

#[test]
fn what_the_runtime_knows_and_has_no_group_has_ended_or_is_hidden() {
    let known = |has_ended| {
        let names = Names {
            name: Some("web".to_owned()),
            runtime: Some(Runtime::Docker),
            has_ended,
            ..Names::default()
        };
        HashMap::from([(WEB.to_owned(), names)])
    };
    let said = |has_ended, text| without_groups(&known(has_ended), text).map(|error| error.to_string());
    assert!(
        said(true, "web")
            .unwrap()
            .starts_with("docker container web has no processes")
    );
    assert!(
        said(false, &WEB[..7])
            .unwrap()
            .contains("cannot be seen from here")
    );
    assert_eq!(said(true, "other"), None);
}
