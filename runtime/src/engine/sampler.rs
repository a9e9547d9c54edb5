//! From a row of logits to a token, as vLLM does it: log-probabilities of the raw logits, then bias, minimum length,
//! penalties, temperature, min-p, top-k, top-p, and a draw. The numbers are the kernels'; the order is here. Pure.
//!
//! Nothing here depends on when or beside whom a sequence runs: the random number of a sequence's i-th token follows
//! from its seed and i alone, so a preempted sequence goes on as if nothing had been.

mod penalties;
mod random;

use lorikeet_kernels::sample::{self, Draw, DrawScratch};
use penalties::Penalties;

use crate::engine::request::{Sampling, Token, TokenLogprobs};

/// The logits of a row are not numbers: its request cannot go on, others can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the logits are not finite")]
pub struct NotFinite;

/// One sequence's way to choose.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    penalties: Option<Penalties>,
}

/// What of the engine all samplers use in turn.
#[derive(Debug, Default)]
pub struct Scratch {
    raw: Vec<f32>,
    draw: DrawScratch,
}

impl Sampler {
    /// A sampler for the sequence that begins with `prompt`.
    #[must_use]
    pub fn new(sampling: Sampling, prompt: &[u32]) -> Self {
        let penalties = Penalties::of(&sampling, prompt);
        Self { sampling, penalties }
    }

    /// Chooses token number `step` (from 0) of the output. `logits` is overwritten. None of `forbidden` is chosen.
    ///
    /// # Errors
    /// [`NotFinite`] when one of the logits is not a finite number.
    pub fn choose(
        &mut self,
        logits: &mut [f32],
        step: usize,
        forbidden: &[u32],
        scratch: &mut Scratch,
    ) -> Result<Token, NotFinite> {
        check(logits)?;
        let changes =
            !forbidden.is_empty() || !self.sampling.logit_bias.is_empty() || self.penalties.is_some();
        if changes && self.sampling.logprobs.is_some() {
            scratch.raw.clear();
            scratch.raw.extend_from_slice(logits);
        }
        for &(id, bias) in &self.sampling.logit_bias {
            logits[id as usize] += bias;
        }
        for &id in forbidden {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        if let Some(penalties) = &self.penalties {
            penalties.apply(&self.sampling, logits);
        }
        let id = self.pick(logits, step, &mut scratch.draw);
        let raw = if changes { &scratch.raw } else { &*logits };
        let logprobs = self.sampling.logprobs.map(|top| score(raw, id, top));
        if let Some(penalties) = &mut self.penalties {
            penalties.count(id);
        }
        Ok(Token { id, logprobs })
    }

    fn pick(&self, logits: &[f32], step: usize, scratch: &mut DrawScratch) -> u32 {
        let sampling = &self.sampling;
        // vLLM's bound: what is colder is greedy.
        if sampling.temperature < 1e-5 {
            return sample::argmax(logits);
        }
        let how = Draw {
            temperature: sampling.temperature,
            top_k: sampling.top_k as usize,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
        };
        sample::draw(logits, &how, random::unit(sampling.seed, step as u64), scratch)
    }

    /// How likely the prompt's token `id` was, where that is asked for.
    ///
    /// # Errors
    /// [`NotFinite`] when one of the logits is not a finite number.
    pub fn score(&self, logits: &[f32], id: u32) -> Result<TokenLogprobs, NotFinite> {
        check(logits)?;
        Ok(score(logits, id, self.sampling.prompt_logprobs.unwrap_or(0)))
    }
}

fn score(logits: &[f32], id: u32, top: u32) -> TokenLogprobs {
    let (logprob, likeliest) = sample::log_probabilities(logits, id, (top as usize).min(logits.len()));
    let above = sample::count_above(logits, logits[id as usize]);
    let top = likeliest.iter().map(|likely| (likely.id, likely.value)).collect();
    TokenLogprobs { id, logprob, rank: above + 1, top }
}

fn check(logits: &[f32]) -> Result<(), NotFinite> {
    if sample::all_finite(logits) { Ok(()) } else { Err(NotFinite) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(sampling: Sampling, prompt: &[u32], logits: &[f32]) -> Token {
        let mut sampler = Sampler::new(sampling, prompt);
        sampler.choose(&mut logits.to_vec(), 0, &[], &mut Scratch::default()).unwrap()
    }

    #[test]
    fn zero_temperature_takes_the_greatest() {
        assert_eq!(choose(Sampling::greedy(), &[0], &[0.0, 3.0, 2.0]), Token { id: 1, logprobs: None });
    }

    #[test]
    fn logits_that_are_not_finite_are_refused() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut sampler = Sampler::new(Sampling::greedy(), &[0]);
            let mut logits = [0.0, odd, 1.0];
            assert_eq!(sampler.score(&logits, 0), Err(NotFinite));
            assert_eq!(sampler.choose(&mut logits, 0, &[], &mut Scratch::default()), Err(NotFinite));
        }
    }

    #[test]
    fn log_probabilities_are_of_the_raw_logits_whatever_changes_the_choice() {
        let sampling = Sampling { logit_bias: vec![(2, 100.0)], logprobs: Some(2), ..Sampling::greedy() };
        let token = choose(sampling, &[0], &[0.0, 1.0, 0.5]);
        let logprobs = token.logprobs.unwrap();
        let all = (1.0_f32 + 1.0_f32.exp() + 0.5_f32.exp()).ln();
        assert_eq!((token.id, logprobs.id, logprobs.rank), (2, 2, 2));
        assert!((logprobs.logprob - (0.5 - all)).abs() < 1e-6);
        assert_eq!(logprobs.top.iter().map(|top| top.0).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn what_is_forbidden_is_not_chosen() {
        let mut sampler = Sampler::new(Sampling::greedy(), &[0]);
        let token = sampler.choose(&mut [0.0, 3.0, 2.0], 0, &[1, 99], &mut Scratch::default()).unwrap();
        assert_eq!(token.id, 2);
    }

    #[test]
    fn penalties_count_what_was_chosen() {
        let sampling = Sampling { frequency_penalty: 0.7, ..Sampling::greedy() };
        let mut sampler = Sampler::new(sampling, &[0]);
        let ids: Vec<u32> = (0..4)
            .map(|step| sampler.choose(&mut [0.0, 3.0, 2.0], step, &[], &mut Scratch::default()).unwrap().id)
            .collect();
        assert_eq!(ids, [1, 1, 2, 1], "3.0, 2.3, then 1.6 against 2.0, then 1.6 against 1.3");
    }

    #[test]
    fn a_draw_depends_on_the_seed_and_the_tokens_number_alone() {
        let logits: Vec<f32> = (0..50_u8).map(|i| f32::from(i % 7) / 3.0).collect();
        let draw = |seed, step| {
            let sampling = Sampling { temperature: 1.0, seed, ..Sampling::greedy() };
            let mut sampler = Sampler::new(sampling, &[0]);
            sampler.choose(&mut logits.clone(), step, &[], &mut Scratch::default()).unwrap().id
        };
        let run = |seed| (0..20).map(|step| draw(seed, step)).collect::<Vec<_>>();
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
