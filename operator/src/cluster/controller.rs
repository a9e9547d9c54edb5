//! The loop: news marks fleets, due fleets are looked at, so many at once; their statuses are written beside that, so that a
//! thousand of them do not keep a new Adapter waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::config::Limits;
use crate::cluster::failure::Failure;
use crate::cluster::look::{Lane, Looked, Looker};
use crate::cluster::malformed;
use crate::cluster::queue::{Ended, Pauses, Queue};
use crate::cluster::refusals::{Refusals, Subject};
use crate::cluster::saying::Saying;
use crate::cluster::statuses::Batch;
use crate::cluster::table::ObjectKey;
use crate::cluster::tasks::{Finished, Tasks};
use crate::cluster::watch::{News, lock};
use crate::cluster::world::OwnKind;
use crate::fleet::FleetKey;
use crate::http::Health;

/// The loop turns at least so often.
const TURN: Duration = Duration::from_secs(1);
/// Before statuses are written again that others were written over.
const AFTER_CONFLICT: Duration = Duration::from_millis(200);
/// News that are taken before due fleets are looked for again.
const NEWS_AT_ONCE: usize = 4096;

/// The loop and what it knows of the fleets.
pub struct Controller {
    looker: Arc<Looker>,
    health: Arc<Health>,
    queue: Queue,
    lanes: BTreeMap<FleetKey, Lane>,
    looks: Tasks<Looked>,
    saying: BTreeMap<FleetKey, Saying>,
    refusals: BTreeMap<FleetKey, Refusals>,
    said: Tasks<Said>,
    told: BTreeMap<(OwnKind, ObjectKey), String>,
    telling: JoinSet<()>,
    /// Turns to tell: a change of the definitions may make all objects unreadable at once.
    tellers: Arc<Semaphore>,
}

/// What the loop hears.
pub struct Heard<'a> {
    /// Of the watches.
    pub news: &'a mut UnboundedReceiver<News>,
    /// Of replicas that said something new, and of sources while more are being read.
    pub changed: &'a mut UnboundedReceiver<FleetKey>,
    /// Of sources when all that had begun to be read were.
    pub read: &'a mut UnboundedReceiver<FleetKey>,
}

/// What came of writing statuses.
struct Said {
    /// There were more than were written at once.
    is_cut: bool,
    done: Vec<(Subject, Result<(), Failure>)>,
}

impl Controller {
    /// Nothing looked at yet.
    #[must_use]
    pub fn new(looker: Arc<Looker>, health: Arc<Health>) -> Self {
        let queue = Queue::new(pauses(looker.limits));
        let tellers = Arc::new(Semaphore::new(looker.limits.concurrent_writes));
        Self {
            looker,
            health,
            queue,
            lanes: BTreeMap::new(),
            looks: Tasks::default(),
            saying: BTreeMap::new(),
            refusals: BTreeMap::new(),
            said: Tasks::default(),
            told: BTreeMap::new(),
            telling: JoinSet::new(),
            tellers,
        }
    }

    /// Runs until `stop`. Looks that are under way then are given up: each step of one can be repeated.
    pub async fn run(mut self, heard: Heard<'_>, stop: &CancellationToken) {
        let Heard { news, changed, read } = heard;
        let all = lock(&self.looker.world).fleets();
        let now = Instant::now();
        all.iter().for_each(|fleet| self.queue.mark(fleet, true, now));
        let (mut some_news, mut some_changed, mut some_read) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            self.health.turn();
            self.start_looks();
            self.tell_malformed();
            let turn = Instant::now() + TURN;
            let wake = self.queue.next().filter(|_| self.has_room()).map_or(turn, |next| next.min(turn));
            tokio::select! {
                () = stop.cancelled() => return,
                _ = news.recv_many(&mut some_news, NEWS_AT_ONCE) => {
                    some_news.drain(..).for_each(|one| self.hear(one));
                }
                _ = changed.recv_many(&mut some_changed, NEWS_AT_ONCE) => self.mark(&mut some_changed, false),
                _ = read.recv_many(&mut some_read, NEWS_AT_ONCE) => self.mark(&mut some_read, true),
                Some(looked) = self.looks.next() => self.looked(looked),
                Some(said) = self.said.next() => self.said(said),
                Some(told) = self.telling.join_next() => {
                    if let Err(error) = told {
                        let failure = Failure::from(error);
                        self.looker.metrics.errors.with_label_values(&[failure.reason()]).inc();
                        tracing::error!(%failure, "an object that cannot be read was not told so");
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    fn mark(&mut self, fleets: &mut Vec<FleetKey>, urgent: bool) {
        let now = Instant::now();
        fleets
            .drain(..)
            .collect::<BTreeSet<_>>()
            .iter()
            .for_each(|fleet| self.queue.mark(fleet, urgent, now));
    }

    fn has_room(&self) -> bool {
        self.looks.count() < self.looker.limits.concurrency
    }

    fn hear(&mut self, news: News) {
        let now = Instant::now();
        match news {
            News::Touched(touched) => self.queue.mark(&touched.fleet, touched.urgent, now),
            News::Recovered => {
                self.queue.forgive(now);
                self.saying.values_mut().for_each(Saying::forgive);
                self.refusals.values_mut().for_each(Refusals::forgive);
            }
        }
    }

    fn start_looks(&mut self) {
        while self.has_room()
            && let Some(fleet) = self.queue.take(Instant::now())
        {
            let lane = self.lanes.remove(&fleet).unwrap_or_default();
            let looker = Arc::clone(&self.looker);
            let now = Instant::now();
            let say = self.saying.get_mut(&fleet).is_none_or(|saying| saying.may(now));
            let telling = self.saying.get(&fleet).map(Saying::of).unwrap_or_default();
            self.looks.spawn(fleet.clone(), async move { looker.look(&fleet, lane, say, &telling).await });
        }
        let metrics = &self.looker.metrics;
        metrics.queue.set(i64::try_from(self.queue.waiting(Instant::now())).unwrap_or(i64::MAX));
        metrics.fleets.set(i64::try_from(self.lanes.len() + self.looks.count()).unwrap_or(i64::MAX));
    }

    fn looked(&mut self, Finished { fleet, took, result }: Finished<Looked>) {
        let looked = result.unwrap_or_else(|error| {
            self.complain(&fleet, &error.into(), false);
            // What was known of the fleet went with it, and is read again.
            Looked { lane: Lane::default(), ended: Ended::Failed, statuses: None }
        });
        self.looker.metrics.reconciled(looked.ended != Ended::Failed, took);
        let now = Instant::now();
        self.queue.ended(&fleet, looked.ended, took, now);
        if looked.ended == Ended::Gone {
            self.saying.remove(&fleet);
            self.refusals.remove(&fleet);
            return;
        }
        let refusals = self.refusals.entry(fleet.clone()).or_default();
        let statuses = looked.statuses.map(|all| all.at_once(refusals, now));
        let due = refusals.due(now);
        if let Some(statuses) = statuses.filter(|statuses| !statuses.is_empty()) {
            self.say(&fleet, statuses);
        }
        let owed = self.saying.get(&fleet).and_then(|saying| saying.owed(now));
        [due, owed].into_iter().flatten().for_each(|at| self.queue.mark(&fleet, false, at));
        self.lanes.insert(fleet, looked.lane);
    }

    fn say(&mut self, fleet: &FleetKey, statuses: Batch) {
        self.saying.entry(fleet.clone()).or_default().begin(statuses.adapters().collect());
        let looker = Arc::clone(&self.looker);
        self.said.spawn(fleet.clone(), async move {
            let is_cut = statuses.is_cut;
            let concurrent = looker.limits.concurrent_writes;
            Said { is_cut, done: statuses.write(&looker.client, &looker.herald, concurrent).await }
        });
    }

    fn said(&mut self, Finished { fleet, result, .. }: Finished<Said>) {
        let (now, pauses) = (Instant::now(), pauses(self.looker.limits));
        let pause = |failures| pauses.after(&fleet, failures);
        let mut gone = Refusals::default();
        let refusals = self.refusals.get_mut(&fleet).unwrap_or(&mut gone);
        let (is_cut, failures) = match result {
            Ok(Said { is_cut, done }) => (is_cut, refusals.take(done, pause, now)),
            Err(error) => (false, vec![(error.into(), false)]),
        };
        let due = refusals.due(now);
        failures.iter().for_each(|(failure, is_news)| self.complain(&fleet, failure, *is_news));
        let Some(saying) = self.saying.get_mut(&fleet) else { return };
        let mut passing =
            failures.iter().map(|(failure, _)| failure).filter(|one| !one.is_lasting()).peekable();
        let again = if passing.peek().is_none() {
            saying.written(is_cut, now)
        } else if passing.all(|one| matches!(one, Failure::Conflict { .. })) {
            // What somebody wrote meanwhile is seen in a moment.
            let first = pauses.first.min(AFTER_CONFLICT);
            Some(saying.failed(|failures| Pauses { first, ..pauses }.after(&fleet, failures), now))
        } else {
            Some(saying.failed(pause, now))
        };
        [due, again].into_iter().flatten().for_each(|at| self.queue.mark(&fleet, false, at));
    }

    /// Counts and logs what failed beside the steps of a look. It is tried again. `is_news`: nobody was told of it so far, and
    /// it will not pass by itself.
    fn complain(&self, FleetKey { namespace, name }: &FleetKey, failure: &Failure, is_news: bool) {
        let reason = failure.reason();
        self.looker.metrics.errors.with_label_values(&[reason]).inc();
        match failure {
            Failure::Broken(_) => tracing::error!(namespace, name, %failure, "not carried out"),
            _ if is_news => tracing::warn!(namespace, name, reason, %failure, "a status may not be written"),
            _ => tracing::debug!(namespace, name, %failure, "a status was not written"),
        }
    }

    /// Tells objects that cannot be read that they cannot: once of each version.
    fn tell_malformed(&mut self) {
        let mut world = lock(&self.looker.world);
        let Some(unreadable) = world.unreadable.news() else { return };
        self.looker.metrics.malformed.set(i64::try_from(unreadable.len()).unwrap_or(i64::MAX));
        self.told.retain(|key, _| unreadable.contains_key(key));
        for (key, version) in unreadable {
            if self.told.get(key) == Some(version) {
                continue;
            }
            self.told.insert(key.clone(), version.clone());
            let (kind, key) = key.clone();
            let (looker, turns) = (Arc::clone(&self.looker), Arc::clone(&self.tellers));
            self.telling.spawn(async move {
                let mut pause = looker.limits.backoff;
                let attempt = async || {
                    // It is never closed.
                    let _turn = turns.acquire().await;
                    malformed::tell(&looker.client, kind, &key, looker.clock.now()).await
                };
                while let Err(failure) = attempt().await {
                    tracing::warn!(%failure, "an object that cannot be read was not told so");
                    if matches!(failure, Failure::Conflict { .. } | Failure::Refused { .. }) {
                        break;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(looker.limits.max_backoff);
                }
            });
        }
    }
}

const fn pauses(limits: Limits) -> Pauses {
    Pauses { first: limits.backoff, longest: limits.max_backoff, resync: limits.resync }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use kube::client::Body;
    use kube::runtime::events::Reporter;
    use lorikeet_crds::Deployment;

    use super::*;
    use crate::build::Settings;
    use crate::build::arguments::Reach;
    use crate::cluster::clock::Clock;
    use crate::cluster::herald::Herald;
    use crate::cluster::table::{Change, Seen};
    use crate::cluster::world::{InFleet as _, Known, World};
    use crate::http;
    use crate::metrics::Metrics;
    use crate::probe::{self, ProbeConfig, Probes};
    use crate::replicas::Replicas;
    use crate::replicas::versions::Versions;

    /// An operator that sees these Deployments and reaches the API server by `client`.
    fn looker(client: kube::Client, deployments: &[&str]) -> Looker {
        // Another test may have done it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut world = World::default();
        for name in deployments {
            let mut deployment = Deployment::default();
            deployment.metadata.namespace = Some("ns".to_owned());
            deployment.metadata.name = Some((*name).to_owned());
            let (key, fleet) = (("ns".to_owned(), (*name).to_owned()), Some(deployment.fleet()));
            let object = Known { object: Arc::new(deployment), unreadable: None };
            world.deployments.take(Change::Apply(Seen { key, fleet, urgent: 0, object }));
        }
        let long = Duration::from_secs(3600);
        let limits = Limits {
            concurrency: 1,
            concurrent_writes: 1,
            replica_writes: 1,
            moves: 1,
            resync: long,
            secret: long,
            backoff: Duration::from_millis(1),
            max_backoff: Duration::from_millis(1),
            api: long,
            registry: long,
            certificate_days: 1,
        };
        let probe = ProbeConfig {
            limit: Duration::ZERO,
            concurrent: 1,
            fresh: long,
            hub: "https://hub.example".to_owned(),
            hosts: Default::default(),
            paths: false,
        };
        let (tell, _) = tokio::sync::mpsc::unbounded_channel();
        let reach = Reach::new(&probe.hub, &probe.hosts.allow);
        Looker {
            world: Arc::new(Mutex::new(world)),
            replicas: Mutex::new(Replicas::new(Arc::new(Versions::new(1)), 1, tell.clone())),
            probes: Probes::new(probe, probe::News { some: tell.clone(), all: tell }),
            settings: Settings { image: "image".to_owned(), namespace: "ns".to_owned(), reach },
            is_cluster_wide: false,
            limits,
            herald: Herald::new(client.clone(), Reporter { controller: "test".to_owned(), instance: None }),
            metrics: Metrics::new().unwrap(),
            clock: Clock::default(),
            client,
        }
    }

    #[tokio::test]
    async fn a_panic_of_a_look_or_of_a_status_write_is_counted_and_its_fleet_looked_at_again() {
        let (all, statuses) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let (stop, calls) = (CancellationToken::new(), Arc::clone(&all));
        let stopping = stop.clone();
        // The first call is a look's; nothing that is asked for is there.
        let server = tower::service_fn(move |request: ::http::Request<Body>| {
            let is_first = calls.fetch_add(1, Ordering::Relaxed) == 0;
            let is_status = request.uri().path().ends_with("/status");
            let is_first_status = is_status && statuses.fetch_add(1, Ordering::Relaxed) == 0;
            if is_status && !is_first_status {
                stopping.cancel();
            }
            async move {
                assert!(!is_first && !is_first_status, "a fault of ours");
                let answer = ::http::Response::builder().status(404).body(Body::empty());
                Ok::<_, Infallible>(answer.unwrap())
            }
        });
        let looker = Arc::new(looker(kube::Client::new(server, "ns"), &["base"]));
        let metrics = looker.metrics.clone();
        let (_news, mut news) = tokio::sync::mpsc::unbounded_channel();
        let (_changed, mut changed) = tokio::sync::mpsc::unbounded_channel();
        let (_read, mut read) = tokio::sync::mpsc::unbounded_channel();
        let controller = Controller::new(looker, Arc::default());
        let run = controller.run(Heard { news: &mut news, changed: &mut changed, read: &mut read }, &stop);
        tokio::time::timeout(Duration::from_secs(30), run).await.expect("the status is written again");
        assert_eq!(metrics.errors.with_label_values(&["Broken"]).get(), 2);
        assert!(all.load(Ordering::Relaxed) > 3);
    }

    /// How many of two fleets had calls under way at a time, at most, while each was looked at some times.
    async fn most_at_once(concurrency: usize) -> usize {
        const FLEETS: [&str; 2] = ["one", "two"];
        const CALLS: usize = 20;
        let under_way = Arc::new(Mutex::new(([0; 2], [0; 2], 0)));
        let (stop, seen) = (CancellationToken::new(), Arc::clone(&under_way));
        let stopping = stop.clone();
        // Nothing that is asked for is there; the answer takes its time, so that looks would meet.
        let server = tower::service_fn(move |request: ::http::Request<Body>| {
            let path = request.uri().path().to_owned();
            let (seen, stopping) = (Arc::clone(&seen), stopping.clone());
            async move {
                // Statuses are written beside the looks.
                let is_of = |name: &str| {
                    let mut parts = path.split('/');
                    !path.ends_with("/status") && parts.any(|part| part.split('-').next() == Some(name))
                };
                if let Some(fleet) = FLEETS.iter().position(|name| is_of(name)) {
                    {
                        let (now, all, most) = &mut *seen.lock().unwrap();
                        now[fleet] += 1;
                        all[fleet] += 1;
                        *most = now.iter().filter(|count| **count > 0).count().max(*most);
                        if all.iter().all(|count| *count >= CALLS) {
                            stopping.cancel();
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    seen.lock().unwrap().0[fleet] -= 1;
                }
                let answer = ::http::Response::builder().status(404).body(Body::empty());
                Ok::<_, Infallible>(answer.unwrap())
            }
        });
        let mut looker = looker(kube::Client::new(server, "ns"), &FLEETS);
        looker.limits.concurrency = concurrency;
        let (_news, mut news) = tokio::sync::mpsc::unbounded_channel();
        let (_changed, mut changed) = tokio::sync::mpsc::unbounded_channel();
        let (_read, mut read) = tokio::sync::mpsc::unbounded_channel();
        let controller = Controller::new(Arc::new(looker), Arc::default());
        let run = controller.run(Heard { news: &mut news, changed: &mut changed, read: &mut read }, &stop);
        tokio::time::timeout(Duration::from_secs(30), run)
            .await
            .expect("both are looked at, again and again");
        under_way.lock().unwrap().2
    }

    #[tokio::test]
    async fn no_more_fleets_are_looked_at_at_once_than_may_be() {
        assert_eq!(most_at_once(1).await, 1);
        assert_eq!(most_at_once(2).await, 2, "the two do not meet: nothing was shown");
    }

    /// What `/healthz` answers.
    async fn healthz(at: SocketAddr) -> u16 {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.get(format!("http://{at}/healthz")).send().await.unwrap().status().as_u16()
    }

    /// Asks `/healthz` until it answers `status`.
    async fn until_healthz(at: SocketAddr, status: u16) {
        let asked = async {
            while healthz(at).await != status {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), asked).await.expect("it answers so in the end");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_loop_that_stands_still_is_unwell_until_it_goes_on() {
        let longest = 5 * TURN;
        let health = Arc::new(Health::within(longest));
        // Nothing that is asked for is there.
        let server = tower::service_fn(|_: ::http::Request<Body>| async {
            Ok::<_, Infallible>(::http::Response::builder().status(404).body(Body::empty()).unwrap())
        });
        let looker = Arc::new(looker(kube::Client::new(server, "ns"), &["base"]));
        let (world, metrics) = (Arc::clone(&looker.world), looker.metrics.clone());
        let stop = CancellationToken::new();
        let listener = http::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let at = listener.local_addr().unwrap();
        let served = tokio::spawn(http::serve(listener, Arc::clone(&health), metrics, stop.clone()));
        let controller = Controller::new(looker, health);
        let stopping = stop.clone();
        // On threads of its own: it will hold up whichever it runs on.
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let run = runtime.spawn(async move {
            let (_news, mut news) = tokio::sync::mpsc::unbounded_channel();
            let (_changed, mut changed) = tokio::sync::mpsc::unbounded_channel();
            let (_read, mut read) = tokio::sync::mpsc::unbounded_channel();
            controller
                .run(Heard { news: &mut news, changed: &mut changed, read: &mut read }, &stopping)
                .await;
        });
        let began = Instant::now();
        while began.elapsed() < longest + TURN {
            assert_eq!(healthz(at).await, 200, "it turns all the time");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // Each turn looks at what was seen.
        let (release, released) = std::sync::mpsc::channel::<()>();
        let holder = std::thread::spawn(move || {
            let _seen = lock(&world);
            // It ends with the sender too.
            let _ = released.recv();
        });
        until_healthz(at, 500).await;
        drop(release);
        holder.join().unwrap();
        until_healthz(at, 200).await;
        stop.cancel();
        run.await.unwrap();
        served.await.unwrap();
        runtime.shutdown_background();
    }
}
