//! Llama 2, 3 and 3.x: `x += attention(norm(x)); x += mlp(norm(x))`.

use crate::model::config::gguf::Keys;
use crate::model::config::hugging_face::Fields;
use crate::model::config::{Activation, Biases, ConfigError, ModelConfig, NormKind};
use crate::model::family::{Definition, LLAMA_NAMES};

/// What the family is called and how it is read.
pub(crate) const DEFINITION: Definition = Definition {
    name: "llama",
    class: "LlamaForCausalLM",
    gguf: Some("llama"),
    norm: NormKind::Rms { unit_offset: false },
    activation: Activation::Silu,
    tied: false,
    partial_rotary: false,
    rotary_factor: 1.0,
    gguf_permutes: true,
    modules: LLAMA_NAMES,
    configure,
    configure_gguf,
};

fn configure(fields: &Fields) -> Result<ModelConfig, ConfigError> {
    fields.one_of("hidden_act", &["silu", "swish"])?;
    for foreign in ["sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "qk_layernorm"] {
        fields.refuse(foreign)?;
    }
    let base = fields.base(None)?;
    fields.require_layers(base.layers, false)?;
    let attention = fields.flag_or("attention_bias", false)?;
    let biases =
        Biases { qkv: attention, output: attention, mlp: fields.flag_or("mlp_bias", false)?, head: false };
    Ok(ModelConfig { biases, ..base })
}

/// GGUF files of Mistral come under this name too: they may have a window.
fn configure_gguf(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    config.windows.fill(keys.window()?);
    Ok(())
}
