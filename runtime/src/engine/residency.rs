//! Which adapters are resident under a byte budget: who comes in, who has to leave, who is drained for whom. Pure: it
//! is told the time, and knows of weights only how many bytes they are.
//!
//! A running sequence sits on its adapter: an adapter with a seat taken never leaves. One without stays as long as
//! nobody else needs the bytes, and only as long as its owner keeps the weights alive.

use std::cell::{Ref, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::adapters::pin::{Generation, Pin};
use crate::adapters::weights::AdapterWeights;
use crate::engine::forward::Residents;

/// The resident adapters. A clone is the same set; it stays on the engine's thread.
#[derive(Clone)]
pub struct Residency(Rc<RefCell<State>>);

struct State {
    budget: u64,
    used: u64,
    /// Bytes of those with a seat taken.
    seated_bytes: u64,
    /// `GreedyDual`'s clock: the value of what was evicted last.
    clock: f64,
    entries: HashMap<Generation, Entry>,
    /// Those with a seat taken.
    seated: Residents,
    evictions: u64,
    drains: u64,
    misses: u64,
}

struct Entry {
    bytes: u64,
    seats: usize,
    hits: u32,
    value: f64,
    draining: Option<Instant>,
    weights: Weak<AdapterWeights>,
}

/// A running sequence's seat on its adapter. Given back when dropped.
pub struct Seat {
    residency: Residency,
    generation: Generation,
}

/// What a load costs beyond its bytes, in bytes: small adapters are dear to bring back for what they free.
const LOAD_COST: f64 = 1024.0 * 1024.0;

impl Residency {
    /// Nobody is resident; `budget` bytes may be.
    #[must_use]
    pub fn new(budget: u64) -> Self {
        Self(Rc::new(RefCell::new(State {
            budget,
            used: 0,
            seated_bytes: 0,
            clock: 0.0,
            entries: HashMap::new(),
            seated: Residents::new(),
            evictions: 0,
            drains: 0,
            misses: 0,
        })))
    }

    /// Whether [`Self::seat`] would give a seat.
    #[must_use]
    pub fn can_seat(&self, pin: &Pin, may_enter: bool) -> bool {
        let state = self.0.borrow();
        match state.entries.get(&pin.generation()) {
            Some(entry) => entry.draining.is_none(),
            None => may_enter && state.budget - state.seated_bytes >= pin.weights().bytes,
        }
    }

    /// A seat on the adapter of `pin`. `None` while it is being drained; or when it is not resident and may not come in
    /// (`may_enter`), or could only if an adapter with a seat taken left.
    #[must_use]
    pub fn seat(&self, pin: &Pin, may_enter: bool) -> Option<Seat> {
        if !self.can_seat(pin, may_enter) {
            return None;
        }
        let generation = pin.generation();
        let mut guard = self.0.borrow_mut();
        let state = &mut *guard;
        if !state.entries.contains_key(&generation) {
            state.enter(generation, pin.weights().bytes);
        }
        let entry = state.entries.get_mut(&generation)?;
        entry.hits = entry.hits.saturating_add(1);
        let bytes = entry.bytes as f64;
        entry.value = state.clock + f64::from(entry.hits) * (bytes + LOAD_COST) / bytes.max(1.0);
        entry.seats += 1;
        if entry.seats == 1 {
            entry.weights = Arc::downgrade(pin.weights());
            state.seated_bytes += entry.bytes;
            state.seated.insert(generation, Arc::clone(pin.weights()));
        }
        Some(Seat { residency: self.clone(), generation })
    }

    /// Whether it is resident.
    #[must_use]
    pub fn contains(&self, generation: Generation) -> bool {
        self.0.borrow().entries.contains_key(&generation)
    }

    /// Drains adapters until `needed` bytes are, or will be, free of seats: those first whose sequences end soonest
    /// (`remaining` tokens). Beyond what `first` needs no more than half of the budget drains at a time.
    pub fn drain_for(&self, needed: u64, first: bool, now: Instant, remaining: impl Fn(Generation) -> u64) {
        let mut state = self.0.borrow_mut();
        let (mut coming, mut draining) = (state.budget - state.used, 0);
        for entry in state.entries.values() {
            if entry.seats == 0 || entry.draining.is_some() {
                coming += entry.bytes;
                draining += if entry.seats > 0 { entry.bytes } else { 0 };
            }
        }
        while coming < needed && (first || draining < state.budget / 2) {
            let seated =
                state.entries.iter_mut().filter(|(_, entry)| entry.seats > 0 && entry.draining.is_none());
            let soonest = seated.min_by_key(|(generation, _)| (remaining(**generation), **generation));
            let Some((_, entry)) = soonest else { return };
            entry.draining = Some(now);
            coming += entry.bytes;
            draining += entry.bytes;
            state.drains += 1;
        }
    }

    /// Nobody waits for bytes any more: everybody may come again.
    pub fn stop_draining(&self) {
        self.0.borrow_mut().entries.values_mut().for_each(|entry| entry.draining = None);
    }

    /// An adapter that has been draining for longer than `limit` and still has seats taken.
    #[must_use]
    pub fn overdue(&self, now: Instant, limit: Duration) -> Option<Generation> {
        let state = self.0.borrow();
        let overdue = |entry: &Entry| {
            entry.seats > 0
                && entry.draining.is_some_and(|since| now.saturating_duration_since(since) > limit)
        };
        state.entries.iter().filter(|(_, entry)| overdue(entry)).map(|(generation, _)| *generation).min()
    }

    /// The weights of every adapter with a seat taken.
    #[must_use]
    pub fn seated(&self) -> Ref<'_, Residents> {
        Ref::map(self.0.borrow(), |state| &state.seated)
    }

    /// Bytes and number of resident adapters.
    #[must_use]
    pub fn usage(&self) -> (u64, usize) {
        let mut state = self.0.borrow_mut();
        state.forget_dead();
        (state.used, state.entries.len())
    }

    /// How often an adapter had to come in for a sequence.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.0.borrow().misses
    }

    /// How many were evicted, and how many were drained, ever.
    #[must_use]
    pub fn turnover(&self) -> (u64, u64) {
        let state = self.0.borrow();
        (state.evictions, state.drains)
    }
}

impl State {
    /// Lets an adapter in, after the least valuable ones without seats have made room. There are enough of those.
    fn enter(&mut self, generation: Generation, bytes: u64) {
        self.misses += 1;
        self.forget_dead();
        while self.budget - self.used < bytes {
            let idle = self.entries.iter().filter(|(_, entry)| entry.seats == 0);
            let least = idle.min_by(|(a, x), (b, y)| x.value.total_cmp(&y.value).then_with(|| a.cmp(b)));
            let Some((generation, value)) = least.map(|(generation, entry)| (*generation, entry.value))
            else {
                break;
            };
            self.clock = self.clock.max(value);
            self.leave(generation);
            self.evictions += 1;
        }
        let entry = Entry { bytes, seats: 0, hits: 0, value: 0.0, draining: None, weights: Weak::new() };
        self.entries.insert(generation, entry);
        self.used += bytes;
    }

    fn leave(&mut self, generation: Generation) {
        if let Some(entry) = self.entries.remove(&generation) {
            self.used -= entry.bytes;
        }
    }

    /// What its owner has let go of is not resident any more.
    fn forget_dead(&mut self) {
        let used = &mut self.used;
        self.entries.retain(|_, entry| {
            let alive = entry.seats > 0 || entry.weights.strong_count() > 0;
            *used -= if alive { 0 } else { entry.bytes };
            alive
        });
    }
}

impl fmt::Debug for Residency {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, adapters) = self.usage();
        write!(out, "Residency({adapters} adapters, {bytes} bytes)")
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Seat({:?})", self.generation)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut guard = self.residency.0.borrow_mut();
        let state = &mut *guard;
        let Some(entry) = state.entries.get_mut(&self.generation) else { return };
        entry.seats -= 1;
        if entry.seats == 0 {
            state.seated_bytes -= entry.bytes;
            state.seated.remove(&self.generation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fixtures::pin_of;

    fn soon(_: Generation) -> u64 {
        0
    }

    #[test]
    fn a_resident_adapter_takes_more_riders_for_nothing() {
        let residency = Residency::new(100);
        let pin = pin_of("a", 60);
        let seats = [residency.seat(&pin, true), residency.seat(&pin, false)];
        assert!(seats.iter().all(Option::is_some));
        assert_eq!(residency.usage(), (60, 1));
        assert_eq!(residency.seated().len(), 1);
    }

    #[test]
    fn an_adapter_with_a_seat_taken_never_leaves() {
        let residency = Residency::new(100);
        let (a, b) = (pin_of("a", 60), pin_of("b", 60));
        let seat = residency.seat(&a, true);
        assert!(residency.seat(&b, true).is_none());
        drop(seat);
        assert_eq!(residency.usage(), (60, 1), "it stays while nobody needs the bytes");
        assert!(residency.seat(&b, true).is_some());
        assert!(!residency.contains(a.generation()));
        assert_eq!(residency.turnover(), (1, 0));
    }

    #[test]
    fn the_adapter_that_was_asked_for_least_leaves_first() {
        let residency = Residency::new(100);
        let (a, b, c) = (pin_of("a", 50), pin_of("b", 50), pin_of("c", 50));
        for pin in [&a, &b, &a] {
            drop(residency.seat(pin, true));
        }
        let _seat = residency.seat(&c, true);
        assert!(residency.contains(a.generation()) && !residency.contains(b.generation()));
        assert_eq!(residency.misses(), 3);
    }

    #[test]
    fn nobody_leaves_when_that_would_not_be_enough() {
        let residency = Residency::new(100);
        let (a, b, c) = (pin_of("a", 50), pin_of("b", 50), pin_of("c", 80));
        let _seat = residency.seat(&a, true);
        drop(residency.seat(&b, true));
        assert!(residency.seat(&c, true).is_none());
        assert!(residency.contains(b.generation()));
    }

    #[test]
    fn weights_that_their_owner_let_go_of_take_no_bytes() {
        let residency = Residency::new(100);
        let pin = pin_of("a", 60);
        drop(residency.seat(&pin, true));
        assert_eq!(residency.usage(), (60, 1));
        drop(pin);
        assert_eq!(residency.usage(), (0, 0));
    }

    #[test]
    fn the_adapter_that_ends_soonest_is_drained_and_takes_nobody_new() {
        let now = Instant::now();
        let residency = Residency::new(100);
        let (a, b) = (pin_of("a", 50), pin_of("b", 50));
        let seats = (residency.seat(&a, true), residency.seat(&b, true));
        let remaining = |generation| if generation == a.generation() { 900 } else { 5 };
        residency.drain_for(30, true, now, remaining);
        residency.drain_for(30, true, now, remaining);
        assert!(residency.seat(&b, true).is_none(), "it drains");
        assert!(residency.seat(&a, true).is_some(), "one is enough");
        assert_eq!(residency.turnover(), (0, 1));
        drop(seats);
        assert!(residency.seat(&pin_of("c", 30), true).is_some(), "the bytes go to the one that waited");
        residency.stop_draining();
        assert!(residency.seat(&a, true).is_some());
    }

    #[test]
    fn at_most_half_of_the_budget_drains_beyond_the_first_need() {
        let now = Instant::now();
        let residency = Residency::new(100);
        let pins: Vec<Pin> = (0..4).map(|i| pin_of(&format!("{i}"), 25)).collect();
        let _seats: Vec<_> = pins.iter().map(|pin| residency.seat(pin, true)).collect();
        residency.drain_for(100, false, now, soon);
        assert_eq!(residency.turnover(), (0, 2));
        residency.drain_for(100, true, now, soon);
        assert_eq!(residency.turnover(), (0, 4));
    }

    #[test]
    fn a_drain_that_takes_too_long_is_overdue() {
        let (now, limit) = (Instant::now(), Duration::from_secs(5));
        let residency = Residency::new(100);
        let pin = pin_of("a", 60);
        let seat = residency.seat(&pin, true);
        residency.drain_for(50, true, now, soon);
        assert_eq!(residency.overdue(now + limit, limit), None);
        assert_eq!(residency.overdue(now + limit * 2, limit), Some(pin.generation()));
        drop(seat);
        assert_eq!(residency.overdue(now + limit * 2, limit), None);
    }
}
