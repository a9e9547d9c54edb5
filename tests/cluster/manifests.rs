//! What the suites apply: small Deployments and Adapters, as a user would write them.

use serde_json::{Value, json};

/// A Deployment of `replicas` on the CPU, with a short drain.
pub(crate) fn deployment(namespace: &str, name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "lorikeet.dev/v1alpha1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"source": "hf://acme/base"},
            "replicas": replicas,
            "rollout": {"drainSeconds": 3},
        },
    })
}

/// An Adapter of Deployment `deployment`, from a source of its own name.
pub(crate) fn adapter(namespace: &str, name: &str, deployment: &str) -> Value {
    json!({
        "apiVersion": "lorikeet.dev/v1alpha1", "kind": "Adapter",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"deploymentRef": {"name": deployment}, "source": format!("hf://acme/{name}")},
    })
}

/// A Secret of API keys.
pub(crate) fn secret(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace},
        "stringData": {"keys": "team:key-of-a-test"},
    })
}

/// A Service of somebody else, under a name that a Deployment's would have.
pub(crate) fn strangers_service(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": "shop"}, "ports": [{"name": "shop", "port": 80}]},
    })
}

/// `object` with `value` at the JSON pointer `at`, whose parents exist or are objects to be made.
pub(crate) fn with(mut object: Value, at: &str, value: Value) -> Value {
    let mut place = &mut object;
    for key in at.trim_start_matches('/').split('/') {
        place = match place {
            Value::Array(list) => &mut list[key.parse::<usize>().expect("an index")],
            other => &mut other[key],
        };
    }
    *place = value;
    object
}

/// The digest that a pin of `digit` is.
pub(crate) fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}
