//! What the operator tells Prometheus. Labels are closed lists: none is a name that a user chose.

use std::time::Duration;

use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

/// Seconds, from a look that changes nothing to one that waits for a slow API server.
const BUCKETS: [f64; 10] = [0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0];

/// All figures of a process. Clones count together.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// Looks at a fleet, by `result`: done or failed.
    pub reconciles: IntCounterVec,
    /// How long a look at a fleet took.
    pub reconcile_seconds: Histogram,
    /// What failed, by `reason`.
    pub errors: IntCounterVec,
    /// Fleets that are due and wait.
    pub queue: IntGauge,
    /// Fleets that are known.
    pub fleets: IntGauge,
    /// Calls of the API server, by `verb` and `code`.
    pub api_calls: IntCounterVec,
    /// Until the API server began its answer, by `verb`.
    pub api_seconds: HistogramVec,
    /// Watches that broke and were begun again, by `kind`.
    pub watch_errors: IntCounterVec,
    /// Objects of ours that cannot be read.
    pub malformed: IntGauge,
    /// 1 while this process leads.
    pub leader: IntGauge,
}

impl Metrics {
    /// All zero.
    ///
    /// # Errors
    /// A name is there twice: a fault of this file.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let name = |name: &str| format!("lorikeet_operator_{name}");
        let counter = |of: &str, help: &str, labels: &[&str]| {
            let made = IntCounterVec::new(Opts::new(name(of), help), labels)?;
            registry.register(Box::new(made.clone()))?;
            prometheus::Result::Ok(made)
        };
        let gauge = |of: &str, help: &str| {
            let made = IntGauge::new(name(of), help)?;
            registry.register(Box::new(made.clone()))?;
            prometheus::Result::Ok(made)
        };
        let seconds = |of: &str, help: &str| HistogramOpts::new(name(of), help).buckets(BUCKETS.to_vec());
        let reconcile_seconds =
            Histogram::with_opts(seconds("reconcile_seconds", "Time of a look at a fleet."))?;
        let api = seconds("api_seconds", "Time until the API server began its answer, by verb.");
        let api_seconds = HistogramVec::new(api, &["verb"])?;
        registry.register(Box::new(reconcile_seconds.clone()))?;
        registry.register(Box::new(api_seconds.clone()))?;
        Ok(Self {
            reconciles: counter("reconciles_total", "Looks at a fleet, by result.", &["result"])?,
            errors: counter("errors_total", "What failed, by reason.", &["reason"])?,
            queue: gauge("queue_length", "Fleets that are due and wait.")?,
            fleets: gauge("fleets", "Fleets that are known.")?,
            api_calls: counter("api_calls_total", "Calls of the API server.", &["verb", "code"])?,
            watch_errors: counter("watch_errors_total", "Watches that broke, by kind.", &["kind"])?,
            malformed: gauge("malformed_objects", "Objects of ours that cannot be read.")?,
            leader: gauge("leader", "1 while this process leads.")?,
            reconcile_seconds,
            api_seconds,
            registry,
        })
    }

    /// A look at a fleet took that long.
    pub fn reconciled(&self, done: bool, took: Duration) {
        self.reconciles.with_label_values(&[if done { "done" } else { "failed" }]).inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    /// The page that Prometheus reads.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut page) {
            tracing::error!(%error, "metrics cannot be written");
        }
        String::from_utf8(page).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_on_the_page() {
        let metrics = Metrics::new().unwrap();
        metrics.reconciled(true, Duration::from_millis(3));
        metrics.errors.with_label_values(&["Conflict"]).inc();
        metrics.leader.set(1);
        let page = metrics.page();
        for line in [
            "lorikeet_operator_reconciles_total{result=\"done\"} 1",
            "lorikeet_operator_errors_total{reason=\"Conflict\"} 1",
            "lorikeet_operator_leader 1",
            "lorikeet_operator_reconcile_seconds_count 1",
        ] {
            assert!(page.lines().any(|is| is == line), "{line} is not in\n{page}");
        }
    }
}
