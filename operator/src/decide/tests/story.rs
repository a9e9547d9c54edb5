//! A fleet through whatever may happen to it: no edit takes a served name from a replica, and only a Deployment
//! that asks for less does.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::LocalObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lorikeet_api::{DesiredAdapter, ErrorCode, Failure};
use lorikeet_crds::Adapter;
use lorikeet_crds::adapter::BaseModelRule;
use lorikeet_crds::deployment::NamespacesFrom;
use proptest::prelude::*;

use super::{Scene, held, rank, reported};
use crate::decide::Decision;
use crate::decide::sources::shown;
use crate::decide::validate::key_of;
use crate::fleet::{AdapterKey, Contact, Probe};

/// The rank of what is served.
const SERVED_RANK: u32 = 8;

/// What happens to a fleet.
#[derive(Clone, Debug)]
enum Happening {
    Edit(usize, Edit),
    Probed(usize, Probe),
    /// Does not answer; what it said is known.
    Silent(usize),
    /// The operator is another, and has not heard it yet.
    Unheard(usize),
    Answers(usize),
    Deleted(usize),
    Created,
    /// The Deployment's greatest rank; all that is served has one of 8.
    Limited(u32),
}

#[derive(Clone, Debug)]
enum Edit {
    Source(u8),
    Query(u8),
    Gone,
    Pin(u8),
    Unpin,
    Spread(i32),
    /// Whether names of base models count.
    Base(BaseModelRule),
    Secret,
    NoSecret,
}

fn happenings() -> impl Strategy<Value = Happening> {
    let edit = prop_oneof![
        (0_u8..3).prop_map(Edit::Source),
        (0_u8..3).prop_map(Edit::Query),
        Just(Edit::Gone),
        (0_u8..3).prop_map(Edit::Pin),
        Just(Edit::Unpin),
        (-1_i32..3).prop_map(Edit::Spread),
        prop_oneof![Just(BaseModelRule::Any), Just(BaseModelRule::Same)].prop_map(Edit::Base),
        Just(Edit::Secret),
        Just(Edit::NoSecret),
    ];
    let probe = prop_oneof![
        Just(Probe::Pending),
        Just(rank(8)),
        Just(rank(64)),
        Just(Probe::Unjudged("not LORA".to_owned())),
        Just(Probe::Awaited("a pod".to_owned())),
        Just(Probe::Refused(Failure { code: ErrorCode::SourceUnauthorized, message: "no".to_owned() })),
    ];
    prop_oneof![
        4 => (0_usize..4, edit).prop_map(|(at, edit)| Happening::Edit(at, edit)),
        3 => (0_usize..4, probe).prop_map(|(at, probe)| Happening::Probed(at, probe)),
        1 => (0_usize..2).prop_map(Happening::Silent),
        1 => (0_usize..2).prop_map(Happening::Unheard),
        2 => (0_usize..2).prop_map(Happening::Answers),
        1 => (0_usize..4).prop_map(Happening::Deleted),
        1 => Just(Happening::Created),
        1 => prop_oneof![Just(4_u32), Just(16), Just(64)].prop_map(Happening::Limited),
    ]
}

/// A scene with what its replicas truly hold, whether the operator hears them or not.
struct Story {
    scene: Scene,
    truth: Vec<Contact>,
    created: usize,
}

impl Story {
    fn happens(&mut self, happening: &Happening) {
        match happening {
            Happening::Edit(at, edit) => self.edited(*at, edit),
            Happening::Probed(at, probe) => {
                if let Some(key) = self.key(*at) {
                    self.scene.fleet.probes.insert(key, probe.clone());
                }
            }
            Happening::Silent(at) => {
                let last = match &self.truth[*at] {
                    Contact::Reported(report) => Some(Arc::clone(report)),
                    _ => None,
                };
                self.scene.fleet.replicas[*at].contact =
                    Contact::Unreachable { error: "late".to_owned(), since: Timestamp::UNIX_EPOCH, last };
            }
            Happening::Unheard(at) => self.scene.fleet.replicas[*at].contact = Contact::Pending,
            Happening::Answers(at) => {
                self.scene.fleet.replicas[*at].contact = self.truth[*at].clone();
            }
            Happening::Deleted(at) => {
                if let Some((_, name)) = self.key(*at) {
                    let now = Time(Timestamp::from_second(1000 + self.scene.second).unwrap());
                    self.scene.edit(&name, |adapter| adapter.metadata.deletion_timestamp = Some(now));
                }
            }
            Happening::Limited(rank) => self.scene.deployment().spec.adapters.max_rank = *rank,
            Happening::Created => {
                self.created += 1;
                let name = format!("n{}", self.created);
                self.scene.create(["here", "there"][self.created % 2], &name, &name);
                self.scene.probe(&name, Probe::Pending);
            }
        }
    }

    fn key(&self, at: usize) -> Option<AdapterKey> {
        let alive = |one: &&Arc<Adapter>| one.metadata.deletion_timestamp.is_none();
        self.scene.fleet.adapters.iter().filter(alive).nth(at).map(|one| key_of(one))
    }

    fn edited(&mut self, at: usize, edit: &Edit) {
        let Some((_, name)) = self.key(at) else { return };
        self.scene.edit(&name, |adapter| {
            let source = &mut adapter.spec.source;
            match edit {
                Edit::Source(of) => source.source = format!("hf://acme/{name}-{of}"),
                Edit::Query(of) => source.source = format!("https://host/{name}?v={of}"),
                Edit::Gone => source.source = "hf://acme/gone".to_owned(),
                Edit::Pin(of) => source.digest = Some(format!("sha256:{of}")),
                Edit::Unpin => source.digest = None,
                Edit::Spread(count) => adapter.spec.placement.replicas = IntOrString::Int(*count),
                Edit::Base(rule) => adapter.spec.base_model = *rule,
                Edit::Secret => source.secret_ref = Some(LocalObjectReference { name: "s".to_owned() }),
                Edit::NoSecret => source.secret_ref = None,
            }
        });
    }

    /// Decides and carries out: the replicas that are asked do it, heard or not.
    fn goes_on(&mut self) -> Decision {
        let decision = self.scene.step();
        for (replica, truth) in self.scene.fleet.replicas.iter().zip(&mut self.truth) {
            if let (Contact::Reported(report), Some(set)) = (&*truth, decision.desired.get(&replica.name)) {
                *truth = reported(set.iter().map(|desired| held(report, desired)).collect());
            }
        }
        decision
    }

    /// Whether all that is served is within the Deployment's greatest rank.
    fn may_be_served(&self) -> bool {
        self.scene.fleet.deployment.as_ref().is_some_and(|one| one.spec.adapters.max_rank >= SERVED_RANK)
    }

    /// The names that are served at `index` and that nobody deleted.
    fn served(&self, index: usize) -> BTreeSet<String> {
        let Contact::Reported(report) = &self.truth[index] else { return BTreeSet::new() };
        let is_wanted = |name: &str| {
            self.scene.fleet.adapters.iter().any(|one| {
                one.metadata.deletion_timestamp.is_none() && one.spec.served_name.as_deref() == Some(name)
            })
        };
        let names = report.adapters.iter().filter(|one| one.digest.is_some() && is_wanted(&one.name));
        names.map(|one| one.name.clone()).collect()
    }
}

/// Whether a replica has told of the very content that `desired` asks for.
fn is_known(contact: &Contact, desired: &DesiredAdapter) -> bool {
    let Contact::Reported(report) = contact else { return false };
    desired.digest.is_some()
        && report.adapters.iter().any(|one| {
            one.name == desired.name && one.source == shown(&desired.source) && one.digest == desired.digest
        })
}

proptest! {
    #[test]
    fn an_edit_never_takes_a_served_name_from_a_replica(
        happenings in prop::collection::vec(happenings(), 1..40)
    ) {
        let mut scene = Scene::with_replicas(2).adapter("a").adapter("b");
        scene.deployment().spec.adapters.allowed_namespaces.from =
            NamespacesFrom::All;
        let scene = scene.settle();
        let truth = scene.fleet.replicas.iter().map(|one| one.contact.clone()).collect();
        let mut story = Story { scene, truth, created: 0 };
        // What a Deployment that asks for less has let go, until it is accepted again.
        let mut let_go = BTreeSet::new();
        for happening in &happenings {
            story.happens(happening);
            let served = [story.served(0), story.served(1)];
            let heard: Vec<Contact> =
                story.scene.fleet.replicas.iter().map(|one| one.contact.clone()).collect();
            let decision = story.goes_on();
            if !story.may_be_served() {
                let_go.extend(served.iter().flatten().cloned());
            }
            for (index, served) in served.iter().enumerate() {
                let Some(set) = decision.desired.get(&format!("r{index}")) else { continue };
                if !story.may_be_served() {
                    let known = set.iter().find(|one| served.contains(&one.name) && is_known(&heard[index], one));
                    prop_assert!(known.is_none(), "after {happening:?}: {known:?} is over the limit");
                    continue;
                }
                let names: BTreeSet<String> = set.iter().map(|one| one.name.clone()).collect();
                let kept: BTreeSet<String> = served.difference(&let_go).cloned().collect();
                prop_assert!(names.is_superset(&kept), "after {happening:?}: {names:?} of {served:?}");
                prop_assert_eq!(names.len(), set.len(), "a name is there twice");
            }
            let accepted = decision.valid.iter().filter(|_| story.may_be_served()).flat_map(|one| &one.adapters);
            let accepted: BTreeSet<&str> = accepted.map(|one| one.served_name.as_str()).collect();
            let_go.retain(|name: &String| !accepted.contains(name.as_str()));
        }
    }
}
