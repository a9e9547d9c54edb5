//! Phi 3: Llama with its queries, keys and values, and its gate and up, in one module each; with or without a window.

use crate::model::config::gguf::Keys;
use crate::model::config::hugging_face::Fields;
use crate::model::config::{Activation, ConfigError, ModelConfig, NormKind};
use crate::model::family::{Definition, LLAMA_NAMES, Names};
use crate::model::llama;

/// What the family is called and how it is read.
pub(crate) const DEFINITION: Definition = Definition {
    name: "phi3",
    class: "Phi3ForCausalLM",
    gguf: Some("phi3"),
    norm: NormKind::Rms { unit_offset: false },
    activation: Activation::Silu,
    tied: false,
    partial_rotary: true,
    rotary_factor: 1.0,
    gguf_permutes: false,
    modules: Names { qkv: &["self_attn.qkv_proj"], gate_up: &["mlp.gate_up_proj"], ..LLAMA_NAMES },
    configure,
    configure_gguf,
    decoder: llama::decoder,
};

fn configure(fields: &Fields) -> Result<ModelConfig, ConfigError> {
    fields.one_of("hidden_act", &["silu", "swish"])?;
    for foreign in
        ["attention_bias", "mlp_bias", "attn_logit_softcapping", "final_logit_softcapping", "qk_layernorm"]
    {
        fields.refuse(foreign)?;
    }
    let mut config = fields.base(None)?;
    let window = fields.optional_size("sliding_window")?;
    fields.require_layers(config.layers, window.is_some())?;
    config.windows.fill(window.map(|window| window as u32));
    Ok(config)
}

fn configure_gguf(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    config.windows.fill(keys.window()?);
    Ok(())
}
