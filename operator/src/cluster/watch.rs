//! The watches: what happens in the cluster goes into the [`World`], and the fleets that it touches to the queue. One
//! object that cannot be read does not end a watch. Secrets are never watched nor listed.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ApiResource;
use kube::core::{DynamicObject, NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use lorikeet_crds::{Adapter, Deployment};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;

use crate::build::LABEL;
use crate::cluster::client::WATCH_SECONDS;
use crate::cluster::compare::is_ours;
use crate::cluster::facts::PodFacts;
use crate::cluster::kinds::ChildKind;
use crate::cluster::reading::{InParts, Reading, read};
use crate::cluster::table::{Change, ObjectKey, Seen, Table, Touched};
use crate::cluster::world::{InFleet, Known, OwnKind, World};
use crate::fleet::FleetKey;
use crate::metrics::Metrics;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// News for the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Something happened to a fleet.
    Touched(Touched),
    /// A watch that was broken works again.
    Recovered,
}

/// Where the watches put what they see.
#[derive(Clone)]
pub struct Watches {
    /// The API server.
    pub client: Client,
    /// The one namespace that is watched, or all.
    pub namespace: Option<String>,
    /// What was seen.
    pub world: Arc<Mutex<World>>,
    /// Who hears of it.
    pub news: UnboundedSender<News>,
    /// Counts broken watches.
    pub metrics: Metrics,
}

impl Watches {
    /// Starts every watch; they end with the set.
    pub fn start(&self) -> JoinSet<()> {
        let mut running = JoinSet::new();
        let own = watcher::Config::default().timeout(WATCH_SECONDS);
        let labelled = own.clone().labels(LABEL);
        let deployments = |world: &mut World, event| {
            own_event(world, OwnKind::Deployment, event, |world| &mut world.deployments)
        };
        let adapters =
            |world: &mut World, event| own_event(world, OwnKind::Adapter, event, |world| &mut world.adapters);
        running.spawn(self.clone().follow(
            "Deployment",
            self.own_api::<Deployment>(),
            own.clone(),
            deployments,
        ));
        running.spawn(self.clone().follow("Adapter", self.own_api::<Adapter>(), own.clone(), adapters));
        let pods = |world: &mut World, event| world.pods.take(change(event, pod));
        running.spawn(self.clone().follow("Pod", self.api::<Pod>(), labelled.clone(), pods));
        for kind in ChildKind::ALL {
            let api = kind.api(self.client.clone(), self.namespace.as_deref());
            let take = move |world: &mut World, event| {
                world.children(kind).take(change(event, |object| child(kind, object)))
            };
            running.spawn(self.clone().follow("Child", api, labelled.clone(), take));
        }
        if self.namespace.is_none() {
            let api: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
            let take = |world: &mut World, event| world.take_namespace(change(event, namespace));
            running.spawn(self.clone().follow("Namespace", api, own, take));
        }
        running
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    fn own_api<K: Resource<DynamicType = ()>>(&self) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<K>(&());
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// Follows one kind for ever. The watcher lists again after a gap, and begins again after an error.
    async fn follow<K>(
        self,
        kind: &'static str,
        api: Api<K>,
        config: watcher::Config,
        mut take: impl FnMut(&mut World, Event<K>) -> Vec<Touched> + Send,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let mut events = std::pin::pin!(watcher(api, config));
        let mut pause = FIRST_PAUSE;
        let mut broken = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    // The start of a list is no answer yet.
                    if broken && !matches!(event, Event::Init) {
                        broken = false;
                        pause = FIRST_PAUSE;
                        let _ = self.news.send(News::Recovered);
                    }
                    let touched = take(&mut lock(&self.world), event);
                    // Nobody listens any more only while the operator stops.
                    touched.into_iter().for_each(|one| drop(self.news.send(News::Touched(one))));
                }
                Err(error) => {
                    self.metrics.watch_errors.with_label_values(&[kind]).inc();
                    if !broken {
                        tracing::warn!(kind, %error, "a watch broke; it begins again");
                    }
                    broken = true;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// The world, also after a panic of somebody who held it: every change of it is whole.
pub fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A watcher's event as a table takes it.
fn change<K: Resource, T>(event: Event<K>, see: impl Fn(K) -> Seen<T>) -> Change<T> {
    match event {
        Event::Init => Change::Restart,
        Event::InitApply(object) | Event::Apply(object) => Change::Apply(see(object)),
        Event::Delete(object) => Change::Delete(key(object.meta())),
        Event::InitDone => Change::Complete,
    }
}

/// An event of a kind of ours, of which single objects may be unreadable.
fn own_event<K>(
    world: &mut World,
    kind: OwnKind,
    event: Event<DynamicObject>,
    table: impl Fn(&mut World) -> &mut Table<Known<K>>,
) -> Vec<Touched>
where
    K: Resource<DynamicType = ()> + InFleet + InParts + PartialEq,
{
    let change = match event {
        Event::InitApply(object) | Event::Apply(object) => {
            let (key, reading) = (key(&object.metadata), read(&object));
            let version = object.metadata.resource_version.unwrap_or_default();
            let is_whole = matches!(reading, Reading::Whole(_));
            let change = match reading {
                Reading::Whole(object) | Reading::WithoutStatus { object, .. } => {
                    Change::Apply(own(object, None))
                }
                Reading::Part { object, error } => Change::Apply(own(object, Some(error))),
                Reading::Nothing { .. } => Change::Unreadable(key.clone()),
            };
            if is_whole {
                world.unreadable.remove(kind, &key);
            } else {
                world.unreadable.put(kind, key, version);
            }
            change
        }
        Event::Delete(object) => {
            let key = key(&object.metadata);
            world.unreadable.remove(kind, &key);
            Change::Delete(key)
        }
        Event::Init => {
            world.unreadable.restart(kind);
            Change::Restart
        }
        Event::InitDone => {
            world.unreadable.complete(kind);
            Change::Complete
        }
    };
    table(world).take(change)
}

fn key(metadata: &ObjectMeta) -> ObjectKey {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn own<K>(mut object: K, unreadable: Option<String>) -> Seen<Known<K>>
where
    K: Resource<DynamicType = ()> + InFleet,
{
    // Larger than the object itself, and nobody here looks at them.
    object.meta_mut().managed_fields = None;
    if let Some(annotations) = &mut object.meta_mut().annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    let metadata = object.meta();
    let mut hasher = DefaultHasher::new();
    (metadata.generation, metadata.deletion_timestamp.is_some(), &metadata.finalizers).hash(&mut hasher);
    let (key, fleet) = (key(metadata), Some(object.fleet()));
    let object = Known { object: Arc::new(object), unreadable };
    Seen { key, fleet, urgent: hasher.finish(), object }
}

/// The fleet that a labelled object says it belongs to.
fn labelled(metadata: &ObjectMeta) -> Option<FleetKey> {
    let name = metadata.labels.as_ref()?.get(LABEL)?.clone();
    Some(FleetKey { namespace: metadata.namespace.clone()?, name })
}

fn pod(pod: Pod) -> Seen<PodFacts> {
    let facts = PodFacts::of(&pod);
    let mut hasher = DefaultHasher::new();
    (&facts.incarnation, &facts.address, facts.leaving).hash(&mut hasher);
    Seen { key: key(&pod.metadata), fleet: labelled(&pod.metadata), urgent: hasher.finish(), object: facts }
}

fn namespace(object: PartialObjectMeta<Namespace>) -> Seen<BTreeMap<String, String>> {
    let metadata = object.metadata;
    Seen { key: key(&metadata), fleet: None, urgent: 0, object: metadata.labels.unwrap_or_default() }
}

/// A child, without what nobody here looks at: other managers' records, and the status of all but the workload.
fn child(kind: ChildKind, mut object: DynamicObject) -> Seen<Value> {
    let (key, fleet) = (key(&object.metadata), labelled(&object.metadata));
    if kind != ChildKind::Workload
        && let Some(data) = object.data.as_object_mut()
    {
        data.remove("status");
    }
    let mut hasher = DefaultHasher::new();
    object.metadata.generation.hash(&mut hasher);
    let mut object = serde_json::to_value(&object).unwrap_or_default();
    if let Some(records) = object.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut) {
        records.retain(is_ours);
    }
    Seen { key, fleet, urgent: hasher.finish(), object }
}
