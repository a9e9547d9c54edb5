//! What the engine tells about itself: atomics that its thread writes and anyone reads. A scrape takes no engine lock.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::adapters::pin::Generation;

/// The engine's figures. Made by whoever serves metrics, handed to [`super::Engine::start`], read at any time.
#[derive(Default)]
pub struct EngineMetrics {
    /// Sequences that run.
    pub running: AtomicUsize,
    /// Requests that wait, preempted ones too.
    pub waiting: AtomicUsize,
    /// KV blocks in use by running sequences.
    pub used_blocks: AtomicUsize,
    /// KV blocks that nobody uses but whose content can still be reused.
    pub cached_blocks: AtomicUsize,
    /// All KV blocks.
    pub blocks: AtomicUsize,
    /// Bytes of resident adapters.
    pub resident_bytes: AtomicU64,
    /// Resident adapters.
    pub resident_adapters: AtomicUsize,
    /// Resident adapters that had to leave for others.
    pub resident_evictions: AtomicU64,
    /// Adapters that were not resident when a sequence needed them.
    pub resident_misses: AtomicU64,
    /// Adapters drained so that a waiting one could come in.
    pub drains: AtomicU64,
    /// Steps that ran.
    pub steps: AtomicU64,
    /// Steps that failed on the device.
    pub failed_steps: AtomicU64,
    /// Prompt tokens of requests that started.
    pub prompt_tokens: AtomicU64,
    /// Those of them that the prefix cache spared.
    pub cached_prompt_tokens: AtomicU64,
    /// Tokens run again after a preemption.
    pub recomputed_tokens: AtomicU64,
    /// Tokens sampled.
    pub generation_tokens: AtomicU64,
    /// Sequences that had to leave the batch and start over.
    pub preemptions: AtomicU64,
    /// Tokens looked up in the prefix cache.
    pub prefix_queries: AtomicU64,
    /// Tokens found there.
    pub prefix_hits: AtomicU64,
    /// Requests whose logits were not finite.
    pub corrupted_requests: AtomicU64,
    /// Panics caught in a request's own path.
    pub panics: AtomicU64,
    adapters: Mutex<Arc<[AdapterLoad]>>,
    observer: Option<Box<dyn StepObserver>>,
}

/// Told of every step, on the engine's thread: for histograms. Must not block.
pub trait StepObserver: Send + Sync {
    /// One step ended.
    fn step(&self, step: &StepReport);
}

/// One step in figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepReport {
    /// Rows that belong to prompts (and to recomputing).
    pub prefill_rows: usize,
    /// Rows that make the next token of a running sequence.
    pub decode_rows: usize,
    /// Runs of rows with an adapter.
    pub segments: usize,
    /// From the begin of scheduling to the last event sent.
    pub total: Duration,
    /// Of that, the time in the model.
    pub forward: Duration,
}

/// The requests of one generation (`None`: the base model).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterLoad {
    /// Whose.
    pub generation: Option<Generation>,
    /// Running.
    pub running: usize,
    /// Waiting.
    pub waiting: usize,
}

/// The gauges at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Sequences that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// The part of the KV blocks that running sequences use, 0 to 1.
    pub kv_usage: f64,
    /// Bytes of resident adapters.
    pub resident_bytes: u64,
    /// Resident adapters.
    pub resident_adapters: usize,
    /// The load by generation: those with a request running or waiting.
    pub adapters: Arc<[AdapterLoad]>,
}

impl EngineMetrics {
    /// Figures whose steps `observer` hears of.
    #[must_use]
    pub fn with_observer(observer: Box<dyn StepObserver>) -> Self {
        Self { observer: Some(observer), ..Self::default() }
    }

    /// The gauges now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let blocks = self.blocks.load(Ordering::Relaxed).max(1);
        Snapshot {
            running: self.running.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            kv_usage: self.used_blocks.load(Ordering::Relaxed) as f64 / blocks as f64,
            resident_bytes: self.resident_bytes.load(Ordering::Relaxed),
            resident_adapters: self.resident_adapters.load(Ordering::Relaxed),
            adapters: Arc::clone(&self.adapters.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Publishes the load by generation. A reader that is just there is waited for with `wait`; without, nothing is
    /// published then, and `false` says so.
    pub(crate) fn publish_adapters(&self, load: &[AdapterLoad], wait: bool) -> bool {
        let published = if wait { self.adapters.lock().ok() } else { self.adapters.try_lock().ok() };
        published.map(|mut published| *published = load.into()).is_some()
    }

    /// Tells the observer of a step.
    pub(crate) fn observe(&self, step: &StepReport) {
        if let Some(observer) = &self.observer {
            observer.step(step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_of_an_engine_that_has_not_started_too() {
        let snapshot = EngineMetrics::default().snapshot();
        assert_eq!((snapshot.running, snapshot.waiting, snapshot.kv_usage), (0, 0, 0.0));
    }

    #[test]
    fn the_engine_does_not_wait_for_a_reader_of_the_load() {
        let metrics = EngineMetrics::default();
        let reading = metrics.adapters.lock().unwrap();
        assert!(!metrics.publish_adapters(&[], false));
        drop(reading);
        assert!(metrics.publish_adapters(&[AdapterLoad { generation: None, running: 1, waiting: 0 }], false));
        assert_eq!(metrics.snapshot().adapters.len(), 1);
    }
}
