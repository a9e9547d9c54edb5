//! A name's time on one generation: how many of its requests hold it, and, once the name has left it, when those that
//! still do are to end. The ledger gives notice and takes it back, the engine's thread reads it. Told the time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::adapters::pin::PinCount;

/// The requests of one name that hold one generation.
#[derive(Default)]
pub struct Tenure {
    pub(super) pins: PinCount,
    notice: Mutex<Option<Notice>>,
}

/// The name has left the generation: its requests on it may take so long and no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What became of the name.
    pub cause: Cause,
    /// How long they may take, from when the name left.
    pub given: Duration,
    /// The end of that.
    pub until: Instant,
}

/// Why a name leaves a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It serves another one.
    Swapped,
    /// It is no longer wanted.
    Removed,
}

impl Notice {
    /// From `now` on, `given` is left.
    #[must_use]
    pub fn new(cause: Cause, given: Duration, now: Instant) -> Self {
        Self { cause, given, until: now + given }
    }

    /// Whether nothing is left of it.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        self.until <= now
    }
}

impl Tenure {
    /// Of nobody yet. Rings `bell` when the last pin goes.
    pub(super) fn ringing(bell: &Arc<Notify>) -> Self {
        Self { pins: PinCount::ringing(bell), notice: Mutex::default() }
    }

    /// Requests that hold it now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.pins.held()
    }

    /// The notice that its requests have.
    #[must_use]
    pub fn notice(&self) -> Option<Notice> {
        *self.notice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives notice. An earlier one stands: its time goes on.
    pub(crate) fn give(&self, notice: Notice) {
        self.notice.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(notice);
    }

    /// Takes the notice back: the name has returned.
    pub(crate) fn take_back(&self) {
        self.notice.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_notice_does_not_prolong_the_first_and_one_that_was_taken_back_begins_anew() {
        let (now, given) = (Instant::now(), Duration::from_secs(5));
        let tenure = Tenure::default();
        assert_eq!(tenure.notice(), None);
        tenure.give(Notice::new(Cause::Swapped, given, now));
        tenure.give(Notice::new(Cause::Removed, given, now + given));
        let notice = tenure.notice().unwrap();
        assert_eq!((notice.cause, notice.until), (Cause::Swapped, now + given));
        assert!(!notice.is_over(now + given / 2) && notice.is_over(now + given));
        tenure.take_back();
        tenure.give(Notice::new(Cause::Removed, Duration::ZERO, now + given));
        assert!(tenure.notice().unwrap().is_over(now + given), "no time is over at once");
    }
}
