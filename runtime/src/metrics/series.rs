//! Figures by adapter, in bounded number: the hottest by name, the rest as `other`. No name that nobody registered gets
//! here, and no number of names makes the page longer than its bound.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::page::{Kind, Page};

/// The name that the rest goes by.
pub(crate) const OTHER: &str = "other";

/// Names that are told apart.
pub(crate) const NAMED: usize = 1000;

/// Names beside those whose heat is known, so that one of them can come up.
const CANDIDATES: usize = 4096;

/// Requests after which all heat is halved: yesterday's traffic must not keep today's out.
const COOL_EVERY: u64 = 1 << 16;

/// What is counted of one adapter.
#[derive(Debug, Default)]
pub(crate) struct Series {
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) generation_tokens: AtomicU64,
    pub(crate) running: AtomicUsize,
    pub(crate) waiting: AtomicUsize,
    pub(crate) finished: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) aborted: AtomicU64,
    pub(crate) cold_starts: AtomicU64,
    first_tokens: AtomicU64,
    first_token_micros: AtomicU64,
}

impl Series {
    /// A request's first token came after so long.
    pub(crate) fn first_token(&self, after: Duration) {
        self.first_tokens.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        self.first_token_micros.fetch_add(micros, Ordering::Relaxed);
    }
}

/// All series by name.
#[derive(Debug)]
pub(crate) struct Table {
    inner: Mutex<Inner>,
    /// Takes what has no place of its own.
    other: Arc<Series>,
    bound: usize,
}

#[derive(Debug, Default)]
struct Inner {
    named: HashMap<Arc<str>, Named>,
    candidates: HashMap<Arc<str>, u64>,
    requests: u64,
}

#[derive(Debug)]
struct Named {
    series: Arc<Series>,
    heat: u64,
}

impl Table {
    pub(crate) fn new(bound: usize) -> Self {
        Self { inner: Mutex::default(), other: Arc::default(), bound }
    }

    /// The series that one more request of `name` is counted in.
    pub(crate) fn request(&self, name: &str) -> Arc<Series> {
        if name == OTHER {
            return Arc::clone(&self.other);
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.cool();
        if let Some(named) = inner.named.get_mut(name) {
            named.heat += 1;
            return Arc::clone(&named.series);
        }
        let heat = inner.warm(name);
        if inner.named.len() >= self.bound && !inner.give_way(heat) {
            return Arc::clone(&self.other);
        }
        inner.candidates.remove(name);
        let series = Arc::<Series>::default();
        inner.named.insert(name.into(), Named { series: Arc::clone(&series), heat });
        series
    }

    /// Names with a series, ordered, and the rest.
    fn snapshot(&self) -> Vec<(Arc<str>, Arc<Series>)> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> =
            inner.named.iter().map(|(name, named)| (Arc::clone(name), Arc::clone(&named.series))).collect();
        drop(inner);
        all.sort_unstable_by(|one, two| one.0.cmp(&two.0));
        all.push((OTHER.into(), Arc::clone(&self.other)));
        all
    }

    /// The names that have requests running and those that have some waiting, for `vllm:lora_requests_info`.
    pub(crate) fn active(&self, base: &str) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let all = self.snapshot();
        let with = |count: fn(&Series) -> &AtomicUsize| {
            all.iter()
                .filter(|(name, series)| &**name != base && count(series).load(Ordering::Relaxed) > 0)
                .map(|(name, _)| Arc::clone(name))
                .collect()
        };
        (with(|series| &series.running), with(|series| &series.waiting))
    }

    /// Writes every series.
    pub(crate) fn write(&self, page: &mut Page) {
        type Read = fn(&Series) -> u64;
        let all = self.snapshot();
        let families: [(&str, Kind, &str, Read); 6] = [
            ("lorikeet_adapter_prompt_tokens_total", Kind::Counter, "Prompt tokens.", |series| {
                series.prompt_tokens.load(Ordering::Relaxed)
            }),
            ("lorikeet_adapter_generation_tokens_total", Kind::Counter, "Tokens generated.", |series| {
                series.generation_tokens.load(Ordering::Relaxed)
            }),
            ("lorikeet_adapter_requests_running", Kind::Gauge, "Sequences that run.", |series| {
                series.running.load(Ordering::Relaxed) as u64
            }),
            ("lorikeet_adapter_requests_waiting", Kind::Gauge, "Sequences that wait.", |series| {
                series.waiting.load(Ordering::Relaxed) as u64
            }),
            (
                "lorikeet_adapter_cold_starts_total",
                Kind::Counter,
                "Requests that waited for their adapter's weights.",
                |series| series.cold_starts.load(Ordering::Relaxed),
            ),
            ("lorikeet_adapter_requests_failed_total", Kind::Counter, "Sequences that failed.", |series| {
                series.failed.load(Ordering::Relaxed)
            }),
        ];
        for (family, kind, help, read) in families {
            page.family(family, kind, help);
            for (name, series) in &all {
                page.sample(family, &[("adapter", name)], read(series));
            }
        }
        write_first_token(page, &all);
        write_requests(page, &all);
    }
}

/// As a summary without quantiles: a histogram a name would be a page of 25,000 lines.
fn write_first_token(page: &mut Page, all: &[(Arc<str>, Arc<Series>)]) {
    let family = "lorikeet_adapter_time_to_first_token_seconds";
    page.family(family, Kind::Summary, "From arrival to the first token.");
    for (name, series) in all {
        let labels = [("adapter", &**name)];
        let seconds = series.first_token_micros.load(Ordering::Relaxed) as f64 / 1e6;
        page.sample("lorikeet_adapter_time_to_first_token_seconds_sum", &labels, seconds);
        let count = series.first_tokens.load(Ordering::Relaxed);
        page.sample("lorikeet_adapter_time_to_first_token_seconds_count", &labels, count);
    }
}

fn write_requests(page: &mut Page, all: &[(Arc<str>, Arc<Series>)]) {
    let family = "lorikeet_adapter_requests_total";
    page.family(family, Kind::Counter, "Sequences that ended, by how.");
    for (name, series) in all {
        for (outcome, count) in
            [("finished", &series.finished), ("failed", &series.failed), ("aborted", &series.aborted)]
        {
            page.sample(family, &[("adapter", name), ("outcome", outcome)], count.load(Ordering::Relaxed));
        }
    }
}

impl Inner {
    fn cool(&mut self) {
        self.requests += 1;
        if self.requests.is_multiple_of(COOL_EVERY) {
            self.named.values_mut().for_each(|named| named.heat /= 2);
            self.candidates.retain(|_, heat| {
                *heat /= 2;
                *heat > 0
            });
        }
    }

    /// One more request of a name without a series.
    fn warm(&mut self, name: &str) -> u64 {
        if let Some(heat) = self.candidates.get_mut(name) {
            *heat += 1;
            return *heat;
        }
        if self.candidates.len() >= CANDIDATES {
            self.candidates.clear();
        }
        self.candidates.insert(name.into(), 1);
        1
    }

    /// Lets the coldest name go if it is colder than `heat` and nothing of it is under way.
    fn give_way(&mut self, heat: u64) -> bool {
        let idle = |named: &Named| {
            named.series.running.load(Ordering::Relaxed) + named.series.waiting.load(Ordering::Relaxed) == 0
        };
        let coldest = self
            .named
            .iter()
            .filter(|(_, named)| named.heat < heat && idle(named))
            .min_by_key(|(_, named)| named.heat)
            .map(|(name, _)| Arc::clone(name));
        coldest.is_some_and(|name| self.named.remove(&name).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(table: &Table, name: &str) -> u64 {
        let found = table.snapshot().into_iter().find(|(known, _)| &**known == name);
        found.map_or(0, |(_, series)| series.prompt_tokens.load(Ordering::Relaxed))
    }

    fn ask(table: &Table, name: &str) {
        table.request(name).prompt_tokens.fetch_add(1, Ordering::Relaxed);
    }

    #[test]
    fn names_beyond_the_bound_are_counted_as_other() {
        let table = Table::new(2);
        for name in ["a", "b", "c", "d", "other"] {
            ask(&table, name);
        }
        let counts = ["a", "b", "c", OTHER].map(|name| count(&table, name));
        assert_eq!(counts, [1, 1, 0, 3]);
    }

    #[test]
    fn a_name_that_becomes_hotter_than_the_coldest_takes_its_place_and_other_never_falls() {
        let table = Table::new(2);
        (0..5).for_each(|_| ask(&table, "hot"));
        ask(&table, "cold");
        (0..4).for_each(|_| ask(&table, "rising"));
        assert_eq!(count(&table, "cold"), 0);
        assert_eq!(count(&table, "hot"), 5);
        assert_eq!(count(&table, "rising") + count(&table, OTHER), 4);
        assert!(count(&table, OTHER) > 0);
    }

    #[test]
    fn a_million_names_leave_the_page_bounded() {
        let table = Table::new(10);
        (0..20_000).for_each(|number| ask(&table, &format!("n{number}")));
        assert_eq!(table.snapshot().len(), 11);
        assert!(table.inner.lock().unwrap().candidates.len() <= CANDIDATES);
    }
}
