//! Events: said once, when the answer to "is it Ready, and why" changes, or an Adapter is let go before it has drained. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use lorikeet_crds::condition::{Truth, find};
use lorikeet_crds::{ConditionType, Reason};

use crate::decide::Occurrence;
use crate::decide::validate::AdapterKey;

/// The Event for a change of `Ready` from `before` to `after`, where there is one.
#[must_use]
pub fn transition(
    adapter: Option<&AdapterKey>,
    before: Option<&[Condition]>,
    after: &[Condition],
) -> Option<Occurrence> {
    let new = find(after, ConditionType::Ready)?;
    let old = before.and_then(|conditions| find(conditions, ConditionType::Ready));
    if old.is_some_and(|old| old.status == new.status && old.reason == new.reason) {
        return None;
    }
    // Reading a source takes a moment, and so does the first load: what comes of it is news.
    let was_read = old.is_none_or(|old| old.reason == Reason::Progressing.as_str());
    let is_first_load = was_read && new.reason == Reason::Loading.as_str();
    if is_first_load || new.reason == Reason::Progressing.as_str() {
        return None;
    }
    let reason =
        Reason::ALL.iter().copied().find(|reason| reason.as_str() == new.reason).unwrap_or(Reason::Internal);
    Some(Occurrence {
        adapter: adapter.cloned(),
        reason,
        warning: is_true(after, ConditionType::Stalled) && reason != Reason::Paused,
        message: new.message.clone(),
    })
}

/// The Event for an Adapter that is let go though replicas have it still.
#[must_use]
pub fn drain_timeout(adapter: &AdapterKey, drain_seconds: u32) -> Occurrence {
    Occurrence {
        adapter: Some(adapter.clone()),
        reason: Reason::DrainTimeout,
        warning: true,
        message: format!(
            "not drained within rollout.drainSeconds of its Deployment ({drain_seconds}): it is gone, and requests that still run \
             end with an error; raise drainSeconds where they take longer"
        ),
    }
}

/// Whether the condition of that type is True.
#[must_use]
pub fn is_true(conditions: &[Condition], condition: ConditionType) -> bool {
    find(conditions, condition).is_some_and(|one| one.status == Truth::True.as_str())
}
