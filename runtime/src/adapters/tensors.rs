//! The tensors of `adapter_model.safetensors`, by module: names understood, pairs complete. Pure.

use std::collections::BTreeMap;

use lorikeet_api::ErrorCode;

use crate::safetensors::{Header, SafetensorsError, TensorInfo};

/// The parts of one module's update, as they stand in the file.
#[derive(Debug, Default)]
pub struct Parts<'a> {
    /// `lora_A.weight` `[rank, inputs]`, or `lora_embedding_A` `[rank, vocabulary]`.
    pub a: Option<Tensor<'a>>,
    /// `lora_B.weight` `[outputs, rank]`, or `lora_embedding_B`.
    pub b: Option<Tensor<'a>>,
    /// `lora_B.bias` `[outputs]`.
    pub bias: Option<Tensor<'a>>,
    /// `lora_magnitude_vector` `[outputs]`.
    pub magnitude: Option<Tensor<'a>>,
    /// `base_layer.weight`: a copy of the base's own, which PEFT saves beside an embedding's update.
    pub copy: Option<Tensor<'a>>,
    /// It is an embedding's.
    pub embedding: bool,
}

/// A tensor and its name in the file.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// The name.
    pub name: &'a str,
    /// Type, shape and place.
    pub info: &'a TensorInfo,
}

/// Why the weights are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum TensorsError {
    #[error("adapter_model.safetensors: {0}")]
    File(String),
    #[error("adapter_model.safetensors: the file is over a limit: {0}")]
    TooLarge(String),
    #[error("adapter_model.safetensors: it has no LoRA tensor")]
    Empty,
    #[error(
        "tensor {0:?}: not a part of a LoRA update that is supported (lora_A, lora_B, lora_embedding_A, lora_embedding_B, lora_magnitude_vector)"
    )]
    UnknownPart(String),
    #[error("tensor {tensor:?}: a second {part} of module {module}: duplicate")]
    Duplicate { tensor: String, part: &'static str, module: String },
    #[error("module {module}: {part} is missing, {other} is there")]
    HalfAPair { module: String, part: &'static str, other: &'static str },
    #[error("tensor {tensor:?}: dtype {dtype}, expected F32, F16 or BF16")]
    Dtype { tensor: String, dtype: String },
    #[error("tensor {tensor:?}: shape {got:?}, expected {expected} ({why})")]
    Shape { tensor: String, got: Vec<usize>, expected: String, why: String },
    #[error("tensor {tensor:?}: {count} values are not finite (NaN or Inf)")]
    NotFinite { tensor: String, count: usize },
    #[error("module {module}: scaled by {scale}, its update is not finite")]
    ScaleNotFinite { module: String, scale: String },
    #[error("module {module}: the base model has {layers} layers, there is no layer {layer}")]
    NoSuchLayer { module: String, layer: u64, layers: usize },
    #[error("module {module}: the base model has no such module; target_modules can name: {known}")]
    NoSuchModule { module: String, known: String },
    #[error("target_modules: no module of the base model is named {name:?}; it has: {known}")]
    NoSuchTarget { name: String, known: String },
    #[error("module {module}: the file has tensors for it, but target_modules does not target it")]
    NotTargeted { module: String },
    #[error(
        "module {module}: targeted by target_modules, but its tensors are missing in the file (layer or module left out)"
    )]
    Missing { module: String },
    #[error("module {module}: lora_B.bias {found}, but lora_bias is {flag} in adapter_config.json")]
    Bias { module: String, found: &'static str, flag: bool },
    #[error("module {module}: lora_magnitude_vector {found}, but use_dora is {flag} in adapter_config.json")]
    Magnitude { module: String, found: &'static str, flag: bool },
    #[error("module {module}: DoRA on an embedding is not supported")]
    EmbeddingDora { module: String },
}

impl TensorsError {
    /// The error for programs.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge(_) => ErrorCode::TooLarge,
            Self::Shape { .. }
            | Self::NoSuchLayer { .. }
            | Self::NoSuchModule { .. }
            | Self::NoSuchTarget { .. } => ErrorCode::BaseModelMismatch,
            Self::UnknownPart(_) | Self::EmbeddingDora { .. } => ErrorCode::UnsupportedFeature,
            _ => ErrorCode::InvalidWeights,
        }
    }
}

impl From<SafetensorsError> for TensorsError {
    fn from(error: SafetensorsError) -> Self {
        match error {
            SafetensorsError::FileTooLarge { .. }
            | SafetensorsError::HeaderTooLarge { .. }
            | SafetensorsError::TooManyTensors { .. } => Self::TooLarge(error.to_string()),
            other => Self::File(other.to_string()),
        }
    }
}

/// Sorts the tensors of `header` by the module that they update, and completes the pairs.
///
/// # Errors
/// A name that means nothing, a part that is there twice, or half a pair.
pub fn by_module(header: &Header) -> Result<BTreeMap<String, Parts<'_>>, TensorsError> {
    let mut modules: BTreeMap<String, Parts<'_>> = BTreeMap::new();
    for (name, info) in &header.tensors {
        let (module, part) = split(name).ok_or_else(|| TensorsError::UnknownPart(shown(name)))?;
        let parts = modules.entry(module.to_owned()).or_default();
        let (place, label) = parts.place(part);
        if place.replace(Tensor { name, info }).is_some() {
            return Err(TensorsError::Duplicate {
                tensor: shown(name),
                part: label,
                module: module.to_owned(),
            });
        }
    }
    modules.retain(|_, parts| parts.copy.is_none() || parts.a.is_some() || parts.b.is_some());
    if modules.is_empty() {
        return Err(TensorsError::Empty);
    }
    for (module, parts) in &modules {
        let half = |part, other| Err(TensorsError::HalfAPair { module: module.clone(), part, other });
        match (&parts.a, &parts.b) {
            (Some(_), Some(_)) => {}
            (Some(_), None) => return half("lora_B", "lora_A"),
            (None, Some(_)) => return half("lora_A", "lora_B"),
            (None, None) => return half("lora_A and lora_B", "another part"),
        }
    }
    Ok(modules)
}

#[derive(Clone, Copy)]
enum Part {
    A,
    B,
    EmbeddingA,
    EmbeddingB,
    Bias,
    Magnitude,
    Copy,
}

impl<'a> Parts<'a> {
    fn place(&mut self, part: Part) -> (&mut Option<Tensor<'a>>, &'static str) {
        self.embedding |= matches!(part, Part::EmbeddingA | Part::EmbeddingB);
        match part {
            Part::A | Part::EmbeddingA => (&mut self.a, "lora_A"),
            Part::B | Part::EmbeddingB => (&mut self.b, "lora_B"),
            Part::Bias => (&mut self.bias, "lora_B.bias"),
            Part::Magnitude => (&mut self.magnitude, "lora_magnitude_vector"),
            Part::Copy => (&mut self.copy, "base_layer.weight"),
        }
    }
}

/// The module's path and the part of `name`: PEFT's prefix is optional, and so is the adapter's name in the middle.
fn split(name: &str) -> Option<(&str, Part)> {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    const PARTS: [(&str, Part); 12] = [
        (".lora_A.weight", Part::A),
        (".lora_A.default.weight", Part::A),
        (".lora_B.weight", Part::B),
        (".lora_B.default.weight", Part::B),
        (".lora_B.bias", Part::Bias),
        (".lora_B.default.bias", Part::Bias),
        (".lora_embedding_A", Part::EmbeddingA),
        (".lora_embedding_B", Part::EmbeddingB),
        (".lora_magnitude_vector", Part::Magnitude),
        (".lora_magnitude_vector.weight", Part::Magnitude),
        (".lora_magnitude_vector.default.weight", Part::Magnitude),
        (".base_layer.weight", Part::Copy),
    ];
    PARTS.iter().find_map(|(suffix, part)| name.strip_suffix(suffix).map(|module| (module, *part)))
}

/// A name from a file, as an error shows it.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(160).collect()
}
