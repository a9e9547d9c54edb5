//! Status of a Deployment: from what its workload and its replicas say. Pure; never from what was asked of them.

use jiff::Timestamp;
use lorikeet_crds::condition::{Saying, Truth, conditions};
use lorikeet_crds::deployment::{AdapterCount, DeploymentStatus, ModelStatus};
use lorikeet_crds::{ConditionType, Deployment, Reason};

use crate::decide::contents::differing;
use crate::decide::events::is_true;
use crate::decide::scale::replicas;
use crate::decide::sources::shown;
use crate::decide::validate::Refusal;
use crate::fleet::{Capacity, Contact, Fleet, Hindrance, Replica, Report, Workload};

/// How a fleet is doing, counted.
struct Tally {
    wanted: i32,
    exist: i32,
    ready: i32,
    loaded: usize,
    unreachable: Vec<String>,
}

/// The Deployment's status. `adapters` are those counted from their own statuses.
#[must_use]
pub fn deployment_status(
    fleet: &Fleet,
    deployment: &Deployment,
    refused: Option<&Refusal>,
    adapters: AdapterCount,
    now: Timestamp,
) -> DeploymentStatus {
    let before = deployment.status.clone().unwrap_or_default();
    let tally = tally(fleet, deployment);
    let model_loaded = model_saying(fleet, deployment, &tally);
    let [accepted, kstatus @ ..] = match refused {
        Some(refusal) => refusal_sayings(refusal),
        None => sayings(fleet, deployment, &tally, &model_loaded),
    };
    // What runs is as it is, whether the spec may be carried out or not.
    let counted = [model_loaded, adapters_saying(adapters), available_saying(fleet, &tally)];
    let sayings: Vec<Saying> = [accepted].into_iter().chain(counted).chain(kstatus).collect();
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        conditions: conditions(&before.conditions, &sayings, deployment.metadata.generation, now),
        replicas: tally.exist,
        ready_replicas: tally.ready,
        selector: Some(format!("lorikeet.dev/deployment={}", fleet.key.name)),
        model: model(&fleet.replicas),
        adapters,
        url: fleet.url.clone(),
    }
}

fn tally(fleet: &Fleet, deployment: &Deployment) -> Tally {
    // One that goes is no longer counted on, and may be silent.
    let staying = || fleet.replicas.iter().filter(|replica| !replica.leaving);
    Tally {
        wanted: replicas(&deployment.spec),
        exist: fleet.workload.as_ref().map_or(0, |workload| workload.replicas),
        ready: fleet.workload.as_ref().map_or(0, |workload| workload.ready),
        loaded: staying().filter_map(report).filter(|report| report.base.ready).count(),
        unreachable: staying()
            .filter_map(|replica| match &replica.contact {
                // One that was never heard and is not ready yet may still be loading.
                Contact::Unreachable { last: None, .. } if fleet.is_starting() => None,
                Contact::Unreachable { error, .. } => Some(format!("{}: {error}", replica.name)),
                Contact::Pending | Contact::Loading | Contact::Reported(_) => None,
            })
            .collect(),
    }
}

fn report(replica: &Replica) -> Option<&Report> {
    match &replica.contact {
        Contact::Reported(report) => Some(report),
        Contact::Pending | Contact::Loading | Contact::Unreachable { .. } => None,
    }
}

/// The model that the replicas agree on; nothing while they have two.
fn model(replicas: &[Replica]) -> Option<ModelStatus> {
    let mut bases = replicas.iter().filter_map(report).map(|report| &report.base).filter(|base| base.ready);
    let first = bases.next()?;
    bases.all(|base| (&base.name, &base.digest) == (&first.name, &first.digest)).then(|| ModelStatus {
        name: Some(first.name.clone()),
        revision: first.revision.clone(),
        digest: first.digest.clone(),
    })
}

/// Accepted, and kstatus, of a Deployment that is refused.
fn refusal_sayings(refusal: &Refusal) -> [Saying; 4] {
    let saying = |condition, truth| Saying {
        condition,
        truth,
        reason: refusal.reason(),
        message: refusal.to_string(),
    };
    [
        saying(ConditionType::Accepted, Truth::False),
        saying(ConditionType::Ready, Truth::False),
        saying(ConditionType::Reconciling, Truth::False),
        saying(ConditionType::Stalled, Truth::True),
    ]
}

/// Accepted, and kstatus, of a Deployment that is valid.
fn sayings(fleet: &Fleet, deployment: &Deployment, tally: &Tally, model: &Saying) -> [Saying; 4] {
    // Somebody's annotation makes a new generation of the workload too: while its controller has not seen it, what was
    // ready for this spec stays so as long as all replicas are.
    let was_ready = deployment.status.as_ref().is_some_and(|before| {
        before.observed_generation == deployment.metadata.generation
            && is_true(&before.conditions, ConditionType::Ready)
    });
    // Those that are ready may be old ones: while one is left, nobody counts how many new ones are.
    let rolled = fleet.workload.as_ref().is_some_and(|workload| {
        let Workload { replicas, updated, ready, .. } = *workload;
        (workload.current || was_ready) && [replicas, updated, ready] == [tally.wanted; 3]
    });
    let replicas = (!rolled).then(|| (Reason::ReplicasNotReady, progress(fleet, tally)));
    let hindered = fleet.workload.as_ref().and_then(|workload| workload.hindrance.as_ref()).map(hindered);
    let unreachable =
        (!tally.unreachable.is_empty()).then(|| (Reason::ReplicaUnreachable, few(&tally.unreachable)));
    // Where no replica is wanted, none can have loaded anything. Adapters are their own: one team's typo must not make the
    // base that all teams share look broken.
    let is_loading = model.truth != Truth::True && (tally.wanted > 0 || tally.exist > 0);
    let loaded = || is_loading.then(|| (model.reason, model.message.clone()));
    let lacking = hindered.or(unreachable).or(replicas).or_else(loaded);
    // Which of two models is meant, what is in a Secret, and which ports there may be, nobody knows but the user.
    let stalling = match lacking {
        Some((reason @ (Reason::ContentsDiffer | Reason::PortUnavailable), _)) => reason,
        _ => Reason::SecretNotFound,
    };
    let [ready, reconciling, stalled] = kstatus(lacking, deployment.spec.paused, stalling);
    [accepted_saying(fleet), ready, reconciling, stalled]
}

/// How far the replicas are from what is asked.
fn progress(fleet: &Fleet, tally: &Tally) -> String {
    let Tally { wanted, ready, .. } = tally;
    let counted = fleet.workload.as_ref().map(|workload| (workload.updated, workload.replicas));
    match counted.map(|(updated, replicas)| (updated, replicas.saturating_sub(updated))) {
        Some((updated, former @ 1..)) => {
            format!(
                "{updated} of {wanted} replicas are of the newest spec; {former} of a former one still run"
            )
        }
        _ => format!("{ready} of {wanted} replicas are ready"),
    }
}

/// A few of many, and how many there are.
fn few(all: &[String]) -> String {
    const FEW: usize = 3;
    let said = all.iter().take(FEW).map(String::as_str).collect::<Vec<_>>().join("; ");
    if all.len() > FEW { format!("{said}; and {} more", all.len() - FEW) } else { said }
}

fn hindered(hindrance: &Hindrance) -> (Reason, String) {
    match hindrance {
        Hindrance::Unschedulable(why) => (Reason::Unschedulable, why.clone()),
        Hindrance::NoSecret(why) => (Reason::SecretNotFound, why.clone()),
        // It may be a Secret, or a disk that takes its time: only who may read Secrets knows.
        Hindrance::Unmounted(why) => (Reason::ReplicasNotReady, why.clone()),
        Hindrance::Failing(why) => (Reason::ReplicaFailed, why.clone()),
        Hindrance::NoPort(why) => (Reason::PortUnavailable, why.clone()),
    }
}

fn accepted_saying(fleet: &Fleet) -> Saying {
    let Capacity { without_gpus, without_scaler, .. } = fleet.capacity;
    let but = [
        (without_gpus, "; the node pool asks for GPUs, this machine has none: running on the CPU"),
        (
            without_scaler,
            "; autoscaling: nothing scales here: spec.replicas runs, within minReplicas and maxReplicas",
        ),
    ];
    let but: String = but.iter().filter(|(applies, _)| *applies).map(|(_, what)| *what).collect();
    let message = format!("Valid{but}");
    Saying { condition: ConditionType::Accepted, truth: Truth::True, reason: Reason::Valid, message }
}

/// What is said where the replicas serve different base models, and no rollout is under way that would end it.
fn models_differ(fleet: &Fleet, deployment: &Deployment) -> Option<String> {
    let is_rolled = |workload: &Workload| workload.current && workload.updated == workload.replicas;
    let asked = &deployment.spec.model.source;
    if asked.digest.is_some() || !fleet.workload.as_ref().is_none_or(is_rolled) {
        return None;
    }
    let staying = fleet.replicas.iter().filter(|replica| !replica.leaving);
    let bases = staying.filter_map(report).map(|report| &report.base).filter(|base| base.ready);
    differing(bases.filter_map(|base| base.digest.as_deref()), shown(&asked.source), "model.digest")
}

fn model_saying(fleet: &Fleet, deployment: &Deployment, tally: &Tally) -> Saying {
    if let Some(message) = models_differ(fleet, deployment) {
        let (condition, truth) = (ConditionType::ModelLoaded, Truth::False);
        return Saying { condition, truth, reason: Reason::ContentsDiffer, message };
    }
    let all = tally.exist > 0 && tally.loaded as i32 >= tally.exist;
    Saying {
        condition: ConditionType::ModelLoaded,
        truth: all.into(),
        reason: match (all, tally.exist) {
            (true, _) => Reason::AsDesired,
            (false, 0) => Reason::NoReplicas,
            (false, _) => Reason::Loading,
        },
        message: format!("{} of {} replicas have loaded the model", tally.loaded, tally.exist),
    }
}

fn adapters_saying(adapters: AdapterCount) -> Saying {
    let all = adapters.ready == adapters.total;
    let failed = if adapters.failed > 0 { format!(", {} failed", adapters.failed) } else { String::new() };
    Saying {
        condition: ConditionType::AdaptersReady,
        truth: all.into(),
        reason: if all { Reason::AsDesired } else { Reason::AdaptersNotReady },
        message: format!("{} of {} adapters are ready{failed}", adapters.ready, adapters.total),
    }
}

fn available_saying(fleet: &Fleet, tally: &Tally) -> Saying {
    let available = tally.ready > 0;
    let wanted_none = tally.wanted == 0;
    Saying {
        condition: ConditionType::Available,
        truth: available.into(),
        reason: if available { Reason::AsDesired } else { Reason::NoReplicas },
        message: match (available, wanted_none) {
            (true, _) => format!("{} replicas serve {}", tally.ready, fleet.key.name),
            (false, true) => "spec.replicas is 0".to_owned(),
            (false, false) => "no replica serves yet".to_owned(),
        },
    }
}

/// Ready, Reconciling and Stalled from what is lacking. `stalling` is the reason that no work of ours will mend.
pub(super) fn kstatus(lacking: Option<(Reason, String)>, paused: bool, stalling: Reason) -> [Saying; 3] {
    let saying = |condition, truth: bool, reason, message: &str| Saying {
        condition,
        truth: truth.into(),
        reason,
        message: message.to_owned(),
    };
    let (ready, reconciling, stalled) =
        (ConditionType::Ready, ConditionType::Reconciling, ConditionType::Stalled);
    match lacking {
        _ if paused => {
            let message = "spec.paused is true: nothing is started or changed until it is false";
            let is_ready = lacking.is_none();
            [
                saying(ready, is_ready, if is_ready { Reason::AsDesired } else { Reason::Paused }, message),
                saying(reconciling, false, Reason::Paused, message),
                saying(stalled, !is_ready, Reason::Paused, message),
            ]
        }
        None => [
            saying(ready, true, Reason::AsDesired, "All is as the spec asks"),
            saying(reconciling, false, Reason::AsDesired, "All is as the spec asks"),
            saying(stalled, false, Reason::AsDesired, "All is as the spec asks"),
        ],
        Some((reason, message)) => [
            saying(ready, false, reason, &message),
            saying(reconciling, reason != stalling, reason, &message),
            saying(stalled, reason == stalling, reason, &message),
        ],
    }
}
