//! What becomes of a load: room in the host tier, the names that waited for it, and swaps. Pure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lorikeet_api::ErrorCode;

use super::{Facts, Ledger, Load};
use crate::adapters::failure::LoadFailure;
use crate::adapters::host::Room;
use crate::adapters::pin::{Generation, Pin};
use crate::adapters::wanted::{Desire, Wanted};
use crate::adapters::weights::AdapterWeights;

/// Weights that have just been loaded.
pub(crate) struct Arrival {
    pub(crate) weights: AdapterWeights,
    pub(crate) revision: Option<String>,
    /// What the load took.
    pub(crate) took: Duration,
}

/// Who waits for a load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interested {
    /// Names that want its content.
    pub(crate) names: Vec<Arc<str>>,
    /// Names that come to want it when it is in memory, and not before.
    pub(crate) adopting: Vec<(String, Desire)>,
}

/// What became of it.
pub(crate) enum Landing {
    /// It is in memory, held by this pin; what left for it comes along to be dropped outside of any lock.
    Landed(Pin, Vec<Arc<AdapterWeights>>),
    /// There is no room before pins are given back: try again then.
    Wait(Arrival),
    /// There never will be.
    Refused(LoadFailure),
}

impl Ledger {
    /// Somebody loads `wanted` for `name`.
    pub(crate) fn begins(&mut self, name: &str, wanted: &Wanted) {
        let Some(entry) = self.names.get_mut(name) else { return };
        for variant in entry.variants_mut().filter(|variant| variant.wants(wanted)) {
            let tries = if let Load::Failed { tries, .. } = variant.load { tries } else { 0 };
            variant.load = Load::Running { tries };
        }
        self.touch(name);
    }

    /// Weights of `wanted` have come.
    pub(crate) fn lands(
        &mut self,
        wanted: &Wanted,
        who: &Interested,
        arrival: Arrival,
        now: Instant,
    ) -> Landing {
        let (generation, bytes) = (arrival.weights.generation, arrival.weights.bytes);
        let leaving = match self.host.room(bytes) {
            _ if self.host.contains(generation) => Vec::new(),
            Room::After(leaving) => leaving,
            Room::Wait => return Landing::Wait(arrival),
            Room::Never => return Landing::Refused(too_large(bytes, self.host.bytes().1)),
        };
        let mut left: Vec<Arc<AdapterWeights>> =
            leaving.into_iter().filter_map(|generation| self.host.evict(generation)).collect();
        left.iter().for_each(|weights| self.touch_names_of(weights.generation));
        let facts = Arc::new(Facts {
            generation,
            revision: arrival.revision,
            rank: arrival.weights.rank as u32,
            bytes,
            target_modules: arrival.weights.target_modules.clone().into(),
            base_model: Arc::clone(&arrival.weights.base_model),
        });
        let pin = self.host.insert(arrival.weights, arrival.took.as_secs_f64() * 1e3);
        let adopted = who.adopting.iter().map(|(name, desire)| self.set(name, desire.clone(), now));
        let adopted: Vec<Arc<str>> = adopted.collect();
        who.names.iter().chain(&adopted).for_each(|name| self.turns_to(name, wanted, &facts, now));
        // Names of other sources with this very content have it back too.
        self.names_of(generation).iter().for_each(|name| self.place(name));
        self.touch_names_of(generation);
        left.extend(self.host.settle());
        Landing::Landed(pin, left)
    }

    /// The load of `wanted` failed, which `names` waited for.
    pub(crate) fn fails(&mut self, wanted: &Wanted, names: &[Arc<str>], failure: &LoadFailure, now: Instant) {
        for name in names {
            let Some(entry) = self.names.get_mut(name) else { continue };
            for variant in entry.variants_mut().filter(|variant| variant.wants(wanted)) {
                let before = match variant.load {
                    Load::Failed { tries, .. } | Load::Running { tries } => tries,
                    Load::Idle => 0,
                };
                let tries = before.saturating_add(1);
                let until = failure.pause(tries, wanted.is_mutable()).map(|pause| now + pause);
                variant.load = Load::Failed { failure: failure.clone(), tries, until };
            }
            self.touch(name);
        }
    }

    /// There was no room for weights of `wanted` in time.
    pub(crate) fn finds_no_room(&self, bytes: u64) -> LoadFailure {
        let (used, budget) = self.host.bytes();
        LoadFailure::new(
            ErrorCode::NoRoom,
            format!(
                "host memory: {bytes} bytes did not fit in time: {used} of {budget} are held by requests or pinned"
            ),
        )
    }

    /// `name` serves what has come, or brings it up no longer.
    fn turns_to(&mut self, name: &Arc<str>, wanted: &Wanted, facts: &Arc<Facts>, now: Instant) {
        let Some(entry) = self.names.get_mut(name).filter(|entry| !entry.draining) else { return };
        let before = entry.serving.generation();
        if let Some(next) = entry.next.take_if(|next| next.wants(wanted)) {
            entry.serving = next;
        }
        if !entry.serving.wants(wanted) {
            return;
        }
        entry.serving.facts = Some(Arc::clone(facts));
        entry.serving.load = Load::Idle;
        entry.give_notice(self.drain, now);
        self.turn(name, before, Some(facts.generation));
    }

    /// It came into memory or left it: reports of all who serve it change.
    fn touch_names_of(&mut self, generation: Generation) {
        self.names_of(generation).iter().for_each(|name| self.touch(name));
    }
}

fn too_large(bytes: u64, budget: u64) -> LoadFailure {
    LoadFailure::new(
        ErrorCode::BudgetExceeded,
        format!("host memory: {bytes} bytes do not fit the budget of {budget} bytes even alone"),
    )
}
