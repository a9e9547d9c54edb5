//! Qwen 2 and 2.5: Llama with biases on queries, keys and values, and a window on the upper layers where it is switched on.

use crate::model::config::gguf::Keys;
use crate::model::config::hugging_face::Fields;
use crate::model::config::{Activation, Biases, ConfigError, ModelConfig, NormKind};
use crate::model::family::{Definition, LLAMA_NAMES};
use crate::model::llama;

/// What the family is called and how it is read.
pub(crate) const DEFINITION: Definition = Definition {
    name: "qwen2",
    class: "Qwen2ForCausalLM",
    gguf: Some("qwen2"),
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

const BIASES: Biases = Biases { qkv: true, output: false, mlp: false, head: false };

fn configure(fields: &Fields) -> Result<ModelConfig, ConfigError> {
    fields.one_of("hidden_act", &["silu", "swish"])?;
    for foreign in ["mlp_bias", "attn_logit_softcapping", "final_logit_softcapping", "qk_layernorm"] {
        fields.refuse(foreign)?;
    }
    let mut config = fields.base(None)?;
    config.biases = BIASES;
    config.windows = upper_windows(fields, config.layers)?;
    Ok(config)
}

/// The window of each layer: from `layer_types`, or of those from `max_window_layers` on, if `use_sliding_window`.
pub(crate) fn upper_windows(fields: &Fields, layers: usize) -> Result<Vec<Option<u32>>, ConfigError> {
    let on = fields.flag_or("use_sliding_window", false)?;
    let window =
        if fields.has("sliding_window") { fields.optional_size("sliding_window")? } else { Some(4096) };
    let window = window.filter(|_| on).map(|window| window as u32);
    // Zero is a meaning here: all layers slide.
    let first = fields.optional_number("max_window_layers")?.unwrap_or(28.0);
    let slides = fields.sliding_layers(layers)?;
    let slides = slides.unwrap_or_else(|| (0..layers).map(|layer| layer as f64 >= first).collect());
    Ok(slides.iter().map(|slides| window.filter(|_| *slides)).collect())
}

fn configure_gguf(_: &Keys<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    config.biases.qkv = true;
    Ok(())
}
