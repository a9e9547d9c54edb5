//! The order of a rollout: whether a new replica comes before the old one goes. Knows no API server and reads no clock.
//!
//! The nodes are asked for free GPUs when a rollout begins; then it keeps its order, as the GPUs that its own new replicas
//! took would seem to be missing. Only one that is stuck gives up its surge. Between rollouts the last answer stands in the
//! workload's own strategy, and nothing is written again.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::compare::differs;

/// How long free GPUs are not asked for again while the write that begins a rollout fails.
const ANSWER_LASTS: Duration = Duration::from_secs(10);
/// How long a new replica may wait for a node before its rollout gives up its surge.
const NODE_PATIENCE: Duration = Duration::from_secs(10);

/// What one look at a rollout hands on to the next.
#[derive(Default)]
pub struct Rollout {
    answer: Option<(Instant, Option<u32>)>,
    waits_since: Option<Instant>,
}

/// What the order of a rollout follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The order that the workload has.
    Standing,
    /// No surge: a new replica waits for what the old one holds.
    Stuck,
    /// This many GPUs are free, as the nodes were asked a moment ago.
    Answered(Option<u32>),
    /// The nodes are to be asked.
    Ask,
}

impl Rollout {
    /// The order of the rollout from `live` to `desired`, two workloads. `waits` says that a new replica waits for a node and
    /// none of ours goes that would make room for it.
    pub fn order(&mut self, live: &Value, desired: &Value, waits: bool, now: Instant) -> Order {
        if is_rolling(live) {
            return if self.is_stuck(waits, now) { Order::Stuck } else { Order::Standing };
        }
        if !begins(desired, live) {
            // What was found for the last one says nothing of the next.
            *self = Self::default();
            return Order::Standing;
        }
        match self.answer {
            Some((at, free)) if now.duration_since(at) < ANSWER_LASTS => Order::Answered(free),
            _ => Order::Ask,
        }
    }

    /// The nodes answered.
    pub const fn answered(&mut self, free: Option<u32>, now: Instant) {
        self.answer = Some((now, free));
    }

    /// After how long a replica that waits has waited long enough.
    #[must_use]
    pub fn again(&self, now: Instant) -> Option<Duration> {
        let rest = NODE_PATIENCE.saturating_sub(now.duration_since(self.waits_since?));
        Some(rest).filter(|rest| !rest.is_zero())
    }

    fn is_stuck(&mut self, waits: bool, now: Instant) -> bool {
        if !waits {
            self.waits_since = None;
            return false;
        }
        now.duration_since(*self.waits_since.get_or_insert(now)) >= NODE_PATIENCE
    }
}

/// The answer that `workload` was written with: whether it surges.
#[must_use]
pub fn standing(workload: Option<&Value>, gpus: u32) -> Option<u32> {
    let surge = workload?.pointer("/spec/strategy/rollingUpdate/maxSurge")?.as_i64()?;
    Some(if surge > 0 { gpus } else { 0 })
}

/// Whether `workload` is in the middle of a rollout.
fn is_rolling(workload: &Value) -> bool {
    let number = |pointer: &str| workload.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    number("/status/observedGeneration") < number("/metadata/generation")
        || number("/status/updatedReplicas") < number("/status/replicas")
}

/// Whether applying `desired` over `live` begins a rollout: something differs beside the number of replicas.
fn begins(desired: &Value, live: &Value) -> bool {
    let mut desired = desired.clone();
    if let Some((replicas, there)) = desired.pointer_mut("/spec/replicas").zip(live.pointer("/spec/replicas"))
    {
        *replicas = there.clone();
    }
    differs(&desired, live)
}

#[cfg(test)]
mod tests {
    use lorikeet_crds::FIELD_MANAGER;
    use serde_json::json;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A workload of two replicas, `updated` of them of `image`.
    fn live(image: &str, surge: i64, updated: i64) -> Value {
        json!({
            "metadata": {"generation": 2, "managedFields": [{"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": {
                "f:spec": {"f:replicas": {}, "f:strategy": {}, "f:template": {"f:image": {}}}
            }}]},
            "spec": {"replicas": 2, "strategy": {"rollingUpdate": {"maxSurge": surge}}, "template": {"image": image}},
            "status": {"observedGeneration": 2, "replicas": 2, "updatedReplicas": updated}
        })
    }

    fn desired(image: &str, surge: i64, replicas: i64) -> Value {
        json!({"spec": {
            "replicas": replicas, "strategy": {"rollingUpdate": {"maxSurge": surge}}, "template": {"image": image}
        }})
    }

    #[test]
    fn at_rest_the_last_answer_stands() {
        assert_eq!(standing(Some(&live("a", 1, 2)), 1), Some(1));
        assert_eq!(standing(Some(&live("a", 0, 2)), 1), Some(0));
        assert_eq!(standing(None, 1), None);
        let mut rollout = Rollout::default();
        let now = Instant::now();
        assert_eq!(rollout.order(&live("a", 1, 2), &desired("a", 1, 2), false, now), Order::Standing);
        let more = rollout.order(&live("a", 1, 2), &desired("a", 1, 5), true, now);
        assert_eq!(more, Order::Standing, "more replicas are no rollout");
    }

    #[test]
    fn the_nodes_are_asked_when_a_rollout_begins_and_not_again_for_a_while_if_its_write_fails() {
        let mut rollout = Rollout::default();
        let (now, new) = (Instant::now(), desired("b", 0, 2));
        assert_eq!(rollout.order(&live("a", 0, 2), &new, false, now), Order::Ask);
        rollout.answered(Some(1), now);
        let mut after = |seconds: u32| rollout.order(&live("a", 0, 2), &new, false, now + SECOND * seconds);
        assert_eq!(after(9), Order::Answered(Some(1)));
        assert_eq!(after(10), Order::Ask);
        // Once there is nothing to do, the next one asks anew.
        rollout.answered(Some(1), now);
        assert_eq!(rollout.order(&live("b", 0, 2), &new, false, now), Order::Standing);
        assert_eq!(rollout.order(&live("a", 0, 2), &new, false, now), Order::Ask);
    }

    #[test]
    fn a_rollout_keeps_its_surge_until_a_replica_has_waited_ten_seconds_for_a_node() {
        let mut rollout = Rollout::default();
        let now = Instant::now();
        let mut at = |seconds: u32, waits: bool| {
            let now = now + SECOND * seconds;
            let order = rollout.order(&live("b", 1, 1), &desired("b", 0, 2), waits, now);
            (order, rollout.again(now))
        };
        assert_eq!(at(0, false), (Order::Standing, None), "the GPUs that it took seem to be missing");
        assert_eq!(at(1, true), (Order::Standing, Some(SECOND * 10)));
        assert_eq!(at(8, true), (Order::Standing, Some(SECOND * 3)));
        assert_eq!(at(9, false), (Order::Standing, None), "room was made");
        assert_eq!(at(10, true), (Order::Standing, Some(SECOND * 10)));
        assert_eq!(at(20, true), (Order::Stuck, None));
    }

    #[test]
    fn what_its_controller_has_not_seen_is_rolling() {
        let mut unseen = live("a", 1, 2);
        unseen["metadata"]["generation"] = json!(3);
        assert!(is_rolling(&unseen) && is_rolling(&live("a", 1, 1)) && !is_rolling(&live("a", 1, 2)));
    }
}
