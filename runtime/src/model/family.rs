//! The families of base models: what each is called, how its modules are named, where its file's fields lead.

use crate::model::config::gguf::Keys;
use crate::model::config::hugging_face::Fields;
use crate::model::config::{Activation, ConfigError, ModelConfig, NormKind};
use crate::model::decoder::{Decoder, LayerParts};
use crate::model::{gemma, gemma2, llama, mistral, phi, phi3, qwen2, qwen3};

/// A family of base models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the families' own")]
pub enum Family {
    Llama,
    Mistral,
    Gemma,
    Gemma2,
    Phi,
    Phi3,
    Qwen2,
    Qwen3,
}

const ALL: [Family; 8] = [
    Family::Llama,
    Family::Mistral,
    Family::Gemma,
    Family::Gemma2,
    Family::Phi,
    Family::Phi3,
    Family::Qwen2,
    Family::Qwen3,
];

/// What a family is called in each kind of file, and how it is read. One constant in each family's file.
pub(crate) struct Definition {
    /// Our name and Hugging Face's `model_type`.
    pub name: &'static str,
    /// Hugging Face's class, as `LlamaForCausalLM`.
    pub class: &'static str,
    /// GGUF's `general.architecture`; a family whose files carry another's has none.
    pub gguf: Option<&'static str>,
    /// Its norms, in Hugging Face's files.
    pub norm: NormKind,
    /// The MLP's function.
    pub activation: Activation,
    /// The head is tied unless the file says otherwise.
    pub tied: bool,
    /// A part of the head's dimensions may turn.
    pub partial_rotary: bool,
    /// Which part does unless the file says otherwise.
    pub rotary_factor: f64,
    /// GGUF's converter interleaves the rows of queries and keys.
    pub gguf_permutes: bool,
    /// Its modules.
    pub modules: Names,
    /// Reads the fields of a `config.json`.
    pub configure: fn(&Fields) -> Result<ModelConfig, ConfigError>,
    /// Adds to what all GGUF files share.
    pub configure_gguf: fn(&Keys<'_>, &mut ModelConfig) -> Result<(), ConfigError>,
    /// Builds the layers.
    pub decoder: fn(&ModelConfig, Vec<LayerParts>) -> Box<dyn Decoder>,
}

/// The names of a layer's modules, in Hugging Face's files.
pub(crate) struct Names {
    /// The parts of the first linear of the attention, side by side.
    pub qkv: &'static [&'static str],
    /// The attention's output.
    pub output: &'static str,
    /// The parts of the first linear of the MLP, side by side.
    pub gate_up: &'static [&'static str],
    /// The MLP's output.
    pub down: &'static str,
    /// The first linear makes a gate as well: it is twice as wide.
    pub gated: bool,
    /// The norms, in the order in which a layer applies them.
    pub norms: &'static [&'static str],
    /// The last norm.
    pub final_norm: &'static str,
}

/// The names that most families share.
pub(crate) const LLAMA_NAMES: Names = Names {
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    output: "self_attn.o_proj",
    gate_up: &["mlp.gate_proj", "mlp.up_proj"],
    down: "mlp.down_proj",
    gated: true,
    norms: &["input_layernorm", "post_attention_layernorm"],
    final_norm: "norm",
};

impl Family {
    pub(crate) const fn definition(self) -> &'static Definition {
        match self {
            Self::Llama => &llama::DEFINITION,
            Self::Mistral => &mistral::DEFINITION,
            Self::Gemma => &gemma::DEFINITION,
            Self::Gemma2 => &gemma2::DEFINITION,
            Self::Phi => &phi::DEFINITION,
            Self::Phi3 => &phi3::DEFINITION,
            Self::Qwen2 => &qwen2::DEFINITION,
            Self::Qwen3 => &qwen3::DEFINITION,
        }
    }

    fn find(matches: impl Fn(&Definition) -> bool) -> Option<Self> {
        ALL.into_iter().find(|family| matches(family.definition()))
    }

    /// The family of a `model_type`.
    pub(crate) fn of_model_type(name: &str) -> Option<Self> {
        Self::find(|definition| definition.name == name)
    }

    /// The family of a class name.
    pub(crate) fn of_class(name: &str) -> Option<Self> {
        Self::find(|definition| definition.class == name)
    }

    /// The family of a GGUF architecture.
    pub(crate) fn of_gguf(name: &str) -> Option<Self> {
        Self::find(|definition| definition.gguf == Some(name))
    }

    /// Its name, as `llama`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.definition().name
    }
}

/// The names of all families, for refusals.
pub(crate) fn supported() -> String {
    ALL.map(|family| family.definition().name).join(", ")
}
