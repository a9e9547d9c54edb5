//! What of a name's demand is told: whether it grew or shrank by steps, not each request. Pure: it is told the time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Entry, Ledger};

/// Requests of a step. Whoever spreads adapters by demand counts in the same.
const STEP: usize = 8;

/// A demand is lower when it stays so for this long: bursts come and go.
const CALM: Duration = Duration::from_secs(60);

/// What was told last of a name's demand.
#[derive(Debug, Default)]
pub(super) struct Told {
    step: usize,
    lower_since: Option<Instant>,
}

impl Told {
    /// Whether so many requests are news. More is at once, fewer when they stay few.
    fn is_news(&mut self, requests: usize, now: Instant) -> bool {
        let step = step(requests);
        if step >= self.step {
            self.lower_since = None;
            return step > self.step;
        }
        now.saturating_duration_since(*self.lower_since.get_or_insert(now)) >= CALM
    }

    /// So many requests are told, for whatever reason.
    pub(super) fn tell(&mut self, requests: usize) {
        *self = Self { step: step(requests), lower_since: None };
    }
}

/// Up to one step is what one replica serves, none included.
fn step(requests: usize) -> usize {
    requests.div_ceil(STEP).saturating_sub(1)
}

impl Entry {
    /// Requests that run or wait.
    pub(super) fn requests(&self) -> usize {
        self.running.held() + self.waiting.load(Ordering::Relaxed)
    }
}

impl Ledger {
    /// Reports tell the names anew whose demand is another.
    pub(crate) fn watch_demand(&mut self, now: Instant) {
        let news = self.names.iter_mut().filter_map(|(name, entry)| {
            let requests = entry.requests();
            entry.told.is_news(requests, now).then(|| Arc::clone(name))
        });
        let news: Vec<Arc<str>> = news.collect();
        news.iter().for_each(|name| self.touch(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_news_at_once_and_less_when_it_lasts() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut told = Told::default();
        assert!(!told.is_news(0, at(0)) && !told.is_news(8, at(1)), "one replica serves them");
        assert!(told.is_news(9, at(2)));
        told.tell(9);
        assert!(!told.is_news(16, at(3)) && told.is_news(40, at(3)));
        told.tell(40);
        assert!(!told.is_news(0, at(10)) && !told.is_news(0, at(60)));
        assert!(!told.is_news(33, at(65)), "it was a pause");
        assert!(!told.is_news(20, at(70)) && told.is_news(0, at(130)));
        told.tell(0);
        assert!(!told.is_news(0, at(1000)), "at rest nothing is told");
    }
}
