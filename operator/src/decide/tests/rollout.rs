//! What a Deployment says while its replicas are not, or not yet, as its spec asks.

use super::*;
use crate::decide::outcome::{Outcome, conclude, conclude_adapter};
use crate::fleet::{Hindrance, Workload};

/// A fleet whose replicas are all as asked.
fn rolled(count: i32) -> Scene {
    let mut scene = Scene::with_replicas(count as usize);
    scene.deployment().metadata.generation = Some(2);
    scene.deployment().spec.replicas = Some(count);
    scene.fleet.workload =
        Some(Workload { replicas: count, updated: count, ready: count, current: true, hindrance: None });
    scene
}

/// (Ready, Reconciling, Stalled), and the reason of Ready.
fn said(decision: &Decision) -> ([bool; 3], String) {
    let conditions = &decision.status.as_ref().unwrap().conditions;
    let types = [ConditionType::Ready, ConditionType::Reconciling, ConditionType::Stalled];
    (
        types.map(|one| is_true(conditions, one)),
        find(conditions, ConditionType::Ready).unwrap().reason.clone(),
    )
}

fn after(scene: &Scene, outcome: &Outcome) -> Decision {
    let mut decision = scene.decide();
    let deployment = scene.fleet.deployment.clone().unwrap();
    conclude(&mut decision, &deployment, outcome, Timestamp::from_second(2000).unwrap());
    decision
}

#[test]
fn replicas_of_a_former_generation_do_not_make_a_new_one_ready() {
    let mut scene = rolled(1);
    let pending = after(&scene, &Outcome::Pending);
    assert_eq!(said(&pending), ([false, true, false], "Progressing".to_owned()));
    assert!(pending.events.is_empty(), "no Event says Ready");
    let done = after(&scene, &Outcome::Done);
    assert_eq!(said(&done), ([true, false, false], "AsDesired".to_owned()));
    // Ready for this generation, it stays so while somebody's change is being undone; the next one is another matter.
    scene.deployment().status = done.status;
    assert!(said(&after(&scene, &Outcome::Pending)).0[0]);
    scene.deployment().metadata.generation = Some(3);
    assert!(!said(&after(&scene, &Outcome::Pending)).0[0]);
}

#[test]
fn a_rollout_is_over_when_no_former_replica_is_left() {
    let mut scene = rolled(1);
    let mut message = |[replicas, updated, ready]: [i32; 3]| {
        let current = true;
        scene.fleet.workload = Some(Workload { replicas, updated, ready, current, hindrance: None });
        let decision = scene.decide();
        assert_eq!(said(&decision), ([false, true, false], "ReplicasNotReady".to_owned()));
        let conditions = decision.status.unwrap().conditions;
        find(&conditions, ConditionType::Ready).unwrap().message.clone()
    };
    let former = "1 of 1 replicas are of the newest spec; 1 of a former one still run";
    assert_eq!(message([2, 1, 1]), former, "the one that is ready is the former");
    assert_eq!(message([2, 1, 2]), former, "it goes next");
    assert_eq!(message([1, 0, 1]), former.replacen('1', "0", 1));
    assert_eq!(message([1, 1, 0]), "0 of 1 replicas are ready");
    assert_eq!(message([2, 2, 2]), "2 of 1 replicas are ready", "one more than is asked for");
}

#[test]
fn what_fails_for_good_stalls_with_its_text() {
    let scene = rolled(1);
    let failed = after(&scene, &Outcome::Failed("Deployment here/base-runtime: no".to_owned()));
    assert_eq!(said(&failed), ([false, false, true], "NotCarriedOut".to_owned()));
    assert!(failed.events.iter().any(|event| event.warning && event.message.ends_with(": no")));
}

#[test]
fn what_fails_is_said_once_by_whoever_meets_it_and_again_after_it_was_over() {
    let mut scene = rolled(1);
    let mut said = |outcome: Outcome| -> Vec<(Reason, bool)> {
        let decision = after(&scene, &outcome);
        let events = decision.events.iter().map(|event| (event.reason, event.warning)).collect();
        // Nothing else is handed on: the next look may be another process's.
        scene.deployment().status = decision.status;
        events
    };
    let failed = || Outcome::Failed("Service here/base is there and not ours".to_owned());
    assert_eq!(said(failed()), [(Reason::NotCarriedOut, true)]);
    assert_eq!(said(failed()), []);
    assert_eq!(said(Outcome::Failed("another, after the first was mended".to_owned())), []);
    assert_eq!(said(Outcome::Done), [(Reason::AsDesired, false)]);
    assert_eq!(said(failed()), [(Reason::NotCarriedOut, true)]);
}

#[test]
fn an_adapter_that_is_not_carried_out_says_why_once() {
    let mut scene = rolled(1).adapter("sql");
    let now = Timestamp::from_second(2000).unwrap();
    let refused = |scene: &Scene, decision: &mut Decision| {
        conclude_adapter(decision, &scene.fleet.adapters[0], "finalizer: not allowed".to_owned(), now);
    };
    let key = ("here".to_owned(), "sql".to_owned());
    let mut decision = scene.decide();
    refused(&scene, &mut decision);
    let of_it = |decision: &Decision| -> Vec<String> {
        let is_of_it = |event: &&crate::decide::Occurrence| event.adapter.as_ref() == Some(&key);
        decision.events.iter().filter(is_of_it).map(|event| event.message.clone()).collect()
    };
    assert_eq!(of_it(&decision), ["finalizer: not allowed"]);
    let status = decision.adapters.remove(&key).unwrap();
    assert_eq!((kstatus(&status), ready_reason(&status)), ([false, false, true], "NotCarriedOut"));
    Arc::make_mut(&mut scene.fleet.adapters[0]).status = Some(status);
    let mut again = scene.decide();
    refused(&scene, &mut again);
    assert_eq!(of_it(&again), [] as [&str; 0]);
    assert!(!again.adapters.contains_key(&key), "nothing is written");
    assert_eq!(of_it(&scene.decide()), ["resident on 0 of 1 replicas"], "it is over");
}

#[test]
fn a_paused_deployment_is_stalled_only_where_something_is_lacking() {
    let mut scene = rolled(1);
    scene.deployment().spec.paused = true;
    assert_eq!(said(&scene.decide()), ([true, false, false], "AsDesired".to_owned()));
    assert_eq!(said(&after(&scene, &Outcome::Pending)), ([false, false, true], "Paused".to_owned()));
    scene.deployment().spec.replicas = Some(2);
    assert_eq!(said(&scene.decide()), ([false, false, true], "Paused".to_owned()));
}

#[test]
fn a_replica_that_waits_for_a_node_is_being_worked_on() {
    let mut scene = rolled(1);
    let hinder = |scene: &mut Scene, hindrance| {
        scene.fleet.workload.as_mut().unwrap().hindrance = Some(hindrance);
        said(&scene.decide())
    };
    let waits = hinder(&mut scene, Hindrance::Unschedulable("0/3 nodes".to_owned()));
    assert_eq!(waits, ([false, true, false], "Unschedulable".to_owned()));
    let unmounted = hinder(&mut scene, Hindrance::Unmounted("see that Secret keys is there".to_owned()));
    assert_eq!(unmounted, ([false, true, false], "ReplicasNotReady".to_owned()));
    let fails = hinder(&mut scene, Hindrance::Failing("OOMKilled".to_owned()));
    assert_eq!(fails, ([false, true, false], "ReplicaFailed".to_owned()));
    let portless = hinder(&mut scene, Hindrance::NoPort("its port cannot be had".to_owned()));
    assert_eq!(portless, ([false, false, true], "PortUnavailable".to_owned()), "no work of ours mends it");
}

#[test]
fn no_replica_is_as_desired_where_none_is_wanted() {
    let mut scene = rolled(0).adapter("sql");
    assert_eq!(said(&scene.decide()).0, [true, false, false]);
    scene.deployment().spec.replicas = Some(1);
    assert_eq!(said(&scene.decide()), ([false, true, false], "ReplicasNotReady".to_owned()));
}

#[test]
fn a_replica_that_was_never_heard_is_unreachable_only_once_it_is_ready() {
    let mut scene = rolled(1);
    let since = Timestamp::from_second(1).unwrap();
    scene.fleet.replicas[0].contact =
        Contact::Unreachable { error: "timed out".to_owned(), since, last: None };
    assert_eq!(said(&scene.decide()).1, "ReplicaUnreachable");
    scene.fleet.workload.as_mut().unwrap().ready = 0;
    assert_eq!(said(&scene.decide()).1, "ReplicasNotReady");
}

#[test]
fn a_generation_that_the_workloads_controller_has_not_seen_makes_ready_of_this_spec_no_less() {
    let mut scene = Scene::with_replicas(1);
    scene.deployment().metadata.generation = Some(1);
    let seen = Workload { replicas: 1, updated: 1, ready: 1, current: true, hindrance: None };
    scene.fleet.workload = Some(seen.clone());
    let ready = |scene: &mut Scene| {
        let status = scene.decide().status.unwrap();
        let is_ready = is_true(&status.conditions, ConditionType::Ready);
        scene.deployment().status = Some(status);
        is_ready
    };
    let annotated = Workload { current: false, ..seen };
    assert!(ready(&mut scene));
    scene.fleet.workload = Some(annotated.clone());
    assert!(ready(&mut scene), "somebody's annotation");
    scene.deployment().metadata.generation = Some(2);
    assert!(!ready(&mut scene), "another spec");
    assert!(!ready(&mut scene), "still not seen");
    scene.deployment().metadata.generation = Some(1);
    scene.fleet.workload = Some(Workload { ready: 0, ..annotated });
    assert!(!ready(&mut scene), "a replica less");
}
