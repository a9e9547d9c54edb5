//! Reading objects of ours as far as they can be read. One that an older or newer definition let through must not take from
//! the replicas what it stands for: it is read without the parts that nobody here understands. Pure.

use std::marker::PhantomData;

use kube::core::DynamicObject;
use lorikeet_crds::{Adapter, Deployment};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Parts of one object that are tried one by one: beyond that they are left out untried.
const TRIES: usize = 256;

/// A kind of ours, as it may be read in parts.
pub trait InParts: DeserializeOwned {
    /// A `spec` that can be read, where nothing of the object's own can.
    fn placeholder() -> Value;

    /// Whether of `part`, read of `whole`, it is known whose it is and what it stands for: by its spec, or by its status,
    /// which then completes it.
    fn is_known(part: &mut Value, whole: &Value) -> bool;
}

impl InParts for Deployment {
    fn placeholder() -> Value {
        json!({"model": {"source": ""}})
    }

    fn is_known(_: &mut Value, _: &Value) -> bool {
        true
    }
}

impl InParts for Adapter {
    fn placeholder() -> Value {
        json!({"deploymentRef": {"name": ""}, "source": ""})
    }

    fn is_known(part: &mut Value, whole: &Value) -> bool {
        if part["spec"]["servedName"] != whole["spec"]["servedName"] {
            // The name that it is served under stays while it cannot be read: nobody may change it.
            let Some(name) = part["status"]["servedName"].as_str().map(str::to_owned) else { return false };
            part["spec"]["servedName"] = json!(name);
        }
        part["spec"]["deploymentRef"] == whole["spec"]["deploymentRef"]
    }
}

/// What was read of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading<K> {
    /// All of it.
    Whole(K),
    /// The spec, and of the status these fields: the others are to be written anew.
    WithoutStatus {
        /// What was read.
        object: K,
        /// The status of that.
        status: Value,
    },
    /// Not all of the spec: nobody knows what it asks for. What it stands for is known.
    Part {
        /// What was read.
        object: K,
        /// Why not all.
        error: String,
    },
    /// Nothing that says what it stands for.
    Nothing {
        /// Why.
        error: String,
    },
}

/// Reads `object`.
pub fn read<K: InParts>(object: &DynamicObject) -> Reading<K> {
    let whole = serde_json::to_value(object).unwrap_or_default();
    let error = match K::deserialize(&whole) {
        Ok(object) => return Reading::Whole(object),
        Err(error) => error,
    };
    let mut parts = Parts::<K>::of(&whole);
    let is_spec_whole = parts.take(&["spec"], &whole["spec"]);
    parts.take(&["status"], &whole["status"]);
    let error = parts.left.as_ref().map_or_else(|| error.to_string(), |at| format!("{at}: {error}"));
    let is_known = is_spec_whole || K::is_known(&mut parts.read, &whole);
    match K::deserialize(&parts.read) {
        Ok(object) if is_spec_whole => Reading::WithoutStatus { object, status: parts.read["status"].take() },
        Ok(object) if is_known => Reading::Part { object, error },
        Ok(_) | Err(_) => Reading::Nothing { error },
    }
}

/// An object, put together of the parts of another that can be read.
struct Parts<K> {
    read: Value,
    /// The first that was left out.
    left: Option<String>,
    tries: usize,
    kind: PhantomData<K>,
}

impl<K: InParts> Parts<K> {
    fn of(whole: &Value) -> Self {
        let mut read = json!({"spec": K::placeholder()});
        for name in ["apiVersion", "kind", "metadata"] {
            read[name] = whole[name].clone();
        }
        Self { read, left: None, tries: 0, kind: PhantomData }
    }

    /// Takes over what is at `at`: `value`, or the fields of it that can be read. Whether it was all of it.
    fn take(&mut self, at: &[&str], value: &Value) -> bool {
        if value.is_null() || self.tried(at, value) {
            return true;
        }
        let there = at.iter().try_fold(&self.read, |place, name| place.get(name));
        let is_object = there.is_some_and(Value::is_object);
        match value.as_object().filter(|_| is_object || self.tried(at, &json!({}))) {
            Some(fields) => {
                for (name, value) in fields {
                    self.take(&[at, &[name.as_str()]].concat(), value);
                }
            }
            None => self.left = self.left.take().or_else(|| Some(at.join("."))),
        }
        false
    }

    /// Takes over `value`, if the whole can be read with it.
    fn tried(&mut self, at: &[&str], value: &Value) -> bool {
        self.tries += 1;
        if self.tries > TRIES {
            return false;
        }
        let mut read = self.read.clone();
        *at.iter().fold(&mut read, |place, name| &mut place[*name]) = value.clone();
        let can_be_read = K::deserialize(&read).is_ok();
        if can_be_read {
            self.read = read;
        }
        can_be_read
    }
}

#[cfg(test)]
mod tests {
    use lorikeet_crds::deployment::NamespacesFrom;

    use super::*;

    fn object(kind: &str, spec: Value, status: Value) -> DynamicObject {
        let object = json!({
            "apiVersion": "lorikeet.dev/v1alpha1", "kind": kind,
            "metadata": {"name": "sql", "namespace": "here", "resourceVersion": "7"},
            "spec": spec, "status": status,
        });
        serde_json::from_value(object).unwrap()
    }

    fn adapter(spec: Value, status: Value) -> Reading<Adapter> {
        read(&object("Adapter", spec, status))
    }

    fn valid() -> Value {
        json!({"deploymentRef": {"name": "base"}, "source": "hf://a/b", "servedName": "s"})
    }

    #[test]
    fn what_can_be_read_is_read_whole() {
        let Reading::Whole(one) = adapter(valid(), json!({"rank": 8})) else { panic!("it is valid") };
        assert_eq!((one.spec.source.source.as_str(), one.status.unwrap().rank), ("hf://a/b", Some(8)));
    }

    #[test]
    fn a_status_is_read_without_the_fields_that_cannot_be() {
        let status = json!({"rank": "many", "bytes": 7, "replicas": {"desired": 2, "ready": "all"}});
        let Reading::WithoutStatus { object, status } = adapter(valid(), status) else {
            panic!("its spec is valid")
        };
        assert_eq!(object.spec.served_name.as_deref(), Some("s"));
        assert_eq!(object.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(status, json!({"bytes": 7, "replicas": {"desired": 2}}));
        assert_eq!(object.status.unwrap().bytes, Some(7));
    }

    #[test]
    fn of_a_spec_that_cannot_be_read_is_known_what_it_stands_for() {
        let spec = json!({
            "deploymentRef": {"name": "base", "kind": "Router"}, "servedName": "s", "source": {"hub": "a/b"},
            "placement": {"replicas": 2, "pinned": "always"},
        });
        let Reading::Part { object, error } = adapter(spec, json!({"rank": 8})) else { panic!("in part") };
        assert_eq!(
            (object.spec.deployment_ref.name.as_str(), object.spec.source.source.as_str()),
            ("base", "")
        );
        assert_eq!((object.spec.served_name.as_deref(), object.status.unwrap().rank), (Some("s"), Some(8)));
        assert!(
            error.starts_with("spec.placement.pinned: ") || error.starts_with("spec.source: "),
            "{error}"
        );
        for unknown in [json!({"servedName": 7}), json!({"deploymentRef": {"name": "base", "namespace": 7}})]
        {
            let mut spec = valid();
            spec.as_object_mut().unwrap().extend(unknown.as_object().unwrap().clone());
            assert!(matches!(adapter(spec, Value::Null), Reading::Nothing { .. }), "{unknown}");
        }
    }

    #[test]
    fn the_name_that_an_adapter_is_served_under_is_known_by_its_status_too() {
        let mut spec = valid();
        spec["servedName"] = json!({"of": "s"});
        let Reading::Part { object, error } = adapter(spec.clone(), json!({"servedName": "s"})) else {
            panic!("its status has its name")
        };
        assert_eq!(object.spec.served_name.as_deref(), Some("s"));
        assert_eq!(object.spec.source.source, "hf://a/b");
        assert!(error.starts_with("spec.servedName: "), "{error}");
        for status in [Value::Null, json!({"rank": 8}), json!({"servedName": 7})] {
            assert!(matches!(adapter(spec.clone(), status.clone()), Reading::Nothing { .. }), "{status}");
        }
    }

    #[test]
    fn a_deployment_keeps_who_may_name_it_and_how_long_it_drains() {
        let spec = json!({
            "model": {"source": "hf://a/b", "servedName": "m", "quantization": "q1"},
            "adapters": {"maxRank": "any", "allowedNamespaces": {"from": "All"}},
            "rollout": {"drainSeconds": 5, "strategy": "Later"}, "paused": true,
        });
        let Reading::Part::<Deployment> { object, .. } = read(&object("Deployment", spec, Value::Null))
        else {
            panic!("in part")
        };
        assert_eq!(object.spec.model.served_name.as_deref(), Some("m"));
        assert_eq!(object.spec.adapters.allowed_namespaces.from, NamespacesFrom::All);
        assert_eq!((object.spec.rollout.drain_seconds, object.spec.paused), (5, true));
    }

    #[test]
    fn what_is_tried_is_bounded() {
        let labels: Value = (0..10 * TRIES).map(|at| (format!("k{at}"), json!(at))).collect();
        let spec = json!({"model": {"source": "hf://a/b"}, "nodePool": {"nodeSelector": labels}});
        let mut parts = Parts::<Deployment>::of(&json!({"metadata": {}, "spec": spec}));
        assert!(!parts.take(&["spec"], &spec));
        assert!(parts.read["spec"]["nodePool"]["nodeSelector"].as_object().is_some_and(|all| all.is_empty()));
        assert_eq!(parts.read["spec"]["model"]["source"], "hf://a/b");
    }
}
