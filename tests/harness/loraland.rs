//! LoRA Land in miniature: where it lies, its tasks, and how their answers are scored.

mod score;
mod task;

pub use score::score;
pub use task::{Row, Scores, Task, results, tasks};

use std::path::PathBuf;

use crate::args;

/// The base model.
#[must_use]
pub fn base() -> PathBuf {
    args::root().join("deploy/loraland/base")
}

/// The folder of the 25 adapters.
#[must_use]
pub fn adapters() -> PathBuf {
    args::root().join("deploy/loraland/adapters")
}
