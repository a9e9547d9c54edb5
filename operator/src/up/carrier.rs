//! The carrier of a cluster of one: reads manifests, gathers each fleet's facts, has it decided about, and carries that
//! out. One task owns it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use lorikeet_crds::{Adapter, ConditionType, Deployment};

use crate::decide::events::is_true;
use crate::decide::mounts::{self, is_object_name};
use crate::decide::outcome;
use crate::decide::validate::{ValidFleet, validate};
use crate::decide::{Decision, decide};
use crate::fleet::{Fleet, FleetKey, Hindrance, Unread};
use crate::probe::Probes;
use crate::probe::beside::{Program, Readers};
use crate::replicas::versions::Versions;
use crate::replicas::{CONCURRENT_WRITES, Replicas};
use crate::up::files::Parsed;
use crate::up::fleets::{Machine, Running, capacity};
use crate::up::folder::{Stamps, stamps};
use crate::up::manifests::{Admission, Manifests, Secrets, called, shown};
use crate::up::news::news;
use crate::up::ports::Ports;
use crate::up::screen::{Screen, Standing};
use crate::up::state::{Key, Objects};
use crate::up::table::Table;
use crate::up::troubles::Troubles;
use crate::up::{secrets, whole};

/// Labels by namespace.
pub(crate) type Labels = BTreeMap<String, BTreeMap<String, String>>;
/// Where those of the manifests are told to those who look at the state folder.
pub(crate) const NAMESPACES: &str = "namespaces.yaml";

/// Statuses are looked at again after this time even if nothing is heard.
const RESYNC: Duration = Duration::from_secs(60);
/// What a step could not do is tried again after this time.
const AGAIN: Duration = Duration::from_secs(1);

/// What is known, and what runs.
pub struct Carrier {
    machine: Machine,
    probes: Probes,
    folder: PathBuf,
    admission: Admission,
    deployments: Objects<Deployment>,
    adapters: Objects<Adapter>,
    read: Option<Stamps>,
    parsed: Parsed,
    manifests: Manifests,
    /// Why the manifests cannot be seen.
    unseen: Option<String>,
    replicas: Replicas,
    fleets: BTreeMap<FleetKey, Running>,
    ports: Ports,
    /// Why Deployments have none.
    portless: BTreeMap<FleetKey, String>,
    troubles: Troubles,
    stopping: bool,
    due: Instant,
    /// Something was done since it was last shown.
    stepped: bool,
    screen: Screen,
}

impl Carrier {
    /// Takes up what lies in the state folder.
    ///
    /// # Errors
    /// The state folder cannot be used.
    pub fn new(
        machine: Machine,
        probes: Probes,
        folder: PathBuf,
        ports: Ports,
        epoch: u64,
    ) -> io::Result<Self> {
        Ok(Self {
            deployments: Objects::open(&machine.state)?,
            adapters: Objects::open(&machine.state)?,
            replicas: Replicas::new(
                Arc::new(Versions::new(epoch)),
                CONCURRENT_WRITES,
                machine.changed.clone(),
            ),
            ports,
            portless: BTreeMap::new(),
            troubles: Troubles::default(),
            machine,
            probes,
            folder,
            admission: Admission::default(),
            read: None,
            parsed: Parsed::default(),
            manifests: Manifests::default(),
            unseen: None,
            fleets: BTreeMap::new(),
            stopping: false,
            // Nothing is done before the manifests were read.
            due: Instant::now() + RESYNC,
            stepped: false,
            screen: Screen::default(),
        })
    }

    /// The manifest files as they are now; nothing, and why is said once, where they cannot be seen.
    pub fn stamps(&mut self) -> Option<Stamps> {
        let stamps = stamps(&self.folder, &self.machine.state);
        let unseen = stamps.as_ref().err().map(ToString::to_string);
        if let Some(why) = unseen.as_ref().filter(|_| unseen != self.unseen) {
            tracing::error!("{why}");
        }
        self.unseen = unseen;
        stamps.ok()
    }

    /// Reads the files anew where they are not those that were read, or one of them can be read only now. Whether they were.
    pub fn read(&mut self, stamps: Stamps) -> bool {
        if self.read.as_ref() == Some(&stamps) && !self.parsed.may_read_more() {
            return false;
        }
        let documents = self.parsed.documents(&self.folder, &stamps);
        if documents.is_empty() {
            tracing::info!("no manifests in {} yet; waiting for *.yaml", self.folder.display());
        }
        let mut manifests = self.admission.read(&documents, &self.deployments, &self.adapters);
        manifests.keep(&self.manifests);
        for key in manifests.apply(&mut self.deployments, &mut self.adapters, Timestamp::now()) {
            tracing::info!("{}: gone; its replicas finish what they have", shown("Deployment", &key));
        }
        for skipped in manifests.skipped.iter().filter(|one| !self.manifests.skipped.contains(one)) {
            tracing::info!("{skipped}: passed over, it means nothing on one machine");
        }
        for fault in manifests.faults.iter().filter(|one| !self.manifests.faults.contains(one)) {
            tracing::error!("{fault}");
        }
        if manifests.faults.is_empty() && !self.manifests.faults.is_empty() {
            tracing::info!("every manifest is taken");
        }
        self.manifests = manifests;
        self.read = Some(stamps);
        true
    }

    /// Nothing runs any more: what opened its sources is not left lying about.
    ///
    /// # Errors
    /// The state folder cannot be written.
    pub fn forget_secrets(&self) -> io::Result<()> {
        self.keep_secrets(|_, _| false)
    }

    fn keep_secrets(&self, is_kept: fn(&Secrets, &Key) -> bool) -> io::Result<()> {
        secrets::keep(&self.machine.secrets_folder(), |namespace, name| {
            is_kept(&self.manifests.secrets, &(namespace.to_owned(), name.to_owned()))
        })
    }

    /// When to look again though nothing is heard.
    #[must_use]
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// Nothing is started any more; what runs finishes.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.ports.close();
        self.fleets.values().for_each(Running::leave);
    }

    /// Whether no process is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fleets.values().all(Running::is_empty)
    }

    /// Observes every fleet, has it decided about, and carries that out. What cannot be done is told, and tried again soon.
    pub async fn step(&mut self, now: Timestamp) {
        (self.due, self.stepped) = (Instant::now() + RESYNC, true);
        let served = self.served();
        self.hold_ports(&served).await;
        let kept = self.keep_secrets(|secrets, key| secrets.contains_key(key));
        self.troubles.note("Secrets", kept);
        for key in self.keys() {
            let port = served.iter().position(|one| *one == key);
            let fleet = self.facts(&key, port);
            if !self.stopping {
                self.carry_processes(&fleet);
            }
            let fleet = self.facts(&key, port);
            let mut decision = decide(&fleet, now);
            self.conclude(&fleet, &mut decision, now);
            self.carry_out(&key, decision);
        }
        self.fleets.retain(|_, running| !running.is_empty());
        for (index, key) in served.iter().enumerate() {
            let replicas = self.fleets.get(key).map(Running::backends).unwrap_or_default();
            self.ports.lead(index, &replicas);
        }
        if served.is_empty() {
            self.ports.lead(0, &[]);
        }
        self.troubles.note("objects", self.deployments.keep());
        self.troubles.note("objects", self.adapters.keep());
        self.troubles.note("what is noted for others", self.note());
        if self.troubles.remain() {
            self.due = self.due.min(Instant::now() + AGAIN);
        }
    }

    /// Each Deployment has a port, where it can be had.
    async fn hold_ports(&mut self, served: &[FleetKey]) {
        if self.stopping {
            return;
        }
        self.ports.keep(served.len());
        self.portless.clear();
        for (index, key) in served.iter().enumerate() {
            let held = self.ports.hold(index).await;
            self.portless.extend(held.as_ref().err().map(|why| (key.clone(), why.to_string())));
            self.troubles.note(shown("Deployment", &key_of(key)), held);
        }
    }

    /// Deployments in the order of their ports: by name.
    fn served(&self) -> Vec<FleetKey> {
        let mut keys: Vec<FleetKey> = self.deployments.all().map(|(key, _)| fleet_key(key)).collect();
        keys.sort_by(|one, other| (&one.name, &one.namespace).cmp(&(&other.name, &other.namespace)));
        keys
    }

    /// Fleets that are there, that Adapters name, or that still have processes.
    fn keys(&self) -> BTreeSet<FleetKey> {
        let named = self.adapters.all().map(|(key, adapter)| named_by(key, adapter));
        let mut keys: BTreeSet<FleetKey> =
            self.deployments.all().map(|(key, _)| fleet_key(key)).chain(named).collect();
        keys.extend(self.fleets.keys().cloned());
        keys
    }

    fn facts(&mut self, key: &FleetKey, port: Option<usize>) -> Fleet {
        let url = port.and_then(|port| self.ports.url(port));
        let running = self.fleets.entry(key.clone()).or_default();
        let mut workload = running.workload();
        let portless = || self.portless.get(key).cloned().map(Hindrance::NoPort);
        workload.hindrance = workload.hindrance.or_else(portless);
        let deployment = self.deployments.get(&key_of(key)).cloned();
        let of_fleet = |(name, adapter): &(&Key, &Arc<Adapter>)| named_by(name, adapter) == *key;
        let adapters: Vec<Arc<Adapter>> =
            self.adapters.all().filter(of_fleet).map(|(_, adapter)| Arc::clone(adapter)).collect();
        let mut fleet = Fleet {
            key: key.clone(),
            namespaces: labels_of(&self.manifests.namespaces, &adapters),
            unread: Unread::default(),
            probes: BTreeMap::new(),
            replicas: running.observe(&self.machine, key, &mut self.replicas),
            capacity: capacity(deployment.as_deref()),
            moves: self.machine.moves,
            claims: self.machine.claims.clone(),
            url,
            workload: Some(workload),
            deployment,
            adapters,
        };
        let secret = |adapter: &Arc<Adapter>| mounts::secret(&adapter.spec.source).map(str::to_owned);
        let own = |adapter: &&Arc<Adapter>| adapter.metadata.namespace.as_ref() == Some(&key.namespace);
        let secrets: BTreeSet<String> = fleet
            .adapters
            .iter()
            .filter(own)
            .filter_map(secret)
            .filter(|name| is_object_name(name))
            .collect();
        // Who reads a source needs them before anything is decided.
        self.lay_out(&key.namespace, &secrets);
        let readers = Readers::Program(Program {
            path: self.machine.program.clone(),
            roots: self.machine.source_roots(),
            credentials: self.machine.secrets_folder().join(&key.namespace),
            reach: self.machine.reach.clone(),
        });
        let probed = self.probes.of(&fleet, &readers);
        self.soon(probed.again);
        fleet.probes = probed.probes;
        fleet
    }

    /// Makes the Secrets of `namespace` the files that replicas read. A replica that lacks one says so of the Adapters whose it
    /// is.
    fn lay_out(&mut self, namespace: &str, names: &BTreeSet<String>) {
        let folder = self.machine.secrets_folder().join(namespace);
        for name in names {
            let key = (namespace.to_owned(), name.clone());
            let mounted = secrets::mount(&folder, name, self.manifests.secrets.get(&key));
            self.troubles.note(shown("Secret", &key), mounted);
        }
    }

    fn carry_processes(&mut self, fleet: &Fleet) {
        match (&fleet.deployment, validate(fleet)) {
            (Some(deployment), Ok(valid)) => {
                let keys = self.mount(&fleet.key, deployment, &valid);
                let Some(running) = self.fleets.get_mut(&fleet.key) else { return };
                let carried = running.carry(&self.machine, &fleet.key, deployment, &valid, keys);
                self.troubles.note(shown("Deployment", &key_of(&fleet.key)), carried);
            }
            // What is refused changes nothing that runs.
            (Some(_), Err(_)) => {}
            (None, _) => self.fleets.get(&fleet.key).into_iter().for_each(Running::leave),
        }
    }

    /// Lets the status of a Deployment say whether what was counted is of its spec.
    fn conclude(&self, fleet: &Fleet, decision: &mut Decision, now: Timestamp) {
        let (key, running) = (&fleet.key, self.fleets.get(&fleet.key));
        if let (Some(deployment), Some(valid), Some(running)) = (&fleet.deployment, &decision.valid, running)
        {
            let outcome = running.outcome(&self.machine.template(key, deployment, valid));
            outcome::conclude(decision, deployment, &outcome, now);
        }
    }

    /// Lays out the Secrets that the replicas of a fleet read: its API keys are there, or why not.
    fn mount(&mut self, key: &FleetKey, deployment: &Deployment, valid: &ValidFleet) -> Result<(), String> {
        let namespace = &key.namespace;
        let folder = self.machine.secrets_folder().join(namespace);
        self.lay_out(namespace, &valid.mounts.secrets);
        let Some(auth) = &deployment.spec.auth else { return Ok(()) };
        let name = &auth.api_keys_secret_ref.name;
        let goes_on = "Until then what runs goes on as it is, and nothing is started";
        let secret = self.manifests.secrets.get(&(namespace.clone(), name.clone()));
        let secret = secret.filter(|secret| secret.contains_key("keys")).ok_or_else(|| {
            format!(
                "auth.apiKeysSecretRef: no manifest has a Secret {namespace}/{name} with the entry `keys`; add one (apiVersion: \
                 v1, kind: Secret, stringData: {{keys: …}}). {goes_on}"
            )
        })?;
        let mounted = secrets::mount(&folder, name, Some(secret));
        let why = mounted.as_ref().err().map(|error| format!("auth.apiKeysSecretRef: {error}. {goes_on}"));
        self.troubles.note(shown("Secret", &(namespace.clone(), name.clone())), mounted);
        why.map_or(Ok(()), Err)
    }

    fn carry_out(&mut self, key: &FleetKey, decision: Decision) {
        self.replicas.want(key, decision.desired);
        if let Some(status) = decision.status {
            self.deployments.set_status(&key_of(key), status);
        }
        for (adapter, status) in decision.adapters {
            self.adapters.set_status(&adapter, status);
        }
        let is_paused = self.deployments.get(&key_of(key)).is_some_and(|one| one.spec.paused);
        let how = if is_paused { "; served until spec.paused of its Deployment is false" } else { "" };
        for adapter in decision.released {
            tracing::info!("{}: gone{how}", shown("Adapter", &adapter));
            self.adapters.remove(&adapter);
            // Its manifest may be back: what was refused while it drained is read again.
            self.read = None;
        }
        for one in news(key, &decision.events, &self.manifests) {
            if one.warning {
                tracing::warn!(reason = one.reason, "{}", one.text);
            } else {
                tracing::debug!(reason = one.reason, "{}", one.text);
            }
        }
        self.soon(decision.again);
    }

    fn soon(&mut self, after: Option<Duration>) {
        if let Some(after) = after {
            self.due = self.due.min(Instant::now() + after);
        }
    }

    /// Tells those who look at the state folder where the replicas are.
    fn note(&self) -> io::Result<()> {
        let noted: BTreeMap<String, _> = self
            .fleets
            .iter()
            .map(|(key, running)| (format!("{}/{}", key.namespace, key.name), running.noted()))
            .collect();
        let run = self.machine.run_folder();
        let yaml = |text: serde_yaml::Result<String>| text.map_err(io::Error::other);
        whole::write_changed(
            &run.join(NAMESPACES),
            &yaml(serde_yaml::to_string(&self.manifests.namespaces))?,
        )?;
        whole::write_changed(&run.join("replicas.yaml"), &yaml(serde_yaml::to_string(&noted))?)?;
        if self.screen.has_announced() {
            whole::write_changed(&run.join("ready"), "")?;
        }
        Ok(())
    }

    /// Prints what changed, and once where it answers. Does nothing where nothing can have changed: it is called all the
    /// time.
    pub fn show(&mut self, now: Timestamp) {
        if !std::mem::take(&mut self.stepped) && self.screen.is_at_rest() {
            return;
        }
        let mut keys =
            self.deployments.all().map(|(key, _)| key).chain(self.adapters.all().map(|(key, _)| key));
        let all_namespaces = keys.any(|(namespace, _)| namespace != "default");
        let tables = [
            Table::of(self.deployments.all().map(|(_, one)| one.as_ref()), all_namespaces, now),
            Table::of(self.adapters.all().map(|(_, one)| one.as_ref()), all_namespaces, now),
        ];
        let (standing, clock) = (self.standing(), Instant::now());
        let mut out = io::stdout();
        // Nobody may read it any more: that is no reason to stop.
        if let Some(text) = self.screen.show(tables, standing, clock) {
            let _ = writeln!(out, "{text}");
        }
        if self.screen.announces(standing, clock) {
            let _ = writeln!(out, "{}", self.announcement());
            // The next step notes it.
            self.due = clock;
        }
    }

    fn standing(&self) -> Standing {
        let deployments = || {
            self.deployments.all().map(|(_, one)| one.status.as_ref().map_or(&[][..], |of| &of.conditions))
        };
        let adapters =
            || self.adapters.all().map(|(_, one)| one.status.as_ref().map_or(&[][..], |of| &of.conditions));
        let settled =
            |of: &[Condition]| is_true(of, ConditionType::Ready) || is_true(of, ConditionType::Stalled);
        Standing {
            available: deployments().next().is_some()
                && deployments().all(|of| is_true(of, ConditionType::Available)),
            settled: adapters().all(settled) && deployments().all(settled),
        }
    }

    fn announcement(&self) -> String {
        let urls = self.deployments.all().filter_map(|(key, one)| {
            let url = one.status.as_ref()?.url.as_ref()?;
            Some(format!("{} answers on {url}; the names for `model`: {url}/v1/models", called(key)))
        });
        let urls: Vec<String> = urls.collect();
        let here = std::env::current_dir().unwrap_or_default();
        let short = |path: &Path| path.strip_prefix(&here).unwrap_or(path).display().to_string();
        let state = short(&self.machine.state);
        let program =
            std::env::current_exe().map_or_else(|_| "lorikeet-operator".to_owned(), |own| short(&own));
        let adapter = self.adapters.all().next().map_or_else(|| "ADAPTER".to_owned(), |(key, _)| called(key));
        format!(
            "{}\nObjects with their status, and logs: {state}\nWhy an adapter is where it is: {program} why {adapter} \
             --state {state}\n",
            urls.join("\n")
        )
    }
}

/// The labels of the namespaces that `adapters` are in, of those `known`: each namespace bears its name, as in a cluster.
pub(crate) fn labels_of(known: &Labels, adapters: &[Arc<Adapter>]) -> Labels {
    let namespaces = adapters.iter().filter_map(|adapter| adapter.metadata.namespace.clone());
    let labels = |namespace: String| {
        let mut labels = known.get(&namespace).cloned().unwrap_or_default();
        labels.insert("kubernetes.io/metadata.name".to_owned(), namespace.clone());
        (namespace, labels)
    };
    namespaces.map(labels).collect()
}

fn key_of(fleet: &FleetKey) -> Key {
    (fleet.namespace.clone(), fleet.name.clone())
}

fn fleet_key((namespace, name): &Key) -> FleetKey {
    FleetKey { namespace: namespace.clone(), name: name.clone() }
}

/// The fleet that an Adapter names.
pub(crate) fn named_by((namespace, _): &Key, adapter: &Adapter) -> FleetKey {
    let to = &adapter.spec.deployment_ref;
    FleetKey { namespace: to.namespace.clone().unwrap_or_else(|| namespace.clone()), name: to.name.clone() }
}
