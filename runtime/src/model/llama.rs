//! Llama 2, 3 and 3.x: `x += attention(norm(x)); x += mlp(norm(x))`.

use lorikeet_kernels::add::add;

use crate::layers::attention::Attention;
use crate::layers::mlp::GatedMlp;
use crate::layers::norm::Norm;
use crate::layers::pass::Pass;
use crate::layers::workspace::Workspace;
use crate::model::config::gguf::Keys;
use crate::model::config::hugging_face::Fields;
use crate::model::config::{Activation, Biases, ConfigError, ModelConfig, NormKind};
use crate::model::decoder::{Decoder, LayerParts, named};
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
    decoder,
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

/// The layers of Llama, and of all that are built alike.
pub(crate) struct Llama {
    layers: Vec<Layer>,
}

struct Layer {
    attention_norm: Norm,
    attention: Attention,
    mlp_norm: Norm,
    mlp: GatedMlp,
}

/// Builds the layers.
pub(crate) fn decoder(config: &ModelConfig, layers: Vec<LayerParts>) -> Box<dyn Decoder> {
    let build = |(index, parts): (usize, LayerParts)| {
        let [attention_norm, mlp_norm] = named(parts.norms);
        let mlp = GatedMlp { gate_up: parts.gate_up, down: parts.down, activation: config.activation };
        let attention = Attention::new(config, index, parts.qkv, parts.output, parts.head_norms);
        Layer { attention_norm, attention, mlp_norm, mlp }
    };
    Box::new(Llama { layers: layers.into_iter().enumerate().map(build).collect() })
}

impl Decoder for Llama {
    fn forward(&self, pass: &mut Pass<'_>, work: &mut Workspace) {
        let Workspace { hidden, normed, update, attention, mlp, .. } = work;
        for layer in &self.layers {
            layer.attention_norm.forward(pass, hidden, normed);
            layer.attention.forward(pass, normed, attention, update);
            add(pass.device, hidden, update);
            layer.mlp_norm.forward(pass, hidden, normed);
            layer.mlp.forward(pass, normed, mlp, update);
            add(pass.device, hidden, update);
        }
    }
}
