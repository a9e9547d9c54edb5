//! Statuses: a patch of what differs, over exactly the version that was looked at, and the Event of its transition once the
//! patch has taken. A status that says the same is not written.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt as _;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Client, Resource};
use lorikeet_crds::{Adapter, AdapterStatus, Deployment, DeploymentStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::cluster::failure::{Failure, is_gone};
use crate::cluster::herald::{Herald, name_of, shortened};
use crate::cluster::refusals::{Refusals, Subject, Turn};
use crate::cluster::world::OwnKind;
use crate::decide::validate::{AdapterKey, key_of};
use crate::decide::{Decision, Occurrence};

/// Statuses that are written before the fleet is looked at again: those written last should not be old.
const AT_ONCE: usize = 512;
/// Of those that are no transition, so many beside transitions: ten thousand Adapters that load say little of worth by each
/// count of replicas between none and all, and where one of them changes all the time the others are not kept waiting.
const BESIDE_TRANSITIONS: usize = 32;

/// Statuses to be written.
#[derive(Default)]
pub struct Batch {
    writes: Vec<Write>,
    /// There are more.
    pub is_cut: bool,
}

struct Write {
    of: Of,
    event: Option<Event>,
}

enum Of {
    Deployment(Arc<Deployment>, Box<DeploymentStatus>),
    Adapter(Arc<Adapter>, Box<AdapterStatus>),
}

impl Write {
    fn subject(&self) -> Subject {
        match &self.of {
            Of::Deployment(one, _) => {
                let (namespace, name) = (one.metadata.namespace.clone(), one.metadata.name.clone());
                (OwnKind::Deployment, (namespace.unwrap_or_default(), name.unwrap_or_default()))
            }
            Of::Adapter(one, _) => (OwnKind::Adapter, key_of(one)),
        }
    }
}

impl Batch {
    /// What differs between `decision` and the statuses that were looked at. `adapters` are ordered by (namespace, name).
    #[must_use]
    pub fn of(deployment: Option<&Arc<Deployment>>, adapters: &[Arc<Adapter>], decision: Decision) -> Self {
        let mut events: HashMap<Option<AdapterKey>, Event> =
            decision.events.into_iter().map(|one| (one.adapter.clone(), event(&one))).collect();
        let mut writes = Vec::new();
        if let Some((deployment, status)) = deployment.zip(decision.status)
            && deployment.status.as_ref() != Some(&status)
        {
            let of = Of::Deployment(Arc::clone(deployment), Box::new(status));
            writes.push(Write { of, event: events.remove(&None) });
        }
        for (key, status) in decision.adapters {
            if let Ok(at) = adapters.binary_search_by(|one| key_of(one).cmp(&key)) {
                let of = Of::Adapter(Arc::clone(&adapters[at]), Box::new(status));
                writes.push(Write { of, event: events.remove(&Some(key)) });
            }
        }
        Self { writes, is_cut: false }
    }

    /// Those whose turn it is, and no more than are written at once: transitions first, what was refused before last.
    #[must_use]
    pub fn at_once(self, refusals: &mut Refusals, now: Instant) -> Self {
        let turn = |write: Write| (refusals.turn(&write.subject(), now), write);
        let mut writes: Vec<(Turn, Write)> = self.writes.into_iter().map(turn).collect();
        refusals.forget_others();
        writes.retain(|(turn, _)| *turn != Turn::Held);
        writes.sort_by_key(|(turn, write)| (*turn, write.event.is_none()));
        let is_transition = |(turn, write): &(Turn, Write)| *turn == Turn::First && write.event.is_some();
        let transitions = writes.partition_point(is_transition);
        let most = if transitions == 0 { AT_ONCE } else { AT_ONCE.min(transitions + BESIDE_TRANSITIONS) };
        let is_cut = writes.len() > most;
        writes.truncate(most);
        Self { writes: writes.into_iter().map(|(_, write)| write).collect(), is_cut }
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// The Adapters among them.
    pub fn adapters(&self) -> impl Iterator<Item = AdapterKey> {
        self.writes.iter().filter_map(|write| match &write.of {
            Of::Adapter(adapter, _) => Some(key_of(adapter)),
            Of::Deployment(..) => None,
        })
    }

    /// Writes them, so many at once. Returns what became of each. An object that changed since is left to the next look.
    pub async fn write(
        self,
        client: &Client,
        herald: &Herald,
        concurrent: usize,
    ) -> Vec<(Subject, Result<(), Failure>)> {
        let writes = self.writes.into_iter().map(async |write| {
            let subject = write.subject();
            (subject, one(client.clone(), herald, write).await)
        });
        futures::stream::iter(writes).buffer_unordered(concurrent).collect().await
    }
}

async fn one(client: Client, herald: &Herald, Write { of, event }: Write) -> Result<(), Failure> {
    let (reference, written) = match &of {
        Of::Deployment(object, status) => {
            (object.object_ref(&()), put(client, object.as_ref(), object.status.as_ref(), &**status).await)
        }
        Of::Adapter(object, status) => {
            (object.object_ref(&()), put(client, object.as_ref(), object.status.as_ref(), &**status).await)
        }
    };
    match written {
        Ok(()) => {}
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(Failure::of(format!("status of {}", name_of(&reference)), error)),
    }
    match (&of, &event) {
        (_, None) => {}
        (Of::Deployment(..), Some(event)) => herald.at_deployment(event, &reference).await,
        (Of::Adapter(..), Some(event)) => herald.at_adapter(event, &reference).await,
    }
    Ok(())
}

async fn put<K, S>(client: Client, object: &K, old: Option<&S>, new: &S) -> kube::Result<()>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
    S: Serialize,
{
    let Some(patch) = patch(object, old, new) else { return Ok(()) };
    let metadata = object.meta();
    let api: Api<K> = Api::namespaced(client, metadata.namespace.as_deref().unwrap_or_default());
    let manager = PatchParams::apply(lorikeet_crds::FIELD_MANAGER);
    api.patch_status(metadata.name.as_deref().unwrap_or_default(), &manager, &Patch::Merge(patch)).await?;
    Ok(())
}

/// The patch that makes `new` of the status of `object`, where they differ.
fn patch<K: Resource, S: Serialize>(object: &K, old: Option<&S>, new: &S) -> Option<Value> {
    let old = old.and_then(|old| serde_json::to_value(old).ok()).unwrap_or_default();
    let new = serde_json::to_value(new).ok()?;
    let change = merge(&old, &new)?;
    Some(json!({"metadata": {"resourceVersion": object.meta().resource_version}, "status": change}))
}

/// The JSON merge patch from `old` to `new`; nothing where they are the same.
#[must_use]
pub fn merge(old: &Value, new: &Value) -> Option<Value> {
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

/// `occurrence` as the API server takes it.
#[must_use]
pub fn event(occurrence: &Occurrence) -> Event {
    Event {
        type_: if occurrence.warning { EventType::Warning } else { EventType::Normal },
        reason: occurrence.reason.as_str().to_owned(),
        note: Some(shortened(&occurrence.message)),
        action: "Reconcile".to_owned(),
        secondary: None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lorikeet_crds::AdapterStatus;

    use super::*;

    fn lasting() -> Failure {
        Failure::Refused { what: "status".to_owned(), message: "a rule".to_owned() }
    }

    #[test]
    fn a_merge_patch_says_what_changed_and_what_is_gone() {
        let old = json!({"a": 1, "b": {"c": 1, "d": 2}, "e": [1], "f": 1});
        let new = json!({"a": 1, "b": {"c": 1, "d": 3}, "e": [1, 2], "g": {}});
        assert_eq!(merge(&old, &new), Some(json!({"f": null, "b": {"d": 3}, "e": [1, 2], "g": {}})));
        assert_eq!(merge(&old, &old), None);
    }

    #[test]
    fn a_status_is_patched_over_the_version_that_was_looked_at() {
        let mut adapter = Adapter::default();
        adapter.metadata.name = Some("sql".to_owned());
        adapter.metadata.resource_version = Some("7".to_owned());
        let status = AdapterStatus { rank: Some(8), ..AdapterStatus::default() };
        let patch = patch(&adapter, None, &status).unwrap();
        assert_eq!(
            (&patch["metadata"]["resourceVersion"], &patch["status"]["rank"]),
            (&json!("7"), &json!(8))
        );
        assert_eq!(super::patch(&adapter, Some(&status), &status), None);
    }

    #[test]
    fn transitions_are_written_first_and_not_too_many_at_once() {
        let adapter = |at: usize| {
            let mut adapter = Adapter::default();
            adapter.metadata.name = Some(format!("a{at:04}"));
            Arc::new(adapter)
        };
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let adapters: Vec<_> = (0..AT_ONCE + 2).map(adapter).collect();
        let last = key_of(&adapters[AT_ONCE + 1]);
        let mut decision = Decision::default();
        decision.adapters.extend(adapters.iter().map(|one| (key_of(one), AdapterStatus::default())));
        decision.events.push(Occurrence {
            adapter: Some(last.clone()),
            reason: lorikeet_crds::Reason::AsDesired,
            warning: false,
            message: "All is as the spec asks".to_owned(),
        });
        let without_events = Decision { events: Vec::new(), ..decision.clone() };
        let refused = decision.clone();
        let batch = Batch::of(None, &adapters, decision).at_once(&mut refusals, now);
        assert!(batch.is_cut && batch.writes.len() == 1 + BESIDE_TRANSITIONS);
        assert!(matches!(&batch.writes[0].of, Of::Adapter(one, _) if key_of(one) == last));
        assert!(batch.writes[0].event.is_some() && batch.writes[1].event.is_none());
        let batch = Batch::of(None, &adapters, without_events).at_once(&mut refusals, now);
        assert!(batch.is_cut && batch.writes.len() == AT_ONCE);
        // One that was refused waits, or comes last though it is a transition.
        let pause = Duration::from_secs(1);
        refusals.take(vec![((OwnKind::Adapter, last.clone()), Err(lasting()))], |_| pause, now);
        let batch = Batch::of(None, &adapters[2..], refused.clone()).at_once(&mut refusals, now);
        assert!(!batch.is_cut && batch.writes.len() == AT_ONCE - 1);
        let batch = Batch::of(None, &adapters[2..], refused).at_once(&mut refusals, now + pause);
        let is_last = |write: &Write| matches!(&write.of, Of::Adapter(one, _) if key_of(one) == last);
        assert!(!batch.is_cut && batch.writes.len() == AT_ONCE && batch.writes.last().is_some_and(is_last));
    }
}
