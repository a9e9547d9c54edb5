//! From the two files of an adapter to [`AdapterWeights`]: every module checked against the base model's shape, every
//! value finite, then packed site by site. Reads bytes, not files; must not touch the device or the engine.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use half::{bf16, f16};
use lorikeet_api::ErrorCode;
use lorikeet_kernels::low_rank::{LowRank, LowRankError, Numbers, Piece};
use lorikeet_kernels::matrix::Dtype;

use crate::adapters::dora;
use crate::adapters::peft::{Peft, PeftError};
use crate::adapters::pin::Generation;
use crate::adapters::tensors::{Parts, Tensor, TensorsError, by_module, shown};
use crate::adapters::weights::AdapterWeights;
use crate::digest::Digest;
use crate::model::modules::{BaseRows, ModelShape, Module, Site};
use crate::safetensors::{Header, Limits, TensorDtype};

/// The names of an adapter's two files, in the order of its digest.
pub const FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// How much an adapter may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdapterLimits {
    /// The greatest rank.
    pub rank: usize,
    /// Of the weights file.
    pub file: Limits,
}

impl AdapterLimits {
    /// Of an adapter of at most this rank, in a file of at most so many bytes. The largest adapters that are known have
    /// a few thousand tensors and headers of a few hundred kilobytes.
    #[must_use]
    pub const fn new(rank: usize, file_bytes: u64) -> Self {
        Self { rank, file: Limits { file_bytes, header_bytes: 16 << 20, tensors: 1 << 16 } }
    }
}

/// Why an adapter is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// For its configuration.
    #[error(transparent)]
    Config(#[from] PeftError),
    /// For its weights.
    #[error(transparent)]
    Weights(#[from] TensorsError),
    /// The kernels refuse what passed the checks: a fault of this runtime.
    #[error("module {module}: {error}")]
    Kernel {
        /// The first module of the site.
        module: String,
        /// Why.
        error: LowRankError,
    },
}

impl BuildError {
    /// The error for programs.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Config(error) => error.code(),
            Self::Weights(error) => error.code(),
            Self::Kernel { .. } => ErrorCode::Internal,
        }
    }
}

/// The digest of an adapter: of its two files.
#[must_use]
pub fn digest(config: &[u8], weights: &[u8]) -> Digest {
    Digest::of_files(FILES.into_iter().zip([config, weights]))
}

/// Builds the adapter of these two files for a base model.
///
/// # Errors
/// Any fault of either file, or that they do not fit the base.
pub fn build(
    config: &[u8],
    weights: &[u8],
    shape: &ModelShape,
    base: &dyn BaseRows,
    limits: &AdapterLimits,
) -> Result<AdapterWeights, BuildError> {
    let peft = Peft::parse(config, limits.rank)?;
    let header = Header::parse(weights, &limits.file).map_err(TensorsError::from)?;
    let updates = check(&peft, &header, weights, shape)?;
    let mut sites: BTreeMap<(Option<usize>, Site), Vec<&Update<'_>>> = BTreeMap::new();
    for update in &updates {
        sites.entry((update.module.layer, update.module.site)).or_default().push(update);
    }
    let mut built = AdapterWeights {
        generation: Generation::of(digest(config, weights)),
        rank: updates.iter().map(|update| update.rank).max().unwrap_or(0),
        bytes: 0,
        target_modules: updates
            .iter()
            .map(|update| update.module.name())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .map(str::to_owned)
            .collect(),
        base_model: peft.told_base_model().into(),
        layers: (0..shape.layers).map(|_| Default::default()).collect(),
        embedding: None,
        head: None,
    };
    for ((layer, site), updates) in sites {
        let update = pack(shape, layer, site, &updates, weights, base)?;
        built.bytes += update.bytes() as u64;
        built.place(layer, site, update);
    }
    Ok(built)
}

/// One module's update, checked.
pub(super) struct Update<'a> {
    pub(super) module: &'a Module,
    pub(super) rank: usize,
    pub(super) scale: f32,
    pub(super) a: Tensor<'a>,
    pub(super) b: Tensor<'a>,
    pub(super) bias: Option<Tensor<'a>>,
    pub(super) magnitude: Option<Tensor<'a>>,
}

/// Checks every module of the file against the configuration and the base model.
fn check<'a>(
    peft: &Peft,
    header: &'a Header,
    weights: &[u8],
    shape: &'a ModelShape,
) -> Result<Vec<Update<'a>>, TensorsError> {
    let by_path: HashMap<&str, &Module> =
        shape.modules.iter().map(|module| (module.path.as_str(), module)).collect();
    let targeted = |module: &Module| peft.modules.target(&module.path, module.site == Site::Head);
    if !shape.modules.iter().any(targeted) {
        let paths: Vec<&str> = by_path.keys().copied().collect();
        let name = peft.modules.unknown(&paths).unwrap_or("(the pattern)").to_owned();
        return Err(TensorsError::NoSuchTarget { name: shown(&name), known: known(shape) });
    }
    let parts = by_module(header)?;
    let mut updates = Vec::new();
    for (path, parts) in &parts {
        let module = by_path.get(path.as_str()).ok_or_else(|| unknown(path, shape))?;
        if !targeted(module) {
            return Err(TensorsError::NotTargeted { module: path.clone() });
        }
        updates.push(check_module(peft, module, parts, weights)?);
    }
    match shape.modules.iter().find(|module| targeted(module) && !parts.contains_key(&module.path)) {
        Some(module) => Err(TensorsError::Missing { module: module.path.clone() }),
        None => Ok(updates),
    }
}

fn check_module<'a>(
    peft: &Peft,
    module: &'a Module,
    parts: &Parts<'a>,
    weights: &[u8],
) -> Result<Update<'a>, TensorsError> {
    let path = || module.path.clone();
    let (Some(a), Some(b)) = (parts.a, parts.b) else {
        return Err(TensorsError::HalfAPair { module: path(), part: "lora_A", other: "lora_B" });
    };
    let found = |part: Option<Tensor<'_>>| if part.is_some() { "is there" } else { "is missing" };
    if parts.bias.is_some() != peft.lora_bias && !parts.embedding {
        return Err(TensorsError::Bias { module: path(), found: found(parts.bias), flag: peft.lora_bias });
    }
    if parts.magnitude.is_some() != peft.dora {
        return Err(TensorsError::Magnitude {
            module: path(),
            found: found(parts.magnitude),
            flag: peft.dora,
        });
    }
    if peft.dora && module.site == Site::Embedding {
        return Err(TensorsError::EmbeddingDora { module: path() });
    }
    let (rank, outputs) = (peft.rank_of(&module.path), module.outputs());
    let why = format!(
        "rank {rank} by adapter_config.json, {} inputs and {outputs} outputs by the base model",
        module.inputs
    );
    let vector = [Some(outputs)];
    for (tensor, expected) in [
        (Some(a), [Some(rank), Some(module.inputs)].as_slice()),
        (Some(b), &[Some(outputs), Some(rank)]),
        (parts.bias, &vector),
        (parts.magnitude, &vector),
    ] {
        if let Some(tensor) = tensor {
            check_shape(tensor, expected, &why)?;
            check_finite(tensor, weights)?;
        }
    }
    if let Some(copy) = parts.copy {
        let expected = if parts.embedding { [module.inputs, outputs] } else { [outputs, module.inputs] };
        check_shape(copy, &expected.map(Some), "a copy of the base model's own weight")?;
    }
    let scale = peft.scale_of(&module.path) as f32;
    let largest = numbers(b, weights).fold(0.0_f32, |largest, value| largest.max(value.abs()));
    if !(scale * largest).is_finite() {
        return Err(TensorsError::ScaleNotFinite { module: path(), scale: scale.to_string() });
    }
    Ok(Update { module, rank, scale, a, b, bias: parts.bias, magnitude: parts.magnitude })
}

fn check_shape(tensor: Tensor<'_>, expected: &[Option<usize>], why: &str) -> Result<(), TensorsError> {
    let expected: Vec<usize> = expected.iter().flatten().copied().collect();
    if dtype(tensor).is_none() {
        return Err(TensorsError::Dtype { tensor: shown(tensor.name), dtype: tensor.info.dtype.to_string() });
    }
    if tensor.info.shape == expected {
        return Ok(());
    }
    Err(TensorsError::Shape {
        tensor: shown(tensor.name),
        got: tensor.info.shape.clone(),
        expected: format!("{expected:?}"),
        why: why.to_owned(),
    })
}

fn check_finite(tensor: Tensor<'_>, weights: &[u8]) -> Result<(), TensorsError> {
    match numbers(tensor, weights).filter(|value| !value.is_finite()).count() {
        0 => Ok(()),
        count => Err(TensorsError::NotFinite { tensor: shown(tensor.name), count }),
    }
}

/// A path that the base model has not: of a layer that it has not, or of no module at all.
fn unknown(path: &str, shape: &ModelShape) -> TensorsError {
    let layer = path
        .strip_prefix("model.layers.")
        .and_then(|rest| rest.split('.').next())
        .and_then(|number| number.parse().ok());
    match layer {
        Some(layer) if layer >= shape.layers as u64 => {
            TensorsError::NoSuchLayer { module: shown(path), layer, layers: shape.layers }
        }
        _ => TensorsError::NoSuchModule { module: shown(path), known: known(shape) },
    }
}

fn known(shape: &ModelShape) -> String {
    shape.modules.iter().map(Module::name).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
}

/// One site's update: its modules' pieces side by side.
fn pack(
    shape: &ModelShape,
    layer: Option<usize>,
    site: Site,
    updates: &[&Update<'_>],
    weights: &[u8],
    base: &dyn BaseRows,
) -> Result<LowRank, BuildError> {
    let of_site = |module: &&Module| module.layer == layer && module.site == site;
    let outputs = shape.modules.iter().filter(of_site).map(|module| module.columns.end).max().unwrap_or(0);
    let inputs = updates.first().map_or(0, |update| update.module.inputs);
    let piece = |update: &&Update<'_>| Piece {
        columns: update.module.columns.clone(),
        rank: update.rank,
        a: raw(update.a, weights),
        b: raw(update.b, weights),
        scale: update.scale,
        bias: update.bias.map(|bias| numbers(bias, weights).collect()),
        magnitude: update.magnitude.map(|magnitude| dora::factors(update, magnitude, weights, base)),
    };
    LowRank::new(inputs, outputs, updates.iter().map(piece).collect()).map_err(|error| BuildError::Kernel {
        module: updates.first().map_or_else(String::new, |update| update.module.path.clone()),
        error,
    })
}

fn dtype(tensor: Tensor<'_>) -> Option<Dtype> {
    match tensor.info.dtype {
        TensorDtype::F32 => Some(Dtype::F32),
        TensorDtype::F16 => Some(Dtype::F16),
        TensorDtype::Bf16 => Some(Dtype::Bf16),
        _ => None,
    }
}

fn bytes<'a>(tensor: Tensor<'_>, weights: &'a [u8]) -> &'a [u8] {
    weights.get(tensor.info.range.start as usize..tensor.info.range.end as usize).unwrap_or_default()
}

fn raw<'a>(tensor: Tensor<'_>, weights: &'a [u8]) -> Numbers<'a> {
    Numbers { dtype: dtype(tensor).unwrap_or(Dtype::F32), bytes: bytes(tensor, weights) }
}

/// The values of `tensor`; none where its dtype is not one of weights.
pub(super) fn numbers<'a>(tensor: Tensor<'_>, weights: &'a [u8]) -> Box<dyn Iterator<Item = f32> + 'a> {
    let bytes = bytes(tensor, weights);
    match dtype(tensor) {
        Some(Dtype::F32) => Box::new(bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word))),
        Some(Dtype::F16) => {
            Box::new(bytes.as_chunks().0.iter().map(|word| f16::from_le_bytes(*word).to_f32()))
        }
        Some(Dtype::Bf16) => {
            Box::new(bytes.as_chunks().0.iter().map(|word| bf16::from_le_bytes(*word).to_f32()))
        }
        None => Box::new(std::iter::empty()),
    }
}
