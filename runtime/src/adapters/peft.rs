//! `adapter_config.json`, from PEFT 0.4's form to today's, read into what changes inference. Pure.
//!
//! A setting that would change answers and is not supported is refused by name; nothing is ignored that matters.

mod modules;
mod support;

use std::collections::BTreeMap;

use lorikeet_api::ErrorCode;
use serde_json::{Map, Value};

pub use modules::{Layers, Modules, Pattern};

/// The longest `adapter_config.json` that is read, in bytes.
pub const MAX_CONFIG_BYTES: usize = lorikeet_api::MAX_CONFIG_BYTES;
/// The most entries of a list or a table of the configuration.
const MAX_ENTRIES: usize = 4096;
/// PEFT's own default, where a file leaves `lora_alpha` out.
const DEFAULT_ALPHA: f64 = 8.0;

/// A LoRA configuration that is supported whole.
#[derive(Debug)]
pub struct Peft {
    /// The model that it was trained on, as it was called there.
    pub base_model: Option<String>,
    /// The rank, where no pattern says otherwise.
    pub rank: usize,
    /// Alpha, where no pattern says otherwise.
    pub alpha: f64,
    /// The scale is alpha / sqrt(rank), not alpha / rank.
    pub rank_stabilized: bool,
    /// Each update comes with magnitudes.
    pub dora: bool,
    /// B has a bias.
    pub lora_bias: bool,
    /// Which modules are targeted.
    pub modules: Modules,
    ranks: Vec<(Pattern, usize)>,
    alphas: Vec<(Pattern, f64)>,
}

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum PeftError {
    #[error("adapter_config.json: {bytes} bytes, at most {MAX_CONFIG_BYTES} are read")]
    TooLong { bytes: usize },
    #[error("adapter_config.json: not JSON: {0}")]
    Json(String),
    #[error("adapter_config.json: expected a JSON object, got {0}")]
    NotAnObject(&'static str),
    #[error("adapter_config.json: peft_type: expected \"LORA\", got {0}")]
    PeftType(String),
    #[error("adapter_config.json: {field}: expected {expected}, got {got}")]
    Invalid { field: String, expected: &'static str, got: String },
    #[error("adapter_config.json: {field}: not supported (got {got}); {hint}")]
    Unsupported { field: String, got: String, hint: &'static str },
    #[error("adapter_config.json: {field}: rank {rank} is over the limit of {limit}")]
    RankExceeded { field: String, rank: u64, limit: usize },
}

impl PeftError {
    /// The error for programs.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TooLong { .. } => ErrorCode::TooLarge,
            Self::Json(_) | Self::NotAnObject(_) | Self::Invalid { .. } => ErrorCode::InvalidConfig,
            Self::PeftType(_) | Self::Unsupported { .. } => ErrorCode::UnsupportedFeature,
            Self::RankExceeded { .. } => ErrorCode::RankExceeded,
        }
    }

    fn invalid(field: &str, expected: &'static str, got: &Value) -> Self {
        Self::Invalid { field: field.to_owned(), expected, got: shown(got) }
    }
}

/// A value as an error shows it: short, and on one line.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

impl Peft {
    /// Reads a configuration; ranks over `max_rank` are refused before anything is allocated for them.
    ///
    /// # Errors
    /// Any [`PeftError`].
    pub fn parse(json: &[u8], max_rank: usize) -> Result<Self, PeftError> {
        if json.len() > MAX_CONFIG_BYTES {
            return Err(PeftError::TooLong { bytes: json.len() });
        }
        let value: Value =
            serde_json::from_slice(json).map_err(|error| PeftError::Json(error.to_string()))?;
        let Value::Object(config) = value else {
            return Err(PeftError::NotAnObject(kind(&value)));
        };
        match config.get("peft_type") {
            Some(Value::String(name)) if name == "LORA" => {}
            Some(other) => return Err(PeftError::PeftType(shown(other))),
            None => return Err(PeftError::PeftType("nothing: peft_type is missing".to_owned())),
        }
        support::check(&config)?;
        let read = Fields(&config);
        Ok(Self {
            base_model: read.text("base_model_name_or_path")?,
            rank: read.rank("r", config.get("r").unwrap_or(&Value::Null), max_rank)?,
            alpha: config.get("lora_alpha").map_or(Ok(DEFAULT_ALPHA), |value| alpha("lora_alpha", value))?,
            rank_stabilized: read.flag("use_rslora")?,
            dora: read.flag("use_dora")?,
            lora_bias: read.flag("lora_bias")?,
            modules: Modules::parse(&config)?,
            ranks: read.patterns("rank_pattern", |field, value| read.rank(field, value, max_rank))?,
            alphas: read.patterns("alpha_pattern", alpha)?,
        })
    }

    /// The model that it was trained on, as a report tells it: empty where it names none, or a name that is too long to be
    /// one of a repository. Not cut: what is left of a long one could be another's.
    #[must_use]
    pub fn told_base_model(&self) -> &str {
        let named = self.base_model.as_deref().unwrap_or_default();
        if named.len() <= lorikeet_api::MAX_BASE_MODEL_BYTES { named } else { "" }
    }

    /// The rank of the module at `path`.
    #[must_use]
    pub fn rank_of(&self, path: &str) -> usize {
        first(&self.ranks, path).unwrap_or(self.rank)
    }

    /// What the update of the module at `path` is multiplied by.
    #[must_use]
    pub fn scale_of(&self, path: &str) -> f64 {
        let alpha = first(&self.alphas, path).unwrap_or(self.alpha);
        let rank = self.rank_of(path) as f64;
        alpha / if self.rank_stabilized { rank.sqrt() } else { rank }
    }
}

/// The value of the first pattern that matches, as PEFT takes it.
fn first<T: Copy>(patterns: &[(Pattern, T)], path: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.matches(path)).map(|(_, value)| *value)
}

fn alpha(field: &str, value: &Value) -> Result<f64, PeftError> {
    let number = value.as_f64().filter(|_| value.is_number());
    // A scale is a 32-bit float in the kernels.
    number
        .filter(|alpha| (*alpha as f32).is_finite())
        .ok_or_else(|| PeftError::invalid(field, "a finite 32-bit number", value))
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The fields of a configuration, by type. Null is as absent.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn flag(&self, field: &str) -> Result<bool, PeftError> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(PeftError::invalid(field, "true or false", other)),
        }
    }

    fn text(&self, field: &str) -> Result<Option<String>, PeftError> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(PeftError::invalid(field, "a string", other)),
        }
    }

    fn rank(&self, field: &str, value: &Value, limit: usize) -> Result<usize, PeftError> {
        let rank = value.as_u64().filter(|rank| *rank > 0);
        let rank = rank.ok_or_else(|| PeftError::invalid(field, "a rank: a whole number from 1", value))?;
        usize::try_from(rank).ok().filter(|rank| *rank <= limit).ok_or_else(|| PeftError::RankExceeded {
            field: field.to_owned(),
            rank,
            limit,
        })
    }

    fn patterns<T>(
        &self,
        field: &str,
        read: impl Fn(&str, &Value) -> Result<T, PeftError>,
    ) -> Result<Vec<(Pattern, T)>, PeftError> {
        let entries = match self.0.get(field) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Object(entries)) if entries.len() <= MAX_ENTRIES => entries,
            Some(other) => return Err(PeftError::invalid(field, "an object of at most 4096 entries", other)),
        };
        let entry = |(key, value): (&String, &Value)| {
            let name = format!("{field}.{key}");
            Ok((Pattern::suffix(&name, key)?, read(&name, value)?))
        };
        entries.iter().map(entry).collect()
    }
}

/// The settings, as `inspect` shows them.
impl Peft {
    /// Names and values of the features that are in use beyond a plain rank and alpha.
    #[must_use]
    pub fn features(&self) -> BTreeMap<&'static str, String> {
        let flags = [("rslora", self.rank_stabilized), ("dora", self.dora), ("lora_bias", self.lora_bias)];
        let mut features: BTreeMap<&str, String> =
            flags.into_iter().filter(|(_, on)| *on).map(|(name, _)| (name, "yes".to_owned())).collect();
        if !self.ranks.is_empty() {
            features.insert("rank_pattern", format!("{} entries", self.ranks.len()));
        }
        if !self.alphas.is_empty() {
            features.insert("alpha_pattern", format!("{} entries", self.alphas.len()));
        }
        features
    }
}

#[cfg(test)]
mod tests;
