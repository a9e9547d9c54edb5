//! What came of carrying a decision out, as the Deployment's status says it. Pure; knows no API server.

use jiff::Timestamp;
use lorikeet_crds::condition::conditions;
use lorikeet_crds::{ConditionType, Deployment, Reason};

use crate::decide::Decision;
use crate::decide::events::{is_true, transition};
use crate::decide::status::kstatus;

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
    let said = conditions(&before.conditions, &sayings, deployment.metadata.generation, now);
    for condition in &mut status.conditions {
        if let Some(new) = said.iter().find(|one| one.type_ == condition.type_) {
            *condition = new.clone();
        }
    }
    decision.events.retain(|event| event.adapter.is_some());
    let old = deployment.status.as_ref().map(|status| status.conditions.as_slice());
    decision.events.extend(transition(None, old, &status.conditions));
}
