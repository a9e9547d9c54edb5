//! One namespace stands for the whole cluster: who reads the objects of all namespaces is shown those of one. So operators
//! that watch everything share a control plane, and none sees another's objects.

/// Kinds of the cluster itself: they are passed on.
const OF_THE_CLUSTER: &[&str] = &["nodes"];

/// A read of `path` with `query` as it is in a cluster that has no namespace but `namespace`. What is asked by name or of
/// one namespace stays as it is.
pub(super) fn confined(path: &str, query: &str, namespace: &str) -> (String, String) {
    let parts: Vec<&str> = path.split('/').collect();
    let (["", "api", _, plural] | ["", "apis", _, _, plural]) = parts[..] else {
        return (path.to_owned(), query.to_owned());
    };
    if OF_THE_CLUSTER.contains(&plural) {
        return (path.to_owned(), query.to_owned());
    }
    if plural == "namespaces" {
        let only = format!("fieldSelector=metadata.name%3D{namespace}");
        return (path.to_owned(), if query.is_empty() { only } else { format!("{query}&{only}") });
    }
    let root = path.strip_suffix(plural).unwrap_or(path);
    (format!("{root}namespaces/{namespace}/{plural}"), query.to_owned())
}

#[test]
fn what_is_read_of_all_namespaces_is_read_of_one() {
    let confined = |path: &str, query: &str| confined(path, query, "ns");
    let same = |path: &str| assert_eq!(confined(path, "watch=true").0, path);
    for (path, becomes) in [
        ("/api/v1/pods", "/api/v1/namespaces/ns/pods"),
        ("/apis/lorikeet.dev/v1alpha1/adapters", "/apis/lorikeet.dev/v1alpha1/namespaces/ns/adapters"),
    ] {
        assert_eq!(confined(path, "watch=true"), (becomes.to_owned(), "watch=true".to_owned()));
    }
    same("/api/v1/nodes");
    same("/api/v1/namespaces/other/pods");
    same("/apis/apps/v1/namespaces/other/deployments/base");
    same("/apis/apps/v1");
    let named = "fieldSelector=metadata.name%3Dns";
    assert_eq!(confined("/api/v1/namespaces", ""), ("/api/v1/namespaces".to_owned(), named.to_owned()));
    assert_eq!(confined("/api/v1/namespaces", "watch=true").1, format!("watch=true&{named}"));
    assert_eq!(confined("/api/v1/namespaces/ns", "").1, "");
}
