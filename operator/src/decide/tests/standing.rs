//! What is said of Adapters that are not as asked, and how their Deployment stands by it.

use super::*;

#[test]
fn a_deployment_counts_the_adapters_that_may_name_it_and_stay_and_is_ready_without_them() {
    let mut scene = Scene::with_replicas(1).adapter("sql").adapter("typo").adapter("gone");
    let all = Workload { replicas: 1, updated: 1, ready: 1, current: true, hindrance: None };
    scene.fleet.workload = Some(all);
    scene.create("elsewhere", "stranger", "stranger");
    scene.probe("typo", rank(17));
    let now = Time(Timestamp::from_second(999).unwrap());
    scene.edit("gone", |adapter| adapter.metadata.deletion_timestamp = Some(now));
    let mut scene = scene.settle();
    let status = scene.step().status.unwrap();
    let count = status.adapters;
    assert_eq!((count.total, count.ready, count.failed), (2, 1, 1));
    let says = |condition| find(&status.conditions, condition).unwrap();
    let ours = says(ConditionType::AdaptersReady);
    assert_eq!(
        (ours.status.as_str(), ours.message.as_str()),
        ("False", "1 of 2 adapters are ready, 1 failed")
    );
    assert_eq!(says(ConditionType::Ready).status, "True");
    assert_eq!(says(ConditionType::Reconciling).status, "False");
}

#[test]
fn an_adapter_of_a_deployment_that_is_scaled_to_none_says_so_and_is_not_worked_on() {
    let mut scene = Scene::with_replicas(0).adapter("sql");
    scene.deployment().spec.replicas = Some(0);
    scene.step();
    let status = scene.status("sql");
    assert_eq!((kstatus(status), ready_reason(status)), ([false, false, false], "NoReplicas"));
    let ready = find(&status.conditions, ConditionType::Ready).unwrap();
    assert!(ready.message.starts_with("spec.replicas of the Deployment is 0"), "{}", ready.message);
    // Until the first one answers it is worked on.
    scene.deployment().spec.replicas = Some(1);
    scene.step();
    assert_eq!(kstatus(scene.status("sql")), [false, true, false]);
}

#[test]
fn why_a_replica_does_not_answer_is_said_by_the_deployment_alone() {
    let mut scene = Scene::with_replicas(2).adapter("sql").settle();
    let all = Workload { replicas: 2, updated: 2, ready: 2, current: true, hindrance: None };
    (scene.fleet.workload, scene.deployment().spec.replicas) = (Some(all), Some(2));
    let Contact::Reported(last) = scene.fleet.replicas[0].contact.clone() else { panic!("it answers") };
    let since = Timestamp::UNIX_EPOCH;
    let silent = |error: &str, last| Contact::Unreachable { error: error.to_owned(), since, last };
    let is_said = |decision: &Decision, why: &str| {
        let status = decision.status.as_ref().unwrap();
        find(&status.conditions, ConditionType::Ready).unwrap().message.contains(why)
    };
    scene.fleet.replicas[0].contact = silent("connection refused", Some(Arc::clone(&last)));
    assert!(is_said(&scene.step(), "r0: connection refused"));
    let place = scene.status("sql").placements[0].clone();
    assert_eq!((place.pod.as_str(), place.state.as_str()), ("r0", "Unreachable"));
    assert!(place.error.is_some_and(|error| error.contains("its Deployment")));
    scene.fleet.replicas[0].contact = silent("timed out", Some(last));
    let decision = scene.step();
    assert!(is_said(&decision, "r0: timed out") && decision.adapters.is_empty(), "one write");
    // One that was never heard should have been, or starts: then it has nothing that anybody knows of.
    scene.fleet.replicas[0].contact = silent("no admin Secret", None);
    scene.step();
    assert_eq!(scene.status("sql").placements[0].error.as_deref(), Some("no admin Secret"));
    scene.fleet.workload.as_mut().unwrap().ready = 1;
    scene.step();
    assert!(scene.status("sql").placements.iter().all(|place| place.pod == "r1"));
}

#[test]
fn replicas_that_serve_different_contents_of_one_source_are_told_of_until_a_digest_says_which() {
    let mut scene = Scene::with_replicas(3).adapter("sql").settle();
    let Contact::Reported(report) = &scene.fleet.replicas[1].contact else { panic!("it answers") };
    let newer = AdapterReport { digest: Some("sha256:newer".to_owned()), ..(*report.adapters[0]).clone() };
    scene.fleet.replicas[1].contact = reported(vec![newer]);
    let status = scene.decide().adapters.remove(&("here".to_owned(), "sql".to_owned())).unwrap();
    assert_eq!((kstatus(&status), ready_reason(&status)), ([false, false, true], "ContentsDiffer"));
    let resolved = find(&status.conditions, ConditionType::Resolved).unwrap();
    assert_eq!(resolved.status, "False");
    assert_eq!((status.digest, status.revision, status.bytes), (None, None, Some(10)), "none can be named");
    assert_eq!(
        resolved.message,
        "replicas serve 2 contents of hf://acme/sql: sha256:of hf://acme/sql on 2, sha256:newer on 1; set digest to the \
         one that is meant"
    );
    // A third that takes neither does not make one of them the one.
    let Contact::Reported(report) = &scene.fleet.replicas[2].contact else { panic!("it answers") };
    let code = lorikeet_api::ErrorCode::SourceUnavailable;
    let error = Some(lorikeet_api::Failure { code, message: "no route".to_owned() });
    let third = AdapterReport { error, ..(*report.adapters[0]).clone() };
    let before = std::mem::replace(&mut scene.fleet.replicas[2].contact, reported(vec![third]));
    let status = scene.decide().adapters.remove(&("here".to_owned(), "sql".to_owned())).unwrap();
    assert_eq!((ready_reason(&status), status.digest.as_ref()), ("ContentsDiffer", None));
    scene.fleet.replicas[2].contact = before;
    scene.edit("sql", |adapter| adapter.spec.source.digest = Some("sha256:newer".to_owned()));
    assert_eq!(kstatus(scene.settle().status("sql")), [true, false, false]);
}

#[test]
fn a_deployment_whose_replicas_serve_different_models_is_not_ready_unless_it_rolls_out() {
    let mut scene = Scene::with_replicas(2);
    scene.deployment().spec.replicas = Some(2);
    let rolled = Workload { replicas: 2, updated: 2, ready: 2, current: true, hindrance: None };
    scene.fleet.workload = Some(rolled.clone());
    for (replica, digest) in scene.fleet.replicas.iter_mut().zip(["sha256:old", "sha256:new"]) {
        let Contact::Reported(report) = &mut replica.contact else { panic!("it answers") };
        Arc::make_mut(report).base.digest = Some(digest.to_owned());
    }
    let status = scene.decide().status.unwrap();
    let says = |condition| find(&status.conditions, condition).unwrap();
    let loaded = says(ConditionType::ModelLoaded);
    assert_eq!((loaded.status.as_str(), loaded.reason.as_str()), ("False", "ContentsDiffer"));
    assert_eq!(
        loaded.message,
        "replicas serve 2 contents of hf://acme/base: sha256:new on 1, sha256:old on 1; set model.digest to the one that is \
         meant"
    );
    assert_eq!((says(ConditionType::Ready).status.as_str(), status.model.is_none()), ("False", true));
    assert_eq!(says(ConditionType::Stalled).status, "True", "nobody else can say which is meant");
    let of_model = |scene: &Scene| {
        let status = scene.decide().status.unwrap();
        find(&status.conditions, ConditionType::ModelLoaded).unwrap().reason.clone()
    };
    scene.fleet.workload = Some(Workload { updated: 1, ..rolled.clone() });
    assert_eq!(of_model(&scene), "AsDesired", "a rollout has two");
    scene.fleet.workload = Some(rolled);
    scene.deployment().spec.model.source.digest = Some("sha256:new".to_owned());
    assert_eq!(of_model(&scene), "AsDesired", "what is loaded next is the one that is pinned");
}

#[test]
fn of_an_invalid_deployment_what_is_deleted_drains_and_the_rest_is_served_and_told() {
    let mut scene = Scene::with_replicas(2).adapter("sql").adapter("chat");
    scene.deployment().spec.rollout.drain_seconds = 60;
    scene.fleet.workload =
        Some(Workload { replicas: 2, updated: 2, ready: 2, current: true, hindrance: None });
    let mut scene = scene.settle();
    scene.deployment().spec.adapters.gpu_memory.0 = "lots".to_owned();
    let status = scene.step().status.unwrap();
    for (condition, expected) in [
        (ConditionType::Accepted, "False"),
        (ConditionType::ModelLoaded, "True"),
        (ConditionType::Available, "True"),
        (ConditionType::AdaptersReady, "False"),
        (ConditionType::Stalled, "True"),
    ] {
        assert_eq!(find(&status.conditions, condition).unwrap().status, expected, "{condition:?}");
    }
    let now = Time(Timestamp::from_second(1000 + scene.second).unwrap());
    scene.edit("sql", |adapter| adapter.metadata.deletion_timestamp = Some(now));
    let held = scene.fleet.replicas[1].contact.clone();
    let decision = scene.step();
    assert!(decision.released.is_empty(), "its requests drain");
    assert!(decision.again.is_some_and(|again| again.as_secs() == 60));
    for replica in ["r0", "r1"] {
        assert!(wanted(&decision, replica, "sql").is_none());
        let kept = wanted(&decision, replica, "chat").unwrap();
        assert_eq!((kept.source.as_str(), kept.resident), ("hf://acme/chat", true));
    }
    // One of them still drains.
    let drained = std::mem::replace(&mut scene.fleet.replicas[1].contact, held);
    assert!(scene.decide().released.is_empty());
    scene.fleet.replicas[1].contact = drained;
    let done = scene.step();
    assert_eq!(done.released, [("here".to_owned(), "sql".to_owned())]);
    assert!(scene.step().desired.is_empty(), "they are left alone again");
}

#[test]
fn an_adapter_that_is_let_go_before_it_has_drained_is_warned_of_and_one_that_has_drained_is_not() {
    let mut scene = Scene::with_replicas(2).adapter("sql");
    scene.deployment().spec.rollout.drain_seconds = 60;
    let mut scene = scene.settle();
    let deleted = 1000 + scene.second;
    let since = Time(Timestamp::from_second(deleted).unwrap());
    scene.edit("sql", |adapter| adapter.metadata.deletion_timestamp = Some(since));
    let held = scene.fleet.replicas[1].contact.clone();
    let decision = scene.step();
    let reasons = |decision: &Decision| -> Vec<_> {
        let of_adapters = decision.events.iter().filter(|one| one.adapter.is_some());
        of_adapters.map(|one| (one.reason, one.warning)).collect()
    };
    assert_eq!(reasons(&decision), [(Reason::Draining, false)]);
    let conditions = &scene.status("sql").conditions;
    let types: Vec<&str> = conditions.iter().map(|one| one.type_.as_str()).collect();
    assert_eq!(types, ["Accepted", "Resolved", "Loaded", "Ready", "Reconciling", "Stalled"]);
    let generation = Some(2);
    assert!(conditions.iter().all(|one| one.observed_generation == generation), "{conditions:?}");
    let drained = std::mem::replace(&mut scene.fleet.replicas[1].contact, held);
    let at = |scene: &Scene, second: i64| decide(&scene.fleet, Timestamp::from_second(second).unwrap());
    let early = at(&scene, deleted + 59);
    assert_eq!((reasons(&early), early.released.len()), (vec![], 0));
    let late = at(&scene, deleted + 60);
    assert_eq!((reasons(&late), late.released.len()), (vec![(Reason::DrainTimeout, true)], 1));
    assert!(late.events.iter().any(|one| one.message.contains("rollout.drainSeconds")), "{:?}", late.events);
    scene.fleet.replicas[1].contact = drained;
    let done = at(&scene, deleted + 60);
    assert_eq!((reasons(&done), done.released.len()), (vec![], 1));
}

#[test]
fn a_deletion_does_not_wait_for_replicas_that_are_not_asked_as_they_are_paused() {
    let mut scene = Scene::with_replicas(1).adapter("sql").settle();
    scene.deployment().spec.paused = true;
    let now = Time(Timestamp::from_second(1000 + scene.second).unwrap());
    scene.edit("sql", |adapter| adapter.metadata.deletion_timestamp = Some(now));
    let decision = scene.step();
    assert_eq!(decision.released, [("here".to_owned(), "sql".to_owned())]);
    assert!(decision.events.iter().all(|one| one.reason != Reason::DrainTimeout), "{:?}", decision.events);
    // It goes from them when they are asked again.
    scene.deployment().spec.paused = false;
    assert!(wanted(&scene.step(), "r0", "sql").is_none());
}

#[test]
fn of_an_invalid_deployment_whose_budget_is_full_no_more_becomes_resident() {
    for make_invalid in [
        (|deployment| deployment.spec.model.source.source = "nowhere".to_owned()) as fn(&mut Deployment),
        |deployment| deployment.spec.adapters.gpu_memory.0 = "lots".to_owned(),
        |deployment| deployment.spec.adapters.host_memory.0 = "lots".to_owned(),
    ] {
        let mut scene = Scene::with_replicas(2).adapter("a").adapter("b").adapter("c");
        scene.deployment().spec.adapters.gpu_memory.0 = "15".to_owned();
        let mut scene = scene.settle();
        assert_eq!(ready_reason(scene.status("c")), "InsufficientMemory");
        make_invalid(scene.deployment());
        let now = Time(Timestamp::from_second(1000 + scene.second).unwrap());
        scene.edit("b", |adapter| adapter.metadata.deletion_timestamp = Some(now));
        let decision = scene.step();
        for replica in ["r0", "r1"] {
            let resident = |name| wanted(&decision, replica, name).map(|one| one.resident);
            let all = ["a", "b", "c"].map(resident);
            assert_eq!(all, [Some(true), None, Some(false)], "{:?}", scene.fleet.deployment);
        }
    }
}
