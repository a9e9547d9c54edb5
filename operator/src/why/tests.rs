//! What is said of a fleet, for each reason that there is.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lorikeet_api::{Failure, ReportedSet};
use lorikeet_crds::deployment::NamespacesFrom;
use lorikeet_crds::{AdapterStatus, Deployment, DeploymentStatus};

use super::*;
use crate::decide::adapter_status::leaving_status;
use crate::fleet::{Capacity, FleetKey, Said, Unread};

const OLD: &str = "sha256:old";

fn adapter_of(namespace: &str, name: &str) -> Adapter {
    let mut adapter = Adapter::default();
    adapter.metadata.name = Some(name.to_owned());
    adapter.metadata.namespace = Some(namespace.to_owned());
    adapter.metadata.generation = Some(1);
    adapter.spec.deployment_ref.name = "base".to_owned();
    adapter.spec.deployment_ref.namespace = Some("here".to_owned());
    adapter.spec.source.source = format!("hf://acme/{name}");
    adapter.spec.served_name = Some(format!("acme/{name}"));
    adapter.status = Some(AdapterStatus { observed_generation: Some(1), ..AdapterStatus::default() });
    adapter
}

fn report(name: &str) -> AdapterReport {
    AdapterReport {
        name: format!("acme/{name}"),
        source: format!("hf://acme/{name}"),
        state: AdapterState::Ready,
        tier: Tier::Resident,
        digest: Some("sha256:new".to_owned()),
        rank: 8,
        bytes: 10,
        ..AdapterReport::default()
    }
}

fn reported(adapters: Vec<AdapterReport>) -> Contact {
    let adapters = adapters.into_iter().map(Said::new).collect();
    Contact::Reported(Arc::new(ReportedSet { adapters, ..ReportedSet::default() }))
}

/// The Adapter `here/sql` and replicas r0, r1, … of these contacts.
fn sight(adapter: Adapter, contacts: Vec<Contact>) -> Sight {
    let mut deployment = Deployment::default();
    deployment.metadata.name = Some("base".to_owned());
    deployment.spec.model.source.source = "hf://acme/base".to_owned();
    let key = key_of(&adapter);
    let replica = |(index, contact)| Replica {
        name: format!("r{index}"),
        incarnation: String::new(),
        leaving: false,
        contact,
        refusal: None,
    };
    let fleet = Fleet {
        key: FleetKey { namespace: "here".to_owned(), name: "base".to_owned() },
        deployment: Some(Arc::new(deployment)),
        adapters: vec![Arc::new(adapter)],
        namespaces: BTreeMap::new(),
        unread: Unread::default(),
        probes: BTreeMap::new(),
        replicas: contacts.into_iter().enumerate().map(replica).collect(),
        capacity: Capacity::default(),
        moves: 8,
        claims: "/models".to_owned(),
        url: None,
        workload: None,
    };
    Sight { fleet, key, written: None, hindrances: BTreeMap::new(), stopped: false }
}

fn said(sight: &Sight) -> String {
    let mut out = Vec::new();
    print(sight, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[track_caller]
fn says(sight: &Sight, expected: &[&str]) {
    let said = said(sight);
    assert!(expected.iter().all(|part| said.contains(part)), "{expected:?} not all in:\n{said}");
}

#[test]
fn each_replica_is_told_of_by_its_own_reason() {
    let loading =
        AdapterReport { state: AdapterState::Loading, tier: Tier::Remote, digest: None, ..report("sql") };
    let failed = AdapterReport {
        state: AdapterState::Failed,
        digest: None,
        error: Some(Failure { code: lorikeet_api::ErrorCode::SourceUnavailable, message: "gone".to_owned() }),
        ..report("sql")
    };
    let silent =
        Contact::Unreachable { error: "refused".to_owned(), since: Timestamp::UNIX_EPOCH, last: None };
    let contacts = vec![
        reported(vec![report("sql")]),
        reported(vec![loading]),
        reported(vec![failed]),
        silent,
        Contact::Pending,
        reported(Vec::new()),
    ];
    says(
        &sight(adapter_of("here", "sql"), contacts),
        &[
            "r0: holds it: it is placed here (placement.replicas is All), on the device as sha256:new\n",
            "r1: does not hold it: it is placed here and is being loaded\n",
            "r2: does not hold it: gone; mend the source",
            "r3: does not hold it: it does not answer: refused; see its log\n",
            "r4: does not hold it: it is not ready",
            "r5: does not hold it: it was not told of it yet\n",
        ],
    );
}

#[test]
fn of_several_replicas_the_others_say_what_would_change_it() {
    let mut adapter = adapter_of("here", "sql");
    adapter.spec.placement.replicas = IntOrString::Int(1);
    let registered = || {
        let report = AdapterReport { state: AdapterState::Registered, tier: Tier::Disk, ..report("sql") };
        reported(vec![report])
    };
    let said = said(&sight(adapter, vec![registered(), registered(), registered()]));
    assert_eq!(
        said.matches("it is placed on 1 of the replicas (placement.replicas is 1)").count(),
        2,
        "{said}"
    );
    assert_eq!(said.matches("its load is about to begin").count(), 1, "{said}");
}

#[test]
fn an_auto_adapter_of_a_cluster_is_placed_on_as_many_replicas_as_its_status_says() {
    let mut adapter = adapter_of("here", "sql");
    adapter.spec.placement.replicas = IntOrString::String("Auto".to_owned());
    adapter.status.as_mut().unwrap().replicas.desired = 3;
    let contacts = (0..4).map(|_| reported(vec![report("sql")])).collect();
    let mut sight = sight(adapter, contacts);
    sight.written = Some(Timestamp::UNIX_EPOCH);
    let told = said(&sight);
    assert_eq!(told.matches("holds it: it is placed here (placement.replicas is Auto").count(), 3, "{told}");
    sight.written = None;
    let asked = said(&sight);
    assert_eq!(asked.matches("holds it: it is placed here").count(), 1, "nobody asks for it: {asked}");
}

#[test]
fn a_replica_that_a_status_does_not_list_is_no_worse_than_the_last_one_that_is() {
    let told = |count: i32, ready: u32, state: &str, error: Option<&str>| {
        let placement = |index: usize| ReplicaPlacement {
            pod: format!("r{index}"),
            tier: None,
            state: state.to_owned(),
            error: error.map(str::to_owned),
        };
        let mut adapter = adapter_of("here", "sql");
        adapter.spec.placement.replicas = IntOrString::Int(count);
        let status = adapter.status.as_mut().unwrap();
        status.placements = (0..LISTED).map(placement).collect::<Vec<_>>().into();
        (status.replicas.desired, status.replicas.ready) = (18, ready);
        let contacts = (0..18).map(|_| reported(Vec::new())).collect();
        Sight { written: Some(Timestamp::UNIX_EPOCH), ..sight(adapter, contacts) }
    };
    says(
        &told(18, 18, "Ready", None),
        &["r17: holds it: it is placed here (placement.replicas is 18), and all"],
    );
    says(
        &told(18, 17, "Ready", None),
        &["r17: is not listed: its status lists the 16", "is there or its load"],
    );
    says(&told(18, 0, "Registered", None), &["r17: is not listed: ", "and its load is about to begin"]);
    says(&told(18, 0, "Failed", Some("torn")), &["r17: is not listed: ", "this one may be so too"]);
    let elsewhere = said(&told(1, 0, "Ready", None));
    assert!(elsewhere.matches("so is this one, and it is placed on 1 of the").count() >= 1, "{elsewhere}");
    let mut pending = told(18, 17, "Ready", None);
    pending.fleet.replicas[17].contact = Contact::Pending;
    says(&pending, &["r17: does not hold it: it is not ready"]);
}

#[test]
fn a_former_version_that_is_served_is_no_nothing() {
    let former = AdapterReport {
        digest: Some(OLD.to_owned()),
        error: Some(Failure { code: lorikeet_api::ErrorCode::InvalidWeights, message: "torn".to_owned() }),
        ..report("sql")
    };
    let other =
        AdapterReport { source: "hf://acme/other".to_owned(), digest: Some(OLD.to_owned()), ..report("sql") };
    says(
        &sight(adapter_of("here", "sql"), vec![reported(vec![former]), reported(vec![other])]),
        &[
            "r0: serves the former version sha256:old; the new one: torn; mend",
            "r1: serves the former version sha256:old; the new one: it is being loaded",
        ],
    );
    let mut refused = adapter_of("here", "sql");
    let status = refused.status.as_mut().unwrap();
    status.digest = Some(OLD.to_owned());
    status.conditions = vec![Condition {
        type_: "Accepted".to_owned(),
        status: "False".to_owned(),
        reason: "RankExceeded".to_owned(),
        message: "r: too great; until it is accepted its former content is served, sha256:old".to_owned(),
        observed_generation: Some(1),
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    }];
    let still = AdapterReport { digest: Some(OLD.to_owned()), ..report("sql") };
    says(
        &sight(refused.clone(), vec![reported(vec![still]), reported(Vec::new())]),
        &[
            "r0: serves the former version sha256:old; the new one: r: too great\n",
            "r1: does not hold it: r: too great\n",
        ],
    );
    says(&sight(refused, vec![reported(Vec::new())]), &["No replica holds here/sql: r: too great"]);
}

#[test]
fn what_nobody_looked_at_yet_is_said_and_when_it_was_looked_at() {
    let mut new = adapter_of("here", "sql");
    new.status = None;
    says(&sight(new, Vec::new()), &["The operator has not looked at here/sql yet", "does not say why yet"]);
    let mut edited = adapter_of("here", "sql");
    edited.metadata.generation = Some(2);
    says(&sight(edited, Vec::new()), &["has not looked at the newest edit of here/sql"]);
    let mut seen = sight(adapter_of("here", "sql"), Vec::new());
    seen.written = Some(Timestamp::UNIX_EPOCH);
    says(&seen, &["when it last wrote, at 1970-01-01T00:00:00Z:\n"]);
}

#[test]
fn why_there_is_no_replica_is_said_by_the_deployment_and_a_spec_that_asks_for_none_is_to_be_raised() {
    let mut sight = sight(adapter_of("here", "sql"), Vec::new());
    let status = |message: &str, truth: &str| {
        let ready = Condition {
            type_: "Ready".to_owned(),
            status: truth.to_owned(),
            reason: "SecretNotFound".to_owned(),
            message: message.to_owned(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        };
        Some(DeploymentStatus { conditions: vec![ready], ..DeploymentStatus::default() })
    };
    let edit = |sight: &mut Sight, edit: &dyn Fn(&mut Deployment)| {
        edit(Arc::make_mut(sight.fleet.deployment.as_mut().unwrap()));
    };
    edit(&mut sight, &|one| one.status = status("there is no Secret keys", "False"));
    says(&sight, &["No replica holds here/sql: base has no replicas: there is no Secret keys\n"]);
    // Of another generation, or well, it says nothing of now.
    edit(&mut sight, &|one| one.metadata.generation = Some(2));
    says(&sight, &["base has no replicas, and its status does not say why yet: see that the operator runs"]);
    edit(&mut sight, &|one| {
        (one.metadata.generation, one.status) = (None, status("All is as the spec asks", "True"));
    });
    says(&sight, &["base has no replicas, and its status does not say why yet"]);
    sight.stopped = true;
    says(
        &sight,
        &["No `up` runs on this state folder", "base has no replicas while no `up` runs; start it again\n"],
    );
    edit(&mut sight, &|one| one.spec.replicas = Some(0));
    says(&sight, &["No `up` runs", "base has no replicas; raise spec.replicas\n"]);
}

#[test]
fn of_one_that_is_being_deleted_each_replica_that_has_it_is_told_of() {
    let mut adapter = adapter_of("here", "sql");
    adapter.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    let status = adapter.status.as_mut().unwrap();
    status.served_name = Some("acme/sql".to_owned());
    status.digest = Some("sha256:new".to_owned());
    adapter.status = Some(leaving_status(&adapter, Timestamp::UNIX_EPOCH));
    assert_eq!(adapter.status.as_ref().unwrap().digest, None, "as the operator writes it");
    let draining = AdapterReport { state: AdapterState::Draining, running: 3, ..report("sql") };
    let contacts = vec![
        reported(vec![draining]),
        reported(vec![report("sql")]),
        reported(Vec::new()),
        Contact::Unreachable { error: "refused".to_owned(), since: Timestamp::UNIX_EPOCH, last: None },
    ];
    let mut sight = sight(adapter.clone(), contacts);
    let deployment = Arc::make_mut(sight.fleet.deployment.as_mut().unwrap());
    deployment.spec.rollout.drain_seconds = 60;
    let since = "it is being deleted since 1970-01-01T00:00:00Z";
    let goes = "then it is forgotten, after 60 s at the latest (rollout.drainSeconds)\n";
    let expected = [
        &format!("r0: holds it: {since}: 3 requests for it finish, {goes}"),
        &format!("r1: holds it: {since}: running requests finish, {goes}"),
        &format!("r2: does not hold it: {since}, and is not here\n"),
        "r3: does not hold it: it does not answer: refused",
    ];
    says(&sight, &expected);
    // A Deployment that is refused meanwhile keeps nothing of it back.
    Arc::make_mut(sight.fleet.deployment.as_mut().unwrap()).spec.model.source.source = "none".to_owned();
    says(&sight, &expected);
    // What another of its name has is not its.
    let mut other = adapter_of("there", "sql");
    other.spec.served_name = Some("acme/sql".to_owned());
    sight.fleet.adapters.push(Arc::new(other));
    assert!(!said(&sight).contains(": holds it"), "{}", said(&sight));
    adapter.metadata.finalizers = Some(vec!["lorikeet.dev/drain".to_owned(), "acme/backup".to_owned()]);
    sight.fleet.adapters = vec![Arc::new(adapter)];
    says(&sight, &["and is not here; others keep the object, by the finalizers "]);
    sight.fleet.replicas.clear();
    says(&sight, &["No replica holds here/sql: it is being deleted since 1970-01-01T00:00:00Z; others keep"]);
}

#[test]
fn what_keeps_a_replica_from_running_is_said_of_it_with_what_would_change_it() {
    let silent =
        Contact::Unreachable { error: "refused".to_owned(), since: Timestamp::UNIX_EPOCH, last: None };
    let contacts = vec![Contact::Pending, silent, Contact::Pending, reported(vec![report("sql")])];
    let mut sight = sight(adapter_of("here", "sql"), contacts);
    let failing = |why: &str| Hindrance::Failing(why.to_owned());
    sight.hindrances = [
        ("r0".to_owned(), Hindrance::Unschedulable("0/3 nodes".to_owned())),
        ("r1".to_owned(), failing("runtime ends by itself; see its log")),
        ("r3".to_owned(), failing("inspector does not start")),
    ]
    .into();
    says(
        &sight,
        &[
            "r0: does not hold it: no node has room for it: 0/3 nodes; free some, add a node, or ask for less",
            "r1: does not hold it: it does not run: runtime ends by itself; see its log; once that is mended",
            "r2: does not hold it: it is not ready: it waits for a node, or loads its model",
            "r3: holds it",
        ],
    );
}

#[test]
fn namespaces_are_allowed_by_their_labels() {
    let labels = |text: &str| BTreeMap::from([("team".to_owned(), text.to_owned())]);
    let mut sight = sight(adapter_of("there", "sql"), vec![reported(vec![report("sql")])]);
    let deployment = Arc::make_mut(sight.fleet.deployment.as_mut().unwrap());
    let allowed = &mut deployment.spec.adapters.allowed_namespaces;
    allowed.from = NamespacesFrom::Selector;
    allowed.selector = Some(LabelSelector { match_labels: Some(labels("nlp")), ..LabelSelector::default() });
    says(&sight, &["No replica holds there/sql: deploymentRef: here/base allows"]);
    sight.fleet.namespaces.insert("there".to_owned(), labels("nlp"));
    says(&sight, &["r0: holds it"]);
}

#[test]
fn an_adapter_is_found_by_each_of_its_names_and_a_wrong_one_offers_the_nearest() {
    let adapters = [adapter_of("here", "sql"), adapter_of("there", "sql"), adapter_of("here", "wikisql")];
    let find = |text: &str| named(adapters.iter(), text, "here");
    let key = |namespace: &str, name: &str| Ok((namespace.to_owned(), name.to_owned()));
    assert_eq!(find("sql"), key("here", "sql"));
    assert_eq!(find("there/sql"), key("there", "sql"));
    assert_eq!(find("acme/wikisql"), key("here", "wikisql"));
    let error = find("wikisq").unwrap_err().to_string();
    assert_eq!(error, "no Adapter wikisq in namespace here; did you mean wikisql?");
    let error = find("entirely-else").unwrap_err().to_string();
    assert!(error.contains("kubectl get lora") && !error.contains("sql"), "{error}");
}

#[test]
fn a_replica_that_refuses_or_loads_is_told_of_as_such() {
    let former = AdapterReport { source: "elsewhere".to_owned(), ..report("sql") };
    let contacts =
        vec![reported(Vec::new()), reported(vec![former]), reported(vec![report("sql")]), Contact::Loading];
    let mut sight = sight(adapter_of("here", "sql"), contacts);
    for replica in &mut sight.fleet.replicas[..3] {
        replica.refusal = Some("413: too many".to_owned());
    }
    says(
        &sight,
        &[
            "r0: does not hold it: it does not take what it should hold: 413: too many",
            "r1: serves the former version sha256:new; the new one: it does not take what it should hold: 413",
            "r2: holds it: it is placed here",
            "r3: does not hold it: it loads its model",
        ],
    );
}
