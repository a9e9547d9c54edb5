//! The operator on a cluster: watch -> queue -> one fleet at a time: see, decide, write. What decides is elsewhere.
//!
//! * `watch`, `world`, `table`, `facts`: what is seen of the cluster, and which fleets a change touches
//! * `queue`, `saying`, `tasks`, `controller`: which fleet is looked at next, and when its statuses are written
//! * `look`: one look at a fleet, step by step; `secret`, `finalizer`, `apply`, `compare`, `ownership`, `statuses`,
//!   `herald`, `capacity`: the steps
//! * `view`: what somebody else sees who asks why
//! * `leader`: who may write; `client`: the API server, `clock`: its time; `reading`, `malformed`: what cannot be read

pub mod apply;
pub mod capacity;
pub mod client;
pub mod clock;
pub mod compare;
pub mod config;
pub mod controller;
pub mod facts;
pub mod failure;
pub mod finalizer;
pub mod herald;
pub mod kinds;
pub mod leader;
pub mod look;
pub mod malformed;
pub mod ownership;
pub mod queue;
pub mod reading;
pub mod refusals;
pub mod rollout;
pub mod saying;
pub mod secret;
pub mod statuses;
pub mod table;
pub mod tasks;
pub mod view;
pub mod watch;
pub mod world;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::Client;
use kube::runtime::events::Reporter;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::sync::CancellationToken;

use crate::build::Settings;
use crate::cluster::client::Gate;
use crate::cluster::clock::Clock;
use crate::cluster::config::Config;
use crate::cluster::controller::{Controller, Heard};
use crate::cluster::herald::Herald;
use crate::cluster::leader::{Candidate, Term};
use crate::cluster::look::Looker;
use crate::cluster::watch::{News, Watches, lock};
use crate::cluster::world::World;
use crate::http::{self, Health};
use crate::metrics::Metrics;
use crate::probe::{self, Probes};
use crate::replicas::Replicas;
use crate::replicas::versions::Versions;

/// How often it is asked whether everything was seen.
const SEEN_PAUSE: Duration = Duration::from_millis(50);

/// Why a run ended.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The process has no threads, or no signals.
    #[error("no threads or signals: {0}")]
    Process(std::io::Error),
    /// Health and metrics have no port.
    #[error("--listen: {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A metric is there twice.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// There is no client of the cluster.
    #[error(transparent)]
    Client(#[from] client::ClientError),
    /// A watch ended, which none should: what it told would grow old unnoticed.
    #[error("a watch ended")]
    Blind,
    /// Somebody else leads now.
    #[error("no longer the leader: {0}")]
    Lost(#[from] leader::Lost),
}

/// Runs until SIGTERM or Ctrl-C, or until another process leads.
///
/// # Errors
/// [`ClusterError`].
pub fn run(config: Config) -> Result<(), ClusterError> {
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.threads)
        .enable_all()
        .build()
        .map_err(ClusterError::Process)?;
    // Whatever still runs ends with the process.
    let done = threads.block_on(serve(config));
    threads.shutdown_background();
    done
}

async fn serve(config: Config) -> Result<(), ClusterError> {
    // Two libraries bring a TLS provider each way; the first one stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let metrics = Metrics::new()?;
    let listener = http::bind(config.listen)
        .await
        .map_err(|source| ClusterError::Listen { address: config.listen, source })?;
    let gate = Gate::default();
    let clock = Clock::default();
    let (kubeconfig, limit) = (config.kubeconfig.clone(), config.limits.api);
    let client = client::connect(kubeconfig, limit, &metrics, gate.clone(), clock.clone()).await?;
    let health = Arc::new(Health::default());
    let stop = stop_at_signals()?;
    tokio::spawn(http::serve(listener, Arc::clone(&health), metrics.clone(), stop.clone()));

    let world = Arc::new(Mutex::new(World::default()));
    let (tell, news) = unbounded_channel();
    let watches = Watches {
        client: client.clone(),
        namespace: config.watch_namespace.clone(),
        world: Arc::clone(&world),
        news: tell,
        metrics: metrics.clone(),
    };
    let mut watching = watches.start();
    let namespace = config.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    tracing::info!(identity = config.lease.identity, namespace, "watching");
    let run = Run { client, gate, clock, world, health, metrics, namespace, news, stop };
    tokio::select! {
        done = run.until_stopped(config) => done,
        _ = watching.join_next() => Err(ClusterError::Blind),
    }
}

/// A process that watches, and may come to lead.
struct Run {
    client: Client,
    gate: Gate,
    clock: Clock,
    world: Arc<Mutex<World>>,
    health: Arc<Health>,
    metrics: Metrics,
    namespace: String,
    news: UnboundedReceiver<News>,
    stop: CancellationToken,
}

impl Run {
    async fn until_stopped(mut self, config: Config) -> Result<(), ClusterError> {
        let (gate, clock) = (self.gate.clone(), self.clock.clone());
        let candidate =
            Candidate::new(self.client.clone(), &self.namespace, config.lease.clone(), gate, clock);
        let is_cluster = config.watch_namespace.is_none();
        tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            () = seen(&self.world, is_cluster, &self.health, &mut self.news) => {}
        }
        let term = tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            () = idle(&self.health, &mut self.news) => return Ok(()),
            term = candidate.lead() => term,
        };
        self.metrics.leader.set(1);
        self.lead(config, term).await
    }

    /// Leads until the end of the term. When the Lease is lost everything stops at once; what is still on its way is
    /// refused by the replicas, which know the next term by then, and by the API server, where it is older than what is
    /// there.
    async fn lead(mut self, config: Config, mut term: Term) -> Result<(), ClusterError> {
        let epoch = term.epoch();
        tracing::info!(epoch, "leading");
        let versions = Arc::new(Versions::new(epoch));
        let (tell, mut changed) = unbounded_channel();
        let (tell_read, mut read) = unbounded_channel();
        let reporter = Reporter {
            controller: lorikeet_crds::FIELD_MANAGER.to_owned(),
            instance: Some(config.lease.identity.clone()),
        };
        let looker = Arc::new(Looker {
            client: self.client.clone(),
            world: self.world,
            probes: Probes::new(config.probe.clone(), probe::News { some: tell.clone(), all: tell_read }),
            replicas: Mutex::new(Replicas::new(Arc::clone(&versions), config.limits.replica_writes, tell)),
            settings: Settings {
                image: config.runtime_image.clone(),
                namespace: self.namespace,
                reach: config.probe.reach(),
            },
            is_cluster_wide: config.watch_namespace.is_none(),
            limits: config.limits,
            herald: Herald::new(self.client, reporter),
            metrics: self.metrics.clone(),
            clock: self.clock,
        });
        let controller = Controller::new(looker, self.health);
        tokio::select! {
            () = controller.run(Heard { news: &mut self.news, changed: &mut changed, read: &mut read }, &self.stop) => {}
            lost = term.hold(&versions) => {
                self.metrics.leader.set(0);
                return Err(lost.into());
            }
        }
        self.metrics.leader.set(0);
        tracing::info!("stopping; the Lease is given back");
        // Another process waits for its end where this does not get through.
        let _ = tokio::time::timeout(config.limits.api, term.release()).await;
        Ok(())
    }
}

/// Waits until the watches have told everything once.
async fn seen(world: &Mutex<World>, cluster: bool, health: &Health, news: &mut UnboundedReceiver<News>) {
    loop {
        health.turn();
        while news.try_recv().is_ok() {}
        if lock(world).is_complete(cluster) {
            return health.set_ready();
        }
        tokio::time::sleep(SEEN_PAUSE).await;
    }
}

/// Lets news go by while another process leads; whoever leads begins with all fleets.
async fn idle(health: &Health, news: &mut UnboundedReceiver<News>) {
    loop {
        health.turn();
        tokio::select! {
            one = news.recv() => if one.is_none() { return },
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

fn stop_at_signals() -> Result<CancellationToken, ClusterError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ClusterError::Process)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ClusterError::Process)?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopping.cancel();
    });
    Ok(stop)
}
