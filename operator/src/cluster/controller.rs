//! The loop: news marks fleets, due fleets are looked at, so many at once; their statuses are written beside that, so that a
//! thousand of them do not keep a new Adapter waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::config::Limits;
use crate::cluster::failure::Failure;
use crate::cluster::look::{Lane, Looked, Looker};
use crate::cluster::malformed;
use crate::cluster::queue::{Ended, Pauses, Queue};
use crate::cluster::saying::Saying;
use crate::cluster::statuses::Batch;
use crate::cluster::table::ObjectKey;
use crate::cluster::watch::{News, lock};
use crate::cluster::world::OwnKind;
use crate::fleet::FleetKey;
use crate::http::Health;

/// The loop turns at least so often.
const TURN: Duration = Duration::from_secs(1);
/// News that are taken before due fleets are looked for again.
const NEWS_AT_ONCE: usize = 4096;

/// The loop and what it knows of the fleets.
pub struct Controller {
    looker: Arc<Looker>,
    health: Arc<Health>,
    queue: Queue,
    lanes: BTreeMap<FleetKey, Lane>,
    looks: JoinSet<(FleetKey, Duration, Looked)>,
    saying: BTreeMap<FleetKey, Saying>,
    said: JoinSet<(FleetKey, bool, Vec<Failure>)>,
    told: BTreeMap<(OwnKind, ObjectKey), String>,
    telling: JoinSet<()>,
}

impl Controller {
    /// Nothing looked at yet.
    #[must_use]
    pub fn new(looker: Arc<Looker>, health: Arc<Health>) -> Self {
        let queue = Queue::new(pauses(looker.limits));
        Self {
            looker,
            health,
            queue,
            lanes: BTreeMap::new(),
            looks: JoinSet::new(),
            saying: BTreeMap::new(),
            said: JoinSet::new(),
            told: BTreeMap::new(),
            telling: JoinSet::new(),
        }
    }

    /// Runs until `stop`. Looks that are under way then are given up: each step of one can be repeated.
    pub async fn run(
        mut self,
        news: &mut UnboundedReceiver<News>,
        changed: &mut UnboundedReceiver<FleetKey>,
        stop: &CancellationToken,
    ) {
        let all = lock(&self.looker.world).fleets();
        let now = Instant::now();
        all.iter().for_each(|fleet| self.queue.mark(fleet, true, now));
        let (mut some_news, mut some_changed) = (Vec::new(), Vec::new());
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
                _ = changed.recv_many(&mut some_changed, NEWS_AT_ONCE) => {
                    let now = Instant::now();
                    some_changed.drain(..).collect::<BTreeSet<_>>().iter()
                        .for_each(|fleet| self.queue.mark(fleet, false, now));
                }
                Some(looked) = self.looks.join_next() => {
                    if let Ok((fleet, took, looked)) = looked {
                        self.looked(fleet, took, looked);
                    }
                }
                Some(said) = self.said.join_next() => {
                    if let Ok((fleet, is_cut, failures)) = said {
                        self.said(&fleet, is_cut, &failures);
                    }
                }
                Some(_) = self.telling.join_next() => {}
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    fn has_room(&self) -> bool {
        self.looks.len() < self.looker.limits.concurrency
    }

    fn hear(&mut self, news: News) {
        let now = Instant::now();
        match news {
            News::Touched(touched) => self.queue.mark(&touched.fleet, touched.urgent, now),
            News::Recovered => {
                self.queue.forgive(now);
                self.saying.values_mut().for_each(Saying::forgive);
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
            self.looks.spawn(async move {
                let started = Instant::now();
                let looked = looker.look(&fleet, lane, say).await;
                (fleet, started.elapsed(), looked)
            });
        }
        let metrics = &self.looker.metrics;
        metrics.queue.set(i64::try_from(self.queue.waiting(Instant::now())).unwrap_or(i64::MAX));
        metrics.fleets.set(i64::try_from(self.lanes.len() + self.looks.len()).unwrap_or(i64::MAX));
    }

    fn looked(&mut self, fleet: FleetKey, took: Duration, looked: Looked) {
        self.looker.metrics.reconciled(looked.ended != Ended::Failed, took);
        let now = Instant::now();
        self.queue.ended(&fleet, looked.ended, took, now);
        if looked.ended == Ended::Gone {
            self.saying.remove(&fleet);
            return;
        }
        if let Some(statuses) = looked.statuses.filter(|statuses| !statuses.is_empty()) {
            self.say(&fleet, statuses);
        }
        if let Some(owed) = self.saying.get(&fleet).and_then(|saying| saying.owed(now)) {
            self.queue.mark(&fleet, false, owed);
        }
        self.lanes.insert(fleet, looked.lane);
    }

    fn say(&mut self, fleet: &FleetKey, statuses: Batch) {
        self.saying.entry(fleet.clone()).or_default().begin();
        let (looker, fleet) = (Arc::clone(&self.looker), fleet.clone());
        self.said.spawn(async move {
            let is_cut = statuses.is_cut;
            let concurrent = looker.limits.concurrent_writes;
            let failures = statuses.write(&looker.client, &looker.herald, concurrent).await;
            (fleet, is_cut, failures)
        });
    }

    fn said(&mut self, fleet: &FleetKey, is_cut: bool, failures: &[Failure]) {
        let now = Instant::now();
        for failure in failures {
            self.looker.metrics.errors.with_label_values(&[failure.reason()]).inc();
            tracing::debug!(namespace = fleet.namespace, name = fleet.name, %failure, "a status was not written");
        }
        let Some(saying) = self.saying.get_mut(fleet) else { return };
        let again = if failures.is_empty() {
            saying.written(is_cut, now)
        } else {
            let pauses = pauses(self.looker.limits);
            Some(saying.failed(|failures| pauses.after(fleet, failures), now))
        };
        if let Some(again) = again {
            self.queue.mark(fleet, false, again);
        }
    }

    /// Tells objects that cannot be read that they cannot: once of each version.
    fn tell_malformed(&mut self) {
        let malformed = lock(&self.looker.world).malformed.clone();
        self.looker.metrics.malformed.set(i64::try_from(malformed.len()).unwrap_or(i64::MAX));
        self.told.retain(|key, _| malformed.contains_key(key));
        for (key, one) in malformed {
            if self.told.get(&key) == Some(&one.version) {
                continue;
            }
            self.told.insert(key.clone(), one.version.clone());
            let looker = Arc::clone(&self.looker);
            self.telling.spawn(async move {
                let ((kind, key), mut pause) = (key, looker.limits.backoff);
                while let Err(failure) = malformed::tell(&looker.client, kind, &key, &one.error).await {
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
