//! Which fleet is worked on next. Pure: `now` is passed. A fleet is there once however often it is marked, never worked
//! on twice at once. After an error it is tried again later each time; what happens to it meanwhile waits for a moment only:
//! most errors are of one object among thousands.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::fleet::FleetKey;

/// Between two runs of a fleet that nothing urgent happened to.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
/// After an error, before what is urgent.
const AFTER_ERROR: Duration = Duration::from_millis(200);
/// After an error, before what can wait.
const CALM_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Fleets and when they are due.
#[derive(Debug)]
pub struct Queue {
    fleets: BTreeMap<FleetKey, State>,
    due: BTreeSet<(Instant, FleetKey)>,
    pauses: Pauses,
}

/// The pauses after errors, and the longest time without a look.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    /// After the first error; doubled by each further one.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
    /// Every fleet is looked at again after this time.
    pub resync: Duration,
}

#[derive(Clone, Debug, Default)]
struct State {
    due: Option<Instant>,
    running: bool,
    failures: u32,
    /// What happened while it was worked on: the first that is urgent, and the first that can wait.
    marked: [Option<Instant>; 2],
    /// Nothing before: that is urgent, or that can wait.
    not_before: [Option<Instant>; 2],
}

/// How work on a fleet ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All was done; look again after that time, at the latest.
    Done(Option<Duration>),
    /// Something failed.
    Failed,
    /// There is nothing left of the fleet.
    Gone,
}

impl State {
    /// When it is due that is urgent or not, and was marked for `at`.
    fn due(&self, urgent: bool, at: Instant) -> Instant {
        self.not_before[usize::from(!urgent)].map_or(at, |earliest| earliest.max(at))
    }
}

impl Queue {
    /// Empty.
    #[must_use]
    pub const fn new(pauses: Pauses) -> Self {
        Self { fleets: BTreeMap::new(), due: BTreeSet::new(), pauses }
    }

    /// Something happened to `fleet`, or will at `at`. What is urgent waits for a moment after an error only.
    pub fn mark(&mut self, fleet: &FleetKey, urgent: bool, at: Instant) {
        let state = self.fleets.entry(fleet.clone()).or_default();
        if state.running {
            // It comes back when that ends.
            let marked = &mut state.marked[usize::from(!urgent)];
            *marked = Some(marked.map_or(at, |first| first.min(at)));
            return;
        }
        let at = state.due(urgent, at);
        self.bring_forward(fleet, at);
    }

    /// Look at `fleet`, which is not being worked on, at that time, at the latest.
    fn bring_forward(&mut self, fleet: &FleetKey, at: Instant) {
        let state = self.fleets.entry(fleet.clone()).or_default();
        if state.due.is_some_and(|due| due <= at) {
            return;
        }
        if let Some(due) = state.due.replace(at) {
            self.due.remove(&(due, fleet.clone()));
        }
        self.due.insert((at, fleet.clone()));
    }

    /// The next fleet to work on, where one is due. [`Self::ended`] must follow.
    pub fn take(&mut self, now: Instant) -> Option<FleetKey> {
        let (at, fleet) = self.due.first()?;
        if *at > now {
            return None;
        }
        let fleet = fleet.clone();
        self.due.pop_first();
        let state = self.fleets.entry(fleet.clone()).or_default();
        state.due = None;
        state.running = true;
        Some(fleet)
    }

    /// Work on `fleet` ended after `took`.
    pub fn ended(&mut self, fleet: &FleetKey, ended: Ended, took: Duration, now: Instant) {
        let Some(state) = self.fleets.get_mut(fleet) else { return };
        state.running = false;
        let marked = std::mem::take(&mut state.marked);
        // As long as it took: a large fleet leaves half of the time to others.
        let mut calm = took.max(SHORTEST_PAUSE);
        let mut urgent = None;
        let next = match ended {
            Ended::Gone if marked == [None; 2] => {
                self.fleets.remove(fleet);
                return;
            }
            Ended::Gone => now,
            Ended::Done(again) => {
                state.failures = 0;
                now + again.unwrap_or(self.pauses.resync).min(spread(fleet, 0, self.pauses.resync))
            }
            Ended::Failed => {
                state.failures = state.failures.saturating_add(1);
                let again = self.pauses.after(fleet, state.failures);
                urgent = Some(now + again.min(AFTER_ERROR));
                calm = calm.max(again.min(CALM_AFTER_ERROR));
                now + again
            }
        };
        state.not_before = [urgent, Some(now + calm)];
        let [first, second] = marked;
        let marked = [(true, first), (false, second)];
        let due = marked.into_iter().filter_map(|(urgent, at)| at.map(|at| state.due(urgent, at)));
        let due = due.fold(next, Instant::min);
        self.bring_forward(fleet, due);
    }

    /// Forgets past errors: what caused them is over.
    pub fn forgive(&mut self, now: Instant) {
        let mut failed = Vec::new();
        for (fleet, state) in self.fleets.iter_mut().filter(|(_, state)| state.failures > 0) {
            state.failures = 0;
            state.not_before = [None; 2];
            match state.running {
                true => state.marked[0] = Some(now),
                false => failed.push(fleet.clone()),
            }
        }
        failed.iter().for_each(|fleet| self.bring_forward(fleet, now));
    }

    /// When the next fleet is due.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Fleets that are due and wait.
    #[must_use]
    pub fn waiting(&self, now: Instant) -> usize {
        self.due.iter().take_while(|(at, _)| *at <= now).count()
    }
}

impl Pauses {
    /// The pause after the `failures`-th error in a row.
    #[must_use]
    pub fn after(&self, fleet: &FleetKey, failures: u32) -> Duration {
        let doubled =
            self.first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        spread(fleet, failures, doubled.min(self.longest))
    }
}

/// Between three quarters and all of `time`, another share for each fleet and count: not all at one moment.
fn spread(fleet: &FleetKey, count: u32, time: Duration) -> Duration {
    let bytes = fleet.namespace.bytes().chain(fleet.name.bytes()).chain(count.to_le_bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    time * 3 / 4 + time * (hash % 256) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSES: Pauses = Pauses {
        first: Duration::from_millis(200),
        longest: Duration::from_secs(10),
        resync: Duration::from_secs(300),
    };
    const MS: Duration = Duration::from_millis(1);

    fn fleet(name: &str) -> FleetKey {
        FleetKey { namespace: "ns".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn a_fleet_is_queued_once_and_worked_on_once_at_a_time() {
        let now = Instant::now();
        let mut queue = Queue::new(PAUSES);
        for _ in 0..3 {
            queue.mark(&fleet("x"), true, now);
        }
        assert_eq!(queue.take(now), Some(fleet("x")));
        queue.mark(&fleet("x"), true, now);
        assert_eq!(queue.take(now), None, "it is being worked on");
        queue.ended(&fleet("x"), Ended::Done(None), MS, now);
        assert_eq!(queue.take(now), Some(fleet("x")), "it was marked meanwhile");
        queue.ended(&fleet("x"), Ended::Done(None), MS, now);
        assert_eq!(queue.take(now), None);
    }

    #[test]
    fn pauses_grow_with_errors_and_end_with_success() {
        let mut now = Instant::now();
        let mut queue = Queue::new(PAUSES);
        let mut last = Duration::ZERO;
        queue.mark(&fleet("x"), true, now);
        for failure in 1..=12 {
            assert_eq!(queue.take(now), Some(fleet("x")), "{failure}");
            queue.ended(&fleet("x"), Ended::Failed, MS, now);
            let pause = queue.next().unwrap() - now;
            assert!(pause <= PAUSES.longest && pause >= last / 2, "{failure}: {pause:?}");
            assert!(failure > 5 || pause > last, "{failure}: {pause:?}");
            last = pause;
            now += pause;
        }
        queue.take(now);
        queue.ended(&fleet("x"), Ended::Done(None), MS, now);
        queue.mark(&fleet("x"), true, now);
        assert_eq!(queue.take(now), Some(fleet("x")));
    }

    #[test]
    fn what_happens_after_an_error_waits_for_a_moment_and_not_until_it_is_tried_again() {
        for during in [true, false] {
            let mut now = Instant::now();
            let mut queue = Queue::new(PAUSES);
            queue.mark(&fleet("x"), true, now);
            let fail = |queue: &mut Queue, now: Instant, marks: &dyn Fn(&mut Queue)| {
                assert_eq!(queue.take(now), Some(fleet("x")));
                if during {
                    marks(queue);
                }
                queue.ended(&fleet("x"), Ended::Failed, MS, now);
                if !during {
                    marks(queue);
                }
                queue.next().unwrap()
            };
            for _ in 0..8 {
                now = fail(&mut queue, now, &|_| {});
            }
            let next = fail(&mut queue, now, &|queue| queue.mark(&fleet("x"), false, now));
            assert_eq!(next, now + CALM_AFTER_ERROR, "{during}");
            now = next;
            let next = fail(&mut queue, now, &|queue| queue.mark(&fleet("x"), true, now));
            assert_eq!(next, now + AFTER_ERROR, "{during}");
            now = next;
            let again = fail(&mut queue, now, &|_| {});
            assert!(again > now + PAUSES.longest / 2, "nothing happened: {:?}", again - now);
        }
    }

    #[test]
    fn an_error_of_one_fleet_does_not_hold_another() {
        let now = Instant::now();
        let mut queue = Queue::new(PAUSES);
        queue.mark(&fleet("x"), true, now);
        queue.take(now);
        queue.ended(&fleet("x"), Ended::Failed, MS, now);
        queue.mark(&fleet("y"), true, now);
        assert_eq!(queue.take(now), Some(fleet("y")));
    }

    #[test]
    fn what_can_wait_waits_as_long_as_the_last_run_took() {
        let now = Instant::now();
        let mut queue = Queue::new(PAUSES);
        queue.mark(&fleet("x"), false, now);
        queue.take(now);
        queue.ended(&fleet("x"), Ended::Done(None), 300 * MS, now);
        queue.mark(&fleet("x"), false, now);
        assert_eq!(queue.next(), Some(now + 300 * MS));
        queue.mark(&fleet("x"), true, now);
        assert_eq!(queue.take(now), Some(fleet("x")), "urgent");
    }

    #[test]
    fn what_can_wait_waits_though_it_happened_during_the_run() {
        let now = Instant::now();
        let mut queue = Queue::new(PAUSES);
        queue.mark(&fleet("x"), true, now);
        queue.take(now);
        queue.mark(&fleet("x"), false, now);
        queue.ended(&fleet("x"), Ended::Done(None), 300 * MS, now + 300 * MS);
        assert_eq!(queue.next(), Some(now + 600 * MS));
        assert_eq!(queue.take(now + 600 * MS), Some(fleet("x")));
        queue.mark(&fleet("x"), false, now);
        queue.mark(&fleet("x"), true, now + 700 * MS);
        queue.ended(&fleet("x"), Ended::Done(None), 300 * MS, now + 900 * MS);
        assert_eq!(queue.take(now + 900 * MS), Some(fleet("x")), "something urgent too");
    }

    #[test]
    fn every_fleet_is_looked_at_again_and_one_that_is_gone_is_not() {
        let now = Instant::now();
        let mut queue = Queue::new(PAUSES);
        for name in ["x", "y", "z"] {
            queue.mark(&fleet(name), true, now);
            queue.take(now);
        }
        queue.ended(&fleet("x"), Ended::Done(None), MS, now);
        queue.ended(&fleet("y"), Ended::Gone, MS, now);
        queue.ended(&fleet("z"), Ended::Done(Some(5 * MS)), MS, now);
        assert_eq!(queue.take(now + 5 * MS), Some(fleet("z")));
        assert_eq!(queue.take(now + PAUSES.resync), Some(fleet("x")));
        assert_eq!(queue.take(now + 10 * PAUSES.resync), None);
    }

    #[test]
    fn errors_are_forgiven_when_their_cause_is_over() {
        let now = Instant::now();
        let mut queue = Queue::new(PAUSES);
        queue.mark(&fleet("x"), true, now);
        queue.take(now);
        queue.ended(&fleet("x"), Ended::Failed, MS, now);
        queue.forgive(now);
        assert_eq!(queue.take(now), Some(fleet("x")));
    }
}
