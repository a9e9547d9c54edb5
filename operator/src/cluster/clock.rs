//! The time as the API server has it: what it stamps, and what another operator wrote, is compared with that. This machine's
//! clock may be an hour off, and may be set while the operator runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::DATE;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

/// A clock that every answer of the API server sets; until the first it is this machine's.
#[derive(Clone, Debug)]
pub struct Clock {
    started: Instant,
    /// The time when it was started, in milliseconds since 1970.
    origin: Arc<AtomicI64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self::from(Timestamp::now())
    }
}

impl From<Timestamp> for Clock {
    /// A clock that is started at `now`.
    fn from(now: Timestamp) -> Self {
        Self { started: Instant::now(), origin: Arc::new(AtomicI64::new(now.as_millisecond())) }
    }
}

impl Clock {
    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let now = self.origin.load(Ordering::Relaxed).saturating_add(millis(self.started.elapsed()));
        Timestamp::from_millisecond(now).unwrap_or(Timestamp::MAX)
    }

    /// An answer came to what was `asked` then. It was given in the second that it says, between that and now: where this
    /// clock agrees it goes on as it is.
    pub fn hear(&self, answer: &HeaderMap, asked: Instant) {
        let said = answer.get(DATE).and_then(|date| date.to_str().ok());
        let Some(said) = said.and_then(|date| DateTimeParser::new().parse_timestamp(date).ok()) else {
            return;
        };
        let said = said.as_millisecond();
        let earliest = said.saturating_sub(millis(self.started.elapsed()));
        let latest =
            said.saturating_add(999).saturating_sub(millis(asked.saturating_duration_since(self.started)));
        let set = |origin: i64| Some(origin.clamp(earliest, latest.max(earliest)));
        // It is always set.
        let _ = self.origin.fetch_update(Ordering::Relaxed, Ordering::Relaxed, set);
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Mon, 30 Nov 2026 11:37:24 GMT";

    fn answer(date: &str) -> HeaderMap {
        HeaderMap::from_iter([(DATE, date.parse().unwrap())])
    }

    fn said() -> Timestamp {
        "2026-11-30T11:37:24Z".parse().unwrap()
    }

    /// How far `clock` is from what the answers say, in seconds.
    fn off(clock: &Clock) -> i64 {
        clock.now().as_second() - said().as_second()
    }

    #[test]
    fn a_clock_that_is_off_is_set_by_the_first_answer_and_one_that_is_not_goes_on() {
        for hour in [-3600, 3600] {
            let clock = Clock::from(Timestamp::from_second(said().as_second() + hour).unwrap());
            clock.hear(&answer(SAID), Instant::now());
            assert!((0..=1).contains(&off(&clock)), "{hour} s: {} s off", off(&clock));
        }
        // Within the second that the answer says.
        let clock = Clock::from(Timestamp::from_millisecond(said().as_millisecond() + 300).unwrap());
        let before = clock.origin.load(Ordering::Relaxed);
        clock.hear(&answer(SAID), Instant::now());
        assert_eq!(clock.origin.load(Ordering::Relaxed), before);
    }

    #[test]
    fn an_answer_that_was_long_on_its_way_says_only_so_much() {
        let started = Instant::now().checked_sub(Duration::from_secs(100)).unwrap();
        let origin = Arc::new(AtomicI64::new(said().as_millisecond() - 70_000));
        let clock = Clock { started, origin };
        // Asked 100 s ago, answered 30 s ago by this clock: it may well have been.
        clock.hear(&answer(SAID), started);
        assert_eq!(off(&clock), 30);
        clock.hear(&answer(SAID), Instant::now());
        assert!((0..=1).contains(&off(&clock)));
    }

    #[test]
    fn an_answer_without_a_date_sets_nothing() {
        let clock = Clock::from(said());
        for nothing in [HeaderMap::new(), answer("yesterday"), answer("")] {
            clock.hear(&nothing, Instant::now());
            assert!((0..=1).contains(&off(&clock)));
        }
    }
}
