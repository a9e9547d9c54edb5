//! Whose weights a request runs on: a generation, and the pin that keeps it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::adapters::tenure::{Notice, Tenure};
use crate::adapters::weights::AdapterWeights;
use crate::digest::Digest;

/// The content of an adapter, by its digest. Two names of one content share a generation; one name before and after a
/// swap has two. Batches, KV blocks and prefix keys carry this and never a name: two tenants cannot be mixed up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(Digest);

impl Generation {
    /// The generation of content with this digest.
    #[must_use]
    pub const fn of(digest: Digest) -> Self {
        Self(digest)
    }

    /// Its content digest.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.0
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", &self.0.hex()[..12])
    }
}

/// A request's hold on one generation: while it lives the weights stay. Given back by `Drop`, wherever that happens.
pub struct Pin {
    weights: Arc<AdapterWeights>,
    count: Arc<PinCount>,
    /// The requests of the name that it was asked for under, where it has one.
    of_name: Option<Arc<Tenure>>,
}

/// How many requests hold something. Shared by the store that may free it and the pins that forbid it.
#[derive(Default)]
pub struct PinCount {
    held: AtomicUsize,
    /// Rung when the last pin goes.
    bell: Option<Arc<Notify>>,
}

impl PinCount {
    /// A count that rings `bell` when the last pin goes.
    #[must_use]
    pub(crate) fn ringing(bell: &Arc<Notify>) -> Self {
        Self { held: AtomicUsize::new(0), bell: Some(Arc::clone(bell)) }
    }

    /// Requests that hold it now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    fn take(&self) {
        self.held.fetch_add(1, Ordering::AcqRel);
    }

    fn give_back(&self) {
        if self.held.fetch_sub(1, Ordering::AcqRel) == 1 {
            // A permit stays in the bell when nobody listens just now.
            self.bell.iter().for_each(|bell| bell.notify_one());
        }
    }
}

impl Pin {
    /// Takes a hold. Called by the store under its own lock, so that an eviction cannot come between.
    #[must_use]
    pub fn new(weights: Arc<AdapterWeights>, count: Arc<PinCount>) -> Self {
        count.take();
        Self { weights, count, of_name: None }
    }

    /// The same hold, counted under a name too.
    #[must_use]
    pub(crate) fn under(mut self, name: &Arc<Tenure>) -> Self {
        name.pins.take();
        if let Some(other) = self.of_name.replace(Arc::clone(name)) {
            other.pins.give_back();
        }
        self
    }

    /// The generation held.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.weights.generation
    }

    /// Until when it may be held, where the name that it was asked for under has left the generation.
    #[must_use]
    pub fn notice(&self) -> Option<Notice> {
        self.of_name.as_ref()?.notice()
    }

    /// Its weights, checked and ready to be made resident.
    #[must_use]
    pub fn weights(&self) -> &Arc<AdapterWeights> {
        &self.weights
    }
}

impl Clone for Pin {
    fn clone(&self) -> Self {
        let pin = Self::new(Arc::clone(&self.weights), Arc::clone(&self.count));
        match &self.of_name {
            Some(name) => pin.under(name),
            None => pin,
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.count.give_back();
        self.of_name.iter().for_each(|name| name.pins.give_back());
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Pin({:?})", self.generation())
    }
}
