//! Statuses: a patch of what differs, over exactly the version that was looked at, and the Event of its transition once the
//! patch has taken. A status that says the same is not written.

use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource};
use lorikeet_crds::{Adapter, Deployment};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::cluster::failure::{Failure, is_gone};
use crate::decide::validate::key_of;
use crate::decide::{Decision, Occurrence};

/// Statuses that are written before the fleet is looked at again: those written last should not be old.
const AT_ONCE: usize = 512;
/// An Event's note ends there; the API server takes 1024 bytes.
const LONGEST_NOTE: usize = 1000;

/// Statuses to be written.
#[derive(Default)]
pub struct Batch {
    writes: Vec<Write>,
    /// There are more.
    pub is_cut: bool,
}

struct Write {
    of: Of,
    patch: Value,
    event: Option<Event>,
}

enum Of {
    Deployment(Arc<Deployment>),
    Adapter(Arc<Adapter>),
}

impl Batch {
    /// What differs between `decision` and the statuses that were looked at. Transitions first.
    #[must_use]
    pub fn of(deployment: Option<&Arc<Deployment>>, adapters: &[Arc<Adapter>], decision: &Decision) -> Self {
        let mut writes = Vec::new();
        if let Some((deployment, status)) = deployment.zip(decision.status.as_ref())
            && let Some(patch) = patch(deployment.as_ref(), deployment.status.as_ref(), status)
        {
            writes.push(Write {
                of: Of::Deployment(Arc::clone(deployment)),
                patch,
                event: event(decision, None),
            });
        }
        for adapter in adapters {
            let key = key_of(adapter);
            if let Some(status) = decision.adapters.get(&key)
                && let Some(patch) = patch(adapter.as_ref(), adapter.status.as_ref(), status)
            {
                let event = event(decision, Some(&key));
                writes.push(Write { of: Of::Adapter(Arc::clone(adapter)), patch, event });
            }
        }
        writes.sort_by_key(|write| write.event.is_none());
        let is_cut = writes.len() > AT_ONCE;
        writes.truncate(AT_ONCE);
        Self { writes, is_cut }
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Writes them, so many at once. Returns what failed. An object that changed since is left to the next look.
    pub async fn write(self, client: &Client, recorder: &Recorder, concurrent: usize) -> Vec<Failure> {
        let writes = self.writes.into_iter().map(|write| one(client.clone(), recorder, write));
        futures::stream::iter(writes)
            .buffer_unordered(concurrent)
            .filter_map(|done| std::future::ready(done.err()))
            .collect()
            .await
    }
}

async fn one(client: Client, recorder: &Recorder, write: Write) -> Result<(), Failure> {
    let (reference, written) = match &write.of {
        Of::Deployment(object) => (object.object_ref(&()), put(client, object.as_ref(), &write.patch).await),
        Of::Adapter(object) => (object.object_ref(&()), put(client, object.as_ref(), &write.patch).await),
    };
    match written {
        Ok(()) => {}
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(Failure::of(format!("status of {}", said(&reference)), error)),
    }
    if let Some(event) = &write.event
        && let Err(error) = recorder.publish(event, &reference).await
    {
        // An Event is news, not state: it is not said again.
        tracing::debug!(object = said(&reference), %error, "an Event was not taken");
    }
    Ok(())
}

async fn put<K>(client: Client, object: &K, patch: &Value) -> kube::Result<()>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let metadata = object.meta();
    let api: Api<K> = Api::namespaced(client, metadata.namespace.as_deref().unwrap_or_default());
    let manager = PatchParams::apply(lorikeet_crds::FIELD_MANAGER);
    api.patch_status(metadata.name.as_deref().unwrap_or_default(), &manager, &Patch::Merge(patch)).await?;
    Ok(())
}

fn said(reference: &ObjectReference) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{} {}/{}", part(&reference.kind), part(&reference.namespace), part(&reference.name))
}

/// The patch that makes `new` of the status of `object`, where they differ.
fn patch<K: Resource, S: Serialize + PartialEq>(object: &K, old: Option<&S>, new: &S) -> Option<Value> {
    if old == Some(new) {
        return None;
    }
    let old = old.and_then(|old| serde_json::to_value(old).ok()).unwrap_or_default();
    let new = serde_json::to_value(new).ok()?;
    let change = merge(&old, &new)?;
    Some(json!({"metadata": {"resourceVersion": object.meta().resource_version}, "status": change}))
}

/// The JSON merge patch from `old` to `new`; nothing where they are the same.
fn merge(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let gone =
        before.keys().filter(|name| !after.contains_key(*name)).map(|name| (name.clone(), Value::Null));
    let mut change: Map<String, Value> = gone.collect();
    for (name, value) in after {
        let was = before.get(name).unwrap_or(&Value::Null);
        // An empty map says something where there was nothing.
        let differs = merge(was, value).or_else(|| (!before.contains_key(name)).then(|| value.clone()));
        change.extend(differs.map(|value| (name.clone(), value)));
    }
    (!change.is_empty()).then_some(Value::Object(change))
}

fn event(decision: &Decision, adapter: Option<&(String, String)>) -> Option<Event> {
    let of = |occurrence: &&Occurrence| occurrence.adapter.as_ref() == adapter;
    decision.events.iter().find(of).map(|occurrence| Event {
        type_: if occurrence.warning { EventType::Warning } else { EventType::Normal },
        reason: occurrence.reason.as_str().to_owned(),
        note: Some(shortened(&occurrence.message)),
        action: "Reconcile".to_owned(),
        secondary: None,
    })
}

/// `text`, where it is too long without its end.
#[must_use]
pub fn shortened(text: &str) -> String {
    if text.len() <= LONGEST_NOTE {
        return text.to_owned();
    }
    let cut = (0..=LONGEST_NOTE).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..cut])
}

#[cfg(test)]
mod tests {
    use lorikeet_crds::AdapterStatus;

    use super::*;

    #[test]
    fn a_merge_patch_says_what_changed_and_what_is_gone() {
        let old = json!({"a": 1, "b": {"c": 1, "d": 2}, "e": [1], "f": 1});
        let new = json!({"a": 1, "b": {"c": 1, "d": 3}, "e": [1, 2], "g": {}});
        assert_eq!(merge(&old, &new), Some(json!({"f": null, "b": {"d": 3}, "e": [1, 2], "g": {}})));
        assert_eq!(merge(&old, &old), None);
    }

    #[test]
    fn a_status_that_says_the_same_is_not_written() {
        let mut adapter = Adapter::default();
        adapter.metadata.name = Some("sql".to_owned());
        adapter.metadata.resource_version = Some("7".to_owned());
        let key = key_of(&adapter);
        let status = AdapterStatus { rank: Some(8), ..AdapterStatus::default() };
        let mut decision = Decision::default();
        decision.adapters.insert(key, status.clone());
        let batch = Batch::of(None, &[Arc::new(adapter.clone())], &decision);
        assert_eq!(batch.writes[0].patch["metadata"]["resourceVersion"], "7");
        assert_eq!(batch.writes[0].patch["status"]["rank"], 8);
        adapter.status = Some(status);
        assert!(Batch::of(None, &[Arc::new(adapter)], &decision).is_empty());
    }

    #[test]
    fn a_note_fits_and_no_character_is_halved() {
        assert_eq!(shortened("short"), "short");
        let long = shortened(&"é".repeat(800));
        assert!(long.len() <= 1024 && long.ends_with("é…"));
    }
}
