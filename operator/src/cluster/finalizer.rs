//! The finalizer of Adapters: on before any replica hears of one, off when the decision says that nothing holds its deletion.
//! One that lost it while it is served, as by a replace, gets it again and is served on.
//!
//! It shows that running requests finish; it cannot keep an object for ever: every deletion is released by time at the latest,
//! and an Adapter that this operator may not outlive has none. Such a one is gone at once, and drains all the same, since it
//! is in no desired set any more.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt as _;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use lorikeet_api::AdapterState;
use lorikeet_crds::condition::find;
use lorikeet_crds::{Adapter, ConditionType, FINALIZER, Reason};
use serde_json::{Value, json};

use crate::cluster::failure::{Failure, is_gone};
use crate::decide::Decision;
use crate::decide::events::is_true;
use crate::decide::former::has_served;
use crate::decide::reports::last;
use crate::decide::validate::{AdapterKey, key_of, served_name_of};
use crate::fleet::{DesiredList, Replica};

/// Finalizers that one look at a fleet writes: the next look goes on.
const AT_ONCE: usize = 256;

/// Which Adapters this operator is sure to outlive. With its own namespace it goes itself; where it watches one namespace
/// its rights are in that one, and go before the last Adapter does when the namespace is deleted.
#[derive(Clone, Copy, Debug)]
pub struct Outlives<'a> {
    /// It watches all namespaces.
    pub is_cluster_wide: bool,
    /// Its own.
    pub own: &'a str,
}

impl Outlives<'_> {
    /// Whether `adapter` may bear the finalizer.
    #[must_use]
    pub fn holds(self, adapter: &Adapter) -> bool {
        self.is_cluster_wide && adapter.metadata.namespace.as_deref() != Some(self.own)
    }
}

/// Whether `adapter` bears the finalizer.
#[must_use]
pub fn has(adapter: &Adapter) -> bool {
    adapter.finalizers().iter().any(|one| one == FINALIZER)
}

/// Accepted Adapters that lack the finalizer. Those come last whose finalizer was refused: however many they are, they keep
/// nobody waiting.
#[must_use]
pub fn lacking<'a>(
    adapters: &'a [Arc<Adapter>],
    decision: &Decision,
    outlives: Outlives<'_>,
) -> Vec<&'a Arc<Adapter>> {
    let accepted = |adapter: &Adapter| {
        let status = decision.adapters.get(&key_of(adapter)).or(adapter.status.as_ref());
        status.is_some_and(|status| is_true(&status.conditions, ConditionType::Accepted))
    };
    let lacks = |adapter: &&Arc<Adapter>| {
        let is_new = !has(adapter) && adapter.metadata.deletion_timestamp.is_none();
        is_new && outlives.holds(adapter) && accepted(adapter)
    };
    let mut lacking: Vec<_> = adapters.iter().filter(lacks).collect();
    lacking.sort_by_key(|adapter| was_refused(adapter));
    lacking
}

fn was_refused(adapter: &Adapter) -> bool {
    let ready = adapter.status.as_ref().and_then(|status| find(&status.conditions, ConditionType::Ready));
    ready.is_some_and(|ready| ready.reason == Reason::NotCarriedOut.as_str())
}

/// Of those that lack the finalizer, the ones that no replica may hear of yet: what a replica has already is not taken from
/// it. Only an Adapter whose status has its name can be there; the replicas are not searched for others.
#[must_use]
pub fn untold<'a>(lacking: &[&'a Arc<Adapter>], replicas: &[Replica]) -> Vec<&'a Arc<Adapter>> {
    let said = replicas.iter().filter_map(|one| last(&one.contact)).flat_map(|one| &one.adapters);
    let there = LazyCell::new(|| -> HashSet<&str> {
        said.filter(|one| one.state != AdapterState::Draining).map(|one| one.name.as_str()).collect()
    });
    let is_served = |adapter: &Adapter| {
        adapter.status.as_ref().is_some_and(has_served) && there.contains(served_name_of(adapter).as_str())
    };
    lacking.iter().copied().filter(|adapter| !is_served(adapter)).collect()
}

/// Adapters that bear the finalizer by the API server's answer, until the watch says so too, each with the version that it was
/// written over: what is seen meanwhile is older.
#[derive(Debug, Default)]
pub struct Bearers(BTreeMap<AdapterKey, String>);

impl Bearers {
    /// The API server took the finalizer of `adapters`.
    pub fn add<'a>(&mut self, adapters: impl Iterator<Item = &'a Arc<Adapter>>) {
        let over = |adapter: &Arc<Adapter>| Some((key_of(adapter), adapter.resource_version()?));
        self.0.extend(adapters.filter_map(over));
    }

    /// Forgets those that are seen as they are now, or not at all.
    pub fn see(&mut self, adapters: &[Arc<Adapter>]) {
        let seen: HashMap<AdapterKey, &Arc<Adapter>> = match self.0.is_empty() {
            true => return,
            false => adapters.iter().map(|adapter| (key_of(adapter), adapter)).collect(),
        };
        self.0.retain(|key, over| {
            seen.get(key).is_some_and(|adapter| !has(adapter) && is_older(adapter, over))
        });
    }

    /// Whether `adapter`, which is seen without it, bears the finalizer.
    #[must_use]
    pub fn has(&self, adapter: &Adapter) -> bool {
        self.0.contains_key(&key_of(adapter))
    }
}

/// Whether `adapter` is no newer than version `over`: versions of one kind are numbers that grow.
fn is_older(adapter: &Adapter, over: &str) -> bool {
    let seen = adapter.resource_version().unwrap_or_default();
    match (seen.parse::<u64>(), over.parse::<u64>()) {
        (Ok(seen), Ok(over)) => seen <= over,
        _ => seen == over,
    }
}

/// Those that bear the finalizer and may not, or need not any longer.
#[must_use]
pub fn released<'a>(
    adapters: &'a [Arc<Adapter>],
    decision: &Decision,
    outlives: Outlives<'_>,
) -> Vec<&'a Arc<Adapter>> {
    let released: HashSet<&AdapterKey> = decision.released.iter().collect();
    let is_released = |adapter: &&Arc<Adapter>| {
        has(adapter) && (!outlives.holds(adapter) || released.contains(&key_of(adapter)))
    };
    adapters.iter().filter(is_released).collect()
}

/// Takes out of the desired sets what must not be heard of yet.
pub fn withhold(desired: &mut BTreeMap<String, DesiredList>, untold: &[&Arc<Adapter>]) {
    if untold.is_empty() {
        return;
    }
    let names: BTreeSet<String> = untold.iter().map(|adapter| served_name_of(adapter)).collect();
    // Replicas share lists.
    let mut held: HashMap<*const _, DesiredList> = HashMap::new();
    for list in desired.values_mut() {
        let without =
            |list: &DesiredList| list.iter().filter(|one| !names.contains(&one.name)).cloned().collect();
        *list = Arc::clone(held.entry(Arc::as_ptr(list)).or_insert_with(|| without(list)));
    }
}

/// What became of the writes.
#[derive(Default)]
pub struct Written {
    /// Adapters that bear the finalizer now.
    pub held: BTreeSet<AdapterKey>,
    /// Adapters that it was taken from.
    pub freed: Vec<Arc<Adapter>>,
    /// Adapters whose finalizer the API server does not let be written, and why: that will not pass by itself.
    pub refused: BTreeMap<AdapterKey, String>,
    /// What failed.
    pub failures: Vec<Failure>,
}

/// Adds the finalizer to those that lack it and takes it from those that are released; some now, the rest at the next look.
pub async fn write(
    client: &Client,
    lacking: &[&Arc<Adapter>],
    released: &[&Arc<Adapter>],
    concurrent: usize,
) -> Written {
    let of = |adapters: &[&Arc<Adapter>], on: bool| -> Vec<(Arc<Adapter>, bool)> {
        adapters.iter().map(|adapter| (Arc::clone(adapter), on)).collect()
    };
    let mut all = of(released, false);
    all.extend(of(lacking, true));
    all.truncate(AT_ONCE);
    let writes = all.into_iter().map(|(adapter, on)| one(client.clone(), adapter, on));
    let mut done = futures::stream::iter(writes).buffer_unordered(concurrent);
    let mut written = Written::default();
    while let Some(one) = done.next().await {
        let (adapter, on, outcome) = one;
        match outcome {
            Ok(Took::Gone) => {}
            Ok(Took::Written) if on => drop(written.held.insert(key_of(&adapter))),
            Ok(Took::Written) => written.freed.push(adapter),
            Err(failure) => {
                if failure.is_lasting() {
                    written.refused.insert(key_of(&adapter), failure.to_string());
                }
                written.failures.push(failure);
            }
        }
    }
    written
}

/// What a write met.
enum Took {
    /// The Adapter, as it was read.
    Written,
    /// Nothing: there is no such Adapter any more.
    Gone,
}

async fn one(client: Client, adapter: Arc<Adapter>, on: bool) -> (Arc<Adapter>, bool, Result<Took, Failure>) {
    let key = key_of(&adapter);
    let api: Api<Adapter> = Api::namespaced(client, &key.0);
    let manager = PatchParams::apply(lorikeet_crds::FIELD_MANAGER);
    let outcome = match api.patch(&key.1, &manager, &Patch::Merge(&patch(&adapter, on))).await {
        Ok(_) => Ok(Took::Written),
        Err(error) if is_gone(&error) => Ok(Took::Gone),
        Err(error) => Err(Failure::of(format!("finalizer of Adapter {}/{}", key.0, key.1), error)),
    };
    (adapter, on, outcome)
}

/// Only over what was read: a list replaces a list.
fn patch(adapter: &Adapter, on: bool) -> Value {
    let mut finalizers: Vec<&str> =
        adapter.finalizers().iter().map(String::as_str).filter(|one| *one != FINALIZER).collect();
    if on {
        finalizers.push(FINALIZER);
    }
    json!({"metadata": {"resourceVersion": adapter.meta().resource_version, "finalizers": finalizers}})
}

#[cfg(test)]
mod tests {
    use internment::ArcIntern;
    use jiff::Timestamp;
    use lorikeet_api::{AdapterReport, DesiredAdapter};
    use lorikeet_crds::AdapterStatus;
    use lorikeet_crds::condition::{Saying, Truth, conditions};

    use super::*;
    use crate::fleet::{Contact, Report};

    fn adapter(name: &str, status: Option<AdapterStatus>) -> Arc<Adapter> {
        let mut adapter = Adapter { status, ..Adapter::default() };
        adapter.metadata.name = Some(name.to_owned());
        adapter.metadata.namespace = Some("team".to_owned());
        Arc::new(adapter)
    }

    /// A status that says Accepted, and of Ready that `reason`.
    fn status(name: &str, reason: Reason) -> AdapterStatus {
        let saying = |condition, truth| Saying { condition, truth, reason, message: String::new() };
        let sayings =
            [saying(ConditionType::Accepted, Truth::True), saying(ConditionType::Ready, Truth::False)];
        AdapterStatus {
            served_name: Some(name.to_owned()),
            conditions: conditions(&[], &sayings, None, Timestamp::UNIX_EPOCH),
            ..AdapterStatus::default()
        }
    }

    fn replica(name: &str, contact: Contact) -> Replica {
        let (name, incarnation) = (name.to_owned(), String::new());
        Replica { name, incarnation, leaving: false, contact, refusal: None }
    }

    #[test]
    fn what_was_given_the_finalizer_bears_it_until_something_newer_is_seen() {
        let at = |version: &str, bears: bool| {
            let mut adapter = Adapter::clone(&adapter("sql", None));
            adapter.metadata.resource_version = Some(version.to_owned());
            adapter.metadata.finalizers = bears.then(|| vec![FINALIZER.to_owned()]);
            Arc::new(adapter)
        };
        for (seen, bears) in [
            (vec![at("9", false)], true),
            (vec![at("10", false)], true),
            // Somebody struck it.
            (vec![at("11", false)], false),
            (vec![at("11", true)], false),
            (vec![], false),
        ] {
            let mut bearers = Bearers::default();
            bearers.add([at("10", false)].iter());
            bearers.see(&seen);
            assert_eq!(bearers.has(&at("10", false)), bears, "{seen:?}");
        }
    }

    #[test]
    fn what_a_replica_has_is_not_withheld_from_it() {
        let says = |name: &str, state| {
            ArcIntern::new(AdapterReport { name: name.to_owned(), state, ..AdapterReport::default() })
        };
        let of =
            |name: &str, state| Arc::new(Report { adapters: vec![says(name, state)], ..Report::default() });
        let silent = Contact::Unreachable {
            error: "late".to_owned(),
            since: Timestamp::UNIX_EPOCH,
            last: Some(of("known", AdapterState::Ready)),
        };
        let replicas = [
            replica("r0", Contact::Reported(of("served", AdapterState::Registered))),
            replica("r1", silent),
            replica("r2", Contact::Reported(of("drains", AdapterState::Draining))),
            replica("r3", Contact::Reported(of("namesake", AdapterState::Ready))),
        ];
        let mut adapters: Vec<_> = ["served", "known", "drains", "elsewhere"]
            .map(|name| adapter(name, Some(status(name, Reason::Loading))))
            .into();
        // The name is that of another one which was deleted.
        adapters.push(adapter("namesake", None));
        let untold: Vec<_> = untold(&adapters.iter().collect::<Vec<_>>(), &replicas)
            .into_iter()
            .map(|one| key_of(one).1)
            .collect();
        assert_eq!(untold, ["drains", "elsewhere", "namesake"]);
    }

    #[test]
    fn those_whose_finalizer_is_refused_keep_nobody_waiting() {
        let name = |at: usize| format!("a{at:04}");
        let mut adapters: Vec<_> = (0..AT_ONCE)
            .map(|at| adapter(&name(at), Some(status(&name(at), Reason::NotCarriedOut))))
            .collect();
        adapters.push(adapter("late", Some(status("late", Reason::Loading))));
        let outlives = Outlives { is_cluster_wide: true, own: "system" };
        let lacking = lacking(&adapters, &Decision::default(), outlives);
        assert_eq!((key_of(lacking[0]).1.as_str(), lacking.len()), ("late", AT_ONCE + 1));
    }

    #[test]
    fn others_finalizers_stay() {
        let mut adapter = Adapter::default();
        adapter.metadata.resource_version = Some("7".to_owned());
        adapter.metadata.finalizers = Some(vec!["theirs".to_owned()]);
        let on = patch(&adapter, true);
        assert_eq!(on, json!({"metadata": {"resourceVersion": "7", "finalizers": ["theirs", FINALIZER]}}));
        adapter.metadata.finalizers = Some(vec![FINALIZER.to_owned(), "theirs".to_owned()]);
        let off = patch(&adapter, false);
        assert_eq!(off, json!({"metadata": {"resourceVersion": "7", "finalizers": ["theirs"]}}));
    }

    #[test]
    fn only_what_the_operator_outlives_is_held() {
        let mut adapter = Adapter::default();
        adapter.metadata.namespace = Some("team".to_owned());
        let of = |is_cluster_wide, own| Outlives { is_cluster_wide, own };
        assert!(of(true, "system").holds(&adapter));
        assert!(!of(true, "team").holds(&adapter));
        assert!(!of(false, "system").holds(&adapter));
        // One that is left from before is freed, deleted or not.
        adapter.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
        let adapters = [Arc::new(adapter)];
        assert!(released(&adapters, &Decision::default(), of(true, "system")).is_empty());
        assert_eq!(released(&adapters, &Decision::default(), of(false, "system")).len(), 1);
    }

    #[test]
    fn what_is_withheld_is_in_no_desired_set() {
        let one = |name: &str| {
            ArcIntern::new(DesiredAdapter { name: name.to_owned(), ..DesiredAdapter::default() })
        };
        let list: DesiredList = Arc::new([one("a"), one("b")]);
        let mut desired = BTreeMap::from([("r0".to_owned(), Arc::clone(&list)), ("r1".to_owned(), list)]);
        let mut adapter = Adapter::default();
        adapter.metadata.name = Some("a".to_owned());
        withhold(&mut desired, &[&Arc::new(adapter)]);
        assert_eq!(*desired["r0"], [one("b")]);
        assert!(Arc::ptr_eq(&desired["r0"], &desired["r1"]));
    }
}
