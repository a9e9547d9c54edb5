//! What a run says, in numbers: in all and per adapter. Pure; the same numbers become the table and the JSON.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use crate::client::Seen;
use crate::drive::Run;
use crate::scenario::{Arrivals, Scenario};
use crate::statistics::Summary;

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The server.
    pub(crate) url: String,
    /// Users of a closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) users: Option<usize>,
    /// Requests a second of an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<f64>,
    /// Of what was drawn.
    pub(crate) seed: u64,
    /// How long was measured.
    pub(crate) seconds: f64,
    /// Everything together.
    pub(crate) total: Measured,
    /// By adapter; `base` is the base model.
    pub(crate) adapters: BTreeMap<String, Measured>,
}

/// The requests of one adapter, or of all.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Measured {
    /// That ended as they should.
    pub(crate) requests: usize,
    /// That did not, by what was wrong.
    pub(crate) errors: BTreeMap<String, usize>,
    /// Requests a second.
    pub(crate) requests_per_second: f64,
    /// Tokens of prompts a second.
    pub(crate) prompt_tokens_per_second: f64,
    /// Tokens of answers a second, counted when they arrived.
    pub(crate) output_tokens_per_second: f64,
    /// Tokens of all prompts.
    pub(crate) prompt_tokens: u64,
    /// Tokens of all answers.
    pub(crate) output_tokens: u64,
    /// From sending to the first output, milliseconds.
    pub(crate) time_to_first_token_ms: Option<Summary>,
    /// Between one piece of output and the next, milliseconds.
    pub(crate) inter_token_ms: Option<Summary>,
    /// From sending to the end, milliseconds.
    pub(crate) total_ms: Option<Summary>,
}

impl Report {
    /// Of `run`.
    pub(crate) fn of(scenario: &Scenario, run: &Run) -> Self {
        let seconds = run.over.duration_since(run.began).as_secs_f64();
        let mut by_adapter: BTreeMap<String, Vec<&Seen>> = BTreeMap::new();
        for one in &run.seen {
            by_adapter.entry(scenario.traffic.name(one.adapter).to_owned()).or_default().push(one);
        }
        let all: Vec<&Seen> = run.seen.iter().collect();
        let (users, rate) = match scenario.arrivals {
            Arrivals::Users { users, .. } => (Some(users), None),
            Arrivals::Poisson { rate } => (None, Some(rate)),
        };
        Self {
            url: scenario.url.clone(),
            users,
            rate,
            seed: scenario.traffic.seed,
            seconds,
            total: Measured::of(&all, seconds, run.over),
            adapters: by_adapter
                .into_iter()
                .map(|(name, seen)| (name, Measured::of(&seen, seconds, run.over)))
                .collect(),
        }
    }
}

impl Measured {
    fn of(seen: &[&Seen], seconds: f64, over: Instant) -> Self {
        let (good, bad): (Vec<&Seen>, Vec<&Seen>) = seen.iter().partition(|one| one.error.is_none());
        let mut errors = BTreeMap::new();
        for error in bad.iter().filter_map(|one| one.error.clone()) {
            *errors.entry(error).or_default() += 1;
        }
        let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        let per_second = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
        let prompt_tokens = good.iter().map(|one| one.prompt_tokens).sum();
        let in_time: f64 = good.iter().map(|one| one.tokens_until(over)).sum();
        let ended = good.iter().filter(|one| one.ended <= over).count();
        Self {
            requests: good.len(),
            errors,
            requests_per_second: per_second(ended as f64),
            prompt_tokens_per_second: per_second(prompt_tokens as f64),
            output_tokens_per_second: per_second(in_time),
            prompt_tokens,
            output_tokens: good.iter().map(|one| one.output_tokens).sum(),
            time_to_first_token_ms: Summary::of(good.iter().filter_map(|one| one.first()).map(milliseconds)),
            inter_token_ms: Summary::of(good.iter().flat_map(|one| one.gaps()).map(milliseconds)),
            total_ms: Summary::of(good.iter().map(|one| milliseconds(one.total()))),
        }
    }
}

impl Seen {
    /// The tokens that had arrived at `moment`; a piece counts for its share of the answer's tokens.
    fn tokens_until(&self, moment: Instant) -> f64 {
        if self.pieces.is_empty() {
            return self.output_tokens as f64;
        }
        let arrived = self.pieces.iter().filter(|piece| **piece <= moment).count();
        self.output_tokens as f64 * arrived as f64 / self.pieces.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn seen(began: Instant, error: Option<&str>) -> Seen {
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        Seen {
            adapter: None,
            sent: at(0),
            pieces: vec![at(20), at(30), at(50), at(90)],
            ended: at(100),
            prompt_tokens: 10,
            output_tokens: 8,
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn times_and_rates_are_those_of_the_good_requests() {
        let began = Instant::now();
        let (good, bad) = (seen(began, None), seen(began, Some("status 429")));
        let measured = Measured::of(&[&good, &bad], 0.1, began + Duration::from_millis(100));
        assert_eq!((measured.requests, measured.errors["status 429"]), (1, 1));
        assert_eq!(measured.time_to_first_token_ms.unwrap().p50, 20.0);
        assert_eq!(measured.inter_token_ms.unwrap().p50, 20.0);
        assert_eq!(measured.total_ms.unwrap().mean, 100.0);
        assert!((measured.output_tokens_per_second - 80.0).abs() < 1e-6);
        assert!((measured.prompt_tokens_per_second - 100.0).abs() < 1e-6);
    }

    #[test]
    fn tokens_after_the_end_of_the_measurement_do_not_count() {
        let began = Instant::now();
        let good = seen(began, None);
        let measured = Measured::of(&[&good], 0.05, began + Duration::from_millis(50));
        assert!(
            (measured.output_tokens_per_second - 6.0 / 0.05).abs() < 1e-6,
            "three of four pieces arrived"
        );
        assert_eq!(measured.requests_per_second, 0.0);
    }
}
