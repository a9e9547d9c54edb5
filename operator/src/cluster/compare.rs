//! Whether a child is as it should be. Pure, and without a hash that somebody would have to remember: what the API server
//! says that we own (`managedFields`) has to be what we would apply, with the values that we would apply.
//!
//! The server's record knows each type's structure too: which lists are merged by key and which are replaced whole. Fields
//! of others are not looked at.

use lorikeet_crds::FIELD_MANAGER;
use serde_json::{Map, Value};

use crate::quantity;

/// Whether applying `desired` over `live` would change something that is ours. Both are whole objects.
#[must_use]
pub fn differs(desired: &Value, live: &Value) -> bool {
    let Some(owned) = owned(live) else { return true };
    let (Some(desired), Some(live)) = (desired.as_object(), live.as_object()) else { return true };
    let is_content = |name: &str| !matches!(name, "apiVersion" | "kind" | "status" | "metadata");
    let is_applied = |name: &str| !matches!(name, "name" | "namespace" | "creationTimestamp");
    let none = Map::new();
    let metadata = [(desired, "metadata"), (live, "metadata"), (owned, "f:metadata")]
        .map(|(of, name)| of.get(name).and_then(Value::as_object).unwrap_or(&none));
    let [ours, there, record] = metadata;
    !(same_fields(ours, there, record, is_applied) && same_fields(desired, live, owned, is_content))
}

/// The fields that our manager has applied.
fn owned(live: &Value) -> Option<&Map<String, Value>> {
    let entry = live.pointer("/metadata/managedFields")?.as_array()?.iter().find(|entry| is_ours(entry))?;
    entry.get("fieldsV1")?.as_object()
}

/// Whether a record of managed fields is of what we apply.
#[must_use]
pub fn is_ours(entry: &Value) -> bool {
    entry["manager"] == FIELD_MANAGER && entry["operation"] == "Apply" && entry.get("subresource").is_none()
}

fn same(desired: &Value, live: &Value, owned: &Value, quantity: bool) -> bool {
    let Some(record) = owned.as_object() else { return false };
    let has_parts = record.keys().any(|name| name != ".");
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) if has_parts => same_map(desired, live, record),
        (Value::Array(desired), Value::Array(live)) if has_parts => same_list(desired, live, record),
        _ if has_parts => false,
        _ => equal(desired, live) || (quantity && same_quantity(desired, live)),
    }
}

fn same_map(desired: &Map<String, Value>, live: &Map<String, Value>, owned: &Map<String, Value>) -> bool {
    same_fields(desired, live, owned, |_| true)
}

/// As [`same_map`], of those fields that count.
fn same_fields(
    desired: &Map<String, Value>,
    live: &Map<String, Value>,
    owned: &Map<String, Value>,
    counts: fn(&str) -> bool,
) -> bool {
    let mut ours = owned.keys().filter_map(|name| name.strip_prefix("f:")).filter(|name| counts(name));
    ours.all(|name| desired.contains_key(name))
        && desired.iter().filter(|(name, _)| counts(name)).all(|(name, value)| {
            let there = live.get(name);
            if is_empty(value) && there.is_none_or(is_empty) {
                return true;
            }
            let Some((there, record)) = there.zip(owned.get(&format!("f:{name}"))) else { return false };
            if matches!(name.as_str(), "limits" | "requests") {
                return same_quantities(value, there, record);
            }
            same(value, there, record, false)
        })
}

fn same_quantities(desired: &Value, live: &Value, owned: &Value) -> bool {
    let (Some(desired), Some(live)) = (desired.as_object(), live.as_object()) else { return false };
    let ours = owned.as_object().into_iter().flatten().filter_map(|(name, _)| name.strip_prefix("f:"));
    ours.into_iter().all(|name| desired.contains_key(name))
        && desired.iter().all(|(name, value)| {
            let record = owned.get(format!("f:{name}"));
            live.get(name).zip(record).is_some_and(|(there, record)| same(value, there, record, true))
        })
}

/// A list that the server merges by key, or a set.
fn same_list(desired: &[Value], live: &[Value], owned: &Map<String, Value>) -> bool {
    let records: Vec<(&String, &Value)> = owned.iter().filter(|(name, _)| *name != ".").collect();
    records.len() == desired.len()
        && records.into_iter().all(|(name, record)| {
            if let Some(value) = name.strip_prefix("v:").and_then(parsed) {
                return desired.contains(&value) && live.contains(&value);
            }
            let Some(Value::Object(key)) = name.strip_prefix("k:").and_then(parsed) else {
                return false;
            };
            let here = desired.iter().find(|element| has_key(element, &key, true));
            let there = live.iter().find(|element| has_key(element, &key, false));
            here.zip(there).is_some_and(|(here, there)| same(here, there, record, false))
        })
}

fn parsed(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

/// Whether `element` is the one under `key`. The server may have filled in a part of the key that we leave out.
fn has_key(element: &Value, key: &Map<String, Value>, may_lack: bool) -> bool {
    key.iter().all(|(name, value)| match element.get(name) {
        Some(there) => there == value,
        None => may_lack,
    })
}

/// Equal but for what says nothing: nulls, empty lists and maps.
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let half = |one: &Map<String, Value>, other: &Map<String, Value>| {
                one.iter().all(|(name, value)| {
                    other.get(name).map_or_else(|| is_empty(value), |there| equal(value, there))
                })
            };
            half(one, other) && half(other, one)
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        _ => one == other,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
        _ => false,
    }
}

/// The server writes quantities its own way: 1000m is 1.
fn same_quantity(one: &Value, other: &Value) -> bool {
    let number = |value: &Value| value.as_str().and_then(quantity::parse).or_else(|| value.as_f64());
    number(one).zip(number(other)).is_some_and(|(one, other)| (one - other).abs() <= 1e-9 * one.abs())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn desired() -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "x-runtime", "namespace": "ns", "labels": {"a": "1"}, "ownerReferences": [{"uid": "u", "name": "x"}]},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "1"}}, "template": {"spec": {
                "tolerations": [],
                "containers": [{
                    "name": "runtime", "args": ["serve"], "ports": [{"name": "http", "containerPort": 8080}],
                    "resources": {"limits": {"cpu": "1000m", "memory": "1.5Gi"}}
                }],
                "volumes": [{"name": "tmp", "emptyDir": {}}]
            }}}
        })
    }

    fn live() -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {
                "name": "x-runtime", "namespace": "ns", "uid": "1", "labels": {"a": "1", "theirs": "2"},
                "annotations": {"deployment.kubernetes.io/revision": "1"},
                "ownerReferences": [{"uid": "u", "name": "x"}],
                "managedFields": [
                    {"manager": "kube-controller-manager", "operation": "Update", "fieldsV1": {"f:metadata": {}}},
                    {"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": {
                        "f:metadata": {"f:labels": {"f:a": {}}, "f:ownerReferences": {"k:{\"uid\":\"u\"}": {}}},
                        "f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {"f:spec": {
                            "f:containers": {"k:{\"name\":\"runtime\"}": {
                                ".": {}, "f:name": {}, "f:args": {},
                                "f:ports": {"k:{\"containerPort\":8080,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:containerPort": {}}},
                                "f:resources": {"f:limits": {"f:cpu": {}, "f:memory": {}}}
                            }},
                            "f:volumes": {"k:{\"name\":\"tmp\"}": {".": {}, "f:name": {}, "f:emptyDir": {}}}
                        }}}
                    }}
                ]
            },
            "spec": {"replicas": 2, "progressDeadlineSeconds": 600, "selector": {"matchLabels": {"a": "1"}}, "template": {"spec": {
                "restartPolicy": "Always",
                "containers": [{
                    "name": "runtime", "args": ["serve"], "imagePullPolicy": "IfNotPresent",
                    "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "1", "memory": "1536Mi"}}
                }],
                "volumes": [{"name": "tmp", "emptyDir": {}}]
            }}},
            "status": {"replicas": 2}
        })
    }

    fn at<'a>(value: &'a mut Value, pointer: &str) -> &'a mut Value {
        value.pointer_mut(pointer).unwrap()
    }

    const TEMPLATE: &str = "/spec/template/spec";

    #[test]
    fn what_the_server_fills_in_and_what_others_own_is_no_difference() {
        assert!(!differs(&desired(), &live()));
        let mut theirs = live();
        at(&mut theirs, &format!("{TEMPLATE}/containers"))
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "mesh"}));
        assert!(!differs(&desired(), &theirs), "somebody's sidecar");
    }

    #[test]
    fn every_drift_of_what_is_ours_is_a_difference() {
        type Drift = fn(&mut Value);
        let drifts: [(&str, Drift); 7] = [
            ("a value", |live| *at(live, "/spec/replicas") = json!(3)),
            ("a label is gone", |live| {
                drop(at(live, "/metadata/labels").as_object_mut().unwrap().remove("a"))
            }),
            ("an argument more", |live| {
                at(live, &format!("{TEMPLATE}/containers/0/args")).as_array_mut().unwrap().push(json!("--x"));
            }),
            ("an atomic map with more in it", |live| {
                at(live, "/spec/selector/matchLabels")["b"] = json!("2")
            }),
            ("a volume is gone", |live| {
                at(live, &format!("{TEMPLATE}/volumes")).as_array_mut().unwrap().clear()
            }),
            ("a quantity", |live| {
                *at(live, &format!("{TEMPLATE}/containers/0/resources/limits/cpu")) = json!("2")
            }),
            ("somebody took it over", |live| {
                at(live, "/metadata/managedFields").as_array_mut().unwrap().clear()
            }),
        ];
        for (what, drift) in drifts {
            let mut live = live();
            drift(&mut live);
            assert!(differs(&desired(), &live), "{what}");
        }
    }

    #[test]
    fn what_we_applied_once_and_want_no_longer_is_a_difference() {
        for (pointer, name) in [("/spec", "replicas"), (&format!("{TEMPLATE}/containers/0"), "args")] {
            let mut desired = desired();
            at(&mut desired, pointer).as_object_mut().unwrap().remove(name);
            assert!(differs(&desired, &live()), "{name}");
        }
        let mut fewer = desired();
        at(&mut fewer, &format!("{TEMPLATE}/volumes")).as_array_mut().unwrap().clear();
        assert!(differs(&fewer, &live()));
    }

    #[test]
    fn quantities_are_numbers() {
        for (one, other, expected) in
            [("1000m", "1", true), ("1.5Gi", "1536Mi", true), ("1Ei", "1024Pi", true), ("1", "2", false)]
        {
            assert_eq!(same_quantity(&json!(one), &json!(other)), expected, "{one} {other}");
        }
        assert!(!same_quantity(&json!("lots"), &json!("lots of")));
    }
}
