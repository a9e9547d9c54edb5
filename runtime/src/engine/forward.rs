//! The seam between the engine and a model: a batch goes in, logits come out. Tests stand a scripted model behind it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::adapters::pin::Generation;
use crate::adapters::weights::AdapterWeights;
use crate::engine::batch::Batch;

/// The adapters that running sequences sit on, by generation.
pub type Residents = HashMap<Generation, Arc<AdapterWeights>>;

/// One step of a model. Owned by the engine's thread.
pub trait Forward: Send {
    /// Runs `batch` and returns its logits, `[batch.logits_rows.len()][vocabulary]`, which the sampler may overwrite.
    /// Keys and values go to `batch.slots`. All of a layer's are written before any row of the layer reads: a sequence
    /// may share blocks that another one fills in this very step.
    ///
    /// A row's logits have the same bits whatever the other rows are.
    ///
    /// # Errors
    /// [`ForwardError`] when the batch names a generation that is not among `residents`, or the device failed.
    fn forward(&mut self, batch: &Batch, residents: &Residents) -> Result<&mut [f32], ForwardError>;

    /// The length of a logits row.
    fn vocabulary(&self) -> usize;
}

/// Why a step failed. It fails the step's requests, not the process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// A segment's generation is not resident: a fault of the scheduler.
    #[error("generation {0:?} is not resident")]
    NotResident(Generation),
    /// The device refused the work.
    #[error("device: {0}")]
    Device(String),
}
