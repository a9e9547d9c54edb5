//! What the store has done, in numbers for the metrics page; and its reports, put together.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lorikeet_api::{AdapterReport, ErrorCode, ReportedSet, Tier, TierBytes};

use super::Shared;
use crate::adapters::pin::Generation;
use crate::source::fetch::DiskFigures;

/// Loads from one tier.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadFigures {
    /// How many.
    pub count: u64,
    /// What they took together, in seconds.
    pub seconds: f64,
}

/// The store in numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreFigures {
    /// Names that requests may ask for.
    pub registered: usize,
    /// Generations in host memory.
    pub loaded: usize,
    /// Loads under way.
    pub loading: usize,
    /// Bytes of the host tier in use and allowed.
    pub host: TierBytes,
    /// Generations that left host memory for others.
    pub evictions: u64,
    /// Requests whose adapter was not in host memory.
    pub misses: u64,
    /// The disk cache, as far as this process has used it.
    pub disk: DiskFigures,
    /// Loads from the disk or its cache.
    pub from_disk: LoadFigures,
    /// Loads from a remote source.
    pub from_remote: LoadFigures,
    /// Loads that failed, by code.
    pub failures: Vec<(ErrorCode, u64)>,
}

/// What only counts up.
#[derive(Default)]
pub(super) struct Counters(Mutex<Counts>);

#[derive(Clone, Default)]
struct Counts {
    misses: u64,
    disk: LoadFigures,
    remote: LoadFigures,
    failures: BTreeMap<&'static str, (ErrorCode, u64)>,
}

impl Counters {
    pub(super) fn loaded(&self, from: Tier, took: Duration) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = if from == Tier::Remote { &mut counts.remote } else { &mut counts.disk };
        of.count += 1;
        of.seconds += took.as_secs_f64();
    }

    pub(super) fn missed(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).misses += 1;
    }

    pub(super) fn failed(&self, code: ErrorCode) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.failures.entry(code.as_str()).or_insert((code, 0)).1 += 1;
    }

    fn read(&self) -> Counts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    pub(super) fn figures(&self) -> StoreFigures {
        let counts = self.figures.read();
        self.with(|state| StoreFigures {
            registered: state.ledger.count(),
            loaded: state.ledger.host.len(),
            loading: state.flights.len(),
            host: state.ledger.host_bytes(),
            evictions: state.ledger.host.evictions(),
            misses: counts.misses,
            disk: self.loader.disk(),
            from_disk: counts.disk,
            from_remote: counts.remote,
            failures: counts.failures.into_values().collect(),
        })
    }

    pub(super) fn describe(&self, name: &str) -> Option<AdapterReport> {
        let running = self.running();
        self.with(|state| {
            let entry = state.ledger.entry(name)?;
            Some(state.ledger.describe(name, entry, &|generation| running.contains(&generation)))
        })
    }

    pub(super) fn report(&self, after: Option<u64>) -> ReportedSet {
        let running = self.running();
        let resident = self.engine.get().map_or(TierBytes::default(), |(engine, budget)| TierBytes {
            used: engine.resident_bytes.load(Ordering::Relaxed),
            budget: *budget,
        });
        self.with(|state| {
            let said = state.ledger.reported(after, &|generation| running.contains(&generation));
            ReportedSet {
                instance: self.instance.clone(),
                report: said.report,
                version: state.ledger.version(),
                base: state.base.clone(),
                draining: state.draining,
                resident,
                host: state.ledger.host_bytes(),
                complete: said.complete,
                adapters: said.adapters,
                removed: said.removed,
            }
        })
    }

    /// The generations that run on the device now.
    fn running(&self) -> HashSet<Generation> {
        let Some((engine, _)) = self.engine.get() else { return HashSet::new() };
        let loads = engine.snapshot().adapters;
        loads.iter().filter(|load| load.running > 0).filter_map(|load| load.generation).collect()
    }
}
