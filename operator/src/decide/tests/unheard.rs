//! What is known of Adapters while replicas are not heard, as by an operator that has just started, and after that.

use super::*;

/// Nobody is heard any more; what each said last.
fn silence(scene: &mut Scene) -> Vec<Contact> {
    let silent = |replica: &mut Replica| std::mem::replace(&mut replica.contact, Contact::Pending);
    scene.fleet.replicas.iter_mut().map(silent).collect()
}

/// `sql` was accepted and loaded, and was edited to a source that is not there before its status could say so.
fn edited_early(mut scene: Scene) -> Scene {
    scene.step();
    scene.set_source("sql", "hf://acme/gone");
    scene.step();
    assert_eq!(scene.status("sql").digest, None, "its status names no content");
    scene
}

#[track_caller]
fn assert_continued(scene: &mut Scene) {
    for _ in 0..2 {
        let kept = wanted(&scene.step(), "r0", "sql").cloned().expect("its name is taken from the replica");
        assert_eq!(kept.source, "hf://acme/sql");
    }
    let rows = &scene.status("sql").placements;
    let is_there = |row: &ReplicaPlacement| row.pod == "r0" && row.state == "Ready";
    assert!(rows.iter().any(is_there), "{rows:?}");
}

#[test]
fn what_is_served_is_known_again_though_nobody_was_heard_when_it_was_last_accepted() {
    let mut scene = edited_early(Scene::with_replicas(2).adapter("sql"));
    let heard = silence(&mut scene);
    scene.step();
    let status = scene.status("sql");
    assert_eq!((ready_reason(status), status.replicas.ready), ("NoReplicas", 0));
    assert!(status.placements.is_empty(), "of nobody who was not heard is anything said: {status:?}");
    assert!(scene.decide().adapters.is_empty(), "at rest");
    scene.probe("sql", Probe::Pending);
    scene.step();
    assert!(scene.decide().adapters.is_empty(), "at rest");
    scene.fleet.replicas[0].contact = heard[0].clone();
    assert_continued(&mut scene);
}

#[test]
fn what_one_replica_serves_is_known_again_though_only_the_other_was_heard() {
    let mut scene = Scene::with_replicas(2).adapter("sql");
    scene.fleet.replicas[1].contact = Contact::Pending;
    let mut scene = edited_early(scene);
    let heard = silence(&mut scene);
    scene.fleet.replicas[1].contact = reported(Vec::new());
    scene.step();
    scene.probe("sql", Probe::Pending);
    scene.step();
    scene.fleet.replicas[0].contact = heard[0].clone();
    assert_continued(&mut scene);
}

/// The status goes on telling of replicas that may still have it, and of no others.
#[test]
fn of_what_was_served_before_an_edit_no_replica_is_listed_that_is_gone_or_was_heard_without_it() {
    let mut scene = Scene::with_replicas(3).adapter("sql").settle();
    scene.set_source("sql", "hf://acme/new");
    scene.probe("sql", Probe::Pending);
    let told = |scene: &Scene| {
        let status = scene.status("sql");
        let pods: Vec<String> = status.placements.iter().map(|row| row.pod.clone()).collect();
        (pods, status.replicas.ready, status.digest.is_some())
    };
    let heard = silence(&mut scene);
    scene.step();
    assert_eq!(told(&scene), (["r0", "r1", "r2"].map(str::to_owned).to_vec(), 3, true));
    scene.fleet.replicas.remove(2);
    scene.step();
    assert_eq!(told(&scene), (["r0", "r1"].map(str::to_owned).to_vec(), 2, true));
    scene.fleet.replicas[1].contact = reported(Vec::new());
    scene.step();
    assert_eq!(told(&scene), (vec!["r0".to_owned()], 1, true));
    assert!(scene.decide().adapters.is_empty(), "at rest");
    scene.fleet.replicas[0].contact = heard[0].clone();
    scene.step();
    assert!(wanted(&scene.step(), "r0", "sql").is_some());
    let none = Scene { fleet: Fleet { replicas: Vec::new(), ..scene.fleet.clone() }, ..scene };
    let status = none.decide().adapters.remove(&("here".to_owned(), "sql".to_owned())).unwrap();
    assert_eq!((status.placements.len(), status.replicas.ready), (0, 0));
    assert!(status.digest.is_some(), "what it was is still known");
}

#[test]
fn of_an_invalid_deployment_what_the_replicas_say_now_is_told() {
    let mut scene = Scene::with_replicas(2).adapter("sql").settle();
    let before = scene.status("sql").clone();
    scene.deployment().spec.adapters.gpu_memory.0 = "lots".to_owned();
    scene.step();
    let status = scene.status("sql");
    assert_eq!(status.placements, before.placements);
    assert_eq!((status.replicas, &status.digest), (before.replicas, &before.digest));
    scene.fleet.replicas.remove(1);
    scene.step();
    let status = scene.status("sql");
    assert_eq!((status.placements.len(), status.replicas.ready), (1, 1), "the other is gone");
    assert!(scene.decide().adapters.is_empty(), "at rest");
}
