//! Reads `config.json` in every spelling: 2023 (few fields), 2024 (`rope_scaling`, `torch_dtype`) and that of
//! transformers 5 (`rope_parameters`, `layer_types`). What a family does with the fields is in its own file.

use serde_json::{Map, Value};

use super::{Biases, ConfigError, MAX_DIMENSION, ModelConfig, RopeConfig, RopeScaling};
use crate::model::family::{self, Family};

/// The fields of a `config.json`.
pub(crate) struct Fields {
    family: Family,
    object: Map<String, Value>,
}

/// Fields that change the results in other families: not null or false here, refused by name.
const FOREIGN: [&str; 15] = [
    "alibi",
    "attention_multiplier",
    "clip_qkv",
    "embedding_multiplier",
    "kv_lora_rank",
    "logit_scale",
    "logits_scaling",
    "no_rope_layers",
    "num_experts",
    "num_local_experts",
    "q_lora_rank",
    "quantization_config",
    "residual_multiplier",
    "use_bidirectional_attention",
    "use_qk_norm",
];

/// Parses and checks a `config.json`.
pub(crate) fn parse(json: &[u8]) -> Result<ModelConfig, ConfigError> {
    let object: Map<String, Value> =
        serde_json::from_slice(json).map_err(|error| ConfigError::NotAnObject(error.to_string()))?;
    let name = |field: &str| object.get(field).and_then(Value::as_str);
    let class = object.get("architectures").and_then(|all| all.get(0)).and_then(Value::as_str);
    let family = match (name("model_type"), class) {
        (Some(model_type), _) => Family::of_model_type(model_type),
        (None, Some(class)) => Family::of_class(class),
        (None, None) => return Err(ConfigError::Missing("model_type".to_owned())),
    };
    let unsupported = |name: Option<&str>| ConfigError::UnsupportedArchitecture {
        name: name.unwrap_or_default().chars().take(80).collect(),
        supported: family::supported(),
    };
    let family = family.ok_or_else(|| unsupported(name("model_type").or(class)))?;
    if class.is_some_and(|class| class != family.definition().class) {
        return Err(unsupported(class));
    }
    let fields = Fields { family, object };
    for foreign in FOREIGN {
        fields.refuse(foreign)?;
    }
    (family.definition().configure)(&fields)?.checked()
}

impl Fields {
    /// The value, unless it is absent or null.
    fn value(&self, field: &str) -> Option<&Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    /// The field stands in the file, even as null.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.object.contains_key(field)
    }

    fn invalid(field: &str, expected: &str, got: &Value) -> ConfigError {
        let got: String = got.to_string().chars().take(120).collect();
        ConfigError::Invalid { field: field.to_owned(), expected: expected.to_owned(), got }
    }

    fn unsupported(&self, field: &str, got: &Value, supported: &str) -> ConfigError {
        ConfigError::Unsupported {
            field: field.to_owned(),
            got: got.to_string().chars().take(120).collect(),
            family: self.family.definition().name,
            supported: supported.to_owned(),
        }
    }

    /// A dimension, where there is one.
    pub(crate) fn optional_size(&self, field: &str) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.value(field) else { return Ok(None) };
        let number = value.as_u64().filter(|number| (1..=MAX_DIMENSION as u64).contains(number));
        let number = number.ok_or_else(|| Self::invalid(field, "a whole number from 1 to 2^24", value))?;
        Ok(Some(number as usize))
    }

    /// A dimension that has no default.
    pub(crate) fn size(&self, field: &str) -> Result<usize, ConfigError> {
        self.optional_size(field)?.ok_or_else(|| ConfigError::Missing(field.to_owned()))
    }

    /// A dimension with a default.
    pub(crate) fn size_or(&self, field: &str, default: usize) -> Result<usize, ConfigError> {
        Ok(self.optional_size(field)?.unwrap_or(default))
    }

    /// A finite number, where there is one.
    pub(crate) fn optional_number(&self, field: &str) -> Result<Option<f64>, ConfigError> {
        number(field, self.value(field))
    }

    /// A finite number with a default.
    pub(crate) fn number_or(&self, field: &str, default: f64) -> Result<f64, ConfigError> {
        Ok(self.optional_number(field)?.unwrap_or(default))
    }

    /// A flag with a default.
    pub(crate) fn flag_or(&self, field: &str, default: bool) -> Result<bool, ConfigError> {
        let Some(value) = self.value(field) else { return Ok(default) };
        value.as_bool().ok_or_else(|| Self::invalid(field, "true or false", value))
    }

    /// A text that must be one of `allowed`, or absent.
    pub(crate) fn one_of(&self, field: &str, allowed: &[&str]) -> Result<(), ConfigError> {
        let Some(value) = self.value(field) else { return Ok(()) };
        if value.as_str().is_some_and(|text| allowed.contains(&text)) {
            return Ok(());
        }
        Err(self.unsupported(field, value, &allowed.join(", ")))
    }

    /// Refuses a field that is anything but absent, null, false or zero: this family would ignore it.
    pub(crate) fn refuse(&self, field: &str) -> Result<(), ConfigError> {
        match self.value(field) {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(value) if value.as_f64() == Some(0.0) => Ok(()),
            Some(value) => Err(self.unsupported(field, value, "none")),
        }
    }

    /// What all families share. The rest is set to what most have: the family's file changes it.
    pub(crate) fn base(&self, default_head_dim: Option<usize>) -> Result<ModelConfig, ConfigError> {
        let hidden = self.size("hidden_size")?;
        let heads = self.size("num_attention_heads")?;
        let layers = self.size("num_hidden_layers")?;
        let head_dim = match (self.optional_size("head_dim")?, default_head_dim) {
            (Some(head_dim), _) | (None, Some(head_dim)) => head_dim,
            (None, None) if hidden.is_multiple_of(heads) => hidden / heads,
            (None, None) => {
                let expected = "a multiple of num_attention_heads".to_owned();
                let got = format!("{hidden} with {heads} heads");
                return Err(ConfigError::Invalid { field: "hidden_size".to_owned(), expected, got });
            }
        };
        let definition = self.family.definition();
        Ok(ModelConfig {
            family: self.family,
            hidden,
            layers,
            heads,
            kv_heads: self.size_or("num_key_value_heads", heads)?,
            head_dim,
            intermediate: self.size("intermediate_size")?,
            vocabulary: self.size("vocab_size")?,
            max_context: self.size_or("max_position_embeddings", 2048)?,
            norm: definition.norm,
            norm_eps: self.number_or("rms_norm_eps", 1e-6)? as f32,
            rope: self.rope(head_dim)?,
            tied_head: self.flag_or("tie_word_embeddings", definition.tied)?,
            biases: Biases::default(),
            windows: vec![None; layers],
            attention_scale: (1.0 / (head_dim as f64).sqrt()) as f32,
            attention_cap: None,
            logit_cap: None,
            embedding_scale: 1.0,
            activation: definition.activation,
            query_key_norm: false,
        })
    }

    /// The rotary embedding, from `rope_parameters` or from `rope_theta`, `rope_scaling` and `partial_rotary_factor`.
    fn rope(&self, head_dim: usize) -> Result<RopeConfig, ConfigError> {
        let parameters = self.scaling_object("rope_parameters")?;
        let scaling = self.scaling_object("rope_scaling")?;
        let inner = |field: &str| parameters.and_then(|all| all.get(field)).filter(|value| !value.is_null());
        let either = |field: &str| -> Result<Option<f64>, ConfigError> {
            let new = number(&format!("rope_parameters.{field}"), inner(field))?;
            let old = self.optional_number(field)?;
            match (new, old) {
                (Some(new), Some(old)) if new.to_bits() != old.to_bits() => Err(ConfigError::Invalid {
                    field: field.to_owned(),
                    expected: format!("the {new} of rope_parameters"),
                    got: old.to_string(),
                }),
                (new, old) => Ok(new.or(old)),
            }
        };
        let theta = either("rope_theta")?.unwrap_or(10000.0);
        if !(1.0..=1e15).contains(&theta) {
            let got = theta.to_string();
            return Err(ConfigError::Invalid {
                field: "rope_theta".to_owned(),
                expected: "1 to 1e15".to_owned(),
                got,
            });
        }
        let partial = either("partial_rotary_factor")?.unwrap_or(self.family.definition().rotary_factor);
        let rotary_dim = if self.family.definition().partial_rotary {
            (head_dim as f64 * partial) as usize
        } else if partial == 1.0 {
            head_dim
        } else {
            return Err(self.unsupported("partial_rotary_factor", &Value::from(partial), "1"));
        };
        let (name, object) = match (parameters, scaling) {
            (Some(parameters), _) => ("rope_parameters", Some(parameters)),
            (None, scaling) => ("rope_scaling", scaling),
        };
        let scaling = object.map_or(Ok(RopeScaling::None), |object| self.rope_scaling(name, object))?;
        Ok(RopeConfig { theta, rotary_dim, scaling })
    }

    fn scaling_object(&self, field: &str) -> Result<Option<&Map<String, Value>>, ConfigError> {
        let Some(value) = self.value(field) else { return Ok(None) };
        value.as_object().map(Some).ok_or_else(|| Self::invalid(field, "an object", value))
    }

    fn rope_scaling(&self, field: &str, object: &Map<String, Value>) -> Result<RopeScaling, ConfigError> {
        let get = |key: &str| object.get(key).filter(|value| !value.is_null());
        let positive = |key: &str| -> Result<Option<f64>, ConfigError> {
            let path = format!("{field}.{key}");
            let found = number(&path, get(key))?;
            if let Some(found) = found.filter(|found| *found <= 0.0) {
                let got = found.to_string();
                return Err(ConfigError::Invalid {
                    field: path,
                    expected: "a positive number".to_owned(),
                    got,
                });
            }
            Ok(found)
        };
        let required =
            |key: &str| positive(key)?.ok_or_else(|| ConfigError::Missing(format!("{field}.{key}")));
        let kind = get("rope_type").or_else(|| get("type"));
        match kind.map(|kind| kind.as_str().unwrap_or_default()) {
            Some("default") => Ok(RopeScaling::None),
            None if object.values().all(|value| !value.is_object()) && get("factor").is_none() => {
                Ok(RopeScaling::None)
            }
            Some("linear") => Ok(RopeScaling::Linear { factor: required("factor")? }),
            Some("llama3") => {
                let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
                if low >= high {
                    return Err(ConfigError::Invalid {
                        field: format!("{field}.high_freq_factor"),
                        expected: format!("more than the low_freq_factor of {low}"),
                        got: high.to_string(),
                    });
                }
                let context = positive("original_max_position_embeddings")?;
                let context =
                    context.map_or_else(|| self.size("max_position_embeddings").map(|size| size as f64), Ok);
                Ok(RopeScaling::Llama3 { factor: required("factor")?, low, high, original_context: context? })
            }
            _ => {
                let got = kind.cloned().unwrap_or_else(|| Value::Object(object.clone()));
                Err(self.unsupported(&format!("{field}.rope_type"), &got, "default, linear, llama3"))
            }
        }
    }

    /// `layer_types` as "slides" per layer, where the file lists them.
    pub(crate) fn sliding_layers(&self, layers: usize) -> Result<Option<Vec<bool>>, ConfigError> {
        let Some(value) = self.value("layer_types") else { return Ok(None) };
        let all = value.as_array().filter(|all| all.len() == layers);
        let all = all.ok_or_else(|| Self::invalid("layer_types", &format!("{layers} texts"), value))?;
        let kind = |kind: &Value| match kind.as_str() {
            Some("full_attention") => Ok(false),
            Some("sliding_attention") => Ok(true),
            _ => Err(self.unsupported("layer_types", kind, "full_attention, sliding_attention")),
        };
        all.iter().map(kind).collect::<Result<_, _>>().map(Some)
    }

    /// Refuses `layer_types` that differ from what the family does in every layer.
    pub(crate) fn require_layers(&self, layers: usize, slides: bool) -> Result<(), ConfigError> {
        match self.sliding_layers(layers)? {
            Some(all) if all.iter().any(|slide| *slide != slides) => {
                let supported = if slides { "sliding_attention in all" } else { "full_attention in all" };
                Err(self.unsupported("layer_types", &self.object["layer_types"], supported))
            }
            _ => Ok(()),
        }
    }
}

fn number(field: &str, value: Option<&Value>) -> Result<Option<f64>, ConfigError> {
    let Some(value) = value else { return Ok(None) };
    let number = value.as_f64().filter(|number| number.is_finite());
    number.map(Some).ok_or_else(|| Fields::invalid(field, "a finite number", value))
}

#[cfg(test)]
mod tests;
