//! Mistral and Zephyr: Llama with a sliding window, which later versions leave out.

use crate::model::config::gguf::Keys;
use crate::model::config::hugging_face::Fields;
use crate::model::config::{Activation, ConfigError, ModelConfig, NormKind};
use crate::model::family::{Definition, LLAMA_NAMES};
use crate::model::llama;

/// What the family is called and how it is read.
pub(crate) const DEFINITION: Definition = Definition {
    name: "mistral",
    class: "MistralForCausalLM",
    gguf: None,
    norm: NormKind::Rms { unit_offset: false },
    activation: Activation::Silu,
    tied: false,
    partial_rotary: false,
    rotary_factor: 1.0,
    gguf_permutes: true,
    modules: LLAMA_NAMES,
    configure,
    configure_gguf,
    decoder: llama::decoder,
};

/// The window where the file does not speak of one; `null` is none.
const DEFAULT_WINDOW: usize = 4096;

fn configure(fields: &Fields) -> Result<ModelConfig, ConfigError> {
    fields.one_of("hidden_act", &["silu", "swish"])?;
    for foreign in
        ["attention_bias", "mlp_bias", "attn_logit_softcapping", "final_logit_softcapping", "qk_layernorm"]
    {
        fields.refuse(foreign)?;
    }
    let mut config = fields.base(None)?;
    let window = match fields.optional_size("sliding_window")? {
        None if !fields.has("sliding_window") => Some(DEFAULT_WINDOW),
        window => window,
    };
    fields.require_layers(config.layers, window.is_some())?;
    config.windows.fill(window.map(|window| window as u32));
    Ok(config)
}

fn configure_gguf(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    config.windows.fill(keys.window()?);
    Ok(())
}
