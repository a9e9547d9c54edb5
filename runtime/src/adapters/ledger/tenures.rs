//! The requests of one name, by the generation that they hold: of what the name means, and of what it has left. Those of
//! what it left have notice. Pure: it is told the time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::{Entry, Variant};
use crate::adapters::pin::Generation;
use crate::adapters::tenure::{Cause, Notice, Tenure};

/// The tenures of a name that have requests, and no others for long.
pub(crate) struct Tenures {
    bell: Arc<Notify>,
    of: Vec<(Generation, Arc<Tenure>)>,
}

impl Tenures {
    /// None yet. They ring `bell` when their last request ends.
    pub(super) fn new(bell: &Arc<Notify>) -> Self {
        Self { bell: Arc::clone(bell), of: Vec::new() }
    }

    /// That on `generation`.
    pub(super) fn on(&mut self, generation: Generation) -> &Arc<Tenure> {
        let known = self.of.iter().position(|(of, _)| *of == generation);
        let place = known.unwrap_or_else(|| {
            self.of.push((generation, Arc::new(Tenure::ringing(&self.bell))));
            self.of.len() - 1
        });
        &self.of[place].1
    }

    /// Requests that hold any.
    pub(crate) fn held(&self) -> usize {
        self.of.iter().map(|(_, tenure)| tenure.held()).sum()
    }

    /// `notice` to those of which `stays` is false; none to the others any more.
    fn notify(&mut self, stays: impl Fn(Generation) -> bool, notice: Notice) {
        self.of.retain(|(_, tenure)| tenure.held() > 0);
        for (generation, tenure) in &self.of {
            if stays(*generation) { tenure.take_back() } else { tenure.give(notice) }
        }
    }
}

impl Entry {
    /// What the name means has changed: requests on what it no longer means may take `drain` from `now`, those on what it
    /// means, or will mean again, as long as they want.
    pub(super) fn give_notice(&mut self, drain: Duration, now: Instant) {
        let (serving, next, draining) = (&self.serving, &self.next, self.draining);
        let means = |variant: &Variant, generation| {
            variant.generation() == Some(generation) || variant.promised() == Some(generation)
        };
        let stays = |generation| {
            !draining
                && (means(serving, generation) || next.as_ref().is_some_and(|next| means(next, generation)))
        };
        let cause = if draining { Cause::Removed } else { Cause::Swapped };
        self.tenures.notify(stays, Notice::new(cause, drain, now));
    }
}
