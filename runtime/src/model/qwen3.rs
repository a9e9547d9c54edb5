//! Qwen 3: Llama with a norm on every head of queries and keys; windows as Qwen 2.

use crate::model::config::gguf::Keys;
use crate::model::config::hugging_face::Fields;
use crate::model::config::{Activation, Biases, ConfigError, ModelConfig, NormKind};
use crate::model::family::{Definition, LLAMA_NAMES};
use crate::model::llama;
use crate::model::qwen2::upper_windows;

/// What the family is called and how it is read.
pub(crate) const DEFINITION: Definition = Definition {
    name: "qwen3",
    class: "Qwen3ForCausalLM",
    gguf: Some("qwen3"),
    norm: NormKind::Rms { unit_offset: false },
    activation: Activation::Silu,
    tied: false,
    partial_rotary: false,
    rotary_factor: 1.0,
    gguf_permutes: false,
    modules: LLAMA_NAMES,
    configure,
    configure_gguf,
    decoder: llama::decoder,
};

fn configure(fields: &Fields) -> Result<ModelConfig, ConfigError> {
    fields.one_of("hidden_act", &["silu", "swish"])?;
    for foreign in ["mlp_bias", "attn_logit_softcapping", "final_logit_softcapping", "qk_layernorm"] {
        fields.refuse(foreign)?;
    }
    let mut config = fields.base(Some(128))?;
    let attention = fields.flag_or("attention_bias", false)?;
    config.biases = Biases { qkv: attention, output: attention, ..Biases::default() };
    config.windows = upper_windows(fields, config.layers)?;
    config.query_key_norm = true;
    Ok(config)
}

fn configure_gguf(_: &Keys<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    config.query_key_norm = true;
    Ok(())
}
