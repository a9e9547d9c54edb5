//! A base model's report. Must not load weights: descriptions and headers are enough.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;

use lorikeet_kernels::device::Device;
use serde::Serialize;

use super::table::{Table, bytes, count, whole};
use crate::model::modules::ModelShape;
use crate::model::{FileLimits, KvChoice, KvOptions, LoadOptions, ModelFiles};
use crate::text::Text;

/// What a base model is.
#[derive(Debug, Serialize)]
pub struct ModelReport {
    /// Where it is.
    pub path: String,
    /// `huggingface` or `gguf`.
    pub format: &'static str,
    /// As `llama`.
    pub architecture: String,
    /// Decoder layers.
    pub layers: usize,
    /// The width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// The width of the MLP.
    pub intermediate: usize,
    /// Rows of the head.
    pub vocabulary: usize,
    /// The head is the embedding's table.
    pub tied_head: bool,
    /// Tokens of the longest context.
    pub max_context: usize,
    /// Tokens of the attention window, of the layers that have one.
    pub window: Option<u32>,
    /// Layers that have it.
    pub windowed_layers: usize,
    /// All parameters.
    pub parameters: u64,
    /// Parameters by how they are stored.
    pub encodings: BTreeMap<String, u64>,
    /// Bytes of the files.
    pub file_bytes: u64,
    /// Bytes of the weights in memory, as they are (a quantization at load makes them fewer).
    pub weight_bytes: u64,
    /// Bytes of one token's keys and values.
    pub kv_bytes_per_token: usize,
    /// What the tokenizer is.
    pub tokenizer: String,
    /// Ids of the tokenizer.
    pub tokens: usize,
    /// The names of the chat templates; none for a model without.
    pub chat_templates: Vec<String>,
    /// Ids that end a text.
    pub eos: BTreeMap<u32, String>,
    /// The id that begins one.
    pub bos: Option<u32>,
}

/// The files of a model, and its shape as serving would have it.
pub(super) fn open(path: &Path) -> Result<(ModelFiles, ModelShape), String> {
    let files = ModelFiles::open(path, &FileLimits::default()).map_err(|error| error.to_string())?;
    let shape = files.shape(&LoadOptions {
        device: Device::new(NonZeroUsize::MIN),
        quantize: None,
        kv: KvOptions { blocks: 0, block_size: 16, dtype: KvChoice::Auto },
        max_step_rows: 1,
        progress: &|_, _| {},
    });
    Ok((files, shape))
}

pub(super) fn inspect(path: &Path) -> Result<ModelReport, String> {
    let (files, shape) = open(path)?;
    let text = Text::of(path, &files).map_err(|error| error.to_string())?;
    let (config, mix) = (files.config(), files.mix());
    let eos = text.defaults.eos_ids.iter().map(|&id| (id, text.tokenizer.piece(id))).collect();
    Ok(ModelReport {
        path: path.display().to_string(),
        format: if files.gguf().is_some() { "gguf" } else { "huggingface" },
        architecture: shape.architecture.clone(),
        layers: config.layers,
        hidden: config.hidden,
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        intermediate: config.intermediate,
        vocabulary: config.vocabulary,
        tied_head: config.tied_head,
        max_context: config.max_context,
        window: config.windows.iter().flatten().min().copied(),
        windowed_layers: config.windows.iter().flatten().count(),
        parameters: mix.values().map(|(elements, _)| elements).sum(),
        weight_bytes: mix.values().map(|(_, bytes)| bytes).sum(),
        encodings: mix.into_iter().map(|(name, (elements, _))| (name, elements)).collect(),
        file_bytes: files.bytes(),
        kv_bytes_per_token: shape.kv_bytes_per_token,
        tokenizer: text.tokenizer.kind().to_owned(),
        tokens: text.tokenizer.vocabulary(),
        chat_templates: text.template.map(|template| template.names().to_vec()).unwrap_or_default(),
        eos,
        bos: text.defaults.bos_id,
    })
}

impl ModelReport {
    pub(super) fn table(&self) -> String {
        let mix: Vec<String> =
            self.encodings.iter().map(|(name, elements)| format!("{} {name}", count(*elements))).collect();
        let eos: Vec<String> = self.eos.iter().map(|(id, piece)| format!("{id} {piece:?}")).collect();
        let window = self.window.map(|window| {
            format!("{} tokens in {} of {} layers", whole(window as usize), self.windowed_layers, self.layers)
        });
        let head = if self.tied_head { "tied to the embedding" } else { "of its own" };
        let full = self.kv_bytes_per_token as u64 * self.max_context as u64;
        Table::new(format!("model {} ({})", self.path, self.format))
            .row("architecture", &self.architecture)
            .row(
                "layers",
                format!("{}, {} wide, MLP {}", self.layers, whole(self.hidden), whole(self.intermediate)),
            )
            .row(
                "attention",
                format!("{} heads of {}, {} for keys and values", self.heads, self.head_dim, self.kv_heads),
            )
            .maybe("window", window)
            .row("context", format!("{} tokens", whole(self.max_context)))
            .row("vocabulary", format!("{}, head {head}", whole(self.vocabulary)))
            .row("parameters", format!("{} ({})", count(self.parameters), mix.join(", ")))
            .row("on disk", bytes(self.file_bytes))
            .row("in memory", bytes(self.weight_bytes))
            .row(
                "KV cache",
                format!("{} a token, {} a full context", bytes(self.kv_bytes_per_token as u64), bytes(full)),
            )
            .row("tokenizer", format!("{}, {} tokens", self.tokenizer, whole(self.tokens)))
            .row(
                "chat template",
                if self.chat_templates.is_empty() { "none".into() } else { self.chat_templates.join(", ") },
            )
            .row(
                "ends with",
                if eos.is_empty() { "nothing: only max_tokens ends a text".into() } else { eos.join(", ") },
            )
            .render()
    }
}
