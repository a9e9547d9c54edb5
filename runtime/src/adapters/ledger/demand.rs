//! What of a name's demand is told: by steps, not each request, so that reports are few; and the most of a while, so that
//! who spreads adapters by it does not follow every pause. Pure: it is told the time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Entry, Ledger};

/// The demand of a name as it is told.
#[derive(Debug, Default)]
pub(super) struct Demand {
    told: u32,
    /// Since when it is lower, and the most of that time.
    lower: Option<(Instant, u32)>,
}

impl Demand {
    /// As it is told.
    pub(super) const fn told(&self) -> u32 {
        self.told
    }

    /// Sees so many requests. Whether that is news: more is at once, fewer when they have stayed fewer for as long as
    /// `calm`; then the most of that time is told, not what is there by chance at its end.
    fn sees(&mut self, requests: usize, now: Instant, calm: Duration) -> bool {
        let seen = step(requests);
        if seen >= self.told {
            let is_news = seen > self.told;
            *self = Self { told: seen, lower: None };
            return is_news;
        }
        let (since, most) = self.lower.get_or_insert((now, seen));
        *most = seen.max(*most);
        let is_over = now.saturating_duration_since(*since) >= calm;
        if is_over {
            *self = Self { told: *most, lower: None };
        }
        is_over
    }
}

/// Rounded up by at most a quarter. One request at a time is what any replica serves by the way: it is none.
fn step(requests: usize) -> u32 {
    let requests = u32::try_from(requests).unwrap_or(u32::MAX);
    if requests <= 1 {
        return 0;
    }
    let quarter = ((1_u32 << requests.ilog2()) / 4).max(1);
    requests.checked_next_multiple_of(quarter).unwrap_or(u32::MAX)
}

impl Entry {
    /// Requests that run or wait.
    fn requests(&self) -> usize {
        self.tenures.held() + self.waiting.load(Ordering::Relaxed)
    }
}

impl Ledger {
    /// Reports tell the names anew whose demand is another: more at once, less after `calm`.
    pub(crate) fn watch_demand(&mut self, now: Instant, calm: Duration) {
        let news = self.names.iter_mut().filter_map(|(name, entry)| {
            let requests = entry.requests();
            entry.demand.sees(requests, now, calm).then(|| Arc::clone(name))
        });
        let news: Vec<Arc<str>> = news.collect();
        news.iter().for_each(|name| self.touch(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Duration = Duration::from_secs(60);

    /// What is told after each of `seen`, (second, requests), and how often it was news.
    fn told(seen: &[(u64, usize)]) -> (Vec<u32>, usize) {
        let (start, mut demand, mut news) = (Instant::now(), Demand::default(), 0);
        let told = seen.iter().map(|(second, requests)| {
            news += usize::from(demand.sees(*requests, start + Duration::from_secs(*second), CALM));
            demand.told()
        });
        (told.collect(), news)
    }

    #[test]
    fn more_is_told_at_once_and_less_when_it_lasts() {
        assert_eq!(
            told(&[(0, 0), (1, 1), (2, 0), (1000, 1)]),
            (vec![0, 0, 0, 0], 0),
            "at rest nothing is told"
        );
        assert_eq!(told(&[(0, 6), (1, 9), (2, 40), (3, 40)]), (vec![6, 10, 40, 40], 3));
        assert_eq!(told(&[(0, 40), (10, 0), (69, 0), (70, 0), (71, 0)]), (vec![40, 40, 40, 0, 0], 2));
        assert_eq!(told(&[(0, 40), (10, 0), (69, 40), (71, 0)]), (vec![40, 40, 40, 40], 1), "it was a pause");
    }

    #[test]
    fn the_most_of_the_calm_time_is_told_not_a_pause_at_its_end() {
        let seen = [(0, 40), (10, 5), (30, 32), (50, 8), (70, 0), (71, 30), (72, 32)];
        assert_eq!(told(&seen), (vec![40, 40, 40, 40, 32, 32, 32], 2), "no lower, and not up again at once");
    }

    #[test]
    fn a_demand_that_swings_is_told_once() {
        let swings: Vec<(u64, usize)> =
            (0..300).map(|at| (at * 2, [3, 31, 12, 0, 27][at as usize % 5])).collect();
        let (all, news) = told(&swings);
        assert_eq!((all.last(), news), (Some(&32), 2), "at its start, and at its top");
    }

    #[test]
    fn steps_are_exact_where_few_count_and_never_more_than_a_quarter_too_much() {
        assert_eq!([0, 1, 2, 3, 7, 8, 9, 16, 17, 33].map(step), [0, 0, 2, 3, 7, 8, 10, 16, 20, 40]);
        for requests in 2..10_000 {
            let step = step(requests) as usize;
            assert!(step >= requests && step - requests <= requests / 4, "{requests}: {step}");
        }
        assert_eq!(step(usize::MAX), u32::MAX);
    }
}
