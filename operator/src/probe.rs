//! Probes: what Adapters say of themselves, read from their sources before any replica hears of them. Shared by both
//! carriers. Reads little (a configuration, a few bytes of weights), and nothing with a secret: what takes one, lies where the
//! replicas alone can go, or does not answer here, is read beside them. What cannot be read there no replica could load. Must
//! not judge what it reads.

pub mod address;
pub mod beside;
pub mod config;
mod files;
mod wanted;
mod web;
mod weights;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lorikeet_api::Failure;
use reqwest::Url;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::args::ProbeArgs;
use crate::build::arguments::Reach;
use crate::fleet::{AdapterKey, Fleet, FleetKey, Probe};
use crate::probe::address::HostPolicy;
use crate::probe::beside::{Reader, Readers};
use crate::probe::wanted::{Place, Readable, Wanted, wanted};
use crate::probe::web::{Web, WebError};

/// Sources that are remembered at a time; further ones wait.
const REMEMBERED: usize = 65_536;
/// What nobody asked about for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(900);
/// Between two rounds of forgetting.
const ROUND: Duration = Duration::from_secs(60);
/// A host that did not answer is not asked again before.
const AVOIDED: Duration = Duration::from_secs(30);
/// What could not be read is tried again after so long, and twice as long each time: somebody may be putting it there.
const TRIED_AGAIN: Duration = Duration::from_secs(5);

/// How sources are read.
#[derive(Clone, Debug)]
pub struct ProbeConfig {
    /// The longest that reading a source may take. None is read when it is zero.
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
    /// Of those that others read.
    beside: Semaphore,
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
    /// So many times in a row it could not be read.
    refusals: u32,
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
            beside: Semaphore::new(config.concurrent.max(1)),
            memory: Mutex::default(),
            changed,
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// What is known of the sources of `fleet`, for its `probes`. Returns at once; what is not known is begun to be read, by
    /// `readers` where it takes them. Called within an async runtime.
    #[must_use]
    pub fn of(&self, fleet: &Fleet, readers: &Readers) -> BTreeMap<AdapterKey, Probe> {
        if self.inner.config.limit.is_zero() {
            return BTreeMap::new();
        }
        let wanted = wanted(fleet, &self.inner.readable);
        wanted.into_iter().map(|(key, wanted)| (key, self.ask(wanted, readers))).collect()
    }

    fn ask(&self, wanted: Wanted, readers: &Readers) -> Probe {
        let reader = readers.of(&wanted);
        let now = Instant::now();
        let mut memory = self.inner.memory();
        if !memory.known.contains_key(&wanted) {
            memory.forget(now);
            if memory.known.len() >= REMEMBERED {
                return Probe::Awaited(format!("room for it: {REMEMBERED} sources are being read"));
            }
        }
        let new = || Known { probe: Probe::Pending, since: now, asked: now, running: false, refusals: 0 };
        let known = memory.known.entry(wanted.clone()).or_insert_with(new);
        known.asked = now;
        let is_old = known.since.elapsed() >= self.inner.stands(known);
        if !known.running && is_old {
            match reader {
                Err(lacked) if wanted.at.is_none() => {
                    return if known.probe == Probe::Pending {
                        Probe::Awaited(lacked)
                    } else {
                        known.probe.clone()
                    };
                }
                reader => {
                    known.running = true;
                    tokio::spawn(Arc::clone(&self.inner).keep(wanted, reader.ok()));
                }
            }
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

    /// How long `known` stands before it is read again.
    fn stands(&self, known: &Known) -> Duration {
        match known.probe {
            Probe::Pending | Probe::Awaited(_) => Duration::ZERO,
            Probe::Refused(_) => {
                let doubled = TRIED_AGAIN.saturating_mul(1 << known.refusals.clamp(1, 5) - 1);
                doubled.min(self.config.fresh)
            }
            Probe::Facts(_) | Probe::Faulty(_) | Probe::Unjudged(_) => self.config.fresh,
        }
    }

    /// Reads `wanted`, remembers it, and tells who waits for it where it is new, or is to be tried again.
    async fn keep(self: Arc<Self>, wanted: Wanted, reader: Option<Reader>) {
        let reading = tokio::spawn({
            let (inner, wanted) = (Arc::clone(&self), wanted.clone());
            async move { inner.read(&wanted, reader).await }
        });
        let broken = |_| Probe::Refused(beside::unavailable("its reader broke".to_owned()));
        let probe = reading.await.unwrap_or_else(broken);
        if let Probe::Refused(Failure { message: why, .. }) = &probe {
            tracing::debug!(source = wanted.source.split('?').next(), why, "a source was not read");
        }
        if let Some(again) = self.remember(&wanted, probe) {
            tokio::time::sleep(again).await;
            self.tell(wanted.fleet);
        }
    }

    /// Takes `probe` over, and tells whoever waits for it where it is new. After how long it is to be tried again by itself.
    fn remember(&self, wanted: &Wanted, probe: Probe) -> Option<Duration> {
        let mut memory = self.memory();
        let known = memory.known.get_mut(wanted)?;
        (known.since, known.running) = (Instant::now(), false);
        let is_refused = matches!(probe, Probe::Refused(_));
        known.refusals = if is_refused { known.refusals.saturating_add(1) } else { 0 };
        // What was read stays true while it cannot be read again.
        let is_read = matches!(known.probe, Probe::Facts(_) | Probe::Faulty(_) | Probe::Unjudged(_));
        let is_new = known.probe != probe && !(is_read && is_refused);
        if is_new {
            known.probe = probe;
        }
        let again = matches!(known.probe, Probe::Refused(_)).then(|| self.stands(known));
        drop(memory);
        if is_new {
            self.tell(wanted.fleet.clone());
        }
        again
    }

    fn tell(&self, fleet: FleetKey) {
        // Nobody listens any more only while the operator stops.
        let _ = self.changed.send(fleet);
    }

    /// Waits for its turn and reads, each within the limit: itself where it may, and else, or where that fails, by `reader`.
    async fn read(&self, wanted: &Wanted, reader: Option<Reader>) -> Probe {
        let limit = self.config.limit;
        let own = match &wanted.at {
            Some(at) => {
                // Nobody closes it.
                let _turn = self.slots.acquire().await;
                match self.read_at(at).await {
                    Ok(probe) => return probe,
                    Err(why) => Some(why),
                }
            }
            None => None,
        };
        let Some(reader) = reader else {
            return Probe::Refused(beside::unavailable(own.unwrap_or_else(|| "nobody reads it".to_owned())));
        };
        let _turn = self.beside.acquire().await;
        let late = |_| Probe::Refused(beside::unavailable(late(limit)));
        timeout(limit, reader.read(wanted)).await.unwrap_or_else(late)
    }

    /// Reads a source itself; why it cannot.
    async fn read_at(&self, at: &Place) -> Result<Probe, String> {
        let limit = self.config.limit;
        match at {
            Place::Folder(folder) => {
                let folder = folder.clone();
                let reading = tokio::task::spawn_blocking(move || files::read(&folder));
                let read = timeout(limit, reading).await.map_err(|_| late(limit))?;
                read.map_err(|error| error.to_string())?
            }
            Place::Web { config, weights } => {
                self.browse(config, weights).await.map_err(|why| why.unwrap_or_else(|| late(limit)))
            }
        }
    }

    /// Reads over HTTP, unless the host failed a short while ago: of thousands of sources on a host that does not answer
    /// the first few wait, not all.
    async fn browse(&self, config: &Url, weights: &Url) -> Result<Probe, Option<String>> {
        let web = self.web.as_ref().ok_or_else(|| "there is no HTTP client".to_owned())?;
        let host = config.host_str().unwrap_or_default();
        let began = Instant::now();
        if self.memory().avoided.get(host).is_some_and(|until| *until > began) {
            return Err(Some(format!("{host} did not answer a short while ago")));
        }
        let avoid = || {
            self.memory().avoided.insert(host.to_owned(), Instant::now() + AVOIDED);
        };
        match timeout(self.config.limit, web.read(config, weights)).await {
            Ok(Ok(probe)) => Ok(probe),
            Ok(Err(error)) => {
                if matches!(error, WebError::Unavailable(_)) {
                    avoid();
                }
                Err(Some(error.to_string()))
            }
            Err(_) => {
                avoid();
                Err(None)
            }
        }
    }
}

fn late(limit: Duration) -> String {
    format!("it was not read within {limit:?}")
}

#[cfg(test)]
mod tests;
