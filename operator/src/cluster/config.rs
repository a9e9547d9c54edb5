//! What is true of a run in a cluster, once the flags are checked. Nothing here reads the environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::args::RunArgs;
use crate::probe::ProbeConfig;

/// A run that can be.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster to reach; absent for the pod's own.
    pub kubeconfig: Option<PathBuf>,
    /// The operator's own namespace; absent for the kubeconfig's.
    pub namespace: Option<String>,
    /// The one namespace that is watched; absent for all.
    pub watch_namespace: Option<String>,
    /// The runtime's image where a Deployment names none.
    pub runtime_image: String,
    /// Where health and metrics are served.
    pub listen: SocketAddr,
    /// The Lease.
    pub lease: LeaseConfig,
    /// The bounds.
    pub limits: Limits,
    /// Threads that compute.
    pub threads: usize,
    /// How sources are read.
    pub probe: ProbeConfig,
}

/// Who leads, and for how long.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    /// The Lease's name.
    pub name: String,
    /// Who this process is.
    pub identity: String,
    /// Others may take over after so long without a renewal.
    pub duration: Duration,
}

impl LeaseConfig {
    /// The time between two attempts to take or renew it.
    #[must_use]
    pub fn retry(&self) -> Duration {
        self.duration / 5
    }

    /// After so long without a renewal the leader ends itself, well before another may take over.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.duration * 2 / 3
    }
}

/// Every bound of a run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Fleets that are worked on at once.
    pub concurrency: usize,
    /// Writes of one fleet at once.
    pub concurrent_writes: usize,
    /// Writes to replicas at once, over all fleets.
    pub replica_writes: u16,
    /// Every fleet is looked at again after this time.
    pub resync: Duration,
    /// Admin Secrets are read again after this time.
    pub secret: Duration,
    /// The first pause after an error.
    pub backoff: Duration,
    /// The longest.
    pub max_backoff: Duration,
    /// How long the API server may take to begin an answer.
    pub api: Duration,
    /// The registry is written at most once in this time.
    pub registry: Duration,
    /// Days that a certificate is valid.
    pub certificate_days: u32,
    /// Adapters that move to one replica at a time.
    pub moves: usize,
}

/// Flags that contradict each other, or lack what they need.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nobody can say who this process is.
    #[error("--identity: expected a name, as this host has none")]
    NoIdentity,
    /// The first pause is longer than the longest.
    #[error("--backoff-ms: expected at most --max-backoff-seconds ({max:?}), got {got:?}")]
    Backoff {
        /// The first.
        got: Duration,
        /// The longest.
        max: Duration,
    },
}

impl TryFrom<RunArgs> for Config {
    type Error = ConfigError;

    fn try_from(args: RunArgs) -> Result<Self, ConfigError> {
        let seconds = |count: u32| Duration::from_secs(u64::from(count));
        let backoff = Duration::from_millis(u64::from(args.backoff_ms));
        let max_backoff = seconds(args.max_backoff_seconds);
        if backoff > max_backoff {
            return Err(ConfigError::Backoff { got: backoff, max: max_backoff });
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            kubeconfig: args.kubeconfig,
            threads: usize::from(args.threads).min(cores),
            namespace: args.namespace,
            watch_namespace: args.watch_namespace,
            runtime_image: args.runtime_image,
            listen: args.listen,
            lease: LeaseConfig {
                name: args.lease_name,
                identity: args.identity.or_else(RunArgs::host_name).ok_or(ConfigError::NoIdentity)?,
                duration: seconds(args.lease_seconds),
            },
            limits: Limits {
                concurrency: usize::from(args.concurrency),
                concurrent_writes: usize::from(args.concurrent_writes),
                replica_writes: args.concurrent_replica_writes,
                resync: seconds(args.resync_seconds),
                secret: seconds(args.secret_seconds),
                backoff,
                max_backoff,
                api: seconds(args.api_seconds),
                registry: seconds(args.registry_seconds),
                certificate_days: args.certificate_days,
                moves: usize::from(args.place.concurrent_moves),
            },
            probe: ProbeConfig::of(args.probe, false),
        })
    }
}
