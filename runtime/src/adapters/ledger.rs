//! Names and what they mean now: the desired sets that were taken, the generation that each name serves, the one that
//! is brought up beside it, and what became of loads. Pure: it is told the time, and never loads, waits or logs.
//!
//! A name serves one variant. A change of its content brings up the next variant beside it; the name flips when that
//! is in memory, and keeps serving the old one while it is not, or for good when it is refused.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::adapters::failure::LoadFailure;
use crate::adapters::host::HostTier;
use crate::adapters::pin::{Generation, Pin};
use crate::adapters::wanted::{Desire, Wanted};
use crate::adapters::weights::AdapterWeights;

mod changes;
mod demand;
mod entry;
mod landing;
mod report;
mod tenures;

pub(crate) use entry::Entry;
use entry::{Facts, Load, Variant};
pub(crate) use landing::{Arrival, Interested, Landing};
use report::Changes;

/// The names of a replica.
pub(crate) struct Ledger {
    names: BTreeMap<Arc<str>, Entry>,
    /// The names that serve a generation, in memory or not.
    meaning: HashMap<Generation, BTreeSet<Arc<str>>>,
    /// The base model's name: nobody else may have it.
    base: String,
    /// How many names there may be.
    limit: usize,
    /// How long requests may still take on what their name has left.
    drain: Duration,
    /// What is in memory.
    pub(crate) host: HostTier,
    version: Option<lorikeet_api::Version>,
    changes: Changes,
    bell: Arc<Notify>,
}

/// What a name gives a request.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Its weights, held.
    Held(Pin),
    /// A load to wait for.
    Cold(Arc<Wanted>),
}

/// Loads that no request asks for.
pub(crate) struct Ahead {
    /// To begin now, each for a name.
    pub(crate) loads: Vec<(Arc<str>, Arc<Wanted>)>,
    /// The moment when there is another.
    pub(crate) next: Option<Instant>,
}

/// Why a name gives nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotServed {
    /// No such name, or it drains.
    Unknown,
    /// The last load failed; the moment of the next try, where there is one.
    Failed(LoadFailure, Option<Instant>),
}

impl Ledger {
    /// No names yet. Pins ring `bell` when the last one of a name or of a generation goes.
    pub(crate) fn new(
        base: String,
        host_budget: u64,
        limit: usize,
        drain: Duration,
        bell: Arc<Notify>,
    ) -> Self {
        let host = HostTier::new(host_budget, Arc::clone(&bell));
        Self {
            names: BTreeMap::new(),
            meaning: HashMap::new(),
            base,
            limit,
            drain,
            host,
            version: None,
            changes: Changes::default(),
            bell,
        }
    }

    /// The entry of a name, draining or not.
    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.names.get(name)
    }

    /// Whether requests may ask for the name.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.names.get(name).is_some_and(|entry| !entry.draining)
    }

    /// The names that requests may ask for, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.iter().filter(|(_, entry)| !entry.draining).map(|(name, _)| name)
    }

    /// Of these names, those whose content was not refused, in order.
    pub(crate) fn servable(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names().filter(|name| self.names.get(*name).is_some_and(|entry| !entry.serving.is_refused()))
    }

    /// How many names requests may ask for.
    pub(crate) fn count(&self) -> usize {
        self.names.len() - self.changes.drain_count()
    }

    /// A request asks for `name`.
    pub(crate) fn ask(&mut self, name: &str, now: Instant) -> Result<Asked, NotServed> {
        if let Some(pin) = self.ask_held(name) {
            return Ok(Asked::Held(pin));
        }
        let entry = self.names.get(name).filter(|entry| !entry.draining).ok_or(NotServed::Unknown)?;
        match (&entry.serving.desire.wanted, &entry.serving.load) {
            (_, Load::Failed { failure, until, .. }) if until.is_none_or(|until| now < until) => {
                Err(NotServed::Failed(failure.clone(), *until))
            }
            (Err(refused), _) => Err(NotServed::Failed(refused.clone(), None)),
            (Ok(wanted), _) => Ok(Asked::Cold(Arc::clone(wanted))),
        }
    }

    /// The name's weights where they are in memory already.
    pub(crate) fn ask_held(&mut self, name: &str) -> Option<Pin> {
        let entry = self.names.get_mut(name).filter(|entry| !entry.draining)?;
        let pin = self.host.pin(entry.serving.generation()?)?;
        let tenure = entry.tenures.on(pin.generation());
        Some(pin.under(tenure))
    }

    /// Loads to begin though no request asks: what is placed here and not in memory, and what a change brings up. The
    /// moment of the next such load, where one waits.
    pub(crate) fn ahead<'a>(&self, names: impl Iterator<Item = &'a Arc<str>>, now: Instant) -> Ahead {
        let (mut loads, mut next) = (Vec::new(), None::<Instant>);
        for (name, entry) in names.filter_map(|name| self.names.get_key_value(&**name)) {
            for variant in entry.wanted_ahead(&self.host) {
                match variant.due(now) {
                    Ok(Some(wanted)) => loads.push((Arc::clone(name), Arc::clone(wanted))),
                    Ok(None) => {}
                    Err(later) => next = Some(next.map_or(later, |next| next.min(later))),
                }
            }
        }
        Ahead { loads, next }
    }

    /// Pinned adapters that are not in memory, but for those that were refused for good: one that cannot be loaded does
    /// not take the whole replica out of service.
    pub(crate) fn unsettled(&self) -> impl Iterator<Item = &Arc<str>> {
        let is_unsettled = |entry: &Entry| {
            let settled = entry.serving.is_refused() || entry.serving.is_held(&self.host);
            entry.serving.desire.placement.pinned && !settled
        };
        let here = self.names.iter().filter(|(_, entry)| !entry.draining);
        here.filter(move |(_, entry)| is_unsettled(entry)).map(|(name, _)| name)
    }

    /// Frees what nobody holds any more and forgets names whose last request ended. The weights come back to be
    /// dropped outside of any lock.
    pub(crate) fn settle(&mut self) -> Vec<Arc<AdapterWeights>> {
        let runs = |entry: &Entry| entry.draining && entry.tenures.held() > 0;
        for name in self.changes.drained(|name| !self.names.get(name).is_some_and(runs)) {
            if let Some(entry) = self.names.remove(&name) {
                self.turn(&name, entry.serving.generation(), None);
                self.changes.removed(name);
            }
        }
        self.host.settle()
    }

    fn touch(&mut self, name: &str) {
        if let Some(entry) = self.names.get_mut(name) {
            entry.changed = self.changes.next();
        }
    }

    /// `name` serves another generation.
    fn turn(&mut self, name: &Arc<str>, from: Option<Generation>, to: Option<Generation>) {
        if from == to {
            return;
        }
        if let Some(from) = from {
            self.host.leave(from, name);
            let left = self.meaning.get_mut(&from);
            if left.is_some_and(|names| names.remove(name) && names.is_empty()) {
                self.meaning.remove(&from);
            }
        }
        if let Some(to) = to {
            self.meaning.entry(to).or_default().insert(Arc::clone(name));
        }
    }

    /// The names that serve it.
    fn names_of(&self, generation: Generation) -> Vec<Arc<str>> {
        self.meaning.get(&generation).into_iter().flatten().cloned().collect()
    }

    /// The host tier is told how dearly `name` keeps what it serves.
    fn place(&mut self, name: &Arc<str>) {
        let Some(entry) = self.names.get(name) else { return };
        if let Some(generation) = entry.serving.generation() {
            self.host.join(generation, name, entry.serving.desire.placement);
        }
    }
}

impl Variant {
    fn of(desire: Desire) -> Self {
        let load = match &desire.wanted {
            Ok(_) => Load::Idle,
            Err(refused) => Load::Failed { failure: refused.clone(), tries: 1, until: None },
        };
        Self { desire, facts: None::<Arc<Facts>>, load }
    }
}

#[cfg(test)]
mod tests;
