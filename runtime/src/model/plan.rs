//! Every tensor that a model needs, by its Hugging Face name. Pure.

use crate::model::config::{ModelConfig, NormKind};
use crate::model::modules::Site;
use crate::model::shape::{EMBEDDING, HEAD, shape};

/// One tensor that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub name: String,
    /// Outermost first.
    pub shape: Vec<usize>,
    pub role: Role,
}

/// What it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Weights `[outputs, inputs]` of a linear, of the head or of the embedding: may be quantized.
    Matrix,
    /// A bias or a norm: f32 in memory.
    Vector,
}

/// All tensors of the model that `config` describes.
pub(crate) fn plan(config: &ModelConfig) -> Vec<Wanted> {
    let mut all = Vec::new();
    for module in shape(config, 0).modules {
        let dims = match module.site {
            Site::Embedding => vec![module.inputs, module.outputs()],
            _ => vec![module.outputs(), module.inputs],
        };
        if module.path == HEAD && config.tied_head {
            if config.biases.head {
                all.push(vector(&format!("{HEAD}.bias"), config.vocabulary));
            }
            continue;
        }
        debug_assert!(module.path != EMBEDDING || !module.has_bias);
        all.push(Wanted { name: format!("{}.weight", module.path), shape: dims, role: Role::Matrix });
        if module.has_bias {
            all.push(vector(&format!("{}.bias", module.path), module.outputs()));
        }
    }
    let names = &config.family.definition().modules;
    for layer in 0..config.layers {
        for norm in names.norms {
            all.extend(norm_tensors(config, &format!("model.layers.{layer}.{norm}")));
        }
        if config.query_key_norm {
            all.push(vector(&query_norm(layer), config.head_dim));
            all.push(vector(&key_norm(layer), config.head_dim));
        }
    }
    all.extend(norm_tensors(config, &format!("model.{}", names.final_norm)));
    all
}

/// The name of the norm of a layer's query heads.
pub(crate) fn query_norm(layer: usize) -> String {
    format!("model.layers.{layer}.self_attn.q_norm.weight")
}

/// The name of the norm of a layer's key heads.
pub(crate) fn key_norm(layer: usize) -> String {
    format!("model.layers.{layer}.self_attn.k_norm.weight")
}

fn norm_tensors(config: &ModelConfig, path: &str) -> Vec<Wanted> {
    let mut tensors = vec![vector(&format!("{path}.weight"), config.hidden)];
    if config.norm == NormKind::Layer {
        tensors.push(vector(&format!("{path}.bias"), config.hidden));
    }
    tensors
}

fn vector(name: &str, length: usize) -> Wanted {
    Wanted { name: name.to_owned(), shape: vec![length], role: Role::Vector }
}
