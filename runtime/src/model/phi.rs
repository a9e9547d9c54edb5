//! Phi 1, 1.5 and 2: attention and MLP side by side on one LayerNorm, `x += attention(n) + mlp(n)`.

use lorikeet_kernels::add::add;

use crate::layers::attention::Attention;
use crate::layers::mlp::PlainMlp;
use crate::layers::norm::Norm;
use crate::layers::pass::Pass;
use crate::layers::workspace::Workspace;
use crate::model::config::gguf::Keys;
use crate::model::config::hugging_face::Fields;
use crate::model::config::{Activation, Biases, ConfigError, ModelConfig, NormKind};
use crate::model::decoder::{Decoder, LayerParts, named};
use crate::model::family::{Definition, Names};

/// What the family is called and how it is read.
pub(crate) const DEFINITION: Definition = Definition {
    name: "phi",
    class: "PhiForCausalLM",
    gguf: Some("phi2"),
    norm: NormKind::Layer,
    activation: Activation::GeluTanh,
    tied: false,
    partial_rotary: true,
    rotary_factor: 0.5,
    gguf_permutes: false,
    modules: Names {
        qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        output: "self_attn.dense",
        gate_up: &["mlp.fc1"],
        down: "mlp.fc2",
        gated: false,
        norms: &["input_layernorm"],
        final_norm: "final_layernorm",
    },
    configure,
    configure_gguf,
    decoder,
};

/// Every linear has a bias, the head too.
const BIASES: Biases = Biases { qkv: true, output: true, mlp: true, head: true };

fn configure(fields: &Fields) -> Result<ModelConfig, ConfigError> {
    fields.one_of("hidden_act", &["gelu_new", "gelu_pytorch_tanh"])?;
    for foreign in ["sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "qk_layernorm"] {
        fields.refuse(foreign)?;
    }
    let base = fields.base(None)?;
    fields.require_layers(base.layers, false)?;
    let norm_eps = fields.number_or("layer_norm_eps", 1e-5)? as f32;
    Ok(ModelConfig { biases: BIASES, norm_eps, ..base })
}

fn configure_gguf(_: &Keys<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    config.biases = BIASES;
    Ok(())
}

/// The layers of Phi: `n = norm(x); x += attention(n) + mlp(n)`.
struct Phi {
    layers: Vec<Layer>,
}

struct Layer {
    norm: Norm,
    attention: Attention,
    mlp: PlainMlp,
}

fn decoder(config: &ModelConfig, layers: Vec<LayerParts>) -> Box<dyn Decoder> {
    let build = |(index, parts): (usize, LayerParts)| {
        let [norm] = named(parts.norms);
        let mlp = PlainMlp { up: parts.gate_up, down: parts.down, activation: config.activation };
        let attention = Attention::new(config, index, parts.qkv, parts.output, parts.head_norms);
        Layer { norm, attention, mlp }
    };
    Box::new(Phi { layers: layers.into_iter().enumerate().map(build).collect() })
}

impl Decoder for Phi {
    fn forward(&self, pass: &mut Pass<'_>, work: &mut Workspace) {
        let Workspace { hidden, normed, update, attention, mlp, .. } = work;
        for layer in &self.layers {
            layer.norm.forward(pass, hidden, normed);
            layer.attention.forward(pass, normed, attention, update);
            add(pass.device, hidden, update);
            layer.mlp.forward(pass, normed, mlp, update);
            add(pass.device, hidden, update);
        }
    }
}
