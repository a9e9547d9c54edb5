//! The decision about one fleet: validate -> place -> desired sets and children -> status. Pure: the same facts give the
//! same decision. Takes `now` as a fact; must not read a clock, a file, a client or memory of an earlier decision.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use lorikeet_api::Tier;
use lorikeet_crds::deployment::AdapterCount;
use lorikeet_crds::{Adapter, AdapterStatus, ConditionType, DeploymentStatus, Reason};

use crate::decide::adapter_status::{Served, leaving_status, served_status};
use crate::decide::desired::desired_lists;
use crate::decide::events::{drain_timeout, is_true, transition};
use crate::decide::moves::{Moves, settle};
use crate::decide::place::{Measured, Place, demand_of, place};
use crate::decide::placements::Placements;
use crate::decide::reports::{Reports, last};
use crate::decide::scale::replicas;
use crate::decide::status::deployment_status;
use crate::decide::unaccepted::{Still, Why, unaccepted_status};
use crate::decide::validate::{
    AdapterKey, Refusal, ValidAdapter, ValidFleet, budgets, continued, key_of, may_name, served_name_of,
    validate,
};
use crate::fleet::{Contact, DesiredList, Fleet, Probe, Replica};

pub mod adapter_status;
pub mod contents;
pub mod desired;
pub mod events;
pub mod fit;
pub mod former;
pub mod known;
pub mod labels;
pub mod mounts;
pub mod moves;
pub mod outcome;
pub mod place;
pub mod placements;
pub mod refusal;
pub mod reports;
pub mod resources;
pub mod scale;
pub mod shards;
pub mod sources;
pub mod status;
#[cfg(test)]
mod tests;
pub mod unaccepted;
pub mod validate;

/// What is to be written, and to whom. The one who carries it out compares with what is there and writes what differs.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// What of the fleet is valid; absent where the Deployment was refused.
    pub valid: Option<ValidFleet>,
    /// What each replica should hold, by replica name.
    pub desired: BTreeMap<String, DesiredList>,
    /// The Deployment's status; absent where there is none.
    pub status: Option<DeploymentStatus>,
    /// The Adapters' statuses that differ from those of the fleet, by (namespace, name).
    pub adapters: BTreeMap<(String, String), AdapterStatus>,
    /// Adapters whose deletion nothing holds up any longer, by (namespace, name).
    pub released: Vec<(String, String)>,
    /// Events for transitions that this decision saw, and for deletions that wait no longer.
    pub events: Vec<Occurrence>,
    /// Decide again after this time even if nothing changes.
    pub again: Option<Duration>,
}

/// What is worth an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// The Adapter's (namespace, name), or `None` for the Deployment.
    pub adapter: Option<(String, String)>,
    /// Why.
    pub reason: Reason,
    /// A warning, or news.
    pub warning: bool,
    /// For people.
    pub message: String,
}

/// Decides about `fleet`.
#[must_use]
pub fn decide(fleet: &Fleet, now: Timestamp) -> Decision {
    let reports = Reports::of(&fleet.replicas);
    match validate(fleet) {
        Ok(valid) => {
            let decision = of_valid(fleet, &valid, &reports, now);
            Decision { valid: Some(valid), ..decision }
        }
        Err(refusal) => of_refused(fleet, &refusal, &reports, now),
    }
}

/// What of `fleet` is valid, and where its adapters go: for those who tell and do not carry out. `as_written`: what its
/// replicas say is taken from statuses, which tell of a demand only on how many replicas it was followed.
///
/// # Errors
/// The Deployment itself is refused.
pub fn decide_places(
    fleet: &Fleet,
    as_written: bool,
) -> Result<(ValidFleet, BTreeMap<AdapterKey, Place>), Refusal> {
    let valid = validate(fleet)?;
    let served: Vec<&ValidAdapter> = valid.served().collect();
    let mut measured = measured(fleet, &Reports::of(&fleet.replicas), &served);
    if as_written {
        let desired = |one: &Arc<Adapter>| one.status.as_ref().map_or(0, |status| status.replicas.desired);
        let written: BTreeMap<AdapterKey, u32> =
            fleet.adapters.iter().map(|one| (key_of(one), desired(one))).collect();
        measured
            .iter_mut()
            .zip(&served)
            .for_each(|(one, adapter)| one.demand = demand_of(written[&adapter.key]));
    }
    let places = placed(fleet, &served, &measured, valid.resident_bytes);
    let places = served.iter().map(|adapter| adapter.key.clone()).zip(places).collect();
    Ok((valid, places))
}

/// Where each adapter goes now, by index into the fleet's replicas: those that move are still where they come from.
fn places(fleet: &Fleet, valid: &ValidFleet, reports: &Reports<'_>) -> BTreeMap<AdapterKey, Place> {
    let served: Vec<&ValidAdapter> = valid.served().collect();
    let measured = measured(fleet, reports, &served);
    let mut places = placed(fleet, &served, &measured, valid.resident_bytes);
    let moves = Moves {
        adapters: &served,
        measured: &measured,
        replicas: &fleet.replicas,
        reports,
        budget: valid.resident_bytes,
        at_once: fleet.moves,
    };
    settle(&mut places, &moves);
    served.iter().map(|adapter| adapter.key.clone()).zip(places).collect()
}

fn placed(fleet: &Fleet, served: &[&ValidAdapter], measured: &[Measured], budget: u64) -> Vec<Place> {
    let here = placeable(&fleet.replicas);
    let names: Vec<String> = here.iter().map(|index| fleet.replicas[*index].name.clone()).collect();
    let mut places = place(served, measured, &names, budget);
    // From places among the placeable replicas to places among all of them; both ascend.
    places.iter_mut().flat_map(|place| &mut place.replicas).for_each(|index| *index = here[*index]);
    places
}

/// Where what `valid`, of a refused Deployment, goes on serving goes: by its budgets, or, where those are what is wrong, where
/// replicas say that it is. They keep the budgets that they were started with.
fn former_places(fleet: &Fleet, valid: &ValidFleet, reports: &Reports<'_>) -> BTreeMap<AdapterKey, Place> {
    if let Some(Ok((resident_bytes, _))) = fleet.deployment.as_ref().map(|one| budgets(&one.spec)) {
        return places(fleet, &ValidFleet { resident_bytes, ..valid.clone() }, reports);
    }
    let there = |adapter: &ValidAdapter| {
        let said = reports.of_name(&adapter.served_name);
        let resident = said.filter(|(_, report)| report.tier == Tier::Resident).map(|(index, _)| index);
        let replicas: Vec<usize> = resident.collect();
        Place { wanted: replicas.len() as u32, replicas, without_room: 0 }
    };
    valid.served().map(|adapter| (adapter.key.clone(), there(adapter))).collect()
}

/// What is known of `served` for placing them. A replica that does not answer now counts with what it said last: neither the
/// bytes nor the demand of an adapter go with a stutter.
fn measured(fleet: &Fleet, reports: &Reports<'_>, served: &[&ValidAdapter]) -> Vec<Measured> {
    let is_silent = |replica: &Replica| matches!(replica.contact, Contact::Unreachable { .. });
    if fleet.replicas.iter().any(is_silent) {
        Reports::last(&fleet.replicas).measured(served)
    } else {
        reports.measured(served)
    }
}

fn of_valid(fleet: &Fleet, valid: &ValidFleet, reports: &Reports<'_>, now: Timestamp) -> Decision {
    let places = places(fleet, valid, reports);
    let mut decision = Decision { desired: desired_sets(fleet, valid, &places), ..Decision::default() };
    let idle = fleet.deployment.as_ref().is_some_and(|one| replicas(&one.spec) == 0);
    let placements = Placements::new(fleet, reports);
    let mut count = AdapterCount::default();
    for adapter in &fleet.adapters {
        let key = key_of(adapter);
        let status = if let Some(since) = valid.leaving.get(&key) {
            leave(&mut decision, fleet, valid, reports, adapter, *since, now);
            leaving_status(adapter, now)
        } else if let Some(valid_adapter) = valid.accepted(&key) {
            let place = &places[&key];
            let read = match fleet.probes.get(&key) {
                Some(Probe::Facts(facts)) => Some(facts),
                _ => None,
            };
            let subject = Served { adapter, valid: valid_adapter, read, place, paused: valid.paused, idle };
            served_status(&subject, reports, &placements, now)
        } else {
            let reading = || Why::Reading(fleet.probes.get(&key));
            let why = valid.refused.get(&key).map_or_else(reading, Why::Refused);
            unaccepted_status(adapter, why, still(valid, &places, &key), reports, &placements, now)
        };
        if counts(fleet, adapter) {
            add(&mut count, &status);
        }
        say(&mut decision, adapter, key, status);
    }
    finish(decision, fleet, None, count, now)
}

/// The Deployment is missing or refused. Its replicas are left alone: they serve what they did, but for what is deleted.
fn of_refused(fleet: &Fleet, refusal: &Refusal, reports: &Reports<'_>, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    let valid = fleet.deployment.as_ref().map(|one| continued(fleet, one)).unwrap_or_default();
    let places = former_places(fleet, &valid, reports);
    if has_strays(fleet, reports) {
        decision.desired = desired_sets(fleet, &valid, &places);
    }
    let placements = Placements::new(fleet, reports);
    let mut count = AdapterCount::default();
    for adapter in &fleet.adapters {
        let key = key_of(adapter);
        let status = match &adapter.metadata.deletion_timestamp {
            Some(since) => {
                leave(&mut decision, fleet, &valid, reports, adapter, since.0, now);
                leaving_status(adapter, now)
            }
            None => {
                let why = Why::Refused(refusal);
                unaccepted_status(adapter, why, still(&valid, &places, &key), reports, &placements, now)
            }
        };
        if counts(fleet, adapter) {
            add(&mut count, &status);
        }
        say(&mut decision, adapter, key, status);
    }
    finish(decision, fleet, Some(refusal), count, now)
}

/// What the Adapter of `key`, which is not accepted, serves nevertheless.
fn still<'a>(valid: &'a ValidFleet, places: &'a BTreeMap<AdapterKey, Place>, key: &AdapterKey) -> Still<'a> {
    match valid.former(key) {
        Some(former) => Still::Former(former, &places[key]),
        None if valid.unheard.contains(key) => Still::Unheard,
        None => Still::Nothing,
    }
}

/// Whether the Deployment counts `adapter` as one of its own: it may name it, and stays.
fn counts(fleet: &Fleet, adapter: &Adapter) -> bool {
    let namespace = adapter.metadata.namespace.as_deref().unwrap_or_default();
    adapter.metadata.deletion_timestamp.is_none()
        && fleet.deployment.as_ref().is_some_and(|deployment| {
            may_name(fleet, &deployment.spec.adapters.allowed_namespaces, namespace)
        })
}

fn add(count: &mut AdapterCount, status: &AdapterStatus) {
    count.total += 1;
    count.ready += u32::from(is_true(&status.conditions, ConditionType::Ready));
    count.failed += u32::from(is_true(&status.conditions, ConditionType::Stalled));
}

/// Whether a replica has a name that no Adapter bears which stays.
fn has_strays(fleet: &Fleet, reports: &Reports<'_>) -> bool {
    let stays = |adapter: &&Arc<Adapter>| adapter.metadata.deletion_timestamp.is_none();
    let names: HashSet<String> = fleet.adapters.iter().filter(stays).map(|one| served_name_of(one)).collect();
    reports.names().any(|name| !names.contains(name))
}

/// Takes over the status of `adapter`, where it differs from the one that it has.
fn say(decision: &mut Decision, adapter: &Adapter, key: AdapterKey, status: AdapterStatus) {
    if adapter.status.as_ref() == Some(&status) {
        return;
    }
    let before = adapter.status.as_ref().map(|old| old.conditions.as_slice());
    decision.events.extend(transition(Some(&key), before, &status.conditions));
    decision.adapters.insert(key, status);
}

fn finish(
    mut decision: Decision,
    fleet: &Fleet,
    refused: Option<&Refusal>,
    adapters: AdapterCount,
    now: Timestamp,
) -> Decision {
    let Some(deployment) = &fleet.deployment else { return decision };
    let status = deployment_status(fleet, deployment, refused, adapters, now);
    decision.events.extend(transition(
        None,
        deployment.status.as_ref().map(|old| old.conditions.as_slice()),
        &status.conditions,
    ));
    decision.status = Some(status);
    decision
}

/// Replicas that adapters can be placed on, by index: not those that are leaving or were never heard, as one that ends as
/// it starts. One that stopped answering stays: its adapters come back with it, and moving them at every stutter would be
/// the greater harm.
fn placeable(replicas: &[Replica]) -> Vec<usize> {
    let may = |replica: &Replica| !replica.leaving && last(&replica.contact).is_some();
    (0..replicas.len()).filter(|index| may(&replicas[*index])).collect()
}

/// The desired sets of the replicas that answer: what another one holds, and must not lose, is not known. When it answers
/// again it is decided anew.
fn desired_sets(
    fleet: &Fleet,
    valid: &ValidFleet,
    places: &BTreeMap<AdapterKey, Place>,
) -> BTreeMap<String, DesiredList> {
    if valid.paused {
        return BTreeMap::new();
    }
    let may = |(_, replica): &(usize, &Replica)| {
        !replica.leaving && matches!(replica.contact, Contact::Reported(_))
    };
    let indices: Vec<usize> = fleet.replicas.iter().enumerate().filter(may).map(|(index, _)| index).collect();
    let names = indices.iter().map(|index| fleet.replicas[*index].name.clone());
    names.zip(desired_lists(valid, places, &indices)).collect()
}

/// Lets a deletion go on once no replica that answers has the adapter, or its time to drain is over.
fn leave(
    decision: &mut Decision,
    fleet: &Fleet,
    valid: &ValidFleet,
    reports: &Reports<'_>,
    adapter: &Adapter,
    since: Timestamp,
    now: Timestamp,
) {
    let key = key_of(adapter);
    let name = served_name_of(adapter);
    // Nothing takes it from the replicas of a paused one: until `paused` is false there is nothing to wait for.
    let is_kept = fleet.deployment.is_none() || valid.paused;
    let taken_over = valid.served().any(|other| other.served_name == name);
    let end = since.as_second().saturating_add(i64::from(valid.drain_seconds));
    let left = u64::try_from(end.saturating_sub(now.as_second())).unwrap_or(0);
    if is_kept || taken_over || !reports.mentions(&name) {
        decision.released.push(key);
    } else if left == 0 {
        decision.events.push(drain_timeout(&key, valid.drain_seconds));
        decision.released.push(key);
    } else {
        let wait = Duration::from_secs(left);
        decision.again = Some(decision.again.map_or(wait, |again| again.min(wait)));
    }
}
