//! How much memory the KV cache gets and what the engine may run in it. Pure: numbers in, numbers out.

use crate::config::Capacity;
use crate::config::size::Size;
use crate::engine::config::EngineConfig;

/// Tokens of a KV block.
pub(super) const BLOCK: usize = 16;

/// Where nobody says how long a sequence may be: more would cost memory that hardly anyone uses.
const LONGEST_BY_DEFAULT: usize = 32_768;

/// What is known before the weights are loaded.
pub(super) struct Known {
    /// The context that the model was made for.
    pub(super) trained: usize,
    /// What was asked for.
    pub(super) asked: Option<usize>,
    /// Bytes of a token's keys and values.
    pub(super) token_bytes: usize,
    /// Bytes of memory that nobody uses, before the weights are loaded.
    pub(super) free: u64,
    /// Bytes of the weights.
    pub(super) weights: u64,
    /// The ids that end a text.
    pub(super) eos_ids: Vec<u32>,
}

/// Limits that exclude each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A context that the model was not made for.
    #[error("--max-model-length: expected at most {trained}, which the model was made for, got {asked}")]
    TooLong {
        /// The model's.
        trained: usize,
        /// Asked for.
        asked: usize,
    },
    /// A cache that holds nothing.
    #[error("--kv-memory: expected at least {least} (one block of {BLOCK} tokens), got {given}")]
    NoBlock {
        /// Bytes of a block.
        least: Size,
        /// Given.
        given: Size,
    },
}

/// The engine's limits. The cache holds every sequence at full length where a quarter of the free memory allows it.
pub(super) fn engine(known: Known, capacity: &Capacity) -> Result<EngineConfig, PlanError> {
    let max_context = match known.asked {
        Some(asked) if asked > known.trained => {
            return Err(PlanError::TooLong { trained: known.trained, asked });
        }
        Some(asked) => asked,
        None => known.trained.min(LONGEST_BY_DEFAULT),
    };
    let block_bytes = (known.token_bytes.max(1) * BLOCK) as u64;
    let wanted = (max_context.div_ceil(BLOCK) as u64).saturating_mul(capacity.max_sequences as u64);
    let bytes = match capacity.kv_bytes {
        Some(bytes) => bytes,
        None => (known.free.saturating_sub(known.weights) / 4).max(block_bytes * 64),
    };
    if bytes < block_bytes {
        return Err(PlanError::NoBlock { least: Size(block_bytes), given: Size(bytes) });
    }
    // A block's number has 32 bits on its way through the batch, and a slot's too.
    let most = u64::from(u32::MAX) / BLOCK as u64 - 1;
    let blocks = usize::try_from((bytes / block_bytes).min(wanted).min(most)).unwrap_or(1).max(1);
    let config = EngineConfig {
        max_sequences: capacity.max_sequences,
        max_step_tokens: capacity.max_step_tokens,
        max_waiting: capacity.max_queue,
        max_context,
        blocks,
        block_size: BLOCK,
        prefix_cache: capacity.prefix_cache,
        resident_bytes: capacity.resident_bytes,
        eos_ids: known.eos_ids,
        ..EngineConfig::default()
    };
    Ok(EngineConfig { max_logits_rows: config.max_logits_rows.max(config.sequences()), ..config })
}

/// Bytes that a line of `/proc/meminfo` names as available; 8 GiB where there is no such line.
pub(super) fn available(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map_or(8 << 30, |kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::KvType;

    fn capacity(kv_bytes: Option<u64>) -> Capacity {
        Capacity {
            kv_bytes,
            kv_type: KvType::Auto,
            resident_bytes: 1 << 30,
            max_sequences: 4,
            max_queue: 8,
            max_step_tokens: 64,
            prefix_cache: true,
        }
    }

    fn known(free: u64) -> Known {
        Known { trained: 100, asked: None, token_bytes: 10, free, weights: 0, eos_ids: vec![2] }
    }

    #[test]
    fn a_small_model_gets_room_for_every_sequence_and_no_more() {
        let config = engine(known(1 << 40), &capacity(None)).unwrap();
        assert_eq!((config.max_context, config.blocks), (100, 4 * 7));
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn a_large_one_gets_a_quarter_of_what_is_free() {
        let config =
            engine(Known { token_bytes: 1 << 20, weights: 1 << 30, ..known(3 << 30) }, &capacity(None));
        assert_eq!(config.unwrap().blocks, 28, "512 MiB would hold 32 blocks, 4 sequences need 28");
    }

    #[test]
    fn limits_that_exclude_each_other_are_refused() {
        let asked = engine(Known { asked: Some(200), ..known(1) }, &capacity(None)).unwrap_err();
        assert_eq!(asked, PlanError::TooLong { trained: 100, asked: 200 });
        let none = engine(known(1), &capacity(Some(100))).unwrap_err().to_string();
        assert_eq!(none, "--kv-memory: expected at least 160B (one block of 16 tokens), got 100B");
    }

    #[test]
    fn the_memory_that_is_free_is_read_from_the_system() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), 2 << 20);
        assert_eq!(available("nothing"), 8 << 30);
    }
}
