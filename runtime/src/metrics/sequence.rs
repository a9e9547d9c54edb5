//! What one sequence adds to the figures, from its arrival to its end, however it ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Metrics;
use super::series::Series;

/// A sequence under way. Dropped without an end, it counts as aborted: the client went away.
pub struct Watch {
    metrics: Arc<Metrics>,
    series: Arc<Series>,
    arrived: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    tokens: u32,
    over: bool,
}

/// How a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// At a stop id or stop string.
    Stop,
    /// At its most tokens.
    Length,
    /// It failed.
    Error,
    /// The client went away.
    Abort,
}

impl Watch {
    /// A sequence of the model `name` arrives, with so many prompt tokens and asking for at most so many more.
    #[must_use]
    pub fn begin(metrics: &Arc<Metrics>, name: &str, prompt: usize, most: u32) -> Self {
        let series = metrics.adapters.request(name);
        series.prompt_tokens.fetch_add(prompt as u64, Ordering::Relaxed);
        series.waiting.fetch_add(1, Ordering::Relaxed);
        metrics.latency.prompt_tokens.observe(prompt as f64);
        metrics.latency.max_tokens.observe(f64::from(most));
        Self {
            metrics: Arc::clone(metrics),
            series,
            arrived: Instant::now(),
            started: None,
            first_token: None,
            last_token: None,
            tokens: 0,
            over: false,
        }
    }

    /// It was asked for together with so many choices.
    pub fn choices(&self, choices: u32) {
        self.metrics.latency.choices.observe(f64::from(choices));
    }

    /// Its adapter's weights had to be waited for.
    pub fn cold_start(&self) {
        self.series.cold_starts.fetch_add(1, Ordering::Relaxed);
    }

    /// Its first step begins.
    pub fn started(&mut self) {
        if self.started.is_none() && !self.over {
            let now = Instant::now();
            self.started = Some(now);
            self.metrics.latency.queue.observe(now.duration_since(self.arrived).as_secs_f64());
            self.series.waiting.fetch_sub(1, Ordering::Relaxed);
            self.series.running.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A token came.
    pub fn token(&mut self) {
        let now = Instant::now();
        self.tokens += 1;
        self.series.generation_tokens.fetch_add(1, Ordering::Relaxed);
        match self.last_token.replace(now) {
            Some(last) => {
                self.metrics.latency.between_tokens.observe(now.duration_since(last).as_secs_f64());
            }
            None => {
                self.first_token = Some(now);
                let after = now.duration_since(self.arrived);
                self.metrics.latency.first_token.observe(after.as_secs_f64());
                self.series.first_token(after);
            }
        }
    }

    /// It ended. Only the first call counts.
    pub fn ended(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let now = Instant::now();
        let gauge = if self.started.is_some() { &self.series.running } else { &self.series.waiting };
        gauge.fetch_sub(1, Ordering::Relaxed);
        let (ended, series) = (&self.metrics.ended, &self.series);
        let (total, own) = match outcome {
            Outcome::Stop => (&ended.stop, &series.finished),
            Outcome::Length => (&ended.length, &series.finished),
            Outcome::Error => (&ended.error, &series.failed),
            Outcome::Abort => (&ended.abort, &series.aborted),
        };
        total.fetch_add(1, Ordering::Relaxed);
        own.fetch_add(1, Ordering::Relaxed);
        self.metrics.drain.ended(now);
        if matches!(outcome, Outcome::Stop | Outcome::Length) {
            self.observe_times(now);
        }
    }

    fn observe_times(&self, now: Instant) {
        let latency = &self.metrics.latency;
        latency.end_to_end.observe(now.duration_since(self.arrived).as_secs_f64());
        latency.generation_tokens.observe(f64::from(self.tokens));
        let Some(started) = self.started else { return };
        latency.inference.observe(now.duration_since(started).as_secs_f64());
        let (Some(first), Some(last)) = (self.first_token, self.last_token) else { return };
        latency.prefill.observe(first.duration_since(started).as_secs_f64());
        let decode = last.duration_since(first).as_secs_f64();
        latency.decode.observe(decode);
        if self.tokens > 1 {
            latency.per_token.observe(decode / f64::from(self.tokens - 1));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended(Outcome::Abort);
    }
}
