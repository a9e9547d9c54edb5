//! The engine's heartbeat: written by its thread, read without a lock, so that `/health` tells stuck from busy.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What the engine does, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// Takes requests.
    Serving,
    /// Finishes what it has and takes nothing new.
    Draining,
    /// Has ended as it should.
    Stopped,
    /// Has given up: the device kept failing, or the engine's own bookkeeping broke.
    Failed,
}

/// The pulse at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// What it does.
    pub state: EngineState,
    /// Since the last beat; there is one a step.
    pub age: Duration,
    /// Since it last had nothing to do; `None` while it has nothing to do.
    pub busy: Option<Duration>,
}

impl Heartbeat {
    /// Whether work lies there and no step has begun for `limit`.
    #[must_use]
    pub fn stuck(&self, limit: Duration) -> bool {
        self.busy.is_some() && self.age > limit
    }
}

const IDLE: u64 = u64::MAX;

pub(crate) struct Heart {
    origin: Instant,
    /// Microseconds after `origin`.
    beat: AtomicU64,
    /// Microseconds after `origin`, or [`IDLE`].
    busy_since: AtomicU64,
    state: AtomicU8,
}

impl Heart {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            origin: now,
            beat: AtomicU64::new(0),
            busy_since: AtomicU64::new(IDLE),
            state: AtomicU8::new(0),
        }
    }

    fn since_origin(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_micros()).unwrap_or(IDLE - 1)
    }

    /// A step begins.
    pub(crate) fn beat(&self, now: Instant) {
        let now = self.since_origin(now);
        self.beat.store(now, Ordering::Relaxed);
        if self.busy_since.load(Ordering::Relaxed) == IDLE {
            self.busy_since.store(now, Ordering::Release);
        }
    }

    /// There is nothing to do.
    pub(crate) fn rest(&self) {
        self.busy_since.store(IDLE, Ordering::Release);
    }

    pub(crate) fn enter(&self, state: EngineState) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// From serving to draining; from no other state.
    pub(crate) fn start_draining(&self) {
        let (from, to) = (EngineState::Serving as u8, EngineState::Draining as u8);
        // Any other state refuses new work already.
        let _ = self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }

    pub(crate) fn state(&self) -> EngineState {
        match self.state.load(Ordering::Acquire) {
            0 => EngineState::Serving,
            1 => EngineState::Draining,
            2 => EngineState::Stopped,
            _ => EngineState::Failed,
        }
    }

    pub(crate) fn read(&self, now: Instant) -> Heartbeat {
        let now = self.since_origin(now);
        let since = |then: u64| Duration::from_micros(now.saturating_sub(then));
        let busy_since = self.busy_since.load(Ordering::Acquire);
        Heartbeat {
            state: self.state(),
            age: since(self.beat.load(Ordering::Relaxed)),
            busy: (busy_since != IDLE).then(|| since(busy_since)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_engine_is_never_stuck_and_a_busy_one_is_when_its_step_does_not_end() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let limit = Duration::from_secs(15);
        let heart = Heart::new(start);
        assert!(!heart.read(at(1000)).stuck(limit), "idle");
        heart.beat(at(1000));
        assert!(!heart.read(at(1010)).stuck(limit), "busy");
        heart.beat(at(1014));
        assert_eq!(heart.read(at(1020)).busy, Some(Duration::from_secs(20)), "busy since the first beat");
        assert!(!heart.read(at(1020)).stuck(limit), "each step beats");
        assert!(heart.read(at(1030)).stuck(limit), "stuck");
        heart.rest();
        assert!(!heart.read(at(2000)).stuck(limit), "at rest again");
    }

    #[test]
    fn the_state_is_the_one_entered_last() {
        let heart = Heart::new(Instant::now());
        for state in [EngineState::Serving, EngineState::Draining, EngineState::Stopped, EngineState::Failed]
        {
            heart.enter(state);
            assert_eq!(heart.state(), state);
        }
    }
}
