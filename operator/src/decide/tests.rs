//! The decision as a whole: what an edit may and may not take away.

mod limits;
mod measure;
mod moves;
mod queries;
mod rollout;
mod standing;
mod story;
mod unheard;
mod verdicts;

use std::collections::BTreeMap;
use std::sync::Arc;

use internment::ArcIntern;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lorikeet_api::{AdapterReport, AdapterState, BaseModel, DesiredAdapter, ErrorCode, Failure, Tier};
use lorikeet_crds::adapter::ReplicaPlacement;
use lorikeet_crds::condition::find;
use lorikeet_crds::deployment::NamespacesFrom;
use lorikeet_crds::{Adapter, AdapterStatus, ConditionType, Deployment, Reason};

use super::{Decision, decide};
use crate::decide::events::is_true;
use crate::decide::sources::shown;
use crate::decide::validate::{key_of, validate};
use crate::fleet::{
    AdapterFacts, Capacity, Contact, Fleet, FleetKey, Probe, Replica, Report, Said, Unread, Workload,
};

const LIMIT: u32 = 16;

/// A fleet whose replicas do at once what they are asked.
struct Scene {
    fleet: Fleet,
    second: i64,
}

impl Scene {
    /// One Deployment without adapters.
    fn with_replicas(count: usize) -> Self {
        let mut deployment = Deployment::default();
        deployment.metadata.name = Some("base".to_owned());
        deployment.metadata.namespace = Some("here".to_owned());
        deployment.spec.model.source.source = "hf://acme/base".to_owned();
        deployment.spec.adapters.max_rank = LIMIT;
        let fleet = Fleet {
            key: FleetKey { namespace: "here".to_owned(), name: "base".to_owned() },
            deployment: Some(Arc::new(deployment)),
            adapters: Vec::new(),
            namespaces: BTreeMap::new(),
            unread: Unread::default(),
            probes: BTreeMap::new(),
            replicas: (0..count).map(|index| replica(&format!("r{index}"))).collect(),
            capacity: Capacity::default(),
            moves: 8,
            claims: "/models".to_owned(),
            url: None,
            workload: None,
        };
        Self { fleet, second: 0 }
    }

    fn adapter(mut self, name: &str) -> Self {
        self.create("here", name, name);
        self
    }

    /// What is applied later is younger.
    fn create(&mut self, namespace: &str, name: &str, served: &str) {
        self.second += 1;
        let mut adapter = Adapter::default();
        adapter.metadata.name = Some(name.to_owned());
        adapter.metadata.namespace = Some(namespace.to_owned());
        adapter.metadata.generation = Some(1);
        adapter.metadata.creation_timestamp = Some(Time(Timestamp::from_second(self.second).unwrap()));
        adapter.spec.deployment_ref.name = "base".to_owned();
        adapter.spec.deployment_ref.namespace = Some("here".to_owned());
        adapter.spec.source.source = format!("hf://acme/{name}");
        adapter.spec.served_name = Some(served.to_owned());
        self.fleet.adapters.push(Arc::new(adapter));
        self.fleet.adapters.sort_by_key(|one| key_of(one));
    }

    fn edit(&mut self, name: &str, change: impl FnOnce(&mut Adapter)) {
        let adapter = self.fleet.adapters.iter_mut().find(|one| key_of(one).1 == name).unwrap();
        let adapter = Arc::make_mut(adapter);
        change(adapter);
        adapter.metadata.generation = adapter.metadata.generation.map(|generation| generation + 1);
    }

    fn set_source(&mut self, name: &str, source: &str) {
        self.edit(name, |adapter| adapter.spec.source.source = source.to_owned());
    }

    fn deployment(&mut self) -> &mut Deployment {
        Arc::make_mut(self.fleet.deployment.as_mut().unwrap())
    }

    fn probe(&mut self, name: &str, probe: Probe) {
        let key = self.fleet.adapters.iter().map(|one| key_of(one)).find(|key| key.1 == name).unwrap();
        self.fleet.probes.insert(key, probe);
    }

    fn decide(&self) -> Decision {
        decide(&self.fleet, Timestamp::from_second(1000 + self.second).unwrap())
    }

    /// Decides, writes the statuses, and lets the replicas do it.
    fn step(&mut self) -> Decision {
        let decision = self.decide();
        for adapter in &mut self.fleet.adapters {
            if let Some(status) = decision.adapters.get(&key_of(adapter)) {
                Arc::make_mut(adapter).status = Some(status.clone());
            }
        }
        self.fleet.adapters.retain(|adapter| !decision.released.contains(&key_of(adapter)));
        for replica in &mut self.fleet.replicas {
            let (Contact::Reported(report), Some(set)) =
                (&replica.contact, decision.desired.get(&replica.name))
            else {
                continue;
            };
            let adapters = set.iter().map(|desired| held(report, desired)).collect();
            replica.contact = reported(adapters);
        }
        decision
    }

    /// Steps until nothing changes.
    fn settle(mut self) -> Self {
        (0..4).for_each(|_| drop(self.step()));
        self
    }

    fn status(&self, name: &str) -> &AdapterStatus {
        self.fleet.adapters.iter().find(|one| key_of(one).1 == name).unwrap().status.as_ref().unwrap()
    }
}

fn replica(name: &str) -> Replica {
    let (name, contact) = (name.to_owned(), reported(Vec::new()));
    Replica { name, incarnation: String::new(), leaving: false, contact, refusal: None }
}

fn reported(adapters: Vec<AdapterReport>) -> Contact {
    let base = BaseModel { name: "base".to_owned(), ready: true, ..BaseModel::default() };
    let adapters = adapters.into_iter().map(ArcIntern::new).collect();
    Contact::Reported(Arc::new(Report { base, adapters, ..Report::default() }))
}

/// What a replica reports that was asked to hold `desired`: the content at a source is named after the source.
fn held(before: &Report, desired: &DesiredAdapter) -> AdapterReport {
    let there = before.adapters.iter().find(|one| one.name == desired.name);
    let content = desired.digest.clone().unwrap_or_else(|| format!("sha256:of {}", desired.source));
    if desired.source.contains("gone") {
        // What was there goes on, where anything was.
        let failed = AdapterReport { state: AdapterState::Failed, digest: None, ..ready(desired, &content) };
        return there.filter(|one| one.digest.is_some()).map_or(failed, |one| (**one).clone());
    }
    ready(desired, &content)
}

fn ready(desired: &DesiredAdapter, digest: &str) -> AdapterReport {
    AdapterReport {
        name: desired.name.clone(),
        source: shown(&desired.source).to_owned(),
        credentials: desired.credentials.clone(),
        state: AdapterState::Ready,
        tier: if desired.resident { Tier::Resident } else { Tier::Host },
        digest: Some(digest.to_owned()),
        rank: 8,
        bytes: 10,
        target_modules: vec!["q_proj".to_owned()],
        base_model: Some("acme/base".to_owned()),
        ..AdapterReport::default()
    }
}

fn rank(rank: u64) -> Probe {
    Probe::Facts(AdapterFacts { rank, rank_field: "r".to_owned(), ..AdapterFacts::default() })
}

fn wanted<'a>(decision: &'a Decision, replica: &str, name: &str) -> Option<&'a DesiredAdapter> {
    decision.desired[replica].iter().find(|one| one.name == name).map(|one| &**one)
}

/// Ready, Reconciling, Stalled.
fn kstatus(status: &AdapterStatus) -> [bool; 3] {
    [ConditionType::Ready, ConditionType::Reconciling, ConditionType::Stalled]
        .map(|one| is_true(&status.conditions, one))
}

fn ready_reason(status: &AdapterStatus) -> &str {
    &find(&status.conditions, ConditionType::Ready).unwrap().reason
}

#[test]
fn no_replica_hears_of_an_adapter_whose_source_is_being_read() {
    let mut scene = Scene::with_replicas(1).adapter("sql");
    scene.probe("sql", Probe::Pending);
    let decision = scene.step();
    assert!(decision.desired["r0"].is_empty());
    let status = scene.status("sql");
    assert_eq!(find(&status.conditions, ConditionType::Accepted).unwrap().status, "Unknown");
    assert!(is_true(&status.conditions, ConditionType::Reconciling));
    assert_eq!(ready_reason(status), "Progressing");
    assert!(decision.events.iter().all(|event| event.adapter.is_none()), "{:?}", decision.events);
    scene.probe("sql", rank(16));
    assert!(wanted(&scene.step(), "r0", "sql").is_some());
}

#[test]
fn no_replica_hears_of_a_refused_adapter_and_an_event_says_why() {
    let mut scene = Scene::with_replicas(1).adapter("sql");
    scene.probe("sql", rank(17));
    let decision = scene.step();
    assert!(decision.desired["r0"].is_empty());
    assert!(is_true(&scene.status("sql").conditions, ConditionType::Stalled));
    assert!(decision.events.iter().any(|event| event.reason == Reason::RankExceeded && event.warning));
    scene.deployment().spec.adapters.max_rank = 32;
    assert!(wanted(&scene.step(), "r0", "sql").is_some());
}

#[test]
fn a_refusal_stands_while_its_source_cannot_be_read_again() {
    let mut scene = Scene::with_replicas(1).adapter("old").settle().adapter("new");
    scene.set_source("old", "hf://acme/edited");
    for name in ["old", "new"] {
        scene.probe(name, rank(17));
    }
    (0..2).for_each(|_| drop(scene.step()));
    let no_route = Failure { code: ErrorCode::SourceUnavailable, message: "no route".to_owned() };
    let away = Probe::Refused(no_route);
    // As after a restart: nothing is known at first, and then that nobody answers.
    for probe in [Probe::Pending, away.clone()] {
        for name in ["old", "new"] {
            scene.probe(name, probe.clone());
        }
        let decision = scene.step();
        assert!(decision.adapters.is_empty(), "{:?}", decision.adapters);
        assert_eq!(wanted(&decision, "r0", "old").unwrap().source, "hf://acme/old");
        assert!(wanted(&decision, "r0", "new").is_none());
    }
    // It is of the spec that was read.
    scene.set_source("new", "hf://acme/other");
    scene.probe("new", away);
    assert!(wanted(&scene.step(), "r0", "new").is_none());
    assert_eq!(ready_reason(scene.status("new")), "SourceUnavailable");
    scene.probe("new", rank(8));
    assert!(wanted(&scene.step(), "r0", "new").is_some());
    scene.probe("old", rank(8));
    assert_eq!(wanted(&scene.step(), "r0", "old").unwrap().source, "hf://acme/edited");
}

#[test]
fn what_an_adapter_served_is_served_until_its_edit_is_accepted() {
    let mut scene = Scene::with_replicas(2).adapter("sql").settle();
    let digest = "sha256:of hf://acme/sql";
    assert_eq!(scene.status("sql").digest.as_deref(), Some(digest));
    scene.set_source("sql", "hf://acme/new");
    for probe in [Probe::Pending, rank(64)] {
        scene.probe("sql", probe);
        for _ in 0..3 {
            let decision = scene.step();
            let kept = wanted(&decision, "r1", "sql").unwrap();
            assert_eq!((kept.source.as_str(), kept.digest.as_deref()), ("hf://acme/sql", Some(digest)));
        }
        let status = scene.status("sql");
        assert_eq!(status.digest.as_deref(), Some(digest));
        assert_eq!((status.rank, status.replicas.ready), (Some(8), 2));
        let message = &find(&status.conditions, ConditionType::Ready).unwrap().message;
        assert!(message.contains("its former content is served, sha256:of"), "{message}");
    }
    assert_eq!(ready_reason(scene.status("sql")), "RankExceeded");
    scene.probe("sql", rank(8));
    let decision = scene.step();
    let accepted = wanted(&decision, "r0", "sql").unwrap();
    assert_eq!((accepted.source.as_str(), accepted.digest.as_deref()), ("hf://acme/new", None));
}

#[test]
fn an_edit_to_a_spec_that_cannot_be_takes_nothing_away() {
    let mut scene = Scene::with_replicas(1).adapter("sql").settle();
    scene.edit("sql", |adapter| {
        adapter.spec.placement.replicas = IntOrString::String("Some".to_owned());
    });
    assert_eq!(wanted(&scene.step(), "r0", "sql").unwrap().source, "hf://acme/sql");
    assert_eq!(ready_reason(scene.status("sql")), "InvalidSpec");
}

#[test]
fn what_cannot_be_read_takes_nothing_away() {
    let mut scene = Scene::with_replicas(1).adapter("sql").adapter("chat").settle();
    // A restart later that is all that is known of it.
    scene.edit("sql", |adapter| adapter.spec.source.source.clear());
    let why = "spec.source: invalid type".to_owned();
    scene.fleet.unread.adapters.insert(("here".to_owned(), "sql".to_owned()), why.clone());
    let decision = scene.step();
    assert_eq!(wanted(&decision, "r0", "sql").unwrap().source, "hf://acme/sql");
    assert!(wanted(&decision, "r0", "chat").is_some());
    let told = find(&scene.status("sql").conditions, ConditionType::Ready).unwrap();
    assert_eq!(told.reason, "InvalidSpec");
    assert!(
        told.message.starts_with("the object cannot be read: spec.source: invalid type"),
        "{}",
        told.message
    );
    // Nor does its Deployment, whatever was read of that.
    scene.fleet.unread.deployment = Some(why);
    let decision = scene.step();
    assert!(decision.valid.is_none() && decision.desired.is_empty() && decision.released.is_empty());
    let accepted = decision.status.unwrap().conditions;
    assert_eq!(find(&accepted, ConditionType::Accepted).unwrap().reason, "InvalidSpec");
}

#[test]
fn an_edit_of_what_replicas_have_read_needs_no_reading() {
    let mut scene = Scene::with_replicas(1).adapter("sql").settle();
    scene.edit("sql", |adapter| adapter.spec.placement.priority = 5);
    scene.probe("sql", Probe::Pending);
    let decision = scene.step();
    let one = wanted(&decision, "r0", "sql").unwrap();
    assert_eq!((one.priority, one.digest.as_ref()), (5, None));
    assert!(is_true(&scene.status("sql").conditions, ConditionType::Accepted));
}

#[test]
fn a_name_that_was_anothers_is_not_continued() {
    let mut scene = Scene::with_replicas(1).adapter("old").settle();
    // The replica does not hear of the deletion, and goes on reporting.
    scene.fleet.adapters.clear();
    scene.create("here", "new", "old");
    for probe in [Probe::Pending, rank(17)] {
        scene.probe("new", probe);
        assert!(wanted(&scene.decide(), "r0", "old").is_none());
    }
}

#[test]
fn who_lost_a_name_or_leave_to_be_there_continues_nothing() {
    let mut scene = Scene::with_replicas(1);
    scene.deployment().spec.adapters.allowed_namespaces.from = NamespacesFrom::All;
    scene.create("there", "sql", "sql");
    let mut scene = scene.settle();
    scene.deployment().spec.adapters.allowed_namespaces.from = NamespacesFrom::Same;
    assert!(wanted(&scene.step(), "r0", "sql").is_none());
    assert_eq!(scene.status("sql").digest, None);
}

#[test]
fn a_replica_that_was_not_heard_is_asked_for_nothing() {
    let mut scene = Scene::with_replicas(1).adapter("sql").settle();
    scene.set_source("sql", "hf://acme/new");
    scene.probe("sql", Probe::Pending);
    let heard = std::mem::replace(&mut scene.fleet.replicas[0].contact, Contact::Pending);
    assert!(scene.step().desired.is_empty());
    assert!(!validate(&scene.fleet).unwrap().may_register());
    // Its status says on what it is waited for; without it nothing would be continued.
    assert!(scene.status("sql").digest.is_some());
    scene.fleet.replicas[0].contact = heard;
    assert!(wanted(&scene.step(), "r0", "sql").is_some());
    assert!(validate(&scene.fleet).unwrap().may_register());
}

#[test]
fn an_adapter_without_room_has_none_though_the_replicas_forget_what_it_takes() {
    let mut scene = Scene::with_replicas(1).adapter("a").adapter("b");
    scene.deployment().spec.adapters.gpu_memory = Quantity("15".to_owned());
    let forget = |scene: &mut Scene| {
        let forgotten = |one: &Said| AdapterReport {
            state: AdapterState::Registered,
            tier: Tier::Remote,
            digest: None,
            rank: 0,
            bytes: 0,
            ..(**one).clone()
        };
        let Contact::Reported(report) = &scene.fleet.replicas[0].contact else { return };
        let is_kept = |one: &Said| matches!(one.tier, Tier::Resident);
        let all = report.adapters.iter();
        let after = all.map(|one| if is_kept(one) { (**one).clone() } else { forgotten(one) }).collect();
        scene.fleet.replicas[0].contact = reported(after);
    };
    for _ in 0..4 {
        scene.step();
        forget(&mut scene);
    }
    assert_eq!(ready_reason(scene.status("b")), Reason::InsufficientMemory.as_str());
    assert_eq!(kstatus(scene.status("b")), [false, false, true], "nothing changes before somebody acts");
    assert_eq!(scene.status("b").bytes, Some(10));
    let again = scene.decide();
    assert!(again.adapters.is_empty(), "{:?}", again.adapters);
    // What its source has become nobody reads again before an edit; then nothing is known of it.
    let loaded = find(&scene.status("b").conditions, ConditionType::Loaded).unwrap();
    assert!(
        loaded.message.ends_with("set revision or digest: an edit has it measured anew"),
        "{}",
        loaded.message
    );
    let mut edited = Scene { fleet: scene.fleet.clone(), ..scene };
    edited.edit("b", |adapter| adapter.spec.source.revision = Some("smaller".to_owned()));
    assert_eq!(wanted(&edited.decide(), "r0", "b").map(|one| one.resident), Some(true));
    scene.set_source("b", "hf://acme/smaller");
    assert_eq!(wanted(&scene.decide(), "r0", "b").map(|one| one.resident), Some(true));
}

#[test]
fn a_replica_that_restarted_is_asked_for_the_very_content() {
    let mut scene = Scene::with_replicas(1).adapter("sql").settle();
    scene.set_source("sql", "hf://acme/new");
    scene.probe("sql", rank(17));
    scene.step();
    // Started anew from the registry: it knows where, and has not read it yet.
    let desired = DesiredAdapter {
        name: "sql".to_owned(),
        source: "hf://acme/sql".to_owned(),
        ..DesiredAdapter::default()
    };
    let registered = AdapterReport { state: AdapterState::Registered, digest: None, ..ready(&desired, "") };
    scene.fleet.replicas[0].contact = reported(vec![registered]);
    let decision = scene.step();
    let pin = wanted(&decision, "r0", "sql").unwrap().digest.clone();
    assert_eq!(pin.as_deref(), Some("sha256:of hf://acme/sql"));
}

#[test]
fn a_deployment_that_was_made_invalid_and_mended_takes_nothing_away() {
    let mut scene = Scene::with_replicas(1).adapter("sql").settle();
    scene.deployment().spec.adapters.gpu_memory.0 = "lots".to_owned();
    assert!(scene.step().desired.is_empty());
    scene.deployment().spec.adapters.gpu_memory.0 = "8Gi".to_owned();
    scene.fleet.probes.clear();
    scene.edit("sql", |adapter| adapter.spec.source.source = "hf://acme/new".to_owned());
    scene.probe("sql", Probe::Pending);
    assert!(wanted(&scene.step(), "r0", "sql").is_some());
}
