//! The processes of each fleet: what is true of them, and what is done about it. Observes and carries out; what is decided
//! is `decide`'s, for a cluster and for one machine alike.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lorikeet_crds::Deployment;
use lorikeet_crds::deployment::RolloutStrategy;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::build::arguments::{Places, Reach, arguments};
use crate::build::health::LIVE;
use crate::decide::desired::desired_anywhere;
use crate::decide::outcome::Outcome;
use crate::decide::scale::gpus;
use crate::decide::scale::replicas;
use crate::decide::validate::ValidFleet;
use crate::fleet::{Capacity, Contact, FleetKey, Hindrance, Replica, Workload};
use crate::replicas::Replicas;
use crate::replicas::client::{Access, Endpoint};
use crate::up::log::Log;
use crate::up::process::{Failed, Launch, Phase, Process, available_bytes};
use crate::up::roll::{Standing, next_steps};
use crate::up::whole;

/// The name in the certificate of every replica of this machine.
pub const HOST: &str = "localhost";

/// What all processes share.
#[derive(Clone)]
pub struct Machine {
    /// The `lorikeet` program.
    pub program: PathBuf,
    /// The state folder.
    pub state: PathBuf,
    /// The folder of claims.
    pub claims: String,
    /// What sources may lead to.
    pub reach: Reach,
    /// Threads that compute, over all replicas of a fleet.
    pub threads: usize,
    /// Adapters that move to one replica at a time.
    pub moves: usize,
    /// Bytes of a replica's log, and as many of what was before.
    pub log_bytes: u64,
    /// What opens the admin faces.
    pub access: Arc<Access>,
    /// Hears of every change.
    pub changed: mpsc::UnboundedSender<FleetKey>,
}

/// The processes of one fleet.
#[derive(Default)]
pub struct Running {
    processes: BTreeMap<String, Process>,
    /// The newest template.
    template: String,
    /// Threads that a replica has of those that are shared; none that are asked for where a replica would have to go before
    /// another one is there.
    share: usize,
    /// Why none is started.
    hindrance: Option<Hindrance>,
    /// The registry as it was last written.
    registry: String,
}

/// A replica for those who look at the state folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noted {
    /// Its name.
    pub name: String,
    /// Changes when it starts again.
    pub incarnation: String,
    /// It was let go.
    pub leaving: bool,
    /// Its admin face, once it answers.
    pub admin: Option<SocketAddr>,
    /// Why it does not run.
    pub error: Option<String>,
}

impl Machine {
    /// The folder of what only lives while this process does.
    #[must_use]
    pub fn run_folder(&self) -> PathBuf {
        self.state.join("run")
    }

    /// The folder of Secrets, each under its namespace and its name.
    #[must_use]
    pub fn secrets_folder(&self) -> PathBuf {
        self.run_folder().join("secrets")
    }

    fn folder_of(&self, key: &FleetKey) -> PathBuf {
        self.run_folder().join("fleets").join(&key.namespace).join(&key.name)
    }

    /// Folders below which paths may be. Whoever wrote the manifests starts this process: what it may read, they may.
    pub(super) fn source_roots(&self) -> Vec<String> {
        vec!["/".to_owned()]
    }

    /// The file of API keys that `deployment` asks for.
    fn keys_file(&self, key: &FleetKey, deployment: &Deployment) -> Option<PathBuf> {
        let name = &deployment.spec.auth.as_ref()?.api_keys_secret_ref.name;
        Some(self.secrets_folder().join(&key.namespace).join(name).join("keys"))
    }

    /// What a replica of `deployment` is started with, beside its addresses: where that is another one, it is replaced.
    pub(super) fn template(&self, key: &FleetKey, deployment: &Deployment, valid: &ValidFleet) -> String {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        arguments(deployment, valid, &self.places(key, deployment, nowhere, nowhere)).join(" ")
    }

    fn places(
        &self,
        key: &FleetKey,
        deployment: &Deployment,
        public: SocketAddr,
        admin: SocketAddr,
    ) -> Places {
        let text = |path: PathBuf| path.display().to_string();
        Places {
            listen: public.to_string(),
            admin: admin.to_string(),
            admin_folder: text(self.run_folder().join("admin")),
            registry: text(self.folder_of(key).join("registry")),
            cache: text(self.state.join("cache")),
            api_keys: self.keys_file(key, deployment).map(text),
            source_roots: self.source_roots(),
            claims: self.claims.clone(),
            credentials: text(self.secrets_folder().join(&key.namespace)),
            reach: self.reach.clone(),
        }
    }
}

impl Running {
    /// Whether no process is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// The replicas as facts; what they say comes from `replicas`, which hears of those that can be asked.
    pub fn observe(&mut self, machine: &Machine, key: &FleetKey, replicas: &mut Replicas) -> Vec<Replica> {
        self.processes.retain(|_, process| process.seen().phase != Phase::Gone);
        let noted = self.noted();
        let endpoint = |one: &Noted| {
            let (host, access) = (HOST.to_owned(), Arc::clone(&machine.access));
            Some((
                one.name.clone(),
                Endpoint { host, address: one.admin?, incarnation: one.incarnation.clone(), access },
            ))
        };
        replicas.observe(key, &noted.iter().filter_map(endpoint).collect());
        let contact = |one: &Noted| match (one.admin, self.processes.get(&one.name)?.seen().failed) {
            (Some(_), _) => Some(replicas.contact(key, &one.name)),
            (None, Some(Failed { why, since })) => {
                Some(Contact::Unreachable { error: why, since, last: None })
            }
            (None, None) => None,
        };
        let of = |one: Noted| Replica {
            contact: contact(&one).unwrap_or(Contact::Pending),
            refusal: replicas.refusal(key, &one.name),
            name: one.name,
            incarnation: one.incarnation,
            leaving: one.leaving,
        };
        noted.into_iter().map(of).collect()
    }

    /// The replicas as they are told to those who look at the state folder.
    #[must_use]
    pub fn noted(&self) -> Vec<Noted> {
        let of = |(name, process): (&String, &Process)| {
            let seen = process.seen();
            Noted {
                name: name.clone(),
                incarnation: format!("{}-{}", seen.pid, seen.start),
                leaving: process.is_leaving(),
                admin: matches!(seen.phase, Phase::Loaded | Phase::Ready).then_some(seen.admin),
                error: seen.failed.map(|failed| failed.why),
            }
        };
        self.processes.iter().map(of).collect()
    }

    /// What a workload's controller would say.
    #[must_use]
    pub fn workload(&self) -> Workload {
        let here = || self.processes.values().filter(|process| !process.is_leaving());
        let count = |is: &dyn Fn(&&Process) -> bool| here().filter(is).count() as i32;
        Workload {
            replicas: count(&|_| true),
            updated: count(&|process| self.is_current(process)),
            ready: count(&|process| process.is_ready()),
            current: true,
            hindrance: self.hindrance.clone().or_else(|| self.failing()),
        }
    }

    /// Whether it is as the newest spec asks, and has what it may have of the threads.
    fn is_current(&self, process: &Process) -> bool {
        process.template == self.template && suffices(process.threads, self.share)
    }

    /// The processes that ended by themselves, and how.
    fn failing(&self) -> Option<Hindrance> {
        let here = self.processes.iter().filter(|(_, process)| !process.is_leaving());
        let of = |(name, process): (&String, &Process)| {
            process.seen().failed.map(|failed| format!("{name}: {}", failed.why))
        };
        let all: Vec<String> = here.filter_map(of).collect();
        (!all.is_empty()).then(|| Hindrance::Failing(all.join("; ")))
    }

    /// Where requests may go.
    #[must_use]
    pub fn backends(&self) -> Vec<SocketAddr> {
        self.processes
            .values()
            .filter(|process| process.is_ready())
            .map(|process| process.seen().public)
            .collect()
    }

    /// Lets every process go.
    pub fn leave(&self) {
        self.processes.values().for_each(Process::leave);
    }

    /// Whether what is counted is of what the spec asks for: while it is paused, its template is not carried out.
    #[must_use]
    pub fn outcome(&self, template: &str) -> Outcome {
        let is_former = |process: &Process| !process.is_leaving() && process.template != template;
        if self.processes.values().any(is_former) { Outcome::Pending } else { Outcome::Done }
    }

    /// Brings the processes to what `deployment` asks for. `keys`: its API keys are there, or why not.
    ///
    /// # Errors
    /// The registry cannot be written. Without a first one nothing is started.
    pub fn carry(
        &mut self,
        machine: &Machine,
        key: &FleetKey,
        deployment: &Deployment,
        valid: &ValidFleet,
        keys: Result<(), String>,
    ) -> io::Result<()> {
        if valid.paused {
            return Ok(());
        }
        self.hindrance = keys.err().map(Hindrance::NoSecret);
        if self.hindrance.is_some() {
            return Ok(());
        }
        let registered = self.write_registry(&machine.folder_of(key).join("registry"), valid);
        if self.registry.is_empty() {
            return registered;
        }
        let of = {
            let (machine, key, deployment, valid) =
                (machine.clone(), key.clone(), deployment.clone(), valid.clone());
            move |public, admin| {
                arguments(&deployment, &valid, &machine.places(&key, &deployment, public, admin))
            }
        };
        self.template = machine.template(key, deployment, valid);
        let wanted = usize::try_from(replicas(&deployment.spec)).unwrap_or(0);
        let threads = (machine.threads / wanted.max(1)).max(1);
        let recreates = deployment.spec.rollout.strategy == RolloutStrategy::Recreate;
        self.share = if recreates { 0 } else { threads };
        let launch = Launch {
            program: machine.program.clone(),
            arguments: Arc::new(of),
            threads,
            log: Log { path: PathBuf::new(), limit: machine.log_bytes },
            drain: Duration::from_secs(u64::from(valid.drain_seconds)),
            live: LIVE,
        };
        self.step(machine, key, deployment, wanted, &launch);
        registered
    }

    fn step(
        &mut self,
        machine: &Machine,
        key: &FleetKey,
        deployment: &Deployment,
        wanted: usize,
        launch: &Launch,
    ) {
        let standing: Vec<Standing> = self
            .processes
            .iter()
            .map(|(name, process)| Standing {
                name: name.clone(),
                current: self.is_current(process),
                ready: process.is_ready(),
                leaving: process.is_leaving(),
            })
            .collect();
        let next = next_steps(&standing, wanted, deployment.spec.rollout.strategy, self.fits_one_more());
        for name in next.leave {
            if let Some(process) = self.processes.get(&name) {
                tracing::info!(replica = name, "let go");
                process.leave();
            }
        }
        for _ in 0..next.start {
            let taken: BTreeSet<&String> = self.processes.keys().collect();
            let names = (0_usize..).map(|index| format!("{}-runtime-{index}", key.name));
            let Some(name) = names.into_iter().find(|name| !taken.contains(&name)) else { continue };
            tracing::info!(replica = name, "started");
            let mut launch = launch.clone();
            launch.log.path = machine.state.join("logs").join(&key.namespace).join(format!("{name}.log"));
            let process = Process::start(key.clone(), launch, self.template.clone(), machine.changed.clone());
            self.processes.insert(name, process);
        }
    }

    /// Whether there is memory for one more of what runs now.
    fn fits_one_more(&self) -> bool {
        let one = self.processes.values().map(Process::resident_bytes).max().unwrap_or(0);
        one.saturating_add(one / 8) <= available_bytes()
    }

    /// What a replica serves that starts before it is told more.
    fn write_registry(&mut self, folder: &Path, valid: &ValidFleet) -> io::Result<()> {
        let adapters = desired_anywhere(valid);
        let text = serde_json::json!({ "adapters": adapters }).to_string();
        // The first one is written in any case: replicas are started with it.
        if self.registry != text && (self.registry.is_empty() || valid.may_register()) {
            whole::write(&folder.join("adapters.json"), &text)?;
            self.registry = text;
        }
        Ok(())
    }
}

/// Whether a replica that was started with `threads` goes on where its share has become `share`. What it was started with
/// cannot be changed, and to start it anew costs what it has in its caches: it is worth that where it has twice as many
/// after that, as when most of the replicas were let go. One that has more than its share goes on.
const fn suffices(threads: usize, share: usize) -> bool {
    threads.saturating_mul(2) > share
}

/// What this machine has for a fleet: it computes on the processors, whatever the node pool asks for, and its size is what
/// the manifest says: more replicas of one machine would share its processors, and serve no more.
#[must_use]
pub fn capacity(deployment: Option<&Deployment>) -> Capacity {
    let spec = deployment.map(|deployment| &deployment.spec);
    Capacity {
        free_gpus: None,
        without_gpus: spec.is_some_and(|spec| gpus(&spec.node_pool) > 0),
        without_scaler: spec.is_some_and(|spec| spec.autoscaling.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_started_anew_for_twice_the_threads_and_never_for_fewer() {
        for (threads, share, expected) in [
            (16, 16, true),
            (16, 4, true),
            (4, 5, true),
            (4, 7, true),
            (4, 8, false),
            (4, 16, false),
            (1, 2, false),
        ] {
            assert_eq!(suffices(threads, share), expected, "{threads} of {share}");
        }
    }

    #[tokio::test]
    async fn what_is_counted_is_pending_while_one_of_a_former_template_stays() {
        let launch = Launch {
            program: PathBuf::from("/nowhere"),
            arguments: Arc::new(|_, _| Vec::new()),
            threads: 1,
            log: Log { path: PathBuf::from("/nowhere/log"), limit: 1 },
            drain: Duration::ZERO,
            live: LIVE,
        };
        let (changed, _changes) = mpsc::unbounded_channel();
        let start = |template: &str| {
            Process::start(FleetKey::default(), launch.clone(), template.to_owned(), changed.clone())
        };
        let mut running = Running::default();
        assert_eq!(running.outcome("new"), Outcome::Done);
        running.processes.insert("x-0".to_owned(), start("new"));
        running.processes.insert("x-1".to_owned(), start("old"));
        assert_eq!(running.outcome("new"), Outcome::Pending);
        running.processes["x-1"].leave();
        assert_eq!(running.outcome("new"), Outcome::Done);
        assert_eq!(running.outcome("newer"), Outcome::Pending);
    }
}
