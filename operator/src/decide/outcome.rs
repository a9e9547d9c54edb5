//! What came of carrying a decision out, as statuses say it. Pure; knows no API server. The Event is the transition of the
//! status, and nothing else: it is said once while what failed fails, by whoever meets it.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use lorikeet_crds::condition::{Saying, conditions};
use lorikeet_crds::{Adapter, ConditionType, Deployment, Reason};

use crate::decide::Decision;
use crate::decide::events::{is_true, transition};
use crate::decide::status::kstatus;
use crate::decide::validate::key_of;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All was as it should be.
    Done,
    /// The replicas, or the way to them, were not as the spec asks; what was counted is of the former ones.
    Pending,
    /// It failed, and will not pass by itself: why.
    Failed(String),
}

/// Lets the status of `deployment` in `decision` say what came of it.
pub fn conclude(decision: &mut Decision, deployment: &Deployment, outcome: &Outcome, now: Timestamp) {
    let Some(status) = &mut decision.status else { return };
    let before = deployment.status.clone().unwrap_or_default();
    // What was Ready for this very spec stays so while somebody's change is being undone.
    let was_ready = before.observed_generation == deployment.metadata.generation
        && is_true(&before.conditions, ConditionType::Ready);
    let is_ready = is_true(&status.conditions, ConditionType::Ready);
    let lacking = match outcome {
        Outcome::Failed(why) if is_true(&status.conditions, ConditionType::Accepted) => {
            (Reason::NotCarriedOut, why.clone())
        }
        Outcome::Pending if is_ready && !was_ready => {
            (Reason::Progressing, "The replicas are about to be as the spec asks".to_owned())
        }
        _ => return,
    };
    let sayings = kstatus(Some(lacking), deployment.spec.paused, Reason::NotCarriedOut);
    let generation = deployment.metadata.generation;
    overlay(&mut status.conditions, &before.conditions, &sayings, generation, now);
    decision.events.retain(|event| event.adapter.is_some());
    let old = deployment.status.as_ref().map(|status| status.conditions.as_slice());
    decision.events.extend(transition(None, old, &status.conditions));
}

/// Lets the status of `adapter` in `decision` say that it is not carried out, and will not be by itself: why.
pub fn conclude_adapter(decision: &mut Decision, adapter: &Adapter, why: String, now: Timestamp) {
    let key = key_of(adapter);
    let before = adapter.status.clone().unwrap_or_default();
    let mut status = decision.adapters.remove(&key).unwrap_or_else(|| before.clone());
    let sayings = kstatus(Some((Reason::NotCarriedOut, why)), false, Reason::NotCarriedOut);
    overlay(&mut status.conditions, &before.conditions, &sayings, adapter.metadata.generation, now);
    decision.events.retain(|event| event.adapter.as_ref() != Some(&key));
    if adapter.status.as_ref() == Some(&status) {
        return;
    }
    let old = adapter.status.as_ref().map(|status| status.conditions.as_slice());
    decision.events.extend(transition(Some(&key), old, &status.conditions));
    decision.adapters.insert(key, status);
}

/// Says `sayings` in the place of what `of` says of the same, `before` being what the object says.
fn overlay(
    of: &mut [Condition],
    before: &[Condition],
    sayings: &[Saying],
    generation: Option<i64>,
    now: Timestamp,
) {
    let said = conditions(before, sayings, generation, now);
    for condition in of {
        if let Some(new) = said.iter().find(|one| one.type_ == condition.type_) {
            *condition = new.clone();
        }
    }
}
