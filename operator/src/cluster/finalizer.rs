//! The finalizer of Adapters: on before any replica hears of one, off when the decision says that nothing holds its deletion.
//! It shows that running requests finish; it cannot keep an object for ever: every deletion is released by time at the
//! latest, and an Adapter that this operator may not outlive has none. Such a one is gone at once, and drains all the same,
//! since it is in no desired set any more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures::StreamExt as _;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use lorikeet_crds::{Adapter, ConditionType, FINALIZER};
use serde_json::{Value, json};

use crate::cluster::failure::{Failure, is_gone};
use crate::decide::Decision;
use crate::decide::events::is_true;
use crate::decide::validate::{AdapterKey, key_of, served_name_of};
use crate::fleet::DesiredList;

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

/// Accepted Adapters that lack the finalizer: no replica may hear of them yet.
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
    adapters.iter().filter(lacks).collect()
}

/// Those that bear the finalizer and may not, or need not any longer.
#[must_use]
pub fn released<'a>(
    adapters: &'a [Arc<Adapter>],
    decision: &Decision,
    outlives: Outlives<'_>,
) -> Vec<&'a Arc<Adapter>> {
    let is_released = |adapter: &&Arc<Adapter>| {
        has(adapter) && (!outlives.holds(adapter) || decision.released.contains(&key_of(adapter)))
    };
    adapters.iter().filter(is_released).collect()
}

/// Takes out of the desired sets what must not be heard of yet.
pub fn withhold(desired: &mut BTreeMap<String, DesiredList>, lacking: &[&Arc<Adapter>]) {
    if lacking.is_empty() {
        return;
    }
    let names: BTreeSet<String> = lacking.iter().map(|adapter| served_name_of(adapter)).collect();
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
        match one {
            Ok(held) => written.held.extend(held),
            Err((key, failure)) => {
                if failure.is_lasting() {
                    written.refused.insert(key, failure.to_string());
                }
                written.failures.push(failure);
            }
        }
    }
    written
}

async fn one(
    client: Client,
    adapter: Arc<Adapter>,
    on: bool,
) -> Result<Option<AdapterKey>, (AdapterKey, Failure)> {
    let key = key_of(&adapter);
    let api: Api<Adapter> = Api::namespaced(client, &key.0);
    let patch = patch(&adapter, on);
    match api.patch(&key.1, &PatchParams::apply(lorikeet_crds::FIELD_MANAGER), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(on.then_some(key)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => {
            let failure = Failure::of(format!("finalizer of Adapter {}/{}", key.0, key.1), error);
            Err((key, failure))
        }
    }
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
    use lorikeet_api::DesiredAdapter;

    use super::*;

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
