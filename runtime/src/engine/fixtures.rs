//! What the engine's tests share: adapters of any size without weights.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::adapters::pin::{Generation, Pin, PinCount};
use crate::adapters::weights::AdapterWeights;
use crate::digest::Digest;
use crate::engine::request::{Limits, RequestId};
use crate::engine::sequence::Job;

/// The generation of content called `name`.
pub(crate) fn generation_of(name: &str) -> Generation {
    Generation::of(Digest::of(name.as_bytes()))
}

/// A pin on weights that claim to be `bytes` long and change nothing.
pub(crate) fn pin_of(name: &str, bytes: u64) -> Pin {
    counted_pin(name, bytes, &Arc::default())
}

/// The same, whose count the test can read.
pub(crate) fn counted_pin(name: &str, bytes: u64, count: &Arc<PinCount>) -> Pin {
    let weights = AdapterWeights {
        generation: generation_of(name),
        rank: 1,
        bytes,
        target_modules: Vec::new(),
        base_model: Arc::default(),
        layers: Vec::new(),
        embedding: None,
        head: None,
    };
    Pin::new(Arc::new(weights), Arc::clone(count))
}

/// A job for the base model that makes up to 8 tokens.
pub(crate) fn job(prompt: &[u32]) -> Job {
    Job {
        id: RequestId(0),
        prompt: prompt.to_vec(),
        adapter: None,
        salt: 0,
        weight: NonZeroU32::MIN,
        limits: limits(8),
        score_prompt: false,
        deadline: None,
    }
}

/// At most so many tokens, whatever they are.
pub(crate) fn limits(max_tokens: u32) -> Limits {
    Limits { max_tokens, min_tokens: 0, ignore_eos: true, stop_token_ids: Vec::new() }
}
