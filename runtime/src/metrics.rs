//! What a replica tells Prometheus: vLLM's names for what vLLM has, `lorikeet_*` for what it lacks.
//!
//! A scrape reads atomics and takes no engine lock. Must not decide anything by what it counted.
//!
//! * [`sequence`]: what one sequence adds, from arrival to its end
//! * `latency`: the histograms
//! * `series`: figures by adapter, bounded in number
//! * `page`: the text format

mod drain_rate;
mod latency;
mod page;
pub mod sequence;
mod series;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use drain_rate::DrainRate;
use latency::Latency;
use page::{Kind, Page};
use series::Table;

use crate::engine::config::EngineConfig;
use crate::engine::stats::EngineMetrics;

/// All figures of a process.
pub struct Metrics {
    model: String,
    engine: Arc<EngineMetrics>,
    latency: Latency,
    adapters: Table,
    /// How sequences ended.
    ended: Ended,
    /// Answers by route and status.
    answers: Mutex<BTreeMap<(String, u16), u64>>,
    drain: DrainRate,
}

/// Sequences by how they ended: vLLM's `finished_reason`.
#[derive(Default)]
struct Ended {
    stop: AtomicU64,
    length: AtomicU64,
    abort: AtomicU64,
    error: AtomicU64,
}

/// Figures of the adapters' tiers, read at a scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TierFigures {
    /// Complete families: name, help, whether it is a counter, and its series as (labels, value).
    pub families: Vec<Family>,
}

/// A family of series that another room keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Its name, with `_total` where it counts.
    pub name: String,
    /// What it is.
    pub help: &'static str,
    /// A counter, or a gauge.
    pub counter: bool,
    /// `(label, value of the label, value)`; an empty label is none.
    pub series: Vec<(&'static str, &'static str, f64)>,
}

impl Metrics {
    /// Figures of a replica that serves `model` with a context of so many tokens.
    ///
    /// # Errors
    /// When a histogram cannot be registered: a fault of this room.
    pub fn new(model: &str, context: usize) -> prometheus::Result<Self> {
        let latency = Latency::new(model, context)?;
        Ok(Self {
            model: model.to_owned(),
            engine: Arc::new(EngineMetrics::with_observer(Box::new(latency.clone()))),
            latency,
            adapters: Table::new(series::NAMED),
            ended: Ended::default(),
            answers: Mutex::default(),
            drain: DrainRate::default(),
        })
    }

    /// For the engine to write to.
    #[must_use]
    pub fn engine(&self) -> Arc<EngineMetrics> {
        Arc::clone(&self.engine)
    }

    /// One answer went out on a route (its pattern, never the path that came).
    pub fn answered(&self, route: &str, status: u16) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers.entry((route.to_owned(), status)).or_default() += 1;
    }

    /// Seconds until a place is likely to be free, from the rate at which sequences ended lately.
    #[must_use]
    pub fn retry_after(&self) -> u32 {
        self.drain.seconds_for(self.engine.snapshot().waiting)
    }

    /// The page of `/metrics`.
    #[must_use]
    pub fn page(&self, config: &EngineConfig, tiers: &TierFigures) -> String {
        let mut page = Page::default();
        self.gauges(&mut page, config);
        self.counters(&mut page);
        self.own(&mut page);
        self.adapters.write(&mut page);
        for family in &tiers.families {
            let kind = if family.counter { Kind::Counter } else { Kind::Gauge };
            page.family(&family.name, kind, family.help);
            for (label, text, value) in &family.series {
                let labels = [(*label, *text)];
                page.sample(&family.name, if label.is_empty() { &[] } else { &labels }, value);
            }
        }
        page.append(&self.latency.encode());
        page.finish()
    }

    fn labels(&self) -> [(&str, &str); 2] {
        [("engine", "0"), ("model_name", &self.model)]
    }

    fn gauges(&self, page: &mut Page, config: &EngineConfig) {
        let (now, labels) = (self.engine.snapshot(), &self.labels());
        let gauge = Kind::Gauge;
        page.one("vllm:num_requests_running", gauge, "Sequences that run.", labels, now.running);
        page.one("vllm:num_requests_waiting", gauge, "Sequences that wait.", labels, now.waiting);
        page.one("vllm:kv_cache_usage_perc", gauge, "KV blocks in use, 0 to 1.", labels, now.kv_usage);
        let (blocks, size) = (config.blocks.to_string(), config.block_size.to_string());
        let prefix = if config.prefix_cache { "True" } else { "False" };
        let cache = [
            ("block_size", &*size),
            ("enable_prefix_caching", prefix),
            ("engine", "0"),
            ("num_gpu_blocks", &blocks),
        ];
        page.one("vllm:cache_config_info", gauge, "The KV cache.", &cache, 1);
        self.lora_info(page, config);
        page.one("lorikeet_resident_bytes", gauge, "Bytes of resident adapters.", &[], now.resident_bytes);
        page.one("lorikeet_resident_adapters", gauge, "Resident adapters.", &[], now.resident_adapters);
        let cached = self.engine.cached_blocks.load(Ordering::Relaxed);
        page.one("lorikeet_kv_cached_blocks", gauge, "KV blocks kept for reuse.", &[], cached);
    }

    /// Exactly one series that is always there: a gateway that routes by it reads no line as "no adapter fits".
    fn lora_info(&self, page: &mut Page, config: &EngineConfig) {
        let (running, waiting) = self.adapters.active(&self.model);
        let most = config.sequences().to_string();
        let (running, waiting) = (running.join(","), waiting.join(","));
        let labels = [
            ("max_lora", &*most),
            ("running_lora_adapters", &*running),
            ("waiting_lora_adapters", &*waiting),
        ];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        page.one("vllm:lora_requests_info", Kind::Gauge, "Adapters that run and wait.", &labels, now);
    }

    fn counters(&self, page: &mut Page) {
        let (engine, labels) = (&self.engine, &self.labels());
        let table = [
            (
                "vllm:prefix_cache_queries_total",
                "Tokens looked up in the prefix cache.",
                &engine.prefix_queries,
            ),
            ("vllm:prefix_cache_hits_total", "Tokens found there.", &engine.prefix_hits),
            ("vllm:num_preemptions_total", "Sequences that had to start over.", &engine.preemptions),
            ("vllm:prompt_tokens_total", "Prompt tokens.", &engine.prompt_tokens),
            (
                "vllm:prompt_tokens_cached_total",
                "Of them, spared by the cache.",
                &engine.cached_prompt_tokens,
            ),
            ("vllm:prompt_tokens_recomputed_total", "Tokens run again.", &engine.recomputed_tokens),
            ("vllm:generation_tokens_total", "Tokens generated.", &engine.generation_tokens),
            ("vllm:corrupted_requests_total", "Requests with bad logits.", &engine.corrupted_requests),
        ];
        for (name, help, value) in table {
            page.one(name, Kind::Counter, help, labels, value.load(Ordering::Relaxed));
        }
        let name = "vllm:request_success_total";
        page.family(name, Kind::Counter, "Sequences that ended, by how.");
        for (reason, count) in [
            ("abort", &self.ended.abort),
            ("error", &self.ended.error),
            ("length", &self.ended.length),
            ("stop", &self.ended.stop),
        ] {
            let labels = [("engine", "0"), ("finished_reason", reason), ("model_name", &*self.model)];
            page.sample(name, &labels, count.load(Ordering::Relaxed));
        }
    }

    fn own(&self, page: &mut Page) {
        let engine = &self.engine;
        let table = [
            (
                "lorikeet_resident_evictions_total",
                "Adapters that left the device.",
                &engine.resident_evictions,
            ),
            (
                "lorikeet_resident_misses_total",
                "Adapters that were not on the device when a sequence needed them.",
                &engine.resident_misses,
            ),
            ("lorikeet_adapter_drains_total", "Adapters drained for a waiting one.", &engine.drains),
            ("lorikeet_steps_total", "Steps.", &engine.steps),
            ("lorikeet_failed_steps_total", "Steps that failed on the device.", &engine.failed_steps),
            ("lorikeet_panics_total", "Panics caught in a request's path.", &engine.panics),
        ];
        for (name, help, value) in table {
            page.one(name, Kind::Counter, help, &[], value.load(Ordering::Relaxed));
        }
        let name = "lorikeet_http_requests_total";
        page.family(name, Kind::Counter, "Answers by route and status.");
        for ((route, status), count) in self.answers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            page.sample(name, &[("route", route), ("status", &status.to_string())], count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::sequence::{Outcome, Watch};

    fn metrics() -> Arc<Metrics> {
        Arc::new(Metrics::new("base", 128).unwrap())
    }

    fn page(metrics: &Metrics) -> String {
        metrics.page(&EngineConfig::default(), &TierFigures::default())
    }

    #[test]
    fn the_lora_series_is_there_exactly_once_with_and_without_traffic() {
        let metrics = metrics();
        let lines = |page: &str| {
            let found = page.lines().filter(|line| line.starts_with("vllm:lora_requests_info{"));
            found.map(str::to_owned).collect::<Vec<_>>()
        };
        let idle = lines(&page(&metrics));
        assert_eq!(idle.len(), 1);
        assert!(idle[0].contains(r#"running_lora_adapters="",waiting_lora_adapters="""#), "{idle:?}");

        let mut running = Watch::begin(&metrics, "sql", 3, 9);
        running.started();
        let _waiting = Watch::begin(&metrics, "law", 3, 9);
        let _base = Watch::begin(&metrics, "base", 3, 9);
        let busy = lines(&page(&metrics));
        assert_eq!(busy.len(), 1);
        assert!(
            busy[0].contains(r#"max_lora="64",running_lora_adapters="sql",waiting_lora_adapters="law""#),
            "{busy:?}"
        );
    }

    #[test]
    fn no_series_is_written_twice() {
        let metrics = metrics();
        let mut watch = Watch::begin(&metrics, "other", 3, 9);
        watch.ended(Outcome::Stop);
        metrics.answered("/v1/models", 200);
        let page = page(&metrics);
        let mut series: Vec<_> = page
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.rsplit_once(' ').unwrap().0)
            .collect();
        let count = series.len();
        series.sort_unstable();
        series.dedup();
        assert_eq!(series.len(), count);
    }

    #[test]
    fn a_sequence_that_nobody_ended_counts_as_aborted_and_leaves_no_gauge_behind() {
        let metrics = metrics();
        let mut watch = Watch::begin(&metrics, "sql", 3, 9);
        watch.started();
        drop(watch);
        let page = page(&metrics);
        assert!(page.contains(
            r#"vllm:request_success_total{engine="0",finished_reason="abort",model_name="base"} 1"#
        ));
        assert!(page.contains("lorikeet_adapter_requests_running{adapter=\"sql\"} 0"));
    }
}
