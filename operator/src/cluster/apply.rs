//! Children: applied server-side under one field manager, each only where it differs from what is there, and only over what
//! was seen; shards of the registry that hold nothing any more are deleted. Never touches an object that is not ours.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt as _};
use lorikeet_crds::{Deployment, FIELD_MANAGER};
use serde::Deserialize as _;
use serde_json::Value;

use crate::cluster::compare::differs;
use crate::cluster::failure::{Failure, is_gone};
use crate::cluster::kinds::{Child, ChildKind};
use crate::cluster::ownership::{Owner, owner};
use crate::fleet::FleetKey;

/// What the API server made of a child that does not compare equal even after it was applied: it is not applied again
/// until one of the two changes. Such a difference is a fault of the comparison; it must not become a storm of writes.
pub type Settled = BTreeMap<(ChildKind, String), (u64, Option<String>)>;

/// The children of one Deployment, being applied.
pub struct Applying<'a> {
    /// The API server.
    pub client: &'a Client,
    /// Whose.
    pub fleet: &'a FleetKey,
    /// Whose.
    pub deployment: &'a Deployment,
    /// As they are.
    pub there: &'a BTreeMap<(ChildKind, String), Arc<Value>>,
    /// What is as good as it gets.
    pub settled: &'a mut Settled,
    /// The replicas, or the way to them, were not as they should be when they were looked at.
    pub is_pending: bool,
}

impl Applying<'_> {
    /// Applies `children` in order. A child that fails does not keep the next from being applied. Returns what failed.
    pub async fn apply(&mut self, children: &[Child]) -> Vec<Failure> {
        let mut failures = Vec::new();
        for child in children {
            failures.extend(self.one(child).await.err());
        }
        failures
    }

    async fn one(&mut self, child: &Child) -> Result<(), Failure> {
        let key = (child.kind, child.name.clone());
        let what = || format!("{} {}/{}", child.kind.resource().kind, self.fleet.namespace, child.name);
        let api = child.kind.api(self.client.clone(), Some(&self.fleet.namespace));
        // One that is not seen may bear no label of ours, or not have been seen yet.
        let live = match self.there.get(&key) {
            Some(live) => Some(Arc::clone(live)),
            None => match api.get_opt(&child.name).await {
                Ok(live) => live.map(serde_json::to_value).transpose()?.map(Arc::new),
                Err(error) => return Err(Failure::of(what(), error)),
            },
        };
        if let Some(live) = &live {
            match self.owner(live) {
                Owner::Ours => {}
                Owner::Former => return Err(Failure::Conflict { what: what() }),
                Owner::Other => return Err(Failure::NotOurs { what: what() }),
            }
            let settled = self.settled.get(&key);
            let as_good = settled.is_some_and(|(of, version)| {
                version.as_deref() == live["metadata"]["resourceVersion"].as_str()
                    && *of == hash(&child.object)
            });
            if as_good || !differs(&child.object, live) {
                return Ok(());
            }
        }
        self.is_pending |= matches!(child.kind, ChildKind::Workload | ChildKind::Service);
        let applied = match self.put(child, live.as_deref()).await {
            Ok(applied) => applied,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(Failure::of(what(), error)),
        };
        tracing::info!(child = what(), "applied");
        let version = applied.resource_version();
        if differs(&child.object, &serde_json::to_value(&applied)?) {
            tracing::debug!(child = what(), "the API server keeps it otherwise than it was applied");
            self.settled.insert(key, (hash(&child.object), version));
        } else {
            self.settled.remove(&key);
        }
        Ok(())
    }

    /// Over `live`: what arrives when a term is over, and another leader has written, changes nothing.
    async fn put(&self, child: &Child, live: Option<&Value>) -> kube::Result<DynamicObject> {
        let api = child.kind.api(self.client.clone(), Some(&self.fleet.namespace));
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let seen = live.and_then(|live| live["metadata"]["resourceVersion"].as_str());
        let object = over(&child.object, seen);
        let refused = match api.patch(&child.name, &params, &Patch::Apply(&object)).await {
            Err(kube::Error::Api(status)) if live.is_some() && status.is_invalid() => status,
            applied => return applied,
        };
        // Somebody changed the key of an element of a list, and ours beside theirs is invalid, as two ports of one name: the
        // lists become ours whole, then it is applied again. Where that fails too, the first refusal says what is wrong.
        let merge = PatchParams { field_manager: params.field_manager.clone(), ..PatchParams::default() };
        let merged = match api.patch(&child.name, &merge, &Patch::Merge(&object)).await {
            Ok(merged) => merged,
            Err(kube::Error::Api(status)) if status.is_conflict() => return Err(kube::Error::Api(status)),
            Err(_) => return Err(kube::Error::Api(refused)),
        };
        let object = over(&child.object, merged.metadata.resource_version.as_deref());
        api.patch(&child.name, &params, &Patch::Apply(&object)).await
    }

    /// Deletes the shards of the registry that are not among `children`.
    pub async fn prune(&self, children: &[Child]) -> Vec<Failure> {
        let mut failures = Vec::new();
        let is_wanted =
            |name: &str| children.iter().any(|child| child.kind == ChildKind::Registry && child.name == name);
        let prefix = format!("{}-registry-", self.fleet.name);
        for ((kind, name), live) in self.there {
            let is_shard = *kind == ChildKind::Registry && name.starts_with(&prefix);
            if !is_shard || is_wanted(name) || self.owner(live) != Owner::Ours {
                continue;
            }
            let seen = |key: &str| live["metadata"][key].as_str().map(str::to_owned);
            let only = Preconditions { uid: seen("uid"), resource_version: seen("resourceVersion") };
            let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
            let api = kind.api(self.client.clone(), Some(&self.fleet.namespace));
            match api.delete(name, &params).await {
                Ok(_) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => failures.push(Failure::of(format!("ConfigMap {name}"), error)),
            }
        }
        failures
    }

    fn owner(&self, live: &Value) -> Owner {
        let uid = self.deployment.uid().unwrap_or_default();
        let metadata = ObjectMeta::deserialize(&live["metadata"]).unwrap_or_default();
        owner(&metadata, &uid, &self.fleet.name)
    }
}

/// `object` as it is written over `version` of what is there.
fn over(object: &Value, version: Option<&str>) -> Value {
    let mut object = object.clone();
    if let Some(version) = version {
        object["metadata"]["resourceVersion"] = Value::from(version);
    }
    object
}

fn hash(object: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    object.to_string().hash(&mut hasher);
    hasher.finish()
}
