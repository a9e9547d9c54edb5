//! Gemma 2: norms on both sides of attention and MLP, soft caps, every other layer with a window.

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
use crate::model::family::{Definition, LLAMA_NAMES, Names};
use crate::model::gemma::embedding_scale;

/// What the family is called and how it is read.
pub(crate) const DEFINITION: Definition = Definition {
    name: "gemma2",
    class: "Gemma2ForCausalLM",
    gguf: Some("gemma2"),
    norm: NormKind::Rms { unit_offset: true },
    activation: Activation::GeluTanh,
    tied: true,
    partial_rotary: false,
    rotary_factor: 1.0,
    gguf_permutes: false,
    modules: Names {
        norms: &[
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ],
        ..LLAMA_NAMES
    },
    configure,
    configure_gguf,
    decoder,
};

fn configure(fields: &Fields) -> Result<ModelConfig, ConfigError> {
    fields.one_of("hidden_activation", &["gelu_pytorch_tanh"])?;
    fields.one_of("hidden_act", &["gelu_pytorch_tanh"])?;
    for foreign in ["mlp_bias", "qk_layernorm"] {
        fields.refuse(foreign)?;
    }
    let mut config = fields.base(Some(256))?;
    let attention = fields.flag_or("attention_bias", false)?;
    config.biases = Biases { qkv: attention, output: attention, ..Biases::default() };
    config.embedding_scale = embedding_scale(config.hidden);
    config.attention_scale = (1.0 / fields.number_or("query_pre_attn_scalar", 256.0)?.sqrt()) as f32;
    let cap = |field: &str, default: f64| {
        Ok::<_, ConfigError>(if fields.has(field) { fields.optional_number(field)? } else { Some(default) })
    };
    config.attention_cap = cap("attn_logit_softcapping", 50.0)?.map(|cap| cap as f32);
    config.logit_cap = cap("final_logit_softcapping", 30.0)?.map(|cap| cap as f32);
    let window =
        if fields.has("sliding_window") { fields.optional_size("sliding_window")? } else { Some(4096) };
    let slides = fields.sliding_layers(config.layers)?;
    let slides = slides.unwrap_or_else(|| (0..config.layers).map(|layer| layer % 2 == 0).collect());
    config.windows =
        slides.iter().map(|slides| window.filter(|_| *slides).map(|window| window as u32)).collect();
    Ok(config)
}

/// The file does not hold the scale of the scores unless a newer converter wrote it: the three sizes of Gemma 2 follow
/// the head's width, but for the 27 B with its 46 layers.
fn configure_gguf(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    config.embedding_scale = embedding_scale(config.hidden);
    let by_size = if config.layers == 46 { config.hidden / config.heads } else { config.head_dim };
    let scale = keys.number("attention.scale")?;
    config.attention_scale = scale.unwrap_or((1.0 / (by_size as f64).sqrt()) as f32);
    config.attention_cap = Some(keys.number("attn_logit_softcapping")?.unwrap_or(50.0));
    config.logit_cap = Some(keys.number("final_logit_softcapping")?.unwrap_or(30.0));
    let window = keys.window()?.or(Some(4096));
    for (layer, place) in config.windows.iter_mut().enumerate() {
        *place = window.filter(|_| layer % 2 == 0);
    }
    Ok(())
}

/// The layers of Gemma 2: `x += norm(attention(norm(x))); x += norm(mlp(norm(x)))`.
struct Gemma2 {
    layers: Vec<Layer>,
}

struct Layer {
    before_attention: Norm,
    attention: Attention,
    after_attention: Norm,
    before_mlp: Norm,
    mlp: GatedMlp,
    after_mlp: Norm,
}

fn decoder(config: &ModelConfig, layers: Vec<LayerParts>) -> Box<dyn Decoder> {
    let build = |(index, parts): (usize, LayerParts)| {
        let [before_attention, after_attention, before_mlp, after_mlp] = named(parts.norms);
        let mlp = GatedMlp { gate_up: parts.gate_up, down: parts.down, activation: config.activation };
        let attention = Attention::new(config, index, parts.qkv, parts.output, parts.head_norms);
        Layer { before_attention, attention, after_attention, before_mlp, mlp, after_mlp }
    };
    Box::new(Gemma2 { layers: layers.into_iter().enumerate().map(build).collect() })
}

impl Decoder for Gemma2 {
    fn forward(&self, pass: &mut Pass<'_>, work: &mut Workspace) {
        let Workspace { hidden, normed, update, attention, mlp, .. } = work;
        for layer in &self.layers {
            layer.before_attention.forward(pass, hidden, normed);
            layer.attention.forward(pass, normed, attention, update);
            layer.after_attention.forward(pass, update, normed);
            add(pass.device, hidden, normed);
            layer.before_mlp.forward(pass, hidden, normed);
            layer.mlp.forward(pass, normed, mlp, update);
            layer.after_mlp.forward(pass, update, normed);
            add(pass.device, hidden, normed);
        }
    }
}
