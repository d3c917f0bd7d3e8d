//! What the HTTP API of Docker says of containers; Podman speaks the same.
//!
//! Must not know files of runtimes.

use std::{collections::BTreeMap, io, path::Path, time::Duration};

use serde::Deserialize;

use super::{http, identity::Runtime, names::Names};

/// Asks for all containers, those that have ended too (Docker Engine API, `ContainerList`).
pub(super) const ALL: &str = "/containers/json?all=1";

/// Asks for the one with an id.
pub(super) fn one(id: &str) -> String {
    // {"id":["..."]}
    let id: String = id.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{ALL}&filters=%7B%22id%22%3A%5B%22{id}%22%5D%7D")
}

/// An element of the answer, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    state: Option<String>,
}

/// Ids and names of the containers that a daemon lists.
///
/// # Errors
/// Those of [`http::get`]; [`io::ErrorKind::InvalidData`] for an answer of another form.
pub(super) fn ask(
    runtime: Runtime,
    socket: &Path,
    target: &str,
    limit: Duration,
) -> io::Result<Vec<(String, Names)>> {
    read(runtime, &http::get(socket, target, limit)?)
}

fn read(runtime: Runtime, answer: &[u8]) -> io::Result<Vec<(String, Names)>> {
    let listed: Vec<Listed> = serde_json::from_slice(answer)?;
    Ok(listed
        .into_iter()
        .map(|listed| {
            let labels = listed.labels.unwrap_or_default();
            let mut names = Names {
                // A link to a container is another name for it, with two slashes.
                name: listed
                    .names
                    .unwrap_or_default()
                    .iter()
                    .map(|name| name.trim_start_matches('/'))
                    .find(|name| !name.contains('/'))
                    .map(str::to_owned),
                image: listed.image.filter(|image| !image.is_empty()),
                runtime: Some(runtime).filter(|runtime| *runtime != Runtime::Unknown),
                has_ended: matches!(
                    listed.state.as_deref(),
                    Some(
                        "created" | "exited" | "dead" | "removing" | "stopped" | "configured" | "initialized"
                    )
                ),
                ..Names::default()
            };
            names.set_pod(&labels);
            names.labels = labels;
            (listed.id, names)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_containers_is_read() {
        let answer = br#"[
            {"Id":"ab","Names":["/other/alias","/web"],"Image":"nginx:1","ImageID":"sha256:0","Labels":{"app":"shop"},
             "State":"running","Status":"Up 2 hours","Ports":[]},
            {"Id":"cd","Names":null,"Image":"","Labels":null,"State":"exited"},
            {"Id":"ef"},
            {"Id":"01","Names":["/k8s_POD_a_b_c_0"],"Labels":{"io.kubernetes.pod.name":"a",
             "io.kubernetes.container.name":"POD","io.kubernetes.pod.namespace":"b"}}
        ]"#;
        let listed = read(Runtime::Docker, answer).unwrap();
        assert_eq!(listed.len(), 4);
        let (id, web) = &listed[0];
        assert_eq!(
            (&**id, web.name.as_deref(), web.image.as_deref()),
            ("ab", Some("web"), Some("nginx:1"))
        );
        assert_eq!(
            (&*web.labels["app"], web.has_ended, &web.pod),
            ("shop", false, &None)
        );
        assert!(listed[1].1.has_ended && listed[1].1.name.is_none() && listed[1].1.image.is_none());
        assert!(!listed[2].1.has_ended);
        let pod = listed[3].1.pod.as_ref().unwrap();
        assert_eq!(
            (pod.name.as_deref(), pod.namespace.as_deref()),
            (Some("a"), Some("b"))
        );
        assert_eq!(pod.container, None);
        assert!(read(Runtime::Docker, b"{}").is_err());
    }

    #[test]
    fn a_question_holds_nothing_but_the_id() {
        assert_eq!(
            one("ab\r\nX: y"),
            "/containers/json?all=1&filters=%7B%22id%22%3A%5B%22abXy%22%5D%7D"
        );
    }
}
