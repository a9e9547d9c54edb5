//! The command line as typed. Its comments are the manual. The only file that reads the environment.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::probe::address::HostRule;
use crate::replicas::CONCURRENT_WRITES;

/// Runs LLM Deployments and their LoRA Adapters.
#[derive(Debug, Parser)]
#[command(name = "lorikeet-operator", version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch a cluster's Deployments and Adapters of lorikeet.dev, and make true what they ask for.
    Run(Box<RunArgs>),
    /// Carry the manifests of a folder out on this machine: a cluster of one, without Kubernetes.
    Up(Box<UpArgs>),
    /// Say, replica by replica, why it holds an Adapter or not, and what would change that.
    Why(WhyArgs),
}

/// How to log.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// off, error, warn, info, debug, trace, or tracing's directives by module.
    #[arg(long, env = "LORIKEET_LOG", value_name = "LEVEL", default_value = "info", help_heading = "Log")]
    pub log_level: String,
    /// As lines for people or for programs.
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = "Log")]
    pub log_format: LogFormat,
}

/// The shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is read of Adapters' sources before replicas hear of them: the configuration and a few bytes of the weights. What takes
/// a Secret, lies where replicas alone can go, or cannot be read from here, is read by the inspector beside a replica.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sources")]
pub struct ProbeArgs {
    /// The longest that one try to read a source may take, here and at each of three inspectors. It is tried again until it can be
    /// read: after 5 seconds, and twice as long each time up to a minute. 0: none is read, and the replicas judge.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=60))]
    pub probe_seconds: u32,
    /// Sources that are read at once, and as many of each Deployment beside its replicas.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrent_probes: u16,
    /// The Hugging Face hub, for replicas as well.
    #[arg(long, env = "HF_ENDPOINT", value_name = "URL", default_value = "https://huggingface.co", value_parser = endpoint)]
    pub hf_endpoint: String,
    /// A host or network that may be read from though its address is not public; over plain http:// as well. Replicas are
    /// allowed the same; another value replaces them one by one. HOST, HOST:PORT or ADDRESS/BITS; may be given again.
    #[arg(long = "allow-source-host", value_name = "HOST")]
    pub allow_source_hosts: Vec<HostRule>,
}

fn endpoint(text: &str) -> Result<String, &'static str> {
    let is_one = |url: reqwest::Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    if text.parse().is_ok_and(is_one) { Ok(text.to_owned()) } else { Err("expected an http or https URL") }
}

/// How adapters move between replicas.
#[derive(Debug, Args)]
#[command(next_help_heading = "Placement")]
pub struct PlaceArgs {
    /// Adapters that move to one replica at a time, as when it joins; until one is there, the replica that it comes from
    /// keeps it. What no other replica has is loaded at once, and so is what is pinned.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrent_moves: u16,
}

/// Which manifests, on which ports, kept where.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// The folder of manifests: Deployments and Adapters of lorikeet.dev in .yaml, .yml and .json files, in it and below. It is followed:
    /// what changes in it is carried out. `file:///PATH` is a path of this machine.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// The first Deployment by name answers here, the next one on the next port, and so on.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080", value_parser = address)]
    pub listen: SocketAddr,
    /// Where objects with their statuses (KIND/NAMESPACE/NAME.yaml), logs and fetched files are kept. One process at a
    /// time has it.
    #[arg(long, value_name = "DIR", default_value = ".lorikeet")]
    pub state: PathBuf,
    /// `pvc://CLAIM/PATH` is CLAIM/PATH below this folder. Default: the folder that DIR lies in.
    #[arg(long, value_name = "DIR")]
    pub claims: Option<PathBuf>,
    /// The runtime. Default: the `lorikeet` beside this program, else the one of the search path.
    #[arg(long, env = "LORIKEET_RUNTIME", value_name = "FILE")]
    pub runtime: Option<PathBuf>,
    /// Threads that compute, shared among the replicas of a Deployment. A replica keeps its share when the number of replicas
    /// changes, unless it would have twice as many now: then it is replaced as in a rollout. Default: one a core.
    #[arg(long, env = "LORIKEET_THREADS", value_name = "N")]
    pub threads: Option<std::num::NonZeroUsize>,
    /// Connections of clients at a time, over all ports; one more is told 503.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1 << 20),
        help_heading = "Limits")]
    pub max_connections: u32,
    /// The log of each replica is kept up to so many MiB, and as much of what was before it.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20),
        help_heading = "Limits")]
    pub replica_log_mib: u32,

    /// What is read of Adapters' sources before replicas hear of them.
    #[command(flatten)]
    pub probe: ProbeArgs,
    /// How adapters move between replicas.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// An address to listen on. The host may be a name: of several addresses that of IPv4 is meant, which everybody tries.
fn address(text: &str) -> Result<SocketAddr, String> {
    let found: Vec<SocketAddr> =
        text.to_socket_addrs().map_err(|error| format!("expected HOST:PORT: {error}"))?.collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| "expected HOST:PORT: the name has no address".to_owned())
}

/// Which Adapter, of which cluster or state folder.
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// The Adapter: NAME or NAMESPACE/NAME, or the name that requests use.
    #[arg(value_name = "ADAPTER")]
    pub adapter: String,
    /// The state folder of an `up`, whose replicas are asked. Default: a cluster is asked, with your own rights: its
    /// Deployments, Adapters and pods are read (get, list), and of namespaces the labels where you may. What the replicas
    /// say is what the operator wrote of it into the Adapters' statuses.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "context"])]
    pub state: Option<PathBuf>,
    /// The Adapter's namespace. Default: the kubeconfig's; with --state, `default`.
    #[arg(long, short, value_name = "NS")]
    pub namespace: Option<String>,
    /// The context of the kubeconfig. Default: its current one.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The cluster to reach. Default: what KUBECONFIG names, or ~/.kube/config, or the pod's own account.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// Which cluster, as whom, within which bounds.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The cluster to reach. Default: what KUBECONFIG names (of several files, as kubectl merges them), or
    /// ~/.kube/config, or the pod's own service account.
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub kubeconfig: Option<PathBuf>,
    /// The operator's own namespace: its Lease is there, and of its pods those with the label
    /// app.kubernetes.io/name=lorikeet-operator may reach the replicas' admin faces. Default: the kubeconfig's namespace.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NS", help_heading = "Cluster")]
    pub namespace: Option<String>,
    /// Watch this namespace alone, for which a Role is enough. Default: all, which needs a ClusterRole.
    #[arg(long, value_name = "NS", help_heading = "Cluster")]
    pub watch_namespace: Option<String>,
    /// The runtime's image where a Deployment names none.
    #[arg(
        long,
        env = "LORIKEET_RUNTIME_IMAGE",
        value_name = "IMAGE",
        default_value = concat!("ghcr.io/lorikeet-dev/lorikeet:", env!("CARGO_PKG_VERSION")),
        help_heading = "Cluster"
    )]
    pub runtime_image: String,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, value_name = "HOST:PORT", default_value = "[::]:8082", help_heading = "Cluster")]
    pub listen: SocketAddr,

    /// Who holds the Lease. A process that finds the Lease held by its own name takes it over at once.
    /// Default: the host's name, which is the pod's.
    #[arg(long, env = "POD_NAME", value_name = "NAME", help_heading = "Leader")]
    pub identity: Option<String>,
    /// The Lease that makes one process of several the leader.
    #[arg(long, value_name = "NAME", default_value = "lorikeet-operator", help_heading = "Leader")]
    pub lease_name: String,
    /// After so long without a renewal another process may take over. The leader renews it each fifth of this time and
    /// ends itself after two thirds without a renewal.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(2..=300),
        help_heading = "Leader")]
    pub lease_seconds: u32,

    /// Threads that compute, and no more than there are cores. Each keeps freed memory to itself for a while.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256),
        help_heading = "Limits")]
    pub threads: u16,
    /// Fleets (a Deployment with its Adapters) that are worked on at once.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256),
        help_heading = "Limits")]
    pub concurrency: u16,
    /// Writes to the API server that one fleet may have under way at once.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256),
        help_heading = "Limits")]
    pub concurrent_writes: u16,
    /// Writes to replicas that may be under way at once, over all fleets; and as many again to those that are late with their
    /// answers.
    #[arg(long, value_name = "N", default_value_t = CONCURRENT_WRITES,
        value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Limits")]
    pub concurrent_replica_writes: u16,
    /// Every fleet is looked at again after this time, even if nothing was heard of it. Nothing is written when nothing
    /// differs.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(5..=86_400),
        help_heading = "Limits")]
    pub resync_seconds: u32,
    /// The admin Secrets are read again by name after this time: they are never listed nor watched.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600),
        help_heading = "Limits")]
    pub secret_seconds: u32,
    /// The first pause after an error of a fleet; doubled each time.
    #[arg(long, value_name = "MS", default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=60_000),
        help_heading = "Limits")]
    pub backoff_ms: u32,
    /// The longest pause after an error of a fleet.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600),
        help_heading = "Limits")]
    pub max_backoff_seconds: u32,
    /// How long the API server may take to begin an answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=300),
        help_heading = "Limits")]
    pub api_seconds: u32,
    /// The registry beside the pods is written at most once in this time while Adapters change.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=300),
        help_heading = "Limits")]
    pub registry_seconds: u32,
    /// How long the certificates of the admin faces are valid. They are renewed when a third of it is left; replicas
    /// take the new ones up as they run.
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(3..=3650),
        help_heading = "Limits")]
    pub certificate_days: u32,

    /// What is read of Adapters' sources before replicas hear of them.
    #[command(flatten)]
    pub probe: ProbeArgs,
    /// How adapters move between replicas.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

impl RunArgs {
    /// The name of this host, for want of an `--identity`.
    #[must_use]
    pub fn host_name() -> Option<String> {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
        Some(name.trim().to_owned()).filter(|name| !name.is_empty())
    }
}
