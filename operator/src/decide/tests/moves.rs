//! A replica joins: its share comes to it bit by bit, and stays where it was until it is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lorikeet_api::{AdapterReport, AdapterState, Tier};
use lorikeet_crds::ConditionType;
use proptest::prelude::*;

use super::{Scene, ready, replica, reported};
use crate::decide::events::is_true;
use crate::decide::validate::key_of;
use crate::decide::{Decision, decide_places};
use crate::fleet::{Contact, Probe};

/// Replicas that load one adapter in each step, and forget at once what they need not keep.
struct Slow {
    scene: Scene,
}

impl Slow {
    /// `count` adapters, each on one of `replicas`, where they all are.
    fn settled(count: usize, replicas: usize) -> Self {
        let mut scene = Scene::with_replicas(replicas);
        for index in 0..count {
            let name = format!("a{index}");
            scene.create("here", &name, &name);
            scene.edit(&name, |adapter| adapter.spec.placement.replicas = IntOrString::Int(1));
        }
        Self { scene: scene.settle() }
    }

    fn joins(&mut self, name: &str) {
        self.scene.fleet.replicas.push(replica(name));
    }

    fn step(&mut self) -> Decision {
        let before: Vec<Contact> = self.scene.fleet.replicas.iter().map(|one| one.contact.clone()).collect();
        let decision = self.scene.step();
        for (replica, before) in self.scene.fleet.replicas.iter_mut().zip(before) {
            let (Some(set), Contact::Reported(before)) = (decision.desired.get(&replica.name), before) else {
                continue;
            };
            let mut turn = 1;
            let adapters = set.iter().map(|wanted| {
                let there = before.adapters.iter().find(|one| one.name == wanted.name);
                let is_there = there.is_some_and(|one| one.state == AdapterState::Ready);
                let now = ready(wanted, "sha256:of it");
                match wanted.resident {
                    true if is_there => now,
                    true if turn > 0 => {
                        turn -= 1;
                        now
                    }
                    true => AdapterReport {
                        state: AdapterState::Loading,
                        tier: Tier::Remote,
                        digest: None,
                        ..now
                    },
                    false => AdapterReport {
                        state: AdapterState::Registered,
                        tier: Tier::Remote,
                        digest: None,
                        ..now
                    },
                }
            });
            replica.contact = reported(adapters.collect());
        }
        decision
    }

    /// How many adapters each replica loads.
    fn loading(&self) -> BTreeMap<&str, usize> {
        let of = |contact: &Contact| match contact {
            Contact::Reported(report) => {
                report.adapters.iter().filter(|one| one.state == AdapterState::Loading).count()
            }
            _ => 0,
        };
        self.scene.fleet.replicas.iter().map(|one| (one.name.as_str(), of(&one.contact))).collect()
    }

    /// On how many replicas `name` is.
    fn copies(&self, name: &str) -> usize {
        let has = |contact: &Contact| match contact {
            Contact::Reported(report) => {
                report.adapters.iter().any(|one| one.name == name && one.state == AdapterState::Ready)
            }
            _ => false,
        };
        self.scene.fleet.replicas.iter().filter(|one| has(&one.contact)).count()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_share_moves_bit_by_bit_and_is_served_all_the_while(count in 20_usize..60, replicas in 1_usize..4, at_once in 1_usize..5) {
        let mut slow = Slow::settled(count, replicas);
        slow.scene.fleet.moves = at_once;
        slow.joins("s0");
        let (_, places) = decide_places(&slow.scene.fleet, false).unwrap();
        let share = places.values().filter(|place| place.replicas.contains(&replicas)).count();
        prop_assert!(share > 0);
        let mut steps = 0;
        loop {
            let decision = slow.step();
            // One of those that are under way has arrived in this step.
            prop_assert!(slow.loading()["s0"] < at_once);
            for adapter in &slow.scene.fleet.adapters {
                prop_assert!(slow.copies(&key_of(adapter).1) > 0, "{} is nowhere", key_of(adapter).1);
                let status = adapter.status.clone().unwrap();
                prop_assert!(is_true(&status.conditions, ConditionType::Ready), "{:?}", status);
                prop_assert_eq!(status.replicas.desired, 1);
            }
            steps += 1;
            let held = decision.desired["s0"].iter().filter(|one| one.resident).count();
            let is_done = slow.scene.fleet.adapters.iter().all(|one| slow.copies(&key_of(one).1) == 1);
            if is_done && held == share {
                break;
            }
            prop_assert!(steps < 4 * count, "it does not come to an end");
        }
        prop_assert!(steps >= share);
    }
}

#[test]
fn one_that_joins_and_falls_silent_takes_nothing_away() {
    let mut slow = Slow::settled(30, 2);
    slow.scene.fleet.moves = 2;
    slow.joins("s0");
    (0..3).for_each(|_| drop(slow.step()));
    let Contact::Reported(last) = slow.scene.fleet.replicas[2].contact.clone() else { panic!("it answers") };
    slow.scene.fleet.replicas[2].contact = Contact::Unreachable {
        error: "it does not answer".to_owned(),
        since: jiff::Timestamp::UNIX_EPOCH,
        last: Some(Arc::clone(&last)),
    };
    let came = last.adapters.iter().filter(|one| one.state == AdapterState::Ready).count();
    assert!(came > 0);
    for _ in 0..3 {
        slow.step();
        // What had arrived there is lost for the while; all else stays where it was.
        let lost = (0..30).filter(|index| slow.copies(&format!("a{index}")) == 0).count();
        assert!(lost <= came, "{lost} of {came}");
        let of = |adapter: &lorikeet_crds::Adapter| adapter.status.clone().unwrap().conditions;
        let unready =
            slow.scene.fleet.adapters.iter().filter(|one| !is_true(&of(one), ConditionType::Ready)).count();
        assert_eq!(unready, lost);
    }
    slow.scene.fleet.replicas[2].contact = Contact::Reported(last);
    slow.step();
    assert!(slow.loading()["s0"] < 2, "{:?}", slow.loading());
}

#[test]
fn what_nobody_else_has_and_what_is_pinned_does_not_wait() {
    let mut slow = Slow::settled(30, 1);
    slow.scene.fleet.moves = 1;
    for index in 0..30 {
        slow.scene.edit(&format!("a{index}"), |adapter| adapter.spec.placement.pinned = true);
    }
    slow.joins("s0");
    let pinned = slow.scene.decide().desired["s0"].iter().filter(|one| one.resident).count();
    assert!(pinned > 1, "{pinned}");

    let mut slow = Slow::settled(30, 2);
    slow.scene.fleet.moves = 1;
    let lost = slow.scene.fleet.replicas.pop().unwrap();
    let decision = slow.scene.decide();
    let Contact::Reported(had) = lost.contact else { panic!("it answered") };
    for one in had.adapters.iter().filter(|one| one.tier == Tier::Resident) {
        assert!(super::wanted(&decision, "r0", &one.name).unwrap().resident, "{}", one.name);
    }
}

#[test]
fn what_is_pinned_stays_where_it_is_until_it_has_arrived() {
    let mut slow = Slow::settled(30, 2);
    for index in 0..30 {
        slow.scene.edit(&format!("a{index}"), |adapter| adapter.spec.placement.pinned = true);
    }
    slow.step();
    slow.joins("s0");
    let (_, places) = decide_places(&slow.scene.fleet, false).unwrap();
    let share = places.values().filter(|place| place.replicas.contains(&2)).count();
    assert!(share > 1, "{share}");
    // One arrives in each step.
    for step in 0..=share {
        slow.step();
        for index in 0..30 {
            assert!(slow.copies(&format!("a{index}")) > 0, "a{index} is nowhere after step {step}");
        }
    }
    assert_eq!((0..30).map(|index| slow.copies(&format!("a{index}"))).sum::<usize>(), 30, "once each");
}

#[test]
fn what_moves_stays_only_where_there_is_room_beside_what_is_placed_there() {
    // Each takes 10 bytes, as the replicas say: one fits.
    let mut slow = Slow::settled(1, 2);
    slow.scene.deployment().spec.adapters.gpu_memory =
        k8s_openapi::apimachinery::pkg::api::resource::Quantity("10".to_owned());
    let here = (0..2).find(|at| slow.copies_at(*at) == 1).unwrap();
    let there = 1 - here;
    let has = slow.scene.fleet.replicas[here].contact.clone();
    // The whole of it is elsewhere than it should be.
    slow.scene.fleet.replicas[there].contact = has;
    slow.scene.fleet.replicas[here].contact = reported(Vec::new());
    let decision = slow.scene.decide();
    let resident = |at: usize| decision.desired[&format!("r{at}")].iter().filter(|one| one.resident).count();
    assert_eq!((resident(here), resident(there)), (1, 1), "there is room for both");
    // Another one takes the room.
    slow.scene.create("here", "pinned", "pinned");
    slow.scene.edit("pinned", |adapter| adapter.spec.placement.pinned = true);
    slow.scene
        .probe("pinned", Probe::Facts(crate::fleet::AdapterFacts { bytes: Some(10), ..Default::default() }));
    let decision = slow.scene.decide();
    for at in 0..2 {
        let wanted = &decision.desired[&format!("r{at}")];
        assert_eq!(wanted.iter().filter(|one| one.resident).count(), 1, "{wanted:?}");
    }
}

impl Slow {
    fn copies_at(&self, index: usize) -> usize {
        match &self.scene.fleet.replicas[index].contact {
            Contact::Reported(report) => {
                report.adapters.iter().filter(|one| one.tier == Tier::Resident).count()
            }
            _ => 0,
        }
    }
}
