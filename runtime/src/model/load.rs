//! From a model's files to a model: every tensor is looked for first, then the files are read once, tensor by tensor.
//!
//! At no time is more in memory than the model and one tensor.

use std::collections::BTreeMap;
use std::path::Path;

use lorikeet_kernels::kv_cache::KvDtype;

use crate::gguf::{GgufError, GgufFile};
use crate::model::Model;
use crate::model::assemble::{Assembly, assemble};
use crate::model::checkpoint::{self, FileLimits, Files, Sink, Stored};
use crate::model::config::{ConfigError, ModelConfig};
use crate::model::modules::ModelShape;
use crate::model::names::{self, Place};
use crate::model::options::LoadOptions;
use crate::model::plan::{Role, Wanted, plan};
use crate::model::tensors::{Loaded, Quantizing, convert};
use crate::safetensors::SafetensorsError;

/// Why a model is not loaded.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LoadError {
    #[error("{file}: {source}")]
    Io { file: String, source: std::io::Error },
    #[error("{what}: not found in {directory}")]
    NotFound { what: &'static str, directory: String },
    #[error(
        "{directory}: only pickles (pytorch_model.bin), which are never opened: expected model.safetensors"
    )]
    Pickle { directory: String },
    #[error("{file}: {bytes} bytes, at most {limit} are read")]
    JsonTooLarge { file: String, bytes: u64, limit: u64 },
    #[error("{file}: {reason}")]
    Index { file: &'static str, reason: String },
    #[error("{file}: {error}")]
    Gguf { file: String, error: GgufError },
    #[error("{file}: {error}")]
    Safetensors { file: String, error: SafetensorsError },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("reading: {0}")]
    Read(#[from] std::io::Error),
    #[error("tensor {0:?}: missing")]
    MissingTensor(String),
    #[error("tensor {0:?}: in two files")]
    DuplicateTensor(String),
    #[error("tensor {0:?}: the model has no such tensor")]
    UnexpectedTensor(String),
    #[error("tensor {tensor:?}: expected the shape {expected:?}, got {got:?}")]
    Shape { tensor: String, expected: Vec<usize>, got: Vec<usize> },
    #[error("tensor {tensor:?}: dtype {dtype} is not supported; supported are F32, F16, BF16")]
    Dtype { tensor: String, dtype: String },
    #[error("tensor {tensor:?}: {error}")]
    Matrix { tensor: String, error: lorikeet_kernels::matrix::MatrixError },
}

/// A model's files, opened: its description is read and every tensor is there, but none is loaded.
pub struct ModelFiles {
    config: ModelConfig,
    files: Files,
    plan: Vec<(Wanted, Place)>,
    tensors: BTreeMap<String, Stored>,
}

impl ModelFiles {
    /// Opens a Hugging Face directory or a GGUF file.
    ///
    /// # Errors
    /// When it is no model that is supported, or a tensor is missing, unexpected or of another shape.
    pub fn open(path: &Path, limits: &FileLimits) -> Result<Self, LoadError> {
        let (config, files) = checkpoint::open(path, limits)?;
        let tensors = files.tensors()?;
        let mut placed = Vec::new();
        for wanted in plan(&config) {
            let place = match files {
                Files::Gguf(_) => names::in_gguf(&config, &wanted.name, &tensors),
                Files::HuggingFace { .. } => Place::whole(wanted.name.clone()),
            };
            check(&wanted, &place, &tensors)?;
            placed.push((wanted, place));
        }
        for name in tensors.keys() {
            let used = placed.iter().any(|(_, place)| place.tensor == *name);
            if !used && !names::is_superfluous(&config, name) {
                return Err(LoadError::UnexpectedTensor(name.clone()));
            }
        }
        Ok(Self { config, files, plan: placed, tensors })
    }

    /// The description.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The shape that it will have, with the KV cache that `options` ask for.
    #[must_use]
    pub fn shape(&self, options: &LoadOptions<'_>) -> ModelShape {
        let bytes = match self.kv_dtype(options) {
            KvDtype::F32 => 4,
            KvDtype::F16 => 2,
        };
        super::shape::shape(&self.config, bytes)
    }

    /// The bytes of its weight files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.bytes()
    }

    /// The GGUF file, if it is one: its metadata holds tokenizer and template.
    #[must_use]
    pub fn gguf(&self) -> Option<&GgufFile> {
        match &self.files {
            Files::Gguf(file) => Some(file),
            Files::HuggingFace { .. } => None,
        }
    }

    /// How its linears are stored, as `bf16` or `q4_1`: what most of the bytes are.
    #[must_use]
    pub fn encoding(&self) -> String {
        let mut bytes: BTreeMap<String, usize> = BTreeMap::new();
        for stored in self.tensors.values().filter(|stored| stored.shape.len() == 2) {
            *bytes.entry(stored.encoding.to_string()).or_default() += stored.shape.iter().product::<usize>();
        }
        bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(name, _)| name).unwrap_or_default()
    }

    /// Elements and bytes of its tensors, by how they are stored.
    #[must_use]
    pub fn mix(&self) -> BTreeMap<String, (u64, u64)> {
        let mut mix: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for stored in self.tensors.values() {
            let inputs = stored.shape.last().copied().unwrap_or(1);
            let rows = stored.shape.iter().rev().skip(1).product::<usize>();
            let (elements, bytes) = mix.entry(stored.encoding.to_string()).or_default();
            *elements += (rows * inputs) as u64;
            *bytes += (rows * stored.encoding.row_bytes(inputs)) as u64;
        }
        mix
    }

    fn kv_dtype(&self, options: &LoadOptions<'_>) -> KvDtype {
        options.kv.dtype.resolve(options.quantize.is_some() || self.is_quantized())
    }

    fn is_quantized(&self) -> bool {
        self.tensors.values().any(|stored| matches!(stored.encoding, checkpoint::Encoding::Blocks(_)))
    }

    /// Loads the weights and makes the buffers.
    ///
    /// # Errors
    /// When the files have changed since they were opened, or the disk fails.
    pub fn load(self, options: LoadOptions<'_>) -> Result<Model, LoadError> {
        let (shape, kv_dtype) = (self.shape(&options), self.kv_dtype(&options));
        let Self { config, files, plan, tensors } = self;
        let mut by_tensor: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, (_, place)) in plan.iter().enumerate() {
            by_tensor.entry(&place.tensor).or_default().push(index);
        }
        let total = files.bytes();
        let loaded = plan.iter().map(|_| None).collect();
        let mut loading = Loading {
            config: &config,
            plan: &plan,
            by_tensor,
            tensors: &tensors,
            options: &options,
            loaded,
            done: 0,
            total,
        };
        let digest = files.stream(&mut loading)?;
        let mut named = BTreeMap::new();
        for ((wanted, _), loaded) in plan.iter().zip(loading.loaded) {
            let loaded = loaded.ok_or_else(|| LoadError::MissingTensor(wanted.name.clone()))?;
            named.insert(wanted.name.clone(), loaded);
        }
        assemble(Assembly { config, shape, tensors: named, digest, kv_dtype, options })
    }
}

fn check(wanted: &Wanted, place: &Place, tensors: &BTreeMap<String, Stored>) -> Result<(), LoadError> {
    let stored = tensors.get(&place.tensor).ok_or_else(|| LoadError::MissingTensor(place.tensor.clone()))?;
    let mut got = stored.shape.clone();
    // A part of a tensor that is fused in the file: the rest of it is checked by the other parts.
    if let (Some(rows), Some(first)) = (&place.rows, got.first_mut()) {
        *first = if rows.end <= *first { rows.len() } else { *first };
    }
    let plain = matches!(stored.encoding, checkpoint::Encoding::Plain(_));
    if got != wanted.shape || (wanted.role == Role::Vector && !plain) {
        return Err(LoadError::Shape { tensor: place.tensor.clone(), expected: wanted.shape.clone(), got });
    }
    Ok(())
}

/// What the stream fills.
struct Loading<'a> {
    config: &'a ModelConfig,
    plan: &'a [(Wanted, Place)],
    by_tensor: BTreeMap<&'a str, Vec<usize>>,
    tensors: &'a BTreeMap<String, Stored>,
    options: &'a LoadOptions<'a>,
    loaded: Vec<Option<Loaded>>,
    done: u64,
    total: u64,
}

impl Sink for Loading<'_> {
    fn tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), LoadError> {
        let (Some(wanted), Some(stored)) = (self.by_tensor.get(name), self.tensors.get(name)) else {
            return Ok(());
        };
        let quantizing = Quantizing { quantize: self.options.quantize, device: &self.options.device };
        for index in wanted {
            let (wanted, place) = &self.plan[*index];
            let loaded = convert(wanted, place, stored, bytes, self.config.head_dim, &quantizing)?;
            self.loaded[*index] = Some(loaded);
        }
        Ok(())
    }

    fn advanced(&mut self, bytes: u64) {
        self.done += bytes;
        (self.options.progress)(self.done, self.total);
    }
}

#[cfg(test)]
mod tests;
