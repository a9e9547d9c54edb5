//! Gemma: Llama with `1 + w` norms, a scaled and tied embedding, and a GELU gate.

use crate::model::config::gguf::Keys;
use crate::model::config::hugging_face::Fields;
use crate::model::config::{Activation, Biases, ConfigError, ModelConfig, NormKind};
use crate::model::family::{Definition, LLAMA_NAMES};
use crate::model::llama;

/// What the family is called and how it is read.
pub(crate) const DEFINITION: Definition = Definition {
    name: "gemma",
    class: "GemmaForCausalLM",
    gguf: Some("gemma"),
    norm: NormKind::Rms { unit_offset: true },
    activation: Activation::GeluTanh,
    tied: true,
    partial_rotary: false,
    rotary_factor: 1.0,
    gguf_permutes: false,
    modules: LLAMA_NAMES,
    configure,
    configure_gguf,
    decoder: llama::decoder,
};

fn configure(fields: &Fields) -> Result<ModelConfig, ConfigError> {
    fields.one_of("hidden_activation", &["gelu_pytorch_tanh"])?;
    // The first files say "gelu" and mean its tanh formula: that is what the model was trained with.
    fields.one_of("hidden_act", &["gelu", "gelu_pytorch_tanh"])?;
    for foreign in
        ["sliding_window", "mlp_bias", "attn_logit_softcapping", "final_logit_softcapping", "qk_layernorm"]
    {
        fields.refuse(foreign)?;
    }
    let base = fields.base(Some(256))?;
    fields.require_layers(base.layers, false)?;
    let attention = fields.flag_or("attention_bias", false)?;
    let biases = Biases { qkv: attention, output: attention, ..Biases::default() };
    Ok(ModelConfig { biases, embedding_scale: embedding_scale(base.hidden), ..base })
}

fn configure_gguf(_: &Keys<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    config.embedding_scale = embedding_scale(config.hidden);
    Ok(())
}

/// The embedding is multiplied by the square root of its width.
pub(crate) fn embedding_scale(hidden: usize) -> f32 {
    (hidden as f64).sqrt() as f32
}
