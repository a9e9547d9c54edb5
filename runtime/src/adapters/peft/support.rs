//! Which settings of `adapter_config.json` are harmless, and which are refused by name. Pure.

use serde_json::{Map, Value};

use super::{PeftError, shown};

/// Settings that another file of this folder reads, or that do not touch inference.
const KNOWN: [&str; 29] = [
    "peft_type",
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "lora_bias",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    // Of training, of bookkeeping, or of a parallelism that this runtime does not use.
    "inference_mode",
    "lora_dropout",
    "revision",
    "auto_mapping",
    "peft_version",
    "megatron_core",
    "qalora_group_size",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "runtime_config",
    // PEFT itself sets it to false for a linear layer, which is all that there is here.
    "fan_in_fan_out",
    "bias",
    "init_lora_weights",
    "task_type",
];

/// Settings that change answers when they are set, and what a user can do.
const UNSUPPORTED: [(&str, &str); 14] = [
    ("modules_to_save", "train the adapter with LoRA on these modules, or merge them into the base model"),
    ("trainable_token_indices", "merge the tokens into the base model"),
    ("layer_replication", "replicate the layers in the base model"),
    ("target_parameters", "target modules"),
    ("megatron_config", "save the adapter without tensor parallelism"),
    ("alora_invocation_tokens", "activated LoRA is not known to this runtime"),
    ("use_qalora", "merge and convert the adapter to plain LoRA"),
    ("ensure_weight_tying", "target the head by itself"),
    ("arrow_config", "name one adapter a request"),
    ("use_bdlora", "convert the adapter to plain LoRA"),
    ("velora_config", "convert the adapter to plain LoRA"),
    ("kasa_config", "convert the adapter to plain LoRA"),
    ("monteclora_config", "convert the adapter to plain LoRA"),
    ("mixture_config", "name one adapter a request"),
];

/// Initialisations after which the base weights are no longer the base model's.
const CHANGES_BASE: [&str; 4] = ["pissa", "olora", "loftq", "corda"];

/// Refuses what is set and not supported.
pub(super) fn check(config: &Map<String, Value>) -> Result<(), PeftError> {
    for (field, value) in config {
        if let Some((_, hint)) = UNSUPPORTED.iter().find(|(name, _)| name == field) {
            if is_set(value) {
                return Err(unsupported(field, value, hint));
            }
        } else if !KNOWN.contains(&field.as_str()) && is_set(value) {
            return Err(unsupported(field, value, "the setting is not known to this runtime"));
        }
    }
    check_bias(config)?;
    check_initialisation(config)?;
    match config.get("task_type").unwrap_or(&Value::Null) {
        Value::Null => Ok(()),
        Value::String(task) if task == "CAUSAL_LM" => Ok(()),
        other => Err(unsupported("task_type", other, "this runtime serves CAUSAL_LM")),
    }
}

fn check_bias(config: &Map<String, Value>) -> Result<(), PeftError> {
    match config.get("bias").unwrap_or(&Value::Null) {
        Value::Null => Ok(()),
        Value::String(bias) if bias == "none" => Ok(()),
        other => Err(unsupported("bias", other, "train with bias \"none\", or with lora_bias")),
    }
}

fn check_initialisation(config: &Map<String, Value>) -> Result<(), PeftError> {
    let value = config.get("init_lora_weights").unwrap_or(&Value::Null);
    let changes = value
        .as_str()
        .is_some_and(|name| CHANGES_BASE.iter().any(|prefix| name.to_lowercase().starts_with(prefix)));
    if changes {
        return Err(unsupported(
            "init_lora_weights",
            value,
            "save it with path_initial_model_for_weight_conversion",
        ));
    }
    Ok(())
}

/// Null, false, 0 and empty things are PEFT's defaults of whatever a setting is for.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn unsupported(field: &str, value: &Value, hint: &'static str) -> PeftError {
    PeftError::Unsupported { field: field.to_owned(), got: shown(value), hint }
}
