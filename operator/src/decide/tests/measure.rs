//! What is measured, and what is there: a demand is followed, what a fleet asks for in vain is told, and all replicas are
//! counted, however few are listed.

use lorikeet_crds::adapter::LISTED;

use super::*;

#[test]
fn what_a_fleet_asks_for_in_vain_is_told() {
    let mut scene = Scene::with_replicas(1);
    let accepted = |scene: &Scene| {
        let status = scene.decide().status.unwrap();
        find(&status.conditions, ConditionType::Accepted).unwrap().message.clone()
    };
    assert_eq!(accepted(&scene), "Valid");
    scene.fleet.capacity = Capacity { without_gpus: true, without_scaler: true, ..Capacity::default() };
    let message = accepted(&scene);
    assert!(message.contains("running on the CPU; autoscaling: nothing scales here"), "{message}");
}

#[test]
fn an_auto_adapter_is_spread_by_the_demand_of_all_replicas_and_no_stutter_takes_it_back() {
    let mut scene = Scene::with_replicas(4).adapter("sql");
    scene.edit("sql", |adapter| {
        adapter.spec.placement.replicas = IntOrString::String("Auto".to_owned());
    });
    let mut scene = scene.settle();
    assert_eq!(scene.status("sql").replicas.desired, 1);
    // Few on each are many together.
    for replica in &mut scene.fleet.replicas {
        let Contact::Reported(report) = &replica.contact else { panic!("it answers") };
        let busy = |one: &AdapterReport| AdapterReport { demand: 5, ..one.clone() };
        replica.contact = reported(report.adapters.iter().map(|one| busy(one)).collect());
    }
    let desired = |scene: &Scene| {
        scene
            .decide()
            .adapters
            .get(&("here".to_owned(), "sql".to_owned()))
            .map(|status| status.replicas.desired)
    };
    assert_eq!(desired(&scene), Some(3), "20 at a time, 8 on each");
    let Contact::Reported(last) = scene.fleet.replicas[0].contact.clone() else { panic!("it answers") };
    let error = "timed out".to_owned();
    let since = Timestamp::from_second(900).unwrap();
    scene.fleet.replicas[0].contact = Contact::Unreachable { error, since, last: Some(last) };
    assert_eq!(desired(&scene), Some(3), "its requests have not ended");
}

#[test]
fn all_replicas_are_counted_though_the_status_lists_a_few_of_them() {
    let mut scene = Scene::with_replicas(LISTED + 10).adapter("sql").settle();
    let all = LISTED as u32 + 10;
    let counts = |scene: &Scene| {
        let status = scene.status("sql");
        (status.replicas.desired, status.replicas.ready, status.placements.len())
    };
    assert_eq!(counts(&scene), (all, all, LISTED));
    // The last two that the list has room for, and two that it never had.
    for at in [LISTED - 2, LISTED - 1, LISTED + 8, LISTED + 9] {
        let replica = &mut scene.fleet.replicas[at];
        let Contact::Reported(last) = replica.contact.clone() else { panic!("it answers") };
        let (error, since) = ("timed out".to_owned(), Timestamp::from_second(900).unwrap());
        replica.contact = Contact::Unreachable { error, since, last: Some(last) };
    }
    let decision = scene.step();
    assert!(decision.desired.len() == LISTED + 6, "nothing is asked of those that are silent");
    assert_eq!(counts(&scene), (all, all - 4, LISTED));
    let first: Vec<&str> =
        scene.status("sql").placements.iter().take(5).map(|one| one.state.as_str()).collect();
    assert_eq!(first, ["Unreachable", "Unreachable", "Unreachable", "Unreachable", "Ready"]);
}
