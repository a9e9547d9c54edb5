//! What a scenario leaves behind, without what differs from run to run: for comparing a run with faults with one without.

use std::collections::BTreeMap;

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::kubelet::Kubelet;

/// `(group, version, kind, plural)`.
pub(crate) type Kind = (&'static str, &'static str, &'static str, &'static str);

/// The kinds that the operator writes, ours first.
pub(crate) const KINDS: [Kind; 10] = [
    ("lorikeet.dev", "v1alpha1", "Deployment", "deployments"),
    ("lorikeet.dev", "v1alpha1", "Adapter", "adapters"),
    ("apps", "v1", "Deployment", "deployments"),
    ("", "v1", "Service", "services"),
    ("", "v1", "ServiceAccount", "serviceaccounts"),
    ("", "v1", "Secret", "secrets"),
    ("", "v1", "ConfigMap", "configmaps"),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
    ("", "v1", "Pod", "pods"),
];

/// Objects by `kind.group/name`; pods, whose names are random, counted by their labels.
pub(crate) type EndState = BTreeMap<String, Value>;

/// The objects of a kind.
pub(crate) fn api(client: &Client, kind: Kind, namespace: &str) -> Api<DynamicObject> {
    let (group, version, name, plural) = kind;
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, name), plural);
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// Everything in `namespace`, and what its replicas hold.
pub(crate) async fn end_state(client: &Client, namespace: &str, kubelet: &Kubelet) -> EndState {
    let mut state = EndState::new();
    for kind in KINDS {
        let objects = api(client, kind, namespace).list(&ListParams::default()).await.expect("a list");
        for object in objects {
            if kind.2 == "Pod" {
                let count = state.entry("Pod".to_owned()).or_insert_with(|| json!(0));
                *count = json!(count.as_u64().unwrap_or(0) + 1);
                continue;
            }
            let name = format!("{}.{}/{}", kind.2, kind.0, object.name_any());
            state.insert(name, neutral(kind, &object, namespace));
        }
    }
    for (at, fake) in kubelet.fakes().iter().enumerate() {
        let report = fake.report();
        let held =
            report.adapters.iter().map(|one| json!([one.name, one.state, one.tier, one.digest, one.source]));
        state.insert(format!("replica {at}"), Value::from(held.collect::<Vec<_>>()));
    }
    state
}

/// `object` without identities, times and random bytes.
pub(crate) fn neutral(kind: Kind, object: &DynamicObject, namespace: &str) -> Value {
    let mut value = serde_json::to_value(object).expect("an object is JSON");
    let metadata = &mut value["metadata"];
    let owners: Vec<Value> = metadata["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|owner| json!([owner["kind"], owner["name"], owner["controller"]]))
        .collect();
    *metadata = json!({
        "labels": metadata["labels"], "finalizers": metadata["finalizers"], "owners": owners,
        "leaving": metadata["deletionTimestamp"].is_string(),
    });
    if kind.2 == "Secret" {
        value["data"] = json!(value["data"].as_object().map(|data| data.keys().collect::<Vec<_>>()));
    }
    // Status of kinds that are not ours is of their controllers.
    if let Some(map) = value.as_object_mut().filter(|_| kind.0 != lorikeet_crds::GROUP) {
        map.remove("status");
    }
    strip(&mut value);
    // Each run has a namespace of its own.
    let text = value.to_string().replace(namespace, "NAMESPACE");
    serde_json::from_str(&text).expect("still JSON")
}

/// Removes what differs from run to run, wherever it is.
fn strip(value: &mut Value) {
    const RANDOM: [&str; 8] = [
        "lastTransitionTime",
        "lastUpdateTime",
        "clusterIP",
        "clusterIPs",
        "pod",
        "observedGeneration",
        "uid",
        "pod-template-hash",
    ];
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !RANDOM.contains(&key.as_str()));
            map.values_mut().for_each(strip);
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}

/// The differences of two states, for people.
pub(crate) fn differences(expected: &EndState, got: &EndState) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, value) in expected {
        match got.get(name) {
            None => findings.push(format!("{name} is missing")),
            Some(other) if other != value => {
                findings.push(format!("{name}:\n  expected {value}\n  got      {other}"))
            }
            Some(_) => {}
        }
    }
    let surplus = got.keys().filter(|name| !expected.contains_key(*name));
    findings.extend(surplus.map(|name| format!("{name} is left over")));
    findings
}
