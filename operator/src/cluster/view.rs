//! What a person sees of a fleet who asks why, with rights of their own: objects, pods, and what the operator wrote into the
//! Adapters' statuses of what the replicas reported. Reads only, a handful of calls; no replica is asked, which only the
//! operator may.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use lorikeet_api::{AdapterReport, AdapterState, BaseModel, ErrorCode, Failure, Tier};
use lorikeet_crds::adapter::ReplicaPlacement;
use lorikeet_crds::condition::find;
use lorikeet_crds::{Adapter, ConditionType, Deployment, Reason};

use crate::args::WhyArgs;
use crate::build::LABEL;
use crate::build::workload::CLAIMS;
use crate::cluster::facts::PodFacts;
use crate::cluster::failure::is_forbidden;
use crate::cluster::reading::{InParts, Reading, read};
use crate::cluster::world::{InFleet as _, Known};
use crate::decide::placements::REFUSED;
use crate::decide::sources::{carried, shown};
use crate::decide::validate::{key_of, served_name_of};
use crate::fleet::{Capacity, Contact, Fleet, FleetKey, Hindrance, Replica, Report, Said, Unread};
use crate::why::{NoAdapter, Sight, named};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ViewError {
    #[error("kubeconfig: {0}; for an `up` on this machine give --state DIR")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    #[error(
        "no cluster is named by KUBECONFIG, ~/.kube/config or a pod's account ({0}); for an `up` on this machine give --state DIR"
    )]
    Nowhere(#[from] kube::config::InferConfigError),
    #[error("{what} cannot be read: {error}")]
    Api { what: String, error: kube::Error },
    #[error(transparent)]
    NoAdapter(#[from] NoAdapter),
    #[error("{0}")]
    System(#[from] std::io::Error),
}

/// The fleet of the Adapter that is asked about.
///
/// # Errors
/// [`ViewError`].
pub fn sight(asked: &WhyArgs) -> Result<Sight, ViewError> {
    // It may have been installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(look(asked))
}

async fn look(asked: &WhyArgs) -> Result<Sight, ViewError> {
    let config = config(asked).await?;
    let namespace = asked.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).map_err(unread("the cluster"))?;
    let adapters = adapters(&client, &asked.adapter, &namespace).await?;
    let key = named(adapters.iter().map(|one| one.object.as_ref()), &asked.adapter, &namespace)?;
    let adapter = adapters.iter().map(|one| &one.object).find(|one| key_of(one) == key);
    let fleet = adapter.map(|one| one.fleet()).unwrap_or_default();
    let written = adapter.and_then(|one| last_written(one.as_ref()));
    let of_fleet = adapters.iter().filter(|one| one.object.fleet() == fleet).cloned().collect();
    let (fleet, hindrances) = facts(&client, fleet, of_fleet).await?;
    Ok(Sight { fleet, key, written, hindrances, stopped: false })
}

async fn config(asked: &WhyArgs) -> Result<Config, ViewError> {
    let options = KubeConfigOptions { context: asked.context.clone(), ..KubeConfigOptions::default() };
    Ok(match (&asked.kubeconfig, &asked.context) {
        (Some(path), _) => Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await?,
        (None, Some(_)) => Config::from_kubeconfig(&options).await?,
        (None, None) => Config::infer().await?,
    })
}

fn unread(what: impl Into<String>) -> impl FnOnce(kube::Error) -> ViewError {
    let what = what.into();
    |error| ViewError::Api { what, error }
}

/// The Adapters that `api` lists, as far as they can be read. One of which nobody knows what it stands for is left out: it is
/// told so in its own status.
async fn readable(api: Api<DynamicObject>) -> kube::Result<Vec<Known<Adapter>>> {
    Ok(api.list(&ListParams::default()).await?.iter().filter_map(known).collect())
}

/// `object` as the operator knows it.
fn known<K: InParts>(object: &DynamicObject) -> Option<Known<K>> {
    let (object, unreadable) = match read(object) {
        Reading::Whole(object) | Reading::WithoutStatus { object, .. } => (object, None),
        Reading::Part { object, error } => (object, Some(error)),
        Reading::Nothing { .. } => return None,
    };
    Some(Known { object: Arc::new(object), unreadable })
}

/// All Adapters, where they may be listed: others share the fleet. Else those of the namespaces that are asked about.
async fn adapters(client: &Client, named: &str, namespace: &str) -> Result<Vec<Known<Adapter>>, ViewError> {
    let kind = ApiResource::erase::<Adapter>(&());
    let mut found = match readable(Api::all_with(client.clone(), &kind)).await {
        Ok(all) => all,
        Err(error) if is_forbidden(&error) => {
            let of = |namespace: &str| readable(Api::namespaced_with(client.clone(), namespace, &kind));
            let what = format!("Adapters of namespace {namespace}");
            let mut found = of(namespace).await.map_err(unread(what))?;
            if let Some((other, _)) = named.split_once('/').filter(|(other, _)| *other != namespace) {
                // It may be part of a name that requests use.
                found.extend(of(other).await.unwrap_or_default());
            }
            found
        }
        Err(error) => return Err(unread("Adapters")(error)),
    };
    found.sort_by_key(|one| key_of(&one.object));
    Ok(found)
}

/// When the operator last wrote the status, as the API server keeps it.
fn last_written(object: &impl ResourceExt) -> Option<Timestamp> {
    let of_status = object.managed_fields().iter().filter(|one| one.subresource.as_deref() == Some("status"));
    of_status.filter_map(|one| one.time.as_ref()).map(|time| time.0).max()
}

/// The fleet, and what keeps its replicas from running.
async fn facts(
    client: &Client,
    key: FleetKey,
    adapters: Vec<Known<Adapter>>,
) -> Result<(Fleet, BTreeMap<String, Hindrance>), ViewError> {
    let what = format!("Deployment {}/{}", key.namespace, key.name);
    let kind = ApiResource::erase::<Deployment>(&());
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), &key.namespace, &kind);
    let deployment = api.get_opt(&key.name).await.map_err(unread(what))?;
    let deployment = deployment.as_ref().and_then(known::<Deployment>);
    let unread = Unread {
        deployment: deployment.as_ref().and_then(|one| one.unreadable.clone()),
        adapters: adapters
            .iter()
            .filter_map(|one| Some((key_of(&one.object), one.unreadable.clone()?)))
            .collect(),
    };
    let deployment = deployment.map(|one| one.object);
    let adapters: Vec<Arc<Adapter>> = adapters.into_iter().map(|one| one.object).collect();
    let pods = ListParams::default().labels(&format!("{LABEL}={}", key.name));
    let what = format!("pods of namespace {}", key.namespace);
    let listed = Api::<Pod>::namespaced(client.clone(), &key.namespace).list(&pods).await;
    let pods = listed.map_err(self::unread(what))?;
    let mut replicas: Vec<Replica> =
        pods.iter().filter_map(|pod| replica(pod, deployment.as_deref(), &adapters)).collect();
    replicas.sort_by(|one, other| one.name.cmp(&other.name));
    let hindrances = pods.iter().filter_map(|pod| hindrance(pod, Timestamp::now())).collect();
    let fleet = Fleet {
        namespaces: namespaces(client, &adapters).await,
        deployment,
        adapters,
        unread,
        probes: BTreeMap::new(),
        replicas,
        capacity: Capacity::default(),
        moves: 0,
        claims: CLAIMS.to_owned(),
        url: None,
        workload: None,
        key,
    };
    Ok((fleet, hindrances))
}

/// The name of `pod` and what keeps it from running at `now`.
fn hindrance(pod: &Pod, now: Timestamp) -> Option<(String, Hindrance)> {
    Some((pod.name_any(), PodFacts::of(pod).hindrance(now)?))
}

/// The labels of the Adapters' namespaces. One that may not be read has none.
async fn namespaces(
    client: &Client,
    adapters: &[Arc<Adapter>],
) -> BTreeMap<String, BTreeMap<String, String>> {
    let api = Api::<Namespace>::all(client.clone());
    let mut labels = BTreeMap::new();
    for name in adapters.iter().filter_map(|one| one.namespace()) {
        if let Entry::Vacant(entry) = labels.entry(name) {
            let found = api.get_opt(entry.key()).await.ok().flatten();
            entry.insert(found.and_then(|one| one.metadata.labels).unwrap_or_default());
        }
    }
    labels
}

/// A pod as the statuses tell of it.
fn replica(pod: &Pod, deployment: Option<&Deployment>, adapters: &[Arc<Adapter>]) -> Option<Replica> {
    let (name, facts) = (pod.name_any(), PodFacts::of(pod));
    if facts.finished {
        return None;
    }
    let told: Vec<(&Adapter, &ReplicaPlacement)> =
        adapters.iter().filter_map(|one| Some((one.as_ref(), placement(one, &name)?))).collect();
    let (refused, told): (Vec<_>, Vec<_>) =
        told.into_iter().partition(|(_, placement)| placement.state == REFUSED);
    let refusal = refused.first().map(|(_, placement)| placement.error.clone().unwrap_or_default());
    let silent = told.iter().find(|(_, placement)| placement.state == "Unreachable");
    let why = deployment.and_then(|one| Some((why_silent(one, &name)?, last_written(one))));
    let silent =
        silent.map(|(one, placement)| (placement.error.clone().unwrap_or_default(), last_written(*one)));
    let contact = if let Some((error, written)) = why.or(silent) {
        // Since that status was written at the latest.
        Contact::Unreachable { error, since: written.unwrap_or(Timestamp::UNIX_EPOCH), last: None }
    } else if told.is_empty() && !is_ready(pod) {
        Contact::Pending
    } else {
        Contact::Reported(Arc::new(reported(&told)))
    };
    Some(Replica { name, incarnation: facts.incarnation, leaving: facts.leaving, contact, refusal })
}

/// Why `pod` does not answer, as its Deployment says: of a few of them.
fn why_silent(deployment: &Deployment, pod: &str) -> Option<String> {
    let ready = find(&deployment.status.as_ref()?.conditions, ConditionType::Ready)?;
    let told = ready.message.split("; ").filter(|_| ready.reason == Reason::ReplicaUnreachable.as_str());
    let of_pod = |part: &str| part.strip_prefix(pod)?.strip_prefix(": ").map(str::to_owned);
    told.into_iter().find_map(of_pod)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
}

fn placement<'a>(adapter: &'a Adapter, pod: &str) -> Option<&'a ReplicaPlacement> {
    adapter.status.as_ref()?.placements.iter().find(|placement| placement.pod == pod)
}

/// What the replica reported, as far as statuses tell.
fn reported(told: &[(&Adapter, &ReplicaPlacement)]) -> Report {
    let adapters = told.iter().map(|(adapter, placement)| Said::new(report(adapter, placement))).collect();
    Report { base: BaseModel { ready: true, ..BaseModel::default() }, adapters, ..Report::default() }
}

fn report(adapter: &Adapter, placement: &ReplicaPlacement) -> AdapterReport {
    let status = adapter.status.clone().unwrap_or_default();
    let source = &adapter.spec.source;
    let source = carried(&source.source, source.revision.as_deref(), CLAIMS);
    // What a status calls outdated is what the replica served before.
    let is_outdated = placement.state == "Outdated";
    let failure = |message: &String| Failure { code: ErrorCode::Unknown, message: message.clone() };
    AdapterReport {
        name: served_name_of(adapter),
        source: if is_outdated { String::new() } else { shown(&source).to_owned() },
        state: match placement.state.as_str() {
            "Ready" | "Outdated" => AdapterState::Ready,
            "Loading" => AdapterState::Loading,
            "Failed" => AdapterState::Failed,
            "Draining" => AdapterState::Draining,
            _ => AdapterState::Registered,
        },
        tier: match placement.tier.as_deref() {
            Some("Resident") => Tier::Resident,
            Some("Host") => Tier::Host,
            Some("Disk") => Tier::Disk,
            _ => Tier::Remote,
        },
        digest: status.digest.filter(|_| !is_outdated),
        revision: status.revision,
        rank: status.rank.unwrap_or_default(),
        bytes: status.bytes.unwrap_or_default(),
        target_modules: status.target_modules,
        error: placement.error.as_ref().map(failure),
        // Nobody writes down what opens it, nor how many ask for it.
        ..AdapterReport::default()
    }
}

#[cfg(test)]
mod tests {
    use lorikeet_crds::condition::{Saying, Truth, conditions};
    use lorikeet_crds::{AdapterStatus, DeploymentStatus};
    use serde_json::json;

    use super::*;

    fn pod(ready: &str) -> Pod {
        let conditions = json!([{"type": "Ready", "status": ready}]);
        let pod =
            json!({"metadata": {"name": "p"}, "status": {"phase": "Running", "conditions": conditions}});
        serde_json::from_value(pod).unwrap()
    }

    fn told(state: &str, error: Option<&str>) -> Arc<Adapter> {
        let mut adapter = Adapter::default();
        adapter.metadata.name = Some("sql".to_owned());
        adapter.spec.source.source = "https://host/sql?signature=x".to_owned();
        let placement = ReplicaPlacement {
            pod: "p".to_owned(),
            tier: Some("Host".to_owned()),
            state: state.to_owned(),
            error: error.map(str::to_owned),
        };
        let status = AdapterStatus { placements: vec![placement].into(), ..AdapterStatus::default() };
        adapter.status = Some(status);
        Arc::new(adapter)
    }

    #[test]
    fn an_adapter_of_which_not_all_can_be_read_is_there_as_it_is_for_the_operator() {
        let object = |spec: serde_json::Value| {
            let object = json!({
                "apiVersion": "lorikeet.dev/v1alpha1", "kind": "Adapter",
                "metadata": {"name": "sql", "namespace": "here"}, "spec": spec,
            });
            serde_json::from_value::<DynamicObject>(object).unwrap()
        };
        let spec = json!({"deploymentRef": {"name": "base"}, "source": "hf://a/b", "servedName": "s"});
        let whole: Known<Adapter> = known(&object(spec.clone())).unwrap();
        assert_eq!((whole.object.fleet().name.as_str(), whole.unreadable), ("base", None));
        let mut odd = spec.clone();
        odd["placement"] = json!({"priority": "high"});
        let part: Known<Adapter> = known(&object(odd)).unwrap();
        assert_eq!(served_name_of(&part.object), "s");
        assert!(part.unreadable.is_some_and(|why| why.starts_with("spec.placement.priority: ")));
        let mut unknown = spec;
        unknown["deploymentRef"] = json!("base");
        assert_eq!(known::<Adapter>(&object(unknown)), None);
    }

    #[test]
    fn what_keeps_a_pod_from_running_is_said_of_it() {
        let of = |status: serde_json::Value| {
            let pod = json!({"metadata": {"name": "p"}, "status": status});
            hindrance(&serde_json::from_value(pod).unwrap(), Timestamp::UNIX_EPOCH)
        };
        let full =
            json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3"});
        let said = of(json!({"phase": "Pending", "conditions": [full]}));
        assert_eq!(said, Some(("p".to_owned(), Hindrance::Unschedulable("0/3".to_owned()))));
        assert_eq!(of(json!({"phase": "Running"})), None);
    }

    #[test]
    fn a_status_tells_of_a_replica_what_it_reported() {
        let of = |ready: &str, deployment: Option<&Deployment>, adapters: &[Arc<Adapter>]| {
            replica(&pod(ready), deployment, adapters).unwrap().contact
        };
        let contact = |ready: &str, adapters: &[Arc<Adapter>]| of(ready, None, adapters);
        let Contact::Reported(set) = contact("False", &[told("Ready", None)]) else {
            panic!("it was told of")
        };
        let report = &set.adapters[0];
        assert_eq!((report.name.as_str(), report.source.as_str()), ("sql", "https://host/sql"));
        assert_eq!((report.state, report.tier), (AdapterState::Ready, Tier::Host));
        let Contact::Reported(set) = contact("True", &[told("Outdated", None)]) else {
            panic!("it was told of")
        };
        assert_eq!(set.adapters[0].source, "", "it speaks of another content");
        let silent = contact("True", &[told("Unreachable", Some("refused"))]);
        assert!(matches!(silent, Contact::Unreachable { error, .. } if error == "refused"));
        // Why, its Deployment says.
        let ready = Saying {
            condition: ConditionType::Ready,
            truth: Truth::False,
            reason: Reason::ReplicaUnreachable,
            message: "o: late; p: connect: refused; and 2 more".to_owned(),
        };
        let status = DeploymentStatus {
            conditions: conditions(&[], &[ready], None, Timestamp::UNIX_EPOCH),
            ..DeploymentStatus::default()
        };
        let base = Deployment { status: Some(status), ..Deployment::default() };
        for adapters in [vec![], vec![told("Unreachable", Some("see its Deployment"))]] {
            let silent = of("True", Some(&base), &adapters);
            assert!(matches!(silent, Contact::Unreachable { error, .. } if error == "connect: refused"));
        }
        assert!(matches!(contact("False", &[]), Contact::Pending));
        assert!(matches!(contact("True", &[]), Contact::Reported(_)));
    }
}
