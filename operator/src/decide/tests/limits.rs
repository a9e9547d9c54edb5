//! What is known of Adapters is held against what their Deployment asks for now, without reading them again.

use lorikeet_crds::adapter::BaseModelRule;

use super::*;

fn facts(rank: u64, base: &str) -> Probe {
    let base_model = Some(base.to_owned());
    Probe::Facts(AdapterFacts { rank, rank_field: "r".to_owned(), base_model, bytes: Some(10) })
}

type Change = fn(&mut Deployment);

/// What an adapter of rank 8, 10 bytes and `acme/base` no longer fits, and why.
const LOWERED: [(Change, Reason); 3] = [
    (|one| one.spec.adapters.max_rank = 4, Reason::RankExceeded),
    (|one| one.spec.adapters.gpu_memory.0 = "9".to_owned(), Reason::BudgetExceeded),
    (|one| one.spec.model.source.source = "hf://acme/other".to_owned(), Reason::BaseModelMismatch),
];

fn every_replica_forgets(scene: &mut Scene) {
    scene.fleet.replicas.iter_mut().for_each(|one| one.contact = reported(Vec::new()));
}

#[test]
fn what_no_longer_fits_its_deployment_is_told_to_no_replica_and_comes_back_where_it_fits_again() {
    for (lower, reason) in LOWERED {
        let mut scene = Scene::with_replicas(2).adapter("sql").settle();
        let before = (*scene.fleet.deployment.clone().unwrap()).clone();
        lower(scene.deployment());
        // It is not read: by what its status kept, then by what replicas that drain it say, then by what was said of it.
        for round in 0..4 {
            let held = scene.fleet.replicas[1].contact.clone();
            let decision = scene.step();
            assert!(decision.desired.values().all(|set| set.is_empty()), "{reason:?}, {round}");
            assert_eq!(ready_reason(scene.status("sql")), reason.as_str(), "{round}");
            let warned = decision.events.iter().filter(|one| one.adapter.is_some()).count();
            assert_eq!(warned, usize::from(round == 0), "{:?}", decision.events);
            if round == 0 {
                scene.fleet.replicas[1].contact = held;
            }
        }
        for probe in [Probe::Pending, Probe::Awaited("a pod".to_owned())] {
            scene.probe("sql", probe);
            assert!(scene.step().adapters.is_empty(), "{reason:?} is said still");
        }
        scene.fleet.deployment = Some(Arc::new(before));
        scene.probe("sql", facts(8, "acme/base"));
        assert!(wanted(&scene.step(), "r0", "sql").is_some(), "{reason:?}");
    }
}

#[test]
fn what_was_accepted_and_not_loaded_yet_is_known_by_what_was_read() {
    for (lower, reason) in LOWERED {
        let mut scene = Scene::with_replicas(1).adapter("sql");
        scene.probe("sql", facts(8, "acme/base"));
        scene.step();
        every_replica_forgets(&mut scene);
        scene.fleet.probes.clear();
        lower(scene.deployment());
        assert!(scene.step().desired["r0"].is_empty(), "{reason:?}");
        assert_eq!(ready_reason(scene.status("sql")), reason.as_str());
    }
}

#[test]
fn a_refused_edit_leaves_what_fits_and_not_what_no_longer_does() {
    for (lower, reason) in LOWERED {
        let mut scene = Scene::with_replicas(1).adapter("sql").settle();
        scene.set_source("sql", "hf://acme/new");
        scene.probe("sql", rank(17));
        for _ in 0..2 {
            assert_eq!(wanted(&scene.step(), "r0", "sql").unwrap().source, "hf://acme/sql");
        }
        lower(scene.deployment());
        for _ in 0..2 {
            assert!(scene.step().desired["r0"].is_empty(), "{reason:?}");
        }
    }
}

/// No replica compares names.
#[test]
fn an_adapter_that_any_model_would_do_for_is_not_served_for_the_same_because_it_is_loaded() {
    let any = |adapter: &mut Adapter| adapter.spec.base_model = BaseModelRule::Any;
    let mut scene = Scene::with_replicas(1).adapter("sql");
    scene.deployment().spec.model.source.source = "hf://acme/other".to_owned();
    scene.edit("sql", any);
    let mut scene = scene.settle();
    assert_eq!(
        (kstatus(scene.status("sql")), &scene.status("sql").base_model),
        ([true, false, false], &None)
    );
    // Made anew, while a replica has it still.
    let mut anew = Scene { fleet: scene.fleet.clone(), ..scene };
    anew.fleet.adapters.clear();
    anew.create("here", "sql", "sql");
    assert!(anew.step().desired["r0"].is_empty());
    assert_eq!(ready_reason(anew.status("sql")), "BaseModelMismatch");
    // Edited: it was served before whatever its name, and is.
    scene.edit("sql", |adapter| adapter.spec.base_model = BaseModelRule::Same);
    for probe in [None, Some(Probe::Pending), Some(facts(8, "acme/base"))] {
        probe.into_iter().for_each(|probe| scene.probe("sql", probe));
        for _ in 0..2 {
            assert!(wanted(&scene.step(), "r0", "sql").is_some());
            assert_eq!(ready_reason(scene.status("sql")), "BaseModelMismatch");
        }
    }
}

#[test]
fn what_an_older_replica_has_read_is_read_again_where_names_are_compared() {
    let mut scene = Scene::with_replicas(1).adapter("sql").settle();
    let Contact::Reported(report) = &scene.fleet.replicas[0].contact else { panic!("it answers") };
    let older = AdapterReport { base_model: None, ..(*report.adapters[0]).clone() };
    scene.fleet.replicas[0].contact = reported(vec![older.clone()]);
    scene.edit("sql", |adapter| adapter.spec.placement.priority = 5);
    scene.probe("sql", Probe::Pending);
    scene.step();
    assert_eq!(ready_reason(scene.status("sql")), "Progressing");
    scene.fleet.replicas[0].contact = reported(vec![older]);
    scene.edit("sql", |adapter| adapter.spec.base_model = BaseModelRule::Any);
    scene.step();
    assert!(is_true(&scene.status("sql").conditions, ConditionType::Accepted));
}

#[test]
fn what_takes_more_than_its_source_says_is_refused_once_and_not_tried_again_and_again() {
    let mut scene = Scene::with_replicas(1).adapter("sql");
    scene.deployment().spec.adapters.gpu_memory.0 = "9".to_owned();
    let small = Probe::Facts(AdapterFacts { rank: 8, bytes: Some(5), ..AdapterFacts::default() });
    scene.probe("sql", small.clone());
    assert!(wanted(&scene.step(), "r0", "sql").is_some());
    scene.step();
    scene.fleet.probes.clear();
    scene.step();
    for probe in [Probe::Pending, small.clone(), small] {
        scene.probe("sql", probe);
        assert!(scene.step().desired["r0"].is_empty());
        assert_eq!(ready_reason(scene.status("sql")), "BudgetExceeded");
    }
    scene.deployment().spec.adapters.gpu_memory.0 = "10".to_owned();
    assert!(wanted(&scene.step(), "r0", "sql").is_some());
}
