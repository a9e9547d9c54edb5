//! Probes: what Adapters say of themselves, read from their sources before any replica hears of them. Shared by both
//! carriers. Reads little (a configuration, a few bytes of weights), never with a secret, and never holds an Adapter up for
//! longer than its limit: what is not read in time is for the replicas to judge. Must not judge what it reads.

pub mod address;
pub mod config;
mod files;
mod wanted;
mod web;
mod weights;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{timeout, timeout_at};

use crate::args::ProbeArgs;
use crate::build::arguments::Reach;
use crate::fleet::{AdapterKey, Fleet, FleetKey, Probe};
use crate::probe::address::HostPolicy;
use crate::probe::wanted::{Place, Readable, Wanted, wanted};
use crate::probe::web::{Web, WebError};

/// Sources that are remembered at a time; beyond them the replicas judge.
const REMEMBERED: usize = 65_536;
/// What nobody asked about for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(900);
/// Between two rounds of forgetting.
const ROUND: Duration = Duration::from_secs(60);
/// A host that did not answer is not asked again before.
const AVOIDED: Duration = Duration::from_secs(30);

/// How sources are read.
#[derive(Clone, Debug)]
pub struct ProbeConfig {
    /// The longest that an Adapter waits for its source to be read. None is read when it is zero.
    pub limit: Duration,
    /// Sources that are read at once.
    pub concurrent: usize,
    /// What was read is read again after so long, while the Adapter is not accepted.
    pub fresh: Duration,
    /// The Hugging Face hub's endpoint.
    pub hub: String,
    /// What may be reached beyond public addresses and the hub.
    pub hosts: HostPolicy,
    /// The replicas' paths are this machine's.
    pub paths: bool,
}

/// What was read of an Adapter that is refused is read again after so long: its source may have been corrected.
const FRESH: Duration = Duration::from_secs(60);

impl ProbeConfig {
    /// As the flags say. `paths`: the replicas' paths are this machine's.
    #[must_use]
    pub fn of(args: ProbeArgs, paths: bool) -> Self {
        Self {
            limit: Duration::from_secs(args.probe_seconds.into()),
            concurrent: args.concurrent_probes.into(),
            fresh: FRESH,
            hub: args.hf_endpoint,
            hosts: HostPolicy { allow: args.allow_source_hosts },
            paths,
        }
    }

    /// What replicas may reach: the same.
    #[must_use]
    pub fn reach(&self) -> Reach {
        Reach::new(&self.hub, &self.hosts.allow)
    }
}

/// Reads sources and remembers what they said. Clones share it.
#[derive(Clone)]
pub struct Probes {
    inner: Arc<Inner>,
}

struct Inner {
    config: ProbeConfig,
    readable: Readable,
    web: Option<Web>,
    slots: Semaphore,
    memory: Mutex<Memory>,
    changed: mpsc::UnboundedSender<FleetKey>,
}

/// What was read, and which hosts are avoided until when.
#[derive(Default)]
struct Memory {
    known: HashMap<Wanted, Known>,
    avoided: HashMap<String, Instant>,
    round: Option<Instant>,
}

struct Known {
    probe: Probe,
    /// Since when it is so.
    since: Instant,
    /// When it was last asked about.
    asked: Instant,
    /// Somebody reads it.
    running: bool,
    /// Who waits for what is read.
    fleets: BTreeSet<FleetKey>,
}

impl Probes {
    /// Nothing is read yet. `changed` hears of every fleet of which something new was read.
    #[must_use]
    pub fn new(config: ProbeConfig, changed: mpsc::UnboundedSender<FleetKey>) -> Self {
        let hub: Option<Url> = config.hub.parse().ok().filter(Url::has_host);
        let web = Web::new(config.hosts.clone(), hub.as_ref());
        if let Err(error) = &web {
            tracing::warn!(%error, "sources on the web are not read before replicas hear of them");
        }
        let inner = Inner {
            readable: Readable { hub, paths: config.paths },
            web: web.ok(),
            slots: Semaphore::new(config.concurrent.max(1)),
            memory: Mutex::default(),
            changed,
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// What is known of the sources of `fleet`, for its `probes`. Returns at once; what is not known is begun to be read.
    /// Called within an async runtime.
    #[must_use]
    pub fn of(&self, fleet: &Fleet) -> BTreeMap<AdapterKey, Probe> {
        if self.inner.config.limit.is_zero() {
            return BTreeMap::new();
        }
        let wanted = wanted(fleet, &self.inner.readable);
        wanted.into_iter().map(|(key, wanted)| (key, self.ask(&fleet.key, wanted))).collect()
    }

    fn ask(&self, fleet: &FleetKey, wanted: Wanted) -> Probe {
        let now = Instant::now();
        let mut memory = self.inner.memory();
        if !memory.known.contains_key(&wanted) {
            memory.forget(now);
            if memory.known.len() >= REMEMBERED {
                return Probe::Unreadable("too many sources are being read".to_owned());
            }
        }
        let new = || Known {
            probe: Probe::Pending,
            since: now,
            asked: now,
            running: false,
            fleets: BTreeSet::new(),
        };
        let known = memory.known.entry(wanted.clone()).or_insert_with(new);
        known.asked = now;
        let is_old = known.probe == Probe::Pending || known.since.elapsed() >= self.inner.config.fresh;
        if known.running || is_old {
            known.fleets.insert(fleet.clone());
        }
        if !known.running && is_old {
            known.running = true;
            tokio::spawn(Arc::clone(&self.inner).keep(wanted));
        }
        known.probe.clone()
    }
}

impl Memory {
    fn forget(&mut self, now: Instant) {
        if self.round.is_some_and(|round| now.duration_since(round) < ROUND) {
            return;
        }
        self.round = Some(now);
        self.known.retain(|_, known| known.running || now.duration_since(known.asked) < FORGOTTEN);
        self.avoided.retain(|_, until| *until > now);
    }
}

impl Inner {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads `wanted`, remembers it, and tells who waits for it where it is new.
    async fn keep(self: Arc<Self>, wanted: Wanted) {
        let reading = tokio::spawn({
            let (inner, wanted) = (Arc::clone(&self), wanted.clone());
            async move { inner.read(&wanted).await }
        });
        let probe = reading.await.unwrap_or_else(|_| Probe::Unreadable("its reader broke".to_owned()));
        if let Probe::Unreadable(why) = &probe {
            tracing::debug!(source = wanted.source.split('?').next(), why, "a source was not read");
        }
        let mut memory = self.memory();
        let Some(known) = memory.known.get_mut(&wanted) else { return };
        (known.since, known.running) = (Instant::now(), false);
        // What was read stays true while it cannot be read again.
        let is_read = matches!(known.probe, Probe::Facts(_) | Probe::Faulty(_));
        let is_new = known.probe != probe && !(is_read && matches!(probe, Probe::Unreadable(_)));
        if is_new {
            known.probe = probe;
        }
        let fleets = std::mem::take(&mut known.fleets);
        drop(memory);
        if is_new {
            // Nobody listens any more only while the operator stops.
            fleets.into_iter().for_each(|fleet| drop(self.changed.send(fleet)));
        }
    }

    /// Waits for its turn and reads, within the limit in all.
    async fn read(&self, wanted: &Wanted) -> Probe {
        let limit = self.config.limit;
        let end = tokio::time::Instant::now() + limit;
        let Ok(Ok(_turn)) = timeout(limit, self.slots.acquire()).await else {
            return Probe::Unreadable(format!("its turn did not come within {limit:?}"));
        };
        let late = || format!("it was not read within {limit:?}");
        match &wanted.at {
            Place::Folder(folder) => {
                let folder = folder.clone();
                let reading = tokio::task::spawn_blocking(move || files::read(&folder));
                match timeout_at(end, reading).await {
                    Ok(Ok(probe)) => probe,
                    Ok(Err(error)) => Probe::Unreadable(error.to_string()),
                    Err(_) => Probe::Unreadable(late()),
                }
            }
            Place::Web { config, weights } => self
                .browse(config, weights, end)
                .await
                .unwrap_or_else(|why| Probe::Unreadable(why.unwrap_or_else(late))),
        }
    }

    /// Reads over HTTP, unless the host failed a short while ago: of thousands of sources on a host that does not answer
    /// the first few wait, not all.
    async fn browse(
        &self,
        config: &Url,
        weights: &Url,
        end: tokio::time::Instant,
    ) -> Result<Probe, Option<String>> {
        let web = self.web.as_ref().ok_or_else(|| "there is no HTTP client".to_owned())?;
        let host = config.host_str().unwrap_or_default();
        let began = Instant::now();
        if self.memory().avoided.get(host).is_some_and(|until| *until > began) {
            return Err(Some(format!("{host} did not answer a short while ago")));
        }
        let avoid = || {
            self.memory().avoided.insert(host.to_owned(), Instant::now() + AVOIDED);
        };
        match timeout_at(end, web.read(config, weights)).await {
            Ok(Ok(probe)) => Ok(probe),
            Ok(Err(error)) => {
                if matches!(error, WebError::Unavailable(_)) {
                    avoid();
                }
                Err(Some(error.to_string()))
            }
            Err(_) => {
                // A late turn is not the host's fault.
                if began.elapsed() >= self.config.limit / 2 {
                    avoid();
                }
                Err(None)
            }
        }
    }
}

#[cfg(test)]
mod tests;
