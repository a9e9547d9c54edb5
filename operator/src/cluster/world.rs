//! Everything that the watches have told, and which fleets a change concerns. Pure: no client, no decision.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::ResourceExt as _;
use lorikeet_crds::{Adapter, Deployment};
use serde_json::Value;

use crate::cluster::facts::PodFacts;
use crate::cluster::kinds::ChildKind;
use crate::cluster::table::{Change, ObjectKey, Table, Touched};
use crate::decide::validate::key_of;
use crate::fleet::{FleetKey, Unread};

/// A kind of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnKind {
    /// `Deployment`.
    Deployment,
    /// `Adapter`.
    Adapter,
}

/// An object of ours, as far as it could be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Known<K> {
    /// What was read.
    pub object: Arc<K>,
    /// Why not all of its spec was.
    pub unreadable: Option<String>,
}

/// What has been seen of the cluster.
#[derive(Debug, Default)]
pub struct World {
    /// Deployments of ours.
    pub deployments: Table<Known<Deployment>>,
    /// Adapters.
    pub adapters: Table<Known<Adapter>>,
    /// Pods of ours.
    pub pods: Table<PodFacts>,
    /// Labels of namespaces; not watched where one namespace is all that may be seen.
    pub namespaces: Table<BTreeMap<String, String>>,
    children: BTreeMap<ChildKind, Table<Value>>,
    /// Objects of ours that cannot be read whole.
    pub unreadable: Unreadable,
}

/// Objects of ours that cannot be read whole, with their resource versions: it is said once of each.
#[derive(Debug, Default)]
pub struct Unreadable {
    all: BTreeMap<(OwnKind, ObjectKey), String>,
    /// Those that a list which is under way has not named so far.
    unnamed: BTreeSet<(OwnKind, ObjectKey)>,
    changed: bool,
}

impl Unreadable {
    /// This one cannot be read.
    pub fn put(&mut self, kind: OwnKind, key: ObjectKey, version: String) {
        self.changed = true;
        self.unnamed.remove(&(kind, key.clone()));
        self.all.insert((kind, key), version);
    }

    /// This one can, or is gone.
    pub fn remove(&mut self, kind: OwnKind, key: &ObjectKey) {
        let key = (kind, key.clone());
        self.unnamed.remove(&key);
        self.changed |= self.all.remove(&key).is_some();
    }

    /// Everything of that kind is listed anew.
    pub fn restart(&mut self, kind: OwnKind) {
        self.unnamed.extend(self.all.keys().filter(|(of, _)| *of == kind).cloned());
    }

    /// All of that kind is listed: what was not is gone.
    pub fn complete(&mut self, kind: OwnKind) {
        let (gone, others) = std::mem::take(&mut self.unnamed).into_iter().partition(|(of, _)| *of == kind);
        self.unnamed = others;
        let gone: BTreeSet<_> = gone;
        self.changed |= !gone.is_empty();
        self.all.retain(|key, _| !gone.contains(key));
    }

    /// All of them, where they are not those of the last call.
    pub fn news(&mut self) -> Option<&BTreeMap<(OwnKind, ObjectKey), String>> {
        std::mem::take(&mut self.changed).then_some(&self.all)
    }
}

/// What has been seen of one fleet.
#[derive(Clone, Debug)]
pub struct Sight {
    /// Its Deployment.
    pub deployment: Option<Arc<Deployment>>,
    /// Its Adapters.
    pub adapters: Vec<Arc<Adapter>>,
    /// Of which of these not all of the spec could be read.
    pub unread: Unread,
    /// The labels of their namespaces.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Its pods, ordered by name.
    pub pods: Vec<(String, Arc<PodFacts>)>,
    /// Its children as they are.
    pub children: BTreeMap<(ChildKind, String), Arc<Value>>,
}

impl World {
    /// Takes over what the watch of namespaces says.
    pub fn take_namespace(&mut self, change: Change<BTreeMap<String, String>>) -> Vec<Touched> {
        let names: Vec<String> = match &change {
            Change::Apply(seen) => vec![seen.key.1.clone()],
            Change::Delete(key) => vec![key.1.clone()],
            Change::Restart | Change::Unreadable(_) => Vec::new(),
            // Which of them changed is not known: fleets are many, namespaces with Adapters few.
            Change::Complete => self.adapter_namespaces(),
        };
        let before: Vec<_> = names.iter().map(|name| self.namespace(name)).collect();
        self.namespaces.take(change);
        let changed = names.iter().zip(before).filter(|(name, before)| self.namespace(name) != *before);
        let fleets: BTreeSet<FleetKey> =
            changed.flat_map(|(name, _)| self.adapters.fleets_of_namespace(name)).cloned().collect();
        fleets.into_iter().map(|fleet| Touched { fleet, urgent: true }).collect()
    }

    fn adapter_namespaces(&self) -> Vec<String> {
        let mut names: Vec<String> = self.adapters.keys().map(|(namespace, _)| namespace.clone()).collect();
        names.dedup();
        names
    }

    fn namespace(&self, name: &str) -> Option<Arc<BTreeMap<String, String>>> {
        self.namespaces.get(&(String::new(), name.to_owned())).cloned()
    }

    /// The children of a kind.
    pub fn children(&mut self, kind: ChildKind) -> &mut Table<Value> {
        self.children.entry(kind).or_default()
    }

    /// Whether every watch has told everything once. `cluster` says whether namespaces are watched.
    #[must_use]
    pub fn is_complete(&self, cluster: bool) -> bool {
        let children = |kind| self.children.get(kind).is_some_and(Table::is_complete);
        self.deployments.is_complete()
            && self.adapters.is_complete()
            && self.pods.is_complete()
            && (!cluster || self.namespaces.is_complete())
            && ChildKind::ALL.iter().all(children)
    }

    /// Every fleet that something is seen of.
    #[must_use]
    pub fn fleets(&self) -> BTreeSet<FleetKey> {
        self.deployments.fleets().chain(self.adapters.fleets()).cloned().collect()
    }

    /// What is seen of `fleet`; nothing where neither a Deployment nor an Adapter is.
    #[must_use]
    pub fn sight(&self, fleet: &FleetKey) -> Option<Sight> {
        let known = self.deployments.get(&(fleet.namespace.clone(), fleet.name.clone()));
        let deployment = known.map(|known| Arc::clone(&known.object));
        let adapters: Vec<Arc<Adapter>> =
            self.adapters.of_fleet(fleet).map(|(_, known)| Arc::clone(&known.object)).collect();
        let of_adapters = self.adapters.of_fleet(fleet).map(|(_, known)| known);
        let why = |known: &Known<Adapter>| known.unreadable.clone().map(|why| (key_of(&known.object), why));
        let unread = Unread {
            deployment: known.and_then(|known| known.unreadable.clone()),
            adapters: of_adapters.filter_map(|known| why(known)).collect(),
        };
        if deployment.is_none() && adapters.is_empty() {
            return None;
        }
        let of_adapters: BTreeSet<String> =
            adapters.iter().filter_map(|adapter| adapter.namespace()).collect();
        let namespaces = of_adapters
            .into_iter()
            .filter_map(|name| self.namespace(&name).map(|labels| (name, (*labels).clone())))
            .collect();
        let pods =
            self.pods.of_fleet(fleet).map(|((_, name), pod)| (name.clone(), Arc::clone(pod))).collect();
        let children = self
            .children
            .iter()
            .flat_map(|(kind, table)| {
                table.of_fleet(fleet).map(|((_, name), child)| ((*kind, name.clone()), Arc::clone(child)))
            })
            .collect();
        Some(Sight { deployment, adapters, unread, namespaces, pods, children })
    }
}

/// The fleet of a Deployment or an Adapter of ours.
pub trait InFleet {
    /// Whose it is.
    fn fleet(&self) -> FleetKey;
}

impl InFleet for Deployment {
    fn fleet(&self) -> FleetKey {
        FleetKey { namespace: self.namespace().unwrap_or_default(), name: self.name_any() }
    }
}

impl InFleet for Adapter {
    fn fleet(&self) -> FleetKey {
        let reference = &self.spec.deployment_ref;
        let namespace = reference.namespace.clone().or_else(|| self.namespace()).unwrap_or_default();
        FleetKey { namespace, name: reference.name.clone() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::table::Seen;

    fn adapter(namespace: &str, name: &str, of: Option<&str>) -> Adapter {
        let object = json!({
            "apiVersion": "lorikeet.dev/v1alpha1", "kind": "Adapter",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"deploymentRef": {"name": "x", "namespace": of}, "source": "hf://a/b"}
        });
        serde_json::from_value(object).unwrap()
    }

    fn labels(namespace: &str, team: &str) -> Change<BTreeMap<String, String>> {
        let object = BTreeMap::from([("team".to_owned(), team.to_owned())]);
        Change::Apply(Seen { key: (String::new(), namespace.to_owned()), fleet: None, urgent: 0, object })
    }

    fn apply(adapter: Adapter) -> Change<Known<Adapter>> {
        let key = (adapter.namespace().unwrap(), adapter.name_any());
        let fleet = Some(adapter.fleet());
        let object = Known { object: Arc::new(adapter), unreadable: None };
        Change::Apply(Seen { key, fleet, urgent: 0, object })
    }

    #[test]
    fn an_adapter_belongs_to_the_deployment_that_it_names_in_any_namespace() {
        let mut world = World::default();
        world.adapters.take(apply(adapter("a", "one", None)));
        world.adapters.take(apply(adapter("b", "two", Some("a"))));
        let fleet = FleetKey { namespace: "a".to_owned(), name: "x".to_owned() };
        let sight = world.sight(&fleet).unwrap();
        assert_eq!(sight.adapters.len(), 2);
        assert!(sight.deployment.is_none());
        let elsewhere = FleetKey { namespace: "b".to_owned(), name: "x".to_owned() };
        assert!(world.sight(&elsewhere).is_none());
    }

    #[test]
    fn what_cannot_be_read_is_told_of_where_it_changed() {
        let key = ("ns".to_owned(), "bad".to_owned());
        let one = |version: &str| version.to_owned();
        let mut unreadable = Unreadable::default();
        assert!(unreadable.news().is_none());
        unreadable.put(OwnKind::Adapter, key.clone(), one("1"));
        assert_eq!(unreadable.news().unwrap().len(), 1);
        assert!(unreadable.news().is_none());
        unreadable.remove(OwnKind::Deployment, &key);
        unreadable.restart(OwnKind::Deployment);
        assert!(unreadable.news().is_none(), "none was there");
        unreadable.put(OwnKind::Adapter, key.clone(), one("2"));
        assert_eq!(unreadable.news().unwrap()[&(OwnKind::Adapter, key.clone())], one("2"));
        unreadable.remove(OwnKind::Adapter, &key);
        assert!(unreadable.news().unwrap().is_empty());
        // A list that names one of two: until it is over nobody is forgotten.
        let other = ("ns".to_owned(), "other".to_owned());
        for key in [&key, &other] {
            unreadable.put(OwnKind::Adapter, key.clone(), one("3"));
        }
        unreadable.restart(OwnKind::Adapter);
        unreadable.complete(OwnKind::Deployment);
        unreadable.put(OwnKind::Adapter, other.clone(), one("3"));
        assert_eq!(unreadable.news().unwrap().len(), 2);
        unreadable.complete(OwnKind::Adapter);
        assert_eq!(unreadable.news().unwrap().keys().collect::<Vec<_>>(), [&(OwnKind::Adapter, other)]);
    }

    #[test]
    fn a_namespaces_labels_touch_the_fleets_of_its_adapters() {
        let mut world = World::default();
        world.adapters.take(apply(adapter("b", "two", Some("a"))));
        let touched = world.take_namespace(labels("b", "nlp"));
        assert_eq!(touched.len(), 1);
        assert_eq!(touched[0].fleet.namespace, "a");
        assert_eq!(world.take_namespace(labels("b", "nlp")), []);
        assert_eq!(world.take_namespace(labels("c", "nlp")), []);
        assert_eq!(world.sight(&touched[0].fleet).unwrap().namespaces["b"]["team"], "nlp");
    }
}
