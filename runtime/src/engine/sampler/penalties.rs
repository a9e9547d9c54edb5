//! Penalties on tokens that were there before. Pure.

use std::collections::{HashMap, HashSet};

use crate::engine::request::Sampling;

/// What was there: the prompt's ids, and how often the output has each.
#[derive(Debug, Default)]
pub(super) struct Penalties {
    prompt: HashSet<u32>,
    output: HashMap<u32, u16>,
}

impl Penalties {
    /// `None` where `sampling` has none.
    pub(super) fn of(sampling: &Sampling, prompt: &[u32]) -> Option<Self> {
        let repeats = sampling.repetition_penalty != 1.0;
        let counts = sampling.frequency_penalty != 0.0 || sampling.presence_penalty != 0.0;
        let prompt = if repeats { prompt.iter().copied().collect() } else { HashSet::new() };
        (repeats || counts).then(|| Self { prompt, output: HashMap::new() })
    }

    /// One more token of the output.
    pub(super) fn count(&mut self, id: u32) {
        let count = self.output.entry(id).or_default();
        *count = count.saturating_add(1);
    }

    /// Repetition over prompt and output (a positive logit is divided, a negative one multiplied), then frequency and
    /// presence over the output.
    pub(super) fn apply(&self, sampling: &Sampling, logits: &mut [f32]) {
        let repetition = sampling.repetition_penalty;
        if repetition != 1.0 {
            let only_output = self.output.keys().filter(|id| !self.prompt.contains(id));
            for &id in self.prompt.iter().chain(only_output) {
                let logit = &mut logits[id as usize];
                *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            }
        }
        for (&id, &count) in &self.output {
            logits[id as usize] -= sampling.frequency_penalty * f32::from(count) + sampling.presence_penalty;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(sampling: &Sampling) -> [f32; 4] {
        let mut penalties = Penalties::of(sampling, &[0, 1, 1]).unwrap();
        for id in [1, 2, 2] {
            penalties.count(id);
        }
        let mut logits = [1.0, -1.0, 1.0, 1.0];
        penalties.apply(sampling, &mut logits);
        logits
    }

    #[test]
    fn repetition_is_over_prompt_and_output_once_each() {
        assert_eq!(
            applied(&Sampling { repetition_penalty: 2.0, ..Sampling::greedy() }),
            [0.5, -2.0, 0.5, 1.0]
        );
    }

    #[test]
    fn frequency_and_presence_are_over_the_output() {
        assert_eq!(
            applied(&Sampling { frequency_penalty: 0.25, ..Sampling::greedy() }),
            [1.0, -1.25, 0.5, 1.0]
        );
        assert_eq!(
            applied(&Sampling { presence_penalty: 0.25, ..Sampling::greedy() }),
            [1.0, -1.25, 0.75, 1.0]
        );
    }

    #[test]
    fn no_penalty_costs_nothing() {
        assert!(Penalties::of(&Sampling::greedy(), &[1, 2]).is_none());
    }
}
