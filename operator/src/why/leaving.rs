//! What is said of an Adapter that is being deleted: its conditions tell nothing of where it is any more, the replicas and
//! what its status listed do. Pure.

use lorikeet_api::{AdapterReport, AdapterState};
use lorikeet_crds::{Adapter, FINALIZER};

use super::{Holds, Line, Sight, last_listed, silence};
use crate::decide::reports::Reports;
use crate::decide::validate::{key_of, served_name_of};
use crate::fleet::Replica;

/// Replica by replica, or the one reason for all; nothing where `adapter` stays.
pub(super) fn lines(sight: &Sight, adapter: &Adapter) -> Option<Result<Vec<Line>, String>> {
    let since = adapter.metadata.deletion_timestamp.as_ref()?.0;
    let fleet = &sight.fleet;
    if fleet.replicas.is_empty() {
        return Some(Err(format!("it is being deleted since {since}{}", held_by_others(adapter))));
    }
    let drains = fleet.deployment.as_ref().map(|one| one.spec.rollout.drain_seconds);
    let latest = drains
        .map(|seconds| format!(", after {seconds} s at the latest (rollout.drainSeconds)"))
        .unwrap_or_default();
    let goes = |running: &str| {
        format!("it is being deleted since {since}: {running} finish, then it is forgotten{latest}")
    };
    let name = served_name_of(adapter);
    // A name that another Adapter has now says nothing of this one.
    let is_taken = fleet.adapters.iter().any(|other| {
        key_of(other) != sight.key
            && other.metadata.deletion_timestamp.is_none()
            && served_name_of(other) == name
    });
    let reports = Reports::of(&fleet.replicas);
    let of = |(index, replica): (usize, &Replica)| {
        let report = reports.get(index, &name).filter(|_| !is_taken);
        let line = |holds, because| Line { replica: replica.name.clone(), holds, because };
        match (silence(sight, replica), report) {
            (Some(why), _) => line(Holds::Nothing, why),
            (None, Some(report)) if is_there(report) => {
                let count = report.running.saturating_add(report.waiting);
                let running = match count {
                    0 => "running requests".to_owned(),
                    count => format!("{count} requests for it"),
                };
                line(Holds::It, goes(&running))
            }
            (None, _) if last_listed(sight, replica).is_some() => {
                line(Holds::Unlisted, format!("its status has no room for it; {}", goes("running requests")))
            }
            (None, _) => {
                let others = held_by_others(adapter);
                line(Holds::Nothing, format!("it is being deleted since {since}, and is not here{others}"))
            }
        }
    };
    Some(Ok(fleet.replicas.iter().enumerate().map(of).collect()))
}

fn is_there(report: &AdapterReport) -> bool {
    matches!(report.state, AdapterState::Ready | AdapterState::Draining)
}

/// Who else keeps the object, and must let go of it.
fn held_by_others(adapter: &Adapter) -> String {
    let all = adapter.metadata.finalizers.iter().flatten().map(String::as_str);
    let others: Vec<&str> = all.filter(|one| *one != FINALIZER).collect();
    match others.as_slice() {
        [] => String::new(),
        others => format!("; others keep the object, by the finalizers {}", others.join(", ")),
    }
}
