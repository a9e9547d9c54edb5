//! The operator's account and what it may do: the documents of `deploy/rbac`, moved to the namespaces of a test.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use lorikeet_tests::args;
use serde::Deserialize as _;
use serde_json::Value;

use crate::audit::Permission;
use crate::until::{PATIENCE, until};

/// The namespace that the documents are written for.
const WRITTEN_FOR: &str = "lorikeet-system";

/// Which of the two installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// One namespace: a Role is enough.
    Namespaced,
    /// All of them.
    Cluster,
}

/// The account and its roles, with `system` for the operator's own namespace and `watched` for the one it watches.
pub(crate) fn documents(scope: Scope, system: &str, watched: &str) -> Vec<Value> {
    let roles = match scope {
        Scope::Namespaced => "namespaced.yaml",
        Scope::Cluster => "cluster.yaml",
    };
    let mut documents = read("account.yaml");
    documents.extend(read(roles));
    documents.retain(|document| document["kind"] != "Namespace");
    for document in &mut documents {
        let is_own = document["metadata"]["namespace"] == WRITTEN_FOR;
        let is_wide = document["kind"].as_str().is_some_and(|kind| kind.starts_with("Cluster"));
        if is_wide {
            // Of the whole cluster: a name for each test.
            document["metadata"]["name"] = Value::from(system);
            if document["roleRef"]["kind"] == "ClusterRole" {
                document["roleRef"]["name"] = Value::from(system);
            }
        } else {
            document["metadata"]["namespace"] = Value::from(if is_own { system } else { watched });
        }
        for subject in document.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
            subject["namespace"] = Value::from(system);
        }
    }
    documents
}

/// Waits until the API server grants `user` what the rules of `documents` allow: it hears of new roles a while after they
/// were made, and what is asked before is refused.
pub(crate) async fn until_granted(client: &Client, documents: &[Value], user: &str) {
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    for role in documents.iter().filter(|document| document["rules"].is_array()) {
        let namespace = role["metadata"]["namespace"].as_str();
        // A role is known as a whole.
        let Some((group, resource, verb)) = allowed(std::slice::from_ref(role)).into_iter().next() else {
            continue;
        };
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource.as_str(), ""));
        let attributes = ResourceAttributes {
            namespace: namespace.map(str::to_owned),
            group: Some(group),
            resource: Some(resource.to_owned()),
            subresource: Some(subresource.to_owned()),
            verb: Some(verb),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.to_owned()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        until(&format!("{user} has its role in {namespace:?}"), PATIENCE, async || {
            let answer = reviews.create(&PostParams::default(), &review).await.ok()?;
            answer.status.filter(|status| status.allowed).map(drop)
        })
        .await;
    }
}

/// What the rules of `documents` allow, one by one.
pub(crate) fn allowed(documents: &[Value]) -> Vec<Permission> {
    let texts = |rule: &Value, key: &str| -> Vec<String> {
        let list = rule[key].as_array().cloned().unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut allowed = Vec::new();
    for rule in documents.iter().flat_map(|document| document["rules"].as_array().into_iter().flatten()) {
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                for verb in texts(rule, "verbs") {
                    allowed.push((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    allowed
}

fn read(name: &str) -> Vec<Value> {
    let path = args::root().join("deploy/rbac").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    yaml(&text)
}

/// The documents of a YAML stream, empty ones left out.
pub(crate) fn yaml(text: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(text);
    let parsed = documents.map(|document| Value::deserialize(document).expect("YAML"));
    parsed.filter(|document| !document.is_null()).collect()
}
