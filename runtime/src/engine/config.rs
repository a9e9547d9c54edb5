//! What an engine is allowed to use: typed by the user, checked once, then passed by value. Pure.

use std::time::Duration;

/// The limits of an engine.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// Sequences that run at the same time. More wait.
    pub max_sequences: usize,
    /// Rows of one step: decode rows first, the rest goes to prompts, in chunks. It bounds a step's time, and with it
    /// the gap between two tokens of a stream while a long prompt is read.
    pub max_step_tokens: usize,
    /// Rows of one step whose logits are computed: at least `max_sequences`; what is beyond serves prompt log-probabilities.
    pub max_logits_rows: usize,
    /// Requests that may wait. One more is refused with `QueueFull`.
    pub max_waiting: usize,
    /// Tokens of one sequence, prompt and output.
    pub max_context: usize,
    /// KV blocks of the device.
    pub blocks: usize,
    /// Tokens of a KV block.
    pub block_size: usize,
    /// Whether finished and running sequences share the blocks of equal prefixes.
    pub prefix_cache: bool,
    /// Bytes that resident adapters may take together.
    pub resident_bytes: u64,
    /// How long a request may wait for its adapter's bytes before a running adapter is drained for it.
    pub drain_after: Duration,
    /// How long a drained adapter's running sequences may still take before they are preempted (and recomputed later).
    pub drain_for: Duration,
    /// The ids that end a sequence of this model.
    pub eos_ids: Vec<u32>,
    /// Steps that may fail one after the other before the engine gives up the device.
    pub max_device_failures: u32,
}

/// A limit that cannot be: names the field, what it must be and what came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}, got {got}")]
pub struct InvalidConfig {
    field: &'static str,
    expected: String,
    got: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_sequences: 64,
            max_step_tokens: 256,
            max_logits_rows: 128,
            max_waiting: 512,
            max_context: 8192,
            blocks: 2048,
            block_size: 16,
            prefix_cache: true,
            resident_bytes: 8 << 30,
            drain_after: Duration::from_secs(3),
            drain_for: Duration::from_secs(30),
            eos_ids: Vec::new(),
            max_device_failures: 3,
        }
    }
}

impl EngineConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// The first [`InvalidConfig`].
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let at_least = |field, got, least: usize| {
            let refused = || InvalidConfig { field, expected: format!("at least {least}"), got };
            if got < least { Err(refused()) } else { Ok(()) }
        };
        at_least("max_sequences", self.max_sequences, 1)?;
        at_least("max_step_tokens", self.max_step_tokens, 1)?;
        at_least("max_logits_rows", self.max_logits_rows, self.sequences())?;
        at_least("max_waiting", self.max_waiting, 1)?;
        at_least("max_context", self.max_context, 2)?;
        at_least("block_size", self.block_size, 1)?;
        at_least("blocks", self.blocks, 2_usize.div_ceil(self.block_size))?;
        at_least("max_device_failures", self.max_device_failures as usize, 1)
    }

    /// Tokens that one sequence can have: the model's context, or what the KV cache holds where that is less.
    #[must_use]
    pub fn context(&self) -> usize {
        self.max_context.min(self.blocks.saturating_mul(self.block_size))
    }

    /// Sequences that run at the same time: each decode row has its place in every step.
    #[must_use]
    pub fn sequences(&self) -> usize {
        self.max_sequences.min(self.max_step_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_limits_are_valid() {
        assert_eq!(EngineConfig::default().check(), Ok(()));
    }

    #[test]
    fn a_limit_that_cannot_be_is_named_with_what_was_expected_and_what_came() {
        let good = EngineConfig::default;
        for (config, message) in [
            (EngineConfig { max_sequences: 0, ..good() }, "max_sequences: expected at least 1, got 0"),
            (EngineConfig { max_step_tokens: 0, ..good() }, "max_step_tokens: expected at least 1, got 0"),
            (EngineConfig { max_logits_rows: 63, ..good() }, "max_logits_rows: expected at least 64, got 63"),
            (EngineConfig { max_waiting: 0, ..good() }, "max_waiting: expected at least 1, got 0"),
            (EngineConfig { max_context: 1, ..good() }, "max_context: expected at least 2, got 1"),
            (EngineConfig { block_size: 0, ..good() }, "block_size: expected at least 1, got 0"),
            (EngineConfig { blocks: 0, ..good() }, "blocks: expected at least 1, got 0"),
            (
                EngineConfig { max_device_failures: 0, ..good() },
                "max_device_failures: expected at least 1, got 0",
            ),
        ] {
            assert_eq!(config.check().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn the_context_is_bounded_by_what_the_cache_holds() {
        let config = EngineConfig { max_context: 100, blocks: 3, block_size: 16, ..EngineConfig::default() };
        assert_eq!(config.context(), 48);
    }
}
