//! A bar on a terminal while a run goes on; nothing where there is no terminal.

use std::cell::Cell;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::client::Seen;
use crate::scenario::{Scenario, Until};

/// The bar, on standard error.
pub(crate) struct Progress {
    bar: ProgressBar,
    until: Until,
    began: Instant,
    tokens: Cell<u64>,
    failed: Cell<u64>,
}

impl Progress {
    /// A bar for `scenario`, which is about to begin.
    pub(crate) fn of(scenario: &Scenario) -> Self {
        let length = match scenario.until {
            Until::Requests(requests) => requests as u64,
            Until::Elapsed(time) => time.as_millis() as u64,
        };
        let style = ProgressStyle::with_template("{elapsed_precise} {bar:40} {percent:>3}%  {msg}");
        let bar = ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { bar, until: scenario.until, began: Instant::now(), tokens: Cell::new(0), failed: Cell::new(0) }
    }

    /// One request is over.
    pub(crate) fn step(&self, seen: &Seen) {
        self.tokens.set(self.tokens.get() + seen.output_tokens);
        self.failed.set(self.failed.get() + u64::from(seen.error.is_some()));
        match self.until {
            Until::Requests(_) => self.bar.inc(1),
            Until::Elapsed(_) => self.bar.set_position(self.began.elapsed().as_millis() as u64),
        }
        let rate = self.tokens.get() as f64 / self.began.elapsed().as_secs_f64();
        self.bar.set_message(format!("{rate:.0} tokens/s, {} failed", self.failed.get()));
    }

    /// Takes the bar away.
    pub(crate) fn done(&self) {
        self.bar.finish_and_clear();
    }
}
