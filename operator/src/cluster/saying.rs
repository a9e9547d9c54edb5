//! Whether the statuses of a fleet may be written now, and when it is looked at again because they were not. Pure: `now` is
//! passed. They are written beside the looks: a look that meets the writes of an earlier one says nothing, nor does one
//! after a failed write, for a while. What it had to say must not wait for the next thing that happens.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::fleet::AdapterKey;

/// The statuses of one fleet.
#[derive(Clone, Debug, Default)]
pub struct Saying {
    under_way: bool,
    /// The Adapters whose statuses are under way.
    of: Arc<BTreeSet<AdapterKey>>,
    /// The newest look said nothing.
    owes: bool,
    failures: u32,
    held_until: Option<Instant>,
}

impl Saying {
    /// Whether a look that begins now may say what it sees.
    pub fn may(&mut self, now: Instant) -> bool {
        let may = !self.under_way && self.held_until.is_none_or(|until| until <= now);
        self.owes = !may;
        may
    }

    /// What a look said, of Adapters `of` among others, is being written. [`Self::written`] or [`Self::failed`] must follow.
    pub fn begin(&mut self, of: BTreeSet<AdapterKey>) {
        self.under_way = true;
        self.of = Arc::new(of);
    }

    /// The Adapters whose statuses are being written: what else is written of them now would meet that.
    #[must_use]
    pub fn of(&self) -> Arc<BTreeSet<AdapterKey>> {
        Arc::clone(&self.of)
    }

    /// When to look again after a look that said nothing: once the pause after a failure is over. Where something is being
    /// written, the end of that says when.
    #[must_use]
    pub fn owed(&self, now: Instant) -> Option<Instant> {
        (self.owes && !self.under_way).then(|| self.held_until.unwrap_or(now))
    }

    /// All of it was written; `is_cut`: and there is more. When to look again for that.
    pub fn written(&mut self, is_cut: bool, now: Instant) -> Option<Instant> {
        let again = self.owes || is_cut;
        *self = Self::default();
        again.then_some(now)
    }

    /// Some of it was not written. When to look again, and not to say anything before: after the pause of that many failures.
    pub fn failed(&mut self, pause: impl FnOnce(u32) -> Duration, now: Instant) -> Instant {
        self.under_way = false;
        self.of = Arc::default();
        self.failures = self.failures.saturating_add(1);
        let until = now + pause(self.failures);
        self.held_until = Some(until);
        until
    }

    /// What caused a failure is over.
    pub fn forgive(&mut self) {
        self.held_until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::queue::{Ended, Pauses, Queue};
    use crate::fleet::FleetKey;

    const MS: Duration = Duration::from_millis(1);

    fn pause(failures: u32) -> Duration {
        100 * MS * failures
    }

    #[test]
    fn one_look_at_a_time_says_what_it_sees_and_what_others_saw_is_looked_at_again() {
        let now = Instant::now();
        let mut saying = Saying::default();
        assert!(saying.may(now));
        saying.begin(BTreeSet::new());
        assert_eq!(saying.owed(now), None, "it has said all");
        assert!(!saying.may(now));
        assert_eq!(saying.owed(now), None, "the end of the writes says when");
        assert_eq!(saying.written(false, now), Some(now));
        assert!(saying.may(now));
        saying.begin(BTreeSet::new());
        assert_eq!(saying.written(false, now), None);
        assert!(saying.may(now));
        saying.begin(BTreeSet::new());
        assert_eq!(saying.written(true, now), Some(now), "there is more");
    }

    #[test]
    fn after_a_failure_nothing_is_said_before_a_pause_that_grows_is_over() {
        let now = Instant::now();
        let mut saying = Saying::default();
        saying.begin(BTreeSet::new());
        assert_eq!(saying.failed(pause, now), now + 100 * MS);
        assert!(!saying.may(now + 99 * MS));
        assert!(saying.may(now + 100 * MS));
        saying.begin(BTreeSet::new());
        assert_eq!(saying.failed(pause, now), now + 200 * MS);
        saying.forgive();
        assert!(saying.may(now));
        saying.begin(BTreeSet::new());
        saying.written(false, now);
        saying.begin(BTreeSet::new());
        assert_eq!(saying.failed(pause, now), now + 100 * MS, "success begins anew");
    }

    /// One fleet, as the controller goes on with it.
    #[test]
    fn what_was_not_written_is_looked_at_again_though_something_happened_meanwhile() {
        let (now, hour) = (Instant::now(), Duration::from_secs(3600));
        let fleet = FleetKey::default();
        let mut queue = Queue::new(Pauses { first: MS, longest: MS, resync: hour });
        let mut saying = Saying::default();
        let look = |queue: &mut Queue, saying: &mut Saying, at: Instant| {
            assert_eq!(queue.take(at), Some(fleet.clone()));
            let says = saying.may(at);
            queue.ended(&fleet, Ended::Done(None), MS, at);
            if says {
                saying.begin(BTreeSet::new());
            }
            if let Some(owed) = saying.owed(at) {
                queue.mark(&fleet, false, owed);
            }
            says
        };
        queue.mark(&fleet, true, now);
        assert!(look(&mut queue, &mut saying, now));
        let until = saying.failed(pause, now);
        queue.mark(&fleet, false, until);
        queue.mark(&fleet, true, now + 50 * MS);
        assert!(!look(&mut queue, &mut saying, now + 50 * MS), "it is held");
        assert_eq!(queue.next(), Some(until));
        assert!(look(&mut queue, &mut saying, until));
    }
}
