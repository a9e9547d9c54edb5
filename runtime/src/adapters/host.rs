//! The host tier: which generations are in memory under a byte budget, and who leaves for whom. Pure: no clock, no I/O.
//!
//! The budget is never exceeded. A generation with a pin never leaves, nor one that is placed as pinned; of the rest
//! those without a place go first, then by priority, then by value: hits times the cost of a reload over the bytes that
//! it takes, aged as in GreedyDual-Size-Frequency. A generation without a name is freed with its last pin.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::adapters::pin::{Generation, Pin, PinCount};
use crate::adapters::wanted::Placement;
use crate::adapters::weights::AdapterWeights;

/// The generations in memory.
pub(crate) struct HostTier {
    budget: u64,
    used: u64,
    /// GreedyDual's clock: the value of what was evicted last.
    clock: f64,
    held: HashMap<Generation, Held>,
    /// Those of `held` that no name means: they are freed with their last pin.
    nameless: HashSet<Generation>,
    evictions: u64,
    bell: Arc<Notify>,
}

struct Held {
    weights: Arc<AdapterWeights>,
    pins: Arc<PinCount>,
    /// The names that mean it, and how dearly each keeps it.
    names: Vec<(Arc<str>, Placement)>,
    hits: u32,
    /// Milliseconds that a reload takes.
    cost: f64,
    value: f64,
}

/// Whether bytes can come in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// They fit when these leave, least valuable first.
    After(Vec<Generation>),
    /// Not before pins are given back.
    Wait,
    /// Not even alone.
    Never,
}

impl Held {
    fn new(weights: Arc<AdapterWeights>, bell: &Arc<Notify>, cost: f64) -> Self {
        let pins = Arc::new(PinCount::ringing(bell));
        Self { weights, pins, names: Vec::new(), hits: 0, cost, value: 0.0 }
    }

    fn is_free(&self) -> bool {
        self.pins.held() == 0 && !self.names.iter().any(|(_, placement)| placement.pinned)
    }

    fn placement(&self) -> Placement {
        self.names.iter().map(|(_, placement)| *placement).max().unwrap_or_default()
    }

    fn hit(&mut self, clock: f64) {
        self.hits = self.hits.saturating_add(1);
        let mebibytes = (self.weights.bytes as f64 / f64::from(1 << 20)).max(0.001);
        self.value = clock + f64::from(self.hits) * self.cost.max(0.1) / mebibytes;
    }
}

impl HostTier {
    /// An empty tier. Pins ring `bell` when a generation's last one goes.
    pub(crate) fn new(budget: u64, bell: Arc<Notify>) -> Self {
        let (held, nameless) = (HashMap::new(), HashSet::new());
        Self { budget, used: 0, clock: 0.0, held, nameless, evictions: 0, bell }
    }

    /// Bytes in use and allowed.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.used, self.budget)
    }

    /// Generations that were put out for others.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// The number of generations in memory.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether it is in memory.
    pub(crate) fn contains(&self, generation: Generation) -> bool {
        self.held.contains_key(&generation)
    }

    /// The bytes of what is held, counted anew.
    #[cfg(test)]
    pub(crate) fn sum_of_held(&self) -> u64 {
        self.held.values().map(|held| held.weights.bytes).sum()
    }

    /// A hold on it, where it is in memory.
    pub(crate) fn pin(&mut self, generation: Generation) -> Option<Pin> {
        let held = self.held.get_mut(&generation)?;
        held.hit(self.clock);
        Some(Pin::new(Arc::clone(&held.weights), Arc::clone(&held.pins)))
    }

    /// Whether `bytes` more can come in, and who has to leave.
    pub(crate) fn room(&self, bytes: u64) -> Room {
        if bytes > self.budget {
            return Room::Never;
        }
        let mut free: Vec<(&Generation, &Held)> =
            self.held.iter().filter(|(_, held)| held.is_free()).collect();
        free.sort_by(|(a, x), (b, y)| {
            (x.placement(), x.value)
                .partial_cmp(&(y.placement(), y.value))
                .map_or(a.cmp(b), |by| by.then(a.cmp(b)))
        });
        let mut leaving = Vec::new();
        let mut left = self.budget - self.used;
        for (generation, held) in free {
            if left >= bytes {
                break;
            }
            left += held.weights.bytes;
            leaving.push(*generation);
        }
        if left >= bytes { Room::After(leaving) } else { Room::Wait }
    }

    /// Puts a generation out for others. The weights come back to be dropped outside of any lock.
    pub(crate) fn evict(&mut self, generation: Generation) -> Option<Arc<AdapterWeights>> {
        let value = self.held.get(&generation).filter(|held| held.is_free())?.value;
        self.clock = self.clock.max(value);
        self.evictions += 1;
        self.free(generation)
    }

    /// Takes weights in, for which there is room, and holds them. One that is there already stays.
    pub(crate) fn insert(&mut self, weights: AdapterWeights, cost: f64) -> Pin {
        let (generation, bytes) = (weights.generation, weights.bytes);
        let held = self.held.entry(generation).or_insert_with(|| {
            self.used += bytes;
            self.nameless.insert(generation);
            Held::new(Arc::new(weights), &self.bell, cost)
        });
        held.hit(self.clock);
        Pin::new(Arc::clone(&held.weights), Arc::clone(&held.pins))
    }

    /// `name` means this generation now, and keeps it as `placement` says.
    pub(crate) fn join(&mut self, generation: Generation, name: &Arc<str>, placement: Placement) {
        let Some(held) = self.held.get_mut(&generation) else { return };
        match held.names.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = placement,
            None => held.names.push((Arc::clone(name), placement)),
        }
        self.nameless.remove(&generation);
    }

    /// `name` means it no longer.
    pub(crate) fn leave(&mut self, generation: Generation, name: &str) {
        if let Some(held) = self.held.get_mut(&generation) {
            held.names.retain(|(known, _)| &**known != name);
            if held.names.is_empty() {
                self.nameless.insert(generation);
            }
        }
    }

    /// Frees what has neither a name nor a pin. The weights come back to be dropped outside of any lock.
    pub(crate) fn settle(&mut self) -> Vec<Arc<AdapterWeights>> {
        let free =
            |generation: &&Generation| self.held.get(generation).is_none_or(|held| held.pins.held() == 0);
        let gone: Vec<Generation> = self.nameless.iter().filter(free).copied().collect();
        gone.into_iter().filter_map(|generation| self.free(generation)).collect()
    }

    fn free(&mut self, generation: Generation) -> Option<Arc<AdapterWeights>> {
        self.nameless.remove(&generation);
        let held = self.held.remove(&generation)?;
        self.used -= held.weights.bytes;
        Some(held.weights)
    }
}

#[cfg(test)]
mod tests;
