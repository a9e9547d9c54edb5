//! Who leaves for whom.

use super::*;
use crate::adapters::scripted::{generation, weights};

fn name(text: &str) -> Arc<str> {
    Arc::from(text)
}

/// A tier of 100 bytes that holds these: name, bytes, milliseconds of a load, placement.
fn tier(held: &[(&str, u64, f64, Placement)]) -> HostTier {
    let mut tier = HostTier::new(100, Arc::default());
    for (text, bytes, cost, placement) in held {
        drop(tier.insert(weights(text, *bytes), *cost));
        tier.join(generation(text), &name(text), *placement);
    }
    tier
}

fn leaving(tier: &HostTier, bytes: u64) -> Vec<Generation> {
    match tier.room(bytes) {
        Room::After(leaving) => leaving,
        other => panic!("{other:?}"),
    }
}

const NONE: Placement = Placement { pinned: false, resident: false, priority: 0 };

#[test]
fn the_least_valuable_leaves_first() {
    let mut tier = tier(&[("dear", 30, 50.0, NONE), ("cheap", 30, 1.0, NONE), ("hit", 30, 1.0, NONE)]);
    (0..9).for_each(|_| drop(tier.pin(generation("hit"))));
    assert_eq!(leaving(&tier, 10), []);
    assert_eq!(leaving(&tier, 20), [generation("cheap")]);
    assert_eq!(leaving(&tier, 60), [generation("cheap"), generation("hit")]);
}

#[test]
fn what_is_placed_leaves_after_what_is_not_and_then_by_priority() {
    let resident = |priority| Placement { resident: true, priority, ..NONE };
    let tier =
        tier(&[("low", 30, 90.0, resident(0)), ("high", 30, 90.0, resident(5)), ("none", 30, 99.0, NONE)]);
    assert_eq!(leaving(&tier, 90), ["none", "low", "high"].map(generation));
}

#[test]
fn what_is_pinned_or_held_never_leaves() {
    let mut tier = tier(&[("held", 40, 1.0, NONE), ("pinned", 40, 1.0, Placement { pinned: true, ..NONE })]);
    let pin = tier.pin(generation("held"));
    assert_eq!(
        (tier.room(20), tier.room(21), tier.room(101)),
        (Room::After(vec![]), Room::Wait, Room::Never)
    );
    assert!(tier.evict(generation("held")).is_none() && tier.evict(generation("pinned")).is_none());
    drop(pin);
    assert_eq!(leaving(&tier, 21), [generation("held")]);
    assert_eq!(tier.room(61), Room::Wait);
}

#[test]
fn an_old_favourite_ages_out() {
    let mut tier = tier(&[("old", 50, 1.0, NONE)]);
    (0..4).for_each(|_| drop(tier.pin(generation("old"))));
    let old_left = (0..100).any(|n| {
        let new = n.to_string();
        let gone = leaving(&tier, 50);
        gone.iter().for_each(|generation| drop(tier.evict(*generation)));
        drop(tier.insert(weights(&new, 50), 1.0));
        tier.join(generation(&new), &name(&new), NONE);
        drop(tier.pin(generation(&new)));
        gone.contains(&generation("old"))
    });
    assert!(old_left, "values must age");
}

#[test]
fn two_names_of_one_content_cost_its_bytes_once() {
    let mut tier = tier(&[("x", 60, 1.0, NONE)]);
    drop(tier.insert(weights("x", 60), 1.0));
    tier.join(generation("x"), &name("another"), NONE);
    assert_eq!(tier.bytes().0, 60);
    tier.leave(generation("x"), "x");
    assert!(tier.settle().is_empty());
    tier.leave(generation("x"), "another");
    assert_eq!((tier.settle().len(), tier.bytes().0), (1, 0));
}
