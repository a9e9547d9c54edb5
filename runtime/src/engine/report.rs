//! Copies the scheduler's state into the published figures, at the end of every step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::adapters::pin::Generation;
use crate::engine::scheduler::Scheduler;
use crate::engine::stats::{AdapterLoad, EngineMetrics};

/// What was published last, so that the load by generation is made anew only when it may differ.
pub(crate) struct Reporter {
    metrics: Arc<EngineMetrics>,
    loads: BTreeMap<Option<Generation>, (usize, usize)>,
    published: Vec<AdapterLoad>,
}

impl Reporter {
    pub(crate) fn new(metrics: Arc<EngineMetrics>) -> Self {
        Self { metrics, loads: BTreeMap::new(), published: Vec::new() }
    }

    /// Publishes; with `wait` surely, else the load by generation only when no reader is in the way.
    pub(crate) fn report<T>(&mut self, scheduler: &Scheduler<T>, wait: bool) {
        let metrics = &self.metrics;
        let pool = scheduler.pool();
        metrics.running.store(scheduler.running().len(), Ordering::Relaxed);
        metrics.waiting.store(scheduler.waiting().len(), Ordering::Relaxed);
        metrics.used_blocks.store(pool.used(), Ordering::Relaxed);
        metrics.cached_blocks.store(pool.cached(), Ordering::Relaxed);
        let (bytes, adapters) = scheduler.residency().usage();
        metrics.resident_bytes.store(bytes, Ordering::Relaxed);
        metrics.resident_adapters.store(adapters, Ordering::Relaxed);
        let (evictions, drains) = scheduler.residency().turnover();
        metrics.resident_evictions.store(evictions, Ordering::Relaxed);
        metrics.drains.store(drains, Ordering::Relaxed);
        metrics.resident_misses.store(scheduler.residency().misses(), Ordering::Relaxed);
        let counts = scheduler.counts();
        metrics.preemptions.store(counts.preemptions, Ordering::Relaxed);
        metrics.recomputed_tokens.store(counts.recomputed, Ordering::Relaxed);
        metrics.prefix_queries.store(counts.prefix_queries, Ordering::Relaxed);
        metrics.prefix_hits.store(counts.prefix_hits, Ordering::Relaxed);
        self.report_loads(scheduler, wait);
    }

    fn report_loads<T>(&mut self, scheduler: &Scheduler<T>, wait: bool) {
        self.loads.clear();
        for sequence in scheduler.running() {
            self.loads.entry(sequence.owner().generation).or_default().0 += 1;
        }
        for (flow, count) in scheduler.waiting().flows() {
            self.loads.entry(flow.generation).or_default().1 += count;
        }
        let load = |(&generation, &(running, waiting))| AdapterLoad { generation, running, waiting };
        if self.loads.iter().map(load).eq(self.published.iter().cloned()) {
            return;
        }
        let loads: Vec<AdapterLoad> = self.loads.iter().map(load).collect();
        if self.metrics.publish_adapters(&loads, wait) {
            self.published = loads;
        }
    }
}
