//! Probes: what Adapters say of themselves, read from their sources before any replica hears of them. Shared by both
//! carriers. Reads little (a configuration, a few bytes of weights), and nothing with a secret: what takes one, lies where the
//! replicas alone can go, or does not answer here, is read beside them. What cannot be read there no replica could load. Must
//! not judge what it reads.

pub mod address;
pub mod beside;
pub mod config;
mod files;
mod memory;
mod reading;
mod wanted;
mod web;
mod weights;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lorikeet_api::Failure;
use reqwest::Url;
use tokio::sync::mpsc;

use crate::args::ProbeArgs;
use crate::build::arguments::Reach;
use crate::fleet::{AdapterKey, Fleet, FleetKey, Probe};
use crate::probe::address::HostPolicy;
use crate::probe::beside::Readers;
use crate::probe::memory::{Memory, Outcome};
use crate::probe::reading::Reading;
use crate::probe::wanted::{Readable, Wanted, wanted};
use crate::probe::web::Web;

/// How sources are read.
#[derive(Clone, Debug)]
pub struct ProbeConfig {
    /// The longest that one try to read a source may take. None is read when it is zero.
    pub limit: Duration,
    /// Sources that are read at once, and as many of each fleet beside its replicas.
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
    reading: Reading,
    memory: Mutex<Memory>,
    news: News,
}

/// Who hears of every fleet of which something new was read.
#[derive(Clone, Debug)]
pub struct News {
    /// While more of it is being read.
    pub some: mpsc::UnboundedSender<FleetKey>,
    /// When all of it that had begun to be read is: somebody waits for it.
    pub all: mpsc::UnboundedSender<FleetKey>,
}

/// What is known of a fleet's sources.
#[derive(Debug, Default)]
pub struct Probed {
    /// By Adapter.
    pub probes: BTreeMap<AdapterKey, Probe>,
    /// After so long they are to be asked about again, to be tried again.
    pub again: Option<Duration>,
    /// Those that have only begun to be read: what comes of it is known in a moment.
    pub young: BTreeSet<AdapterKey>,
}

impl Probes {
    /// Nothing is read yet. `news` hear of what is.
    #[must_use]
    pub fn new(config: ProbeConfig, news: News) -> Self {
        let hub: Option<Url> = config.hub.parse().ok().filter(Url::has_host);
        let web = Web::new(config.hosts.clone(), hub.as_ref());
        if let Err(error) = &web {
            tracing::warn!(%error, "this process reads no sources on the web");
        }
        let readable = Readable { hub, paths: config.paths };
        let inner = Inner {
            reading: Reading::new(config.limit, config.concurrent, readable, web.ok()),
            memory: Mutex::new(Memory::new(config.fresh, Instant::now())),
            news,
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// What is known of the sources of `fleet`. Returns at once; what is not known is begun to be read, by `readers` where it takes
    /// them. Called within an async runtime.
    #[must_use]
    pub fn of(&self, fleet: &Fleet, readers: &Readers) -> Probed {
        let inner = &self.inner;
        let mut probed = Probed::default();
        if inner.config.limit.is_zero() {
            return probed;
        }
        let (wanted, now) = (wanted(fleet), Instant::now());
        inner.reading.meet(&fleet.key, (!wanted.is_empty()).then_some(readers));
        for (key, wanted) in wanted {
            let lacked = readers.lacked(&wanted);
            let is_own = |wanted: &Wanted| inner.reading.is_own(wanted);
            let asked = inner.memory().ask(wanted, is_own, lacked, now);
            if let Some((wanted, failures)) = asked.read {
                tokio::spawn(Arc::clone(inner).keep(wanted, failures));
            }
            if asked.is_young {
                probed.young.insert(key.clone());
            }
            probed.again = [probed.again, asked.again].into_iter().flatten().min();
            probed.probes.insert(key, asked.probe);
        }
        inner.memory().settle(&fleet.key, now);
        probed
    }

    /// There is no such fleet any more.
    pub fn forget(&self, fleet: &FleetKey) {
        self.inner.reading.meet(fleet, None);
        self.inner.memory().settle(fleet, Instant::now());
    }
}

impl Inner {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads `wanted`, remembers it, and tells its fleet where it is news.
    async fn keep(self: Arc<Self>, wanted: Arc<Wanted>, failures: u32) {
        let reading = tokio::spawn({
            let (inner, wanted) = (Arc::clone(&self), Arc::clone(&wanted));
            async move { inner.reading.read(&wanted, failures).await }
        });
        let outcome = reading.await.unwrap_or_else(|_| Outcome::Untried("its reader broke".to_owned()));
        if let Outcome::Said(Probe::Refused(Failure { message: why, .. })) | Outcome::Untried(why) = &outcome
        {
            tracing::debug!(source = wanted.source.split('?').next(), why, "a source was not read");
        }
        let (is_news, is_through) = {
            let mut memory = self.memory();
            (memory.learn(&wanted, outcome, Instant::now()), memory.is_through(&wanted.fleet))
        };
        let news = match (is_through, is_news) {
            (true, _) => &self.news.all,
            (false, true) => &self.news.some,
            (false, false) => return,
        };
        // Nobody listens any more only while the operator stops.
        let _ = news.send(wanted.fleet.clone());
    }
}

#[cfg(test)]
mod tests;
