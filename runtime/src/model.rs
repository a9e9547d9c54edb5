//! The base models: each family once, over shared layers.
//!
//! [`load::ModelFiles`] opens a Hugging Face directory or a GGUF file and loads a [`Model`], which takes a batch through
//! embedding, layers and head. Must not know of requests, names or text.

use std::path::Path;
use std::sync::Arc;

use lorikeet_kernels::device::Device;
use lorikeet_kernels::kv_cache::KvCache;
use lorikeet_kernels::rope::RopeTable;

use crate::digest::Digest;
use crate::engine::batch::Batch;
use crate::engine::forward::{Forward, ForwardError, Residents};
use crate::layers::embedding::Embedding;
use crate::layers::head::Head;
use crate::layers::pass::Pass;
use crate::layers::workspace::Workspace;
use crate::model::config::ModelConfig;
use crate::model::decoder::Decoder;
use crate::model::modules::{BaseRows, ModelShape};
use crate::model::weights::Weights;

mod assemble;
mod checkpoint;
pub mod config;
mod decoder;
pub mod family;
mod gemma;
mod gemma2;
mod llama;
pub mod load;
mod mistral;
pub mod modules;
mod names;
pub mod options;
mod phi;
mod phi3;
mod plan;
mod qwen2;
mod qwen3;
pub(crate) mod shape;
mod tensors;
mod weights;

pub use checkpoint::FileLimits;
pub use load::{LoadError, ModelFiles};
pub use options::{KvChoice, KvOptions, LoadOptions, Quantize};

/// A loaded model: weights, KV cache and the buffers of a step.
pub struct Model {
    device: Device,
    config: ModelConfig,
    rope: RopeTable,
    cache: KvCache,
    embedding: Embedding,
    decoder: Box<dyn Decoder>,
    head: Head,
    workspace: Workspace,
    weights: Arc<Weights>,
    shape: Arc<ModelShape>,
    digest: Digest,
}

impl Model {
    /// Opens and loads the model at `path`: a Hugging Face directory or a GGUF file.
    ///
    /// # Errors
    /// When it is no model that is supported, or its files are broken. See [`LoadError`].
    pub fn load(path: &Path, options: LoadOptions<'_>) -> Result<Self, LoadError> {
        ModelFiles::open(path, &FileLimits::default())?.load(options)
    }

    /// Its description.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Its shape.
    #[must_use]
    pub fn shape(&self) -> Arc<ModelShape> {
        Arc::clone(&self.shape)
    }

    /// Its weights, for what is computed from them.
    #[must_use]
    pub fn weights(&self) -> Arc<dyn BaseRows> {
        Arc::clone(&self.weights) as Arc<dyn BaseRows>
    }

    /// The bytes of its weights in memory.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.weights.bytes()
    }

    /// The bytes of its KV cache when all of it is used.
    #[must_use]
    pub fn kv_bytes(&self) -> u64 {
        self.cache.bytes() as u64
    }

    /// The digest of the files that it came from.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }
}

impl Forward for Model {
    fn forward(&mut self, batch: &Batch, residents: &Residents) -> Result<&mut [f32], ForwardError> {
        let mut pass = Pass::new(&self.device, &self.rope, &mut self.cache, batch, residents)?;
        let work = &mut self.workspace;
        work.set_rows(batch.rows());
        self.embedding.forward(&pass, &mut work.hidden);
        self.decoder.forward(&mut pass, work);
        self.head.forward(&pass, work);
        Ok(work.logits.as_mut_slice())
    }

    fn vocabulary(&self) -> usize {
        self.shape.vocabulary
    }
}
