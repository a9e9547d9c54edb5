//! How fast sequences end, for an honest `Retry-After`.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

const REMEMBERED: usize = 64;
const SHORTEST: f64 = 1.0;
const LONGEST: f64 = 60.0;

/// The last ends.
#[derive(Debug, Default)]
pub(crate) struct DrainRate(Mutex<VecDeque<Instant>>);

impl DrainRate {
    /// A sequence ended.
    pub(crate) fn ended(&self, now: Instant) {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.len() == REMEMBERED {
            ends.pop_front();
        }
        ends.push_back(now);
    }

    /// Seconds in which half of `waiting` will have gone, 1 to 60: who comes back then finds a place.
    pub(crate) fn seconds_for(&self, waiting: usize) -> u32 {
        self.estimate(waiting, Instant::now())
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1..=60 before")]
    fn estimate(&self, waiting: usize, now: Instant) -> u32 {
        let ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = ends.front() else { return SHORTEST as u32 };
        let span = now.saturating_duration_since(*first).as_secs_f64().max(0.001);
        let rate = ends.len() as f64 / span;
        (waiting as f64 / 2.0 / rate).ceil().clamp(SHORTEST, LONGEST) as u32
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_wait_follows_the_queue_and_the_rate_and_is_bounded() {
        let start = Instant::now();
        let rate = DrainRate::default();
        assert_eq!(rate.estimate(500, start), 1);
        for end in 0..64 {
            rate.ended(start + Duration::from_millis(500 * end));
        }
        let now = start + Duration::from_secs(32);
        assert_eq!(rate.estimate(0, now), 1);
        assert_eq!(rate.estimate(40, now), 10);
        assert_eq!(rate.estimate(100_000, now), 60);
    }
}
