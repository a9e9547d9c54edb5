//! Where a tensor of the Hugging Face form lies in a file: under which name, which rows of it, in which order.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::model::checkpoint::Stored;
use crate::model::config::ModelConfig;
use crate::model::family::Family;

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The stored tensor's name.
    pub tensor: String,
    /// Its rows, where it holds more than what is wanted.
    pub rows: Option<Range<usize>>,
    /// Its rows are interleaved, in this many heads: pair `i` of a head lies at `2 i`, `2 i + 1` instead of `i`, `i + d / 2`.
    pub interleaved_heads: Option<usize>,
}

impl Place {
    /// The whole of a tensor as it is.
    pub(crate) fn whole(tensor: String) -> Self {
        Self { tensor, rows: None, interleaved_heads: None }
    }
}

/// The place of `name` (as `model.layers.0.self_attn.q_proj.weight`) in a GGUF file with these tensors.
pub(crate) fn in_gguf(config: &ModelConfig, name: &str, tensors: &BTreeMap<String, Stored>) -> Place {
    let (path, kind) = name.rsplit_once('.').unwrap_or((name, "weight"));
    let Some((layer, module)) = path.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'))
    else {
        let stored = match path {
            "model.embed_tokens" => "token_embd",
            "lm_head" => "output",
            _ => "output_norm",
        };
        return Place::whole(format!("{stored}.{kind}"));
    };
    let stored = format!("blk.{layer}.{}.{kind}", stored_module(config.family, module));
    if let (Family::Phi, Some(rows)) = (config.family, part_of_qkv(config, module)) {
        let fused = format!("blk.{layer}.attn_qkv.{kind}");
        if tensors.contains_key(&fused) {
            return Place { tensor: fused, rows: Some(rows), interleaved_heads: None };
        }
    }
    let interleaved_heads = match module {
        "self_attn.q_proj" => Some(config.heads),
        "self_attn.k_proj" => Some(config.kv_heads),
        _ => None,
    };
    let interleaved_heads = interleaved_heads.filter(|_| config.family.definition().gguf_permutes);
    Place { tensor: stored, rows: None, interleaved_heads }
}

fn part_of_qkv(config: &ModelConfig, module: &str) -> Option<Range<usize>> {
    let (queries, keys) = (config.query_width(), config.key_width());
    match module {
        "self_attn.q_proj" => Some(0..queries),
        "self_attn.k_proj" => Some(queries..queries + keys),
        "self_attn.v_proj" => Some(queries + keys..queries + 2 * keys),
        _ => None,
    }
}

fn stored_module(family: Family, module: &str) -> &'static str {
    match module {
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.qkv_proj" => "attn_qkv",
        "self_attn.o_proj" | "self_attn.dense" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" | "mlp.gate_up_proj" | "mlp.fc1" => "ffn_up",
        "mlp.down_proj" | "mlp.fc2" => "ffn_down",
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" if family == Family::Gemma2 => "post_attention_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        _ => "ffn_norm",
    }
}

/// Row `i` of the Hugging Face form is row `interleaved(i)` of the file, in heads of `head_dim` rows.
pub(crate) fn interleaved(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let half = head_dim / 2;
    head * head_dim + if within < half { 2 * within } else { 2 * (within - half) + 1 }
}

/// Tensors that files carry and nothing needs: they follow from the description.
pub(crate) fn is_superfluous(config: &ModelConfig, name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
        || name.ends_with(".attn.masked_bias")
        || name == "rope_freqs.weight"
        || (config.tied_head && name == "lm_head.weight")
}
