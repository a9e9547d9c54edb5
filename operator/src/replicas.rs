//! The replicas that answer over HTTP: one actor each, so that one that hangs delays nobody. Shared by both carriers.
//!
//! Carries out desired sets and collects reports. Must not decide what a replica should hold.

pub mod actor;
mod arriving;
pub mod change;
pub mod client;
mod poll;
#[cfg(test)]
mod tests;
mod turns;
pub mod versions;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::fleet::{Contact, DesiredList, FleetKey};
use crate::replicas::actor::Actor;
use crate::replicas::client::Endpoint;
use crate::replicas::turns::Turns;
use crate::replicas::versions::Versions;

/// Writes to replicas that may be under way at once, over all fleets, where nobody says otherwise; and as many to those that
/// do not answer in time.
pub const CONCURRENT_WRITES: u16 = 32;

/// A replica by fleet and name.
pub type ReplicaKey = (FleetKey, String);

/// Every replica's actor. Cloneable handles are not needed: one task owns it.
pub struct Replicas {
    actors: BTreeMap<ReplicaKey, Actor>,
    shared: Shared,
}

/// What all actors share.
#[derive(Clone)]
pub struct Shared {
    versions: Arc<Versions>,
    turns: Arc<Turns>,
    changed: mpsc::UnboundedSender<FleetKey>,
}

impl Replicas {
    /// None yet. What they are sent is of `versions`; `concurrent` writes may be under way at once; `changed` hears of every
    /// fleet whose reports changed.
    #[must_use]
    pub fn new(versions: Arc<Versions>, concurrent: u16, changed: mpsc::UnboundedSender<FleetKey>) -> Self {
        let shared = Shared { versions, turns: Arc::new(Turns::new(usize::from(concurrent))), changed };
        Self { actors: BTreeMap::new(), shared }
    }

    /// The replicas of `fleet` are these, there: new ones get an actor, others lose theirs. One that stays keeps it when
    /// something else opens it.
    pub fn observe(&mut self, fleet: &FleetKey, endpoints: &BTreeMap<String, Endpoint>) {
        self.actors.retain(|(of, name), actor| {
            of != fleet || endpoints.get(name).is_some_and(|endpoint| actor.follows(endpoint))
        });
        for (name, endpoint) in endpoints {
            match self.actors.entry((fleet.clone(), name.clone())) {
                Entry::Occupied(mut actor) => actor.get_mut().open(endpoint),
                Entry::Vacant(place) => {
                    place.insert(Actor::start(fleet.clone(), endpoint.clone(), self.shared.clone()));
                }
            }
        }
    }

    /// What replica `name` says.
    #[must_use]
    pub fn contact(&self, fleet: &FleetKey, name: &str) -> Contact {
        self.actors.get(&(fleet.clone(), name.to_owned())).map_or(Contact::Pending, Actor::contact)
    }

    /// Why replica `name` does not take what it should hold.
    #[must_use]
    pub fn refusal(&self, fleet: &FleetKey, name: &str) -> Option<String> {
        self.actors.get(&(fleet.clone(), name.to_owned())).and_then(Actor::refusal)
    }

    /// Asks the replicas of `fleet` to hold `desired`, by replica name. Returns at once; the actors carry it out.
    pub fn want(&self, fleet: &FleetKey, desired: BTreeMap<String, DesiredList>) {
        for (name, set) in desired {
            if let Some(actor) = self.actors.get(&(fleet.clone(), name)) {
                actor.want(set);
            }
        }
    }
}
