//! One look at one fleet: see -> open the replicas -> decide -> ask the replicas -> hold deletions -> apply children -> say.
//!
//! Each step can be repeated and leaves what is right alone: what was seen may be older than what was written last. A step
//! that fails does not keep the next from being done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::Client;
use lorikeet_crds::Deployment;
use serde_json::Value;

use crate::build::{PUBLIC_PORT, Settings, build, surroundings, workload};
use crate::cluster::apply::{Applying, Settled};
use crate::cluster::capacity;
use crate::cluster::clock::Clock;
use crate::cluster::compare::differs;
use crate::cluster::config::Limits;
use crate::cluster::facts::{PodFacts, workload_facts};
use crate::cluster::failure::Failure;
use crate::cluster::finalizer::{Bearers, Written};
use crate::cluster::herald::{Herald, shortened};
use crate::cluster::kinds::{Child, ChildKind, around, each};
use crate::cluster::queue::Ended;
use crate::cluster::rollout::{self, Order, Rollout};
use crate::cluster::secret::{Admin, Keeping, ensure, host};
use crate::cluster::statuses::Batch;
use crate::cluster::watch::lock;
use crate::cluster::world::{Sight, World};
use crate::decide::outcome::{Outcome, conclude, conclude_adapter};
use crate::decide::scale::gpus;
use crate::decide::validate::{ValidFleet, key_of};
use crate::decide::{Decision, decide};
use crate::fleet::{AdapterKey, Capacity, Contact, Fleet, FleetKey, Replica};
use crate::metrics::Metrics;
use crate::probe::Probes;
use crate::probe::beside::{Inspector, Readers};
use crate::replicas::Replicas;
use crate::replicas::client::Endpoint;

mod ask;

use self::ask::Asked;

/// At the start nothing is decided before every replica that has an address was heard, or did not answer in time: what
/// they hold would look lost, and be moved.
const UNHEARD_AT_START: Duration = Duration::from_secs(10);
/// Later, one that comes back or is new is waited for that long: most answer, or refuse, at once.
const UNHEARD_LATER: Duration = Duration::from_millis(500);
const UNHEARD_PAUSE: Duration = Duration::from_millis(20);
/// What somebody changed meanwhile is looked at again after that time at the latest.
const AFTER_CONFLICT: Duration = Duration::from_secs(1);

/// What every look shares.
pub struct Looker {
    /// The API server.
    pub client: Client,
    /// What the watches have seen.
    pub world: Arc<Mutex<World>>,
    /// The replicas.
    pub replicas: Mutex<Replicas>,
    /// The sources.
    pub probes: Probes,
    /// What the operator is set to.
    pub settings: Settings,
    /// All namespaces are watched: nodes, and pods of others, may be read, and the operator outlives Adapters.
    pub is_cluster_wide: bool,
    /// The bounds.
    pub limits: Limits,
    /// Says Events.
    pub herald: Herald,
    /// Counts.
    pub metrics: Metrics,
    /// The time.
    pub clock: Clock,
}

/// What a fleet's looks hand on to the next: times and copies of what was read, never a decision.
#[derive(Default)]
pub struct Lane {
    admin: Option<(Instant, Admin)>,
    closed_since: Option<Timestamp>,
    heard: bool,
    unheard_since: Option<Instant>,
    registry_at: Option<Instant>,
    rollout: Rollout,
    settled: Settled,
    bearers: Bearers,
}

/// How a look ended.
pub struct Looked {
    /// For the next look.
    pub lane: Lane,
    /// When that is.
    pub ended: Ended,
    /// What is to be written of statuses; nothing where the former ones are still being written.
    pub statuses: Option<Batch>,
}

/// One look, under way.
struct Look<'a> {
    looker: &'a Looker,
    fleet: &'a FleetKey,
    sight: Sight,
    /// Adapters whose statuses are being written.
    telling: &'a BTreeSet<AdapterKey>,
    lane: Lane,
    failures: Vec<Failure>,
    again: Option<Duration>,
}

impl Looker {
    /// Looks at `fleet`. `say` is false while statuses of it are being written, which are those of `telling` among others.
    pub async fn look(
        &self,
        fleet: &FleetKey,
        lane: Lane,
        say: bool,
        telling: &BTreeSet<AdapterKey>,
    ) -> Looked {
        let Some(sight) = lock(&self.world).sight(fleet) else {
            self.replicas().observe(fleet, &BTreeMap::new());
            self.probes.forget(fleet);
            return Looked { lane: Lane::default(), ended: Ended::Gone, statuses: None };
        };
        let mut look = Look { looker: self, fleet, sight, telling, lane, failures: Vec::new(), again: None };
        let statuses = look.run(say).await;
        look.complain();
        let ended = look.ended();
        Looked { lane: look.lane, ended, statuses }
    }

    fn replicas(&self) -> MutexGuard<'_, Replicas> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Look<'_> {
    async fn run(&mut self, say: bool) -> Option<Batch> {
        let admin = self.admin().await;
        let closed = self.lasting(0);
        let replicas = self.replicas(admin.as_ref())?;
        let (fleet, young) = self.facts(replicas, &self.inspectors(admin.as_ref()));
        let now = self.looker.clock.now();
        let (fleet, mut decision) = match tokio::task::spawn_blocking(move || decided(fleet, now)).await {
            Ok(decided) => decided,
            Err(error) => {
                self.failures.push(error.into());
                return None;
            }
        };
        let Asked { finalizers: Written { held, refused, .. }, lacking, untold } =
            self.ask(&fleet, &mut decision).await;
        // They have another version now, or none, or get one at the next look; the watch will tell.
        let others = decision.released.iter().chain(&lacking).filter(|key| !refused.contains_key(*key));
        // Nor is it worth a write that something has only begun to be read.
        held.iter().chain(others).chain(&young).for_each(|key| drop(decision.adapters.remove(key)));
        for adapter in &self.sight.adapters {
            if let Some(why) = refused.get(&key_of(adapter)) {
                conclude_adapter(&mut decision, adapter, shortened(why), self.looker.clock.now());
            }
        }
        let before = self.failures.len();
        let mut valid = decision.valid.take().filter(|_| admin.is_some());
        if let Some(valid) = &mut valid {
            // Nor may a replica that starts hear of them.
            valid.adapters.retain(|adapter| !untold.contains(&adapter.key));
        }
        let is_pending = self.apply(fleet, valid).await;
        if let Some(deployment) = &self.sight.deployment {
            let outcome = match closed.or_else(|| self.lasting(before)) {
                Some(why) => Outcome::Failed(why),
                None if is_pending => Outcome::Pending,
                None => Outcome::Done,
            };
            conclude(&mut decision, deployment, &outcome, self.looker.clock.now());
        }
        self.soon(decision.again);
        say.then(|| Batch::of(self.sight.deployment.as_ref(), &self.sight.adapters, decision))
    }

    /// What somebody changed meanwhile is no error: it is seen anew, and the change brings the next look. A Secret is not
    /// watched, and is read again.
    fn ended(&mut self) -> Ended {
        if self.failures.is_empty() {
            return Ended::Done(self.again);
        }
        if self.failures.iter().any(|failure| !matches!(failure, Failure::Conflict { .. })) {
            return Ended::Failed;
        }
        self.soon(Some(AFTER_CONFLICT));
        Ended::Done(self.again)
    }

    /// What failed and will not pass by itself, from the failure at `first` on.
    fn lasting(&self, first: usize) -> Option<String> {
        self.failures[first..]
            .iter()
            .find(|failure| failure.is_lasting())
            .map(|failure| shortened(&failure.to_string()))
    }

    fn soon(&mut self, after: Option<Duration>) {
        self.again = [self.again, after].into_iter().flatten().min();
    }

    /// The Deployment, where its children may be written.
    fn writable(&self) -> Option<Arc<Deployment>> {
        let may = |one: &&Arc<Deployment>| !one.spec.paused && one.metadata.deletion_timestamp.is_none();
        self.sight.deployment.as_ref().filter(may).cloned()
    }

    /// What opens the replicas: read by name now and then, as it is not watched. Where it is gone or damaged and may not be
    /// written, what it said before: that opens the replicas still.
    async fn admin(&mut self) -> Option<Admin> {
        let Some(deployment) = self.sight.deployment.clone() else {
            self.lane.admin = None;
            return None;
        };
        let lasts = self.looker.limits.secret;
        if let Some((at, admin)) = &self.lane.admin
            && at.elapsed() < lasts
        {
            let admin = admin.clone();
            self.soon(Some(lasts.saturating_sub(at.elapsed())));
            return Some(admin);
        }
        let days = self.looker.limits.certificate_days;
        let may_write = self.writable().is_some();
        let known = self.lane.admin.as_ref().map(|(_, admin)| admin);
        let keeping = Keeping { days, may_write, known };
        match ensure(&self.looker.client, self.fleet, &deployment, keeping, self.looker.clock.now()).await {
            Ok(admin) => {
                self.soon(Some(lasts));
                let read = admin.map(|admin| (Instant::now(), admin));
                self.lane.admin = read.or_else(|| self.lane.admin.take());
            }
            Err(failure) => self.failures.push(failure),
        }
        self.lane.admin.as_ref().map(|(_, admin)| admin.clone())
    }

    /// What is known of replicas while nothing opens them.
    fn closed(&mut self) -> Contact {
        let since = *self.lane.closed_since.get_or_insert_with(|| self.looker.clock.now());
        Contact::Unreachable { error: "no admin Secret".to_owned(), since, last: None }
    }

    /// The replicas and what they say; nothing while that would mislead.
    fn replicas(&mut self, admin: Option<&Admin>) -> Option<Vec<Replica>> {
        let is_closed = admin.is_none() && self.sight.deployment.is_some();
        let is_missing = is_closed && self.failures.is_empty();
        let closed = is_missing.then(|| self.closed());
        if !is_missing {
            self.lane.closed_since = None;
        }
        let pods = || self.sight.pods.iter().filter(|(_, pod)| !pod.finished);
        let passes = self.failures.iter().any(|failure| !failure.is_lasting());
        if is_closed && passes && pods().any(|(_, pod)| pod.address.is_some()) {
            return None;
        }
        let endpoint = |(name, pod): &(String, Arc<PodFacts>)| {
            let endpoint = Endpoint {
                host: host(self.fleet),
                address: pod.address?,
                incarnation: pod.incarnation.clone(),
                access: Arc::clone(&admin?.access),
            };
            Some((name.clone(), endpoint))
        };
        let endpoints: BTreeMap<String, Endpoint> = pods().filter_map(endpoint).collect();
        let mut actors = self.looker.replicas();
        actors.observe(self.fleet, &endpoints);
        let replica = |(name, pod): &(String, Arc<PodFacts>)| Replica {
            name: name.clone(),
            incarnation: pod.incarnation.clone(),
            leaving: pod.leaving,
            contact: match &closed {
                Some(closed) if pod.address.is_some() => closed.clone(),
                _ => actors.contact(self.fleet, name),
            },
            refusal: actors.refusal(self.fleet, name),
        };
        let replicas: Vec<Replica> = pods().map(replica).collect();
        drop(actors);
        let is_unheard =
            |one: &Replica| matches!(one.contact, Contact::Pending) && endpoints.contains_key(&one.name);
        if replicas.iter().any(is_unheard) {
            let since = *self.lane.unheard_since.get_or_insert_with(Instant::now);
            let patience = if self.lane.heard { UNHEARD_LATER } else { UNHEARD_AT_START };
            if since.elapsed() < patience {
                self.soon(Some(UNHEARD_PAUSE));
                return None;
            }
        } else {
            self.lane.unheard_since = None;
        }
        self.lane.heard |= !is_closed;
        Some(replicas)
    }

    /// Who reads what takes a Secret, or lies where replicas alone can go.
    fn inspectors(&self, admin: Option<&Admin>) -> Readers {
        let inspector = |pod: &PodFacts| {
            let endpoint = Endpoint {
                host: host(self.fleet),
                address: pod.inspector?,
                incarnation: pod.incarnation.clone(),
                access: Arc::clone(&admin?.access),
            };
            Some(Inspector { endpoint, mounts: Arc::clone(&pod.mounts) })
        };
        Readers::Inspectors(self.pods_that_stay().filter_map(inspector).collect())
    }

    /// What is known of the fleet, and which of its Adapters have only begun to be read.
    fn facts(&mut self, replicas: Vec<Replica>, readers: &Readers) -> (Fleet, BTreeSet<AdapterKey>) {
        let now = self.looker.clock.now();
        self.soon(self.pods_that_stay().filter_map(|pod| pod.told_after(now)).min());
        let name = |suffix: &str| format!("{}{suffix}", self.fleet.name);
        let served = self.sight.children.contains_key(&(ChildKind::Service, name("")));
        let FleetKey { namespace, name: of } = self.fleet;
        let mut fleet = Fleet {
            key: self.fleet.clone(),
            deployment: self.sight.deployment.clone(),
            adapters: self.sight.adapters.clone(),
            unread: self.sight.unread.clone(),
            namespaces: self.sight.namespaces.clone(),
            probes: BTreeMap::new(),
            replicas,
            capacity: Capacity::default(),
            moves: self.looker.limits.moves,
            claims: workload::CLAIMS.to_owned(),
            url: served.then(|| format!("http://{of}.{namespace}.svc:{PUBLIC_PORT}")),
            workload: self.workload().map(|workload| workload_facts(workload, self.pods_that_stay(), now)),
        };
        let probed = self.looker.probes.of(&fleet, readers);
        self.soon(probed.again);
        fleet.probes = probed.probes;
        (fleet, probed.young)
    }

    fn workload(&self) -> Option<&Value> {
        let key = (ChildKind::Workload, format!("{}-runtime", self.fleet.name));
        self.sight.children.get(&key).map(AsRef::as_ref)
    }

    fn pods_that_stay(&self) -> impl Iterator<Item = &PodFacts> {
        self.sight.pods.iter().map(|(_, pod)| pod.as_ref()).filter(|pod| pod.stays())
    }

    /// Makes the children as they should be. Whether the replicas, or the way to them, were not.
    async fn apply(&mut self, mut fleet: Fleet, valid: Option<ValidFleet>) -> bool {
        let Some(deployment) = self.sight.deployment.clone() else { return true };
        let Some(mut valid) = valid else {
            self.keep(&deployment).await;
            return true;
        };
        // Of thousands, and of no concern to anything but the registry: made where that is written.
        let registered = (std::mem::take(&mut valid.adapters), std::mem::take(&mut valid.former));
        let gpus = gpus(&deployment.spec.node_pool);
        fleet.capacity.free_gpus = rollout::standing(self.workload(), gpus);
        if self.writable().is_none() {
            return self.children(&fleet, &deployment, &valid).is_ok_and(|all| self.differs(&all));
        }
        if gpus > 0 {
            match self.children(&fleet, &deployment, &valid) {
                Ok(children) => {
                    fleet.capacity.free_gpus = self.free_gpus(&children, fleet.capacity.free_gpus).await;
                }
                Err(failure) => {
                    self.failures.push(failure);
                    return true;
                }
            }
        }
        let wait = self
            .lane
            .registry_at
            .map_or(Duration::ZERO, |at| self.looker.limits.registry.saturating_sub(at.elapsed()));
        let writes_registry = wait.is_zero() && valid.may_register();
        if writes_registry {
            (valid.adapters, valid.former) = registered;
            self.lane.registry_at = Some(Instant::now());
        } else {
            // Where it waits for replicas to be heard, their reports bring the next look.
            self.soon(Some(wait).filter(|wait| !wait.is_zero()));
        }
        match self.children(&fleet, &deployment, &valid) {
            Ok(children) => self.put(&deployment, &children, writes_registry).await,
            Err(failure) => {
                self.failures.push(failure);
                true
            }
        }
    }

    /// Keeps what is around pods that run though nothing of their spec may be carried out: they serve on.
    async fn keep(&mut self, deployment: &Deployment) {
        if self.writable().is_none() || self.workload().is_none() {
            return;
        }
        match around(&surroundings(self.fleet, deployment, &self.looker.settings)) {
            Ok(children) => _ = self.put(deployment, &children, false).await,
            Err(error) => self.failures.push(error.into()),
        }
    }

    /// Applies `children`; with `whole`, what is in the registry beside them goes. Whether the replicas, or the way to them,
    /// were not as they should be.
    async fn put(&mut self, deployment: &Deployment, children: &[Child], whole: bool) -> bool {
        let mut applying = Applying {
            client: &self.looker.client,
            fleet: self.fleet,
            deployment,
            there: &self.sight.children,
            settled: &mut self.lane.settled,
            is_pending: false,
        };
        let mut failures = applying.apply(children).await;
        if whole {
            failures.extend(applying.prune(children).await);
            if failures.iter().any(Failure::is_lasting) {
                // The next look tries it too: one that does not would take for over what is not.
                self.lane.registry_at = None;
            }
        }
        let is_pending = applying.is_pending;
        self.failures.extend(failures);
        is_pending
    }

    fn children(
        &self,
        fleet: &Fleet,
        deployment: &Deployment,
        valid: &ValidFleet,
    ) -> Result<Vec<Child>, Failure> {
        let children = build(fleet, deployment, valid, &self.looker.settings);
        Ok(each(&children)?)
    }

    /// Whether the workload is not as one of `children` says.
    fn differs(&self, children: &[Child]) -> bool {
        let desired = children.iter().find(|child| child.kind == ChildKind::Workload);
        self.workload().zip(desired).is_none_or(|(live, desired)| differs(&desired.object, live))
    }

    /// The GPUs that a rollout may count on.
    async fn free_gpus(&mut self, children: &[Child], standing: Option<u32>) -> Option<u32> {
        let desired = children.iter().find(|child| child.kind == ChildKind::Workload)?;
        let waits = self.pods_that_stay().any(PodFacts::waits_for_node)
            && !self.sight.pods.iter().any(|(_, pod)| pod.leaving);
        let mut rollout = std::mem::take(&mut self.lane.rollout);
        let order = self.workload().map(|live| rollout.order(live, &desired.object, waits, Instant::now()));
        self.lane.rollout = rollout;
        self.soon(self.lane.rollout.again(Instant::now()));
        match order {
            None | Some(Order::Standing) => standing,
            Some(Order::Stuck) => Some(0),
            Some(Order::Answered(free)) => free,
            Some(Order::Ask) if !self.looker.is_cluster_wide => None,
            Some(Order::Ask) => {
                let pod = desired.object.pointer("/spec/template/spec")?.clone();
                let pod = serde_json::from_value(pod).ok()?;
                let free = capacity::free_gpus(&self.looker.client, &pod).await;
                self.lane.rollout.answered(free, Instant::now());
                free
            }
        }
    }

    /// Counts and logs what failed. What will not pass by itself is in a status, and its Event with it.
    fn complain(&self) {
        for failure in &self.failures {
            self.looker.metrics.errors.with_label_values(&[failure.reason()]).inc();
            let (namespace, name) = (&self.fleet.namespace, &self.fleet.name);
            match failure {
                Failure::Conflict { .. } => tracing::debug!(namespace, name, %failure, "seen anew"),
                _ => {
                    tracing::warn!(namespace, name, reason = failure.reason(), %failure, "not carried out");
                }
            }
        }
    }
}

fn decided(fleet: Fleet, now: Timestamp) -> (Fleet, Decision) {
    let decision = decide(&fleet, now);
    (fleet, decision)
}
