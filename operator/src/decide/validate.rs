//! Validate: a fleet's specs become promises, or refusals with a reason. Pure; later steps take only what it returns.

use std::collections::hash_map::{Entry, HashMap};
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use lorikeet_crds::deployment::{AllowedNamespaces, DeploymentSpec, NamespacesFrom};
use lorikeet_crds::{Adapter, Deployment};

use crate::decide::fit::{fit, may_go_on};
use crate::decide::former::{Former, Formers};
use crate::decide::known::{Known, accepted_status};
use crate::decide::labels;
use crate::decide::mounts::{self, Mounts};
pub use crate::decide::refusal::Refusal;
use crate::decide::reports::last;
use crate::decide::resources;
use crate::decide::shards::Shards;
use crate::decide::sources::{self, carried};
pub use crate::fleet::AdapterKey;
use crate::fleet::{Fleet, Probe};
use crate::quantity;

/// A fleet whose Deployment holds what its type promises. The default is of a Deployment that does not exist.
#[derive(Clone, Debug, Default)]
pub struct ValidFleet {
    /// The name that requests use for the base model.
    pub served_name: String,
    /// Bytes that resident adapters may take on a replica.
    pub resident_bytes: u64,
    /// Bytes that adapters may take in host memory.
    pub host_bytes: u64,
    /// The greatest rank.
    pub max_rank: u32,
    /// How long a drain may take.
    pub drain_seconds: u32,
    /// Nothing is to be written.
    pub paused: bool,
    /// What its pods have mounted.
    pub mounts: Mounts,
    /// How full its registry is.
    pub shards: Shards,
    /// Adapters that are served, ordered by key. Served names are unique and none is the base model's.
    pub adapters: Vec<ValidAdapter>,
    /// What Adapters served before an edit that is not accepted, ordered by key: it is served until the edit is.
    pub former: Vec<ValidAdapter>,
    /// Adapters that are not accepted, and may serve a former content: a replica that could tell was not heard.
    pub unheard: BTreeSet<AdapterKey>,
    /// Some replica was heard.
    pub heard: bool,
    /// Adapters whose sources are being read.
    pub pending: BTreeSet<AdapterKey>,
    /// Adapters that are not accepted, and why.
    pub refused: BTreeMap<AdapterKey, Refusal>,
    /// Adapters that are being deleted, since when.
    pub leaving: BTreeMap<AdapterKey, Timestamp>,
}

impl ValidFleet {
    /// Everything that replicas should know of: what is accepted, and what is served until an edit is.
    pub fn served(&self) -> impl Iterator<Item = &ValidAdapter> {
        self.adapters.iter().chain(&self.former)
    }

    /// Whether what is registered for replicas that start may be written: not while nobody was heard who could tell what
    /// is served beside what is accepted.
    #[must_use]
    pub fn may_register(&self) -> bool {
        self.heard || self.unheard.is_empty()
    }

    /// What is accepted under `key`.
    #[must_use]
    pub fn accepted(&self, key: &AdapterKey) -> Option<&ValidAdapter> {
        find(&self.adapters, key)
    }

    /// What is served under `key` until its edit is accepted.
    #[must_use]
    pub fn former(&self, key: &AdapterKey) -> Option<&ValidAdapter> {
        find(&self.former, key)
    }
}

fn find<'a>(adapters: &'a [ValidAdapter], key: &AdapterKey) -> Option<&'a ValidAdapter> {
    adapters.binary_search_by(|one| one.key.cmp(key)).ok().map(|at| &adapters[at])
}

/// An Adapter that is allowed and has a name of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidAdapter {
    /// Whose it is.
    pub key: AdapterKey,
    /// The name that requests use.
    pub served_name: String,
    /// Where its files are, as replicas read it, with the revision asked for.
    pub source: String,
    /// The Secret that opens them.
    pub credentials: Option<String>,
    /// The content asked for.
    pub digest: Option<String>,
    /// On how many replicas it is kept resident.
    pub spread: Spread,
    /// Never evicted there.
    pub pinned: bool,
    /// Who goes first.
    pub priority: i32,
    /// Bytes that it took when it was loaded last, as its status says; else those of its weights, where they were read; else 0.
    pub bytes: u64,
}

/// On how many replicas an adapter is kept resident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Every one.
    All,
    /// That many, or all where there are fewer.
    Count(u32),
    /// By demand: one for each 8 requests at a time, and one where there are none.
    Auto,
}

/// Validates `fleet`. `Err` refuses the Deployment itself, and with it every Adapter.
///
/// # Errors
/// The Deployment is missing or has a value that cannot be served.
pub fn validate(fleet: &Fleet) -> Result<ValidFleet, Refusal> {
    let deployment = fleet.deployment.as_deref().ok_or_else(|| Refusal::DeploymentNotFound {
        namespace: fleet.key.namespace.clone(),
        name: fleet.key.name.clone(),
    })?;
    if let Some(why) = &fleet.unread.deployment {
        return Err(Refusal::Unreadable(why.clone()));
    }
    sources::check("model.source", &deployment.spec.model.source.source)?;
    deployment.spec.resources.as_ref().map_or(Ok(()), resources::check)?;
    let (resident_bytes, host_bytes) = budgets(&deployment.spec)?;
    let valid = ValidFleet {
        resident_bytes,
        host_bytes,
        mounts: Mounts::of_spec(&deployment.spec)?,
        ..undoubted(fleet, deployment)
    };
    Ok(with_adapters(valid, fleet, deployment, take))
}

/// Bytes that resident adapters may take on a replica, and those that adapters may take in its host memory.
///
/// # Errors
/// One is no quantity, or they are more than a replica may have.
pub fn budgets(spec: &DeploymentSpec) -> Result<(u64, u64), Refusal> {
    let resident = bytes("adapters.gpuMemory", &spec.adapters.gpu_memory)?;
    let host = bytes("adapters.hostMemory", &spec.adapters.host_memory)?;
    resources::check_memory(spec, resident, host)?;
    Ok((resident, host))
}

/// What the replicas of a refused `deployment` go on serving: of each Adapter that may, what it served before. It has no
/// budgets.
#[must_use]
pub fn continued(fleet: &Fleet, deployment: &Deployment) -> ValidFleet {
    with_adapters(undoubted(fleet, deployment), fleet, deployment, |valid, formers, fleet, _, adapter| {
        let key = key_of(adapter);
        continue_former(valid, formers.of_adapter(adapter, &key), fleet, key);
    })
}

/// What of `deployment` no validation can refuse.
fn undoubted(fleet: &Fleet, deployment: &Deployment) -> ValidFleet {
    ValidFleet {
        served_name: deployment.spec.model.served_name.clone().unwrap_or_else(|| fleet.key.name.clone()),
        max_rank: deployment.spec.adapters.max_rank,
        drain_seconds: deployment.spec.rollout.drain_seconds,
        paused: deployment.spec.paused,
        heard: fleet.replicas.iter().any(|replica| last(&replica.contact).is_some()),
        ..ValidFleet::default()
    }
}

/// Takes over an Adapter that is allowed and has its name.
type Take = fn(&mut ValidFleet, &Formers<'_>, &Fleet, &Deployment, &Adapter);

/// `valid` with the fleet's Adapters, each that is allowed and has its name by `take`, the oldest first.
fn with_adapters(mut valid: ValidFleet, fleet: &Fleet, deployment: &Deployment, take: Take) -> ValidFleet {
    let base = valid.served_name.clone();
    let mut owners = HashMap::from([(base.as_str(), None)]);
    let mut by_age: Vec<&Adapter> = fleet.adapters.iter().map(AsRef::as_ref).collect();
    by_age.sort_by_cached_key(|adapter| (adapter.metadata.creation_timestamp.clone(), key_of(adapter)));
    let formers = Formers::of(fleet);
    for adapter in by_age {
        let key = key_of(adapter);
        if let Some(since) = &adapter.metadata.deletion_timestamp {
            valid.leaving.insert(key, since.0);
        } else if let Err(refusal) = named(fleet, deployment, adapter, &mut owners) {
            valid.refused.insert(key, refusal);
        } else {
            take(&mut valid, &formers, fleet, deployment, adapter);
        }
    }
    valid.adapters.sort_by(|one, other| one.key.cmp(&other.key));
    valid.former.sort_by(|one, other| one.key.cmp(&other.key));
    valid
}

/// Takes over an Adapter as it is, or as it was before an edit that is not accepted.
fn take(
    valid: &mut ValidFleet,
    formers: &Formers<'_>,
    fleet: &Fleet,
    deployment: &Deployment,
    adapter: &Adapter,
) {
    let key = key_of(adapter);
    let probe = fleet.probes.get(&key);
    // One that is accepted, and is not read again, is known by its status.
    let told = accepted_status(adapter).filter(|status| probe.is_none() && status.rank.is_some());
    let known = match told {
        Some(status) => Known::of_status(status),
        None => formers.known(adapter),
    };
    // What a replica has read needs no reading here.
    let read = probe.filter(|one| !one.is_open() || !known.is_whole);
    let unread = fleet.unread.adapters.get(&key).cloned().map(Refusal::Unreadable);
    let judged = unread.map_or(Ok(()), Err);
    let judged = judged
        .and_then(|()| valid_adapter(fleet, adapter, &mut valid.mounts))
        .and_then(|one| {
            fit(read, &known.facts, adapter, deployment, valid).map(|accepted| accepted.then_some(one))
        })
        .map(|one| one.map(|one| ValidAdapter { bytes: likely_bytes(one.bytes, read), ..one }))
        .and_then(|one| one.map(|one| valid.shards.take(&one).map(|()| one)).transpose());
    match judged {
        Ok(Some(one)) => return valid.adapters.push(one),
        Ok(None) => drop(valid.pending.insert(key.clone())),
        Err(refusal) => drop(valid.refused.insert(key.clone(), refusal)),
    }
    // What does not fit its Deployment any longer, no replica that starts hears of.
    let former = match formers.of_adapter(adapter, &key) {
        Former::Unheard(facts) | Former::Serves(_, facts) if !may_go_on(&facts, deployment, valid) => {
            Former::Nothing
        }
        former => former,
    };
    continue_former(valid, former, fleet, key);
}

/// Takes over what an Adapter served before.
fn continue_former(valid: &mut ValidFleet, former: Former, fleet: &Fleet, key: AdapterKey) {
    match former {
        Former::Nothing => {}
        Former::Unheard(_) => drop(valid.unheard.insert(key)),
        Former::Serves(former, _) => {
            valid.mounts.keep(&former, &fleet.claims);
            valid.shards.keep(&former);
            valid.former.push(former);
        }
    }
}

/// (namespace, name) of `adapter`.
#[must_use]
pub fn key_of(adapter: &Adapter) -> AdapterKey {
    (adapter.namespace().unwrap_or_default(), adapter.name_any())
}

/// The name that requests use for `adapter`.
#[must_use]
pub fn served_name_of(adapter: &Adapter) -> String {
    adapter.spec.served_name.clone().unwrap_or_else(|| adapter.name_any())
}

/// Gives `adapter` its name, if it may have one here. `owners` are those of names; none, of the base model's.
fn named<'a>(
    fleet: &Fleet,
    deployment: &Deployment,
    adapter: &'a Adapter,
    owners: &mut HashMap<&'a str, Option<&'a Adapter>>,
) -> Result<(), Refusal> {
    let namespace = adapter.metadata.namespace.as_deref().unwrap_or_default();
    allowed(fleet, &deployment.spec.adapters.allowed_namespaces, namespace)?;
    let own = adapter.spec.served_name.as_ref().or(adapter.metadata.name.as_ref());
    let name = own.map(String::as_str).unwrap_or_default();
    match owners.entry(name) {
        Entry::Vacant(free) => {
            free.insert(Some(adapter));
            Ok(())
        }
        Entry::Occupied(taken) => {
            let said = |owner: &Adapter| {
                let (namespace, name) = key_of(owner);
                format!("Adapter {namespace}/{name}")
            };
            let owner = taken.get().map_or_else(|| "the base model".to_owned(), said);
            Err(Refusal::NameConflict { name: name.to_owned(), owner })
        }
    }
}

fn valid_adapter(fleet: &Fleet, adapter: &Adapter, mounts: &mut Mounts) -> Result<ValidAdapter, Refusal> {
    let key = key_of(adapter);
    let source = &adapter.spec.source;
    sources::check("source", &source.source)?;
    mounts.take_of(source, &key.0, &fleet.key.namespace)?;
    Ok(ValidAdapter {
        served_name: served_name_of(adapter),
        source: carried(&source.source, source.revision.as_deref(), &fleet.claims),
        credentials: mounts::secret(source).map(str::to_owned),
        digest: source.digest.clone(),
        spread: spread(&adapter.spec.placement.replicas)?,
        pinned: adapter.spec.placement.pinned,
        priority: adapter.spec.placement.priority,
        bytes: known_bytes(adapter),
        key,
    })
}

/// What it takes by its weights, where no replica has loaded it: else it would be placed where there is no room for it.
fn likely_bytes(known: u64, read: Option<&Probe>) -> u64 {
    match read {
        Some(Probe::Facts(facts)) if known == 0 => facts.bytes.unwrap_or(0),
        _ => known,
    }
}

/// A status of another generation may speak of another content.
fn known_bytes(adapter: &Adapter) -> u64 {
    let status = adapter.status.as_ref().filter(|one| one.observed_generation == adapter.metadata.generation);
    status.and_then(|status| status.bytes).unwrap_or(0)
}

/// Whether Adapters of `namespace` may name the fleet's Deployment, by its rule.
pub(super) fn may_name(fleet: &Fleet, rule: &AllowedNamespaces, namespace: &str) -> bool {
    namespace == fleet.key.namespace
        || match rule.from {
            NamespacesFrom::Same => false,
            NamespacesFrom::All => true,
            NamespacesFrom::Selector => rule.selector.as_ref().is_some_and(|selector| {
                fleet.namespaces.get(namespace).is_some_and(|set| labels::matches(selector, set))
            }),
        }
}

fn allowed(fleet: &Fleet, rule: &AllowedNamespaces, namespace: &str) -> Result<(), Refusal> {
    if may_name(fleet, rule, namespace) {
        return Ok(());
    }
    Err(Refusal::NamespaceNotAllowed {
        deployment: format!("{}/{}", fleet.key.namespace, fleet.key.name),
        allowed: match rule.from {
            NamespacesFrom::Selector => "of namespaces with certain labels".to_owned(),
            NamespacesFrom::Same | NamespacesFrom::All => format!("of namespace {}", fleet.key.namespace),
        },
        namespace: namespace.to_owned(),
    })
}

/// On how many replicas a spec asks to be kept.
pub(super) fn spread(replicas: &IntOrString) -> Result<Spread, Refusal> {
    match replicas {
        IntOrString::String(text) if text == "All" => Ok(Spread::All),
        IntOrString::String(text) if text == "Auto" => Ok(Spread::Auto),
        IntOrString::Int(count) if (1..=1024).contains(count) => Ok(Spread::Count(count.unsigned_abs())),
        IntOrString::Int(count) => Err(invalid_spread(count.to_string())),
        IntOrString::String(text) => Err(invalid_spread(text.clone())),
    }
}

fn invalid_spread(got: String) -> Refusal {
    Refusal::InvalidSpec {
        field: "placement.replicas",
        expected: "All, Auto or a number from 1 to 1024",
        got,
    }
}

/// The bytes of a quantity such as `8Gi`, `1.5G` or `1e9`.
fn bytes(field: &'static str, quantity: &Quantity) -> Result<u64, Refusal> {
    let invalid =
        || Refusal::InvalidSpec { field, expected: "a quantity of bytes, as 8Gi", got: quantity.0.clone() };
    quantity::bytes(&quantity.0).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_all_auto_or_a_count() {
        assert_eq!(spread(&IntOrString::String("All".to_owned())), Ok(Spread::All));
        assert_eq!(spread(&IntOrString::Int(3)), Ok(Spread::Count(3)));
        assert!(spread(&IntOrString::Int(0)).is_err());
        assert!(
            spread(&IntOrString::String("Some".to_owned()))
                .unwrap_err()
                .to_string()
                .contains("placement.replicas")
        );
    }
}
