//! The base model: files fetched, described, planned for, loaded; with what belongs to it.

use std::sync::Arc;
use std::time::SystemTime;

use lorikeet_kernels::device::Device;
use serde_json::Map;

use super::plan::{self, PlanError};
use crate::args::{KvType, Quantize};
use crate::config::{BaseConfig, Capacity};
use crate::digest::Digest;
use crate::engine::config::EngineConfig;
use crate::http::Render;
use crate::http::chat::Turn;
use crate::model::{self, FileLimits, KvChoice, KvOptions, LoadError, LoadOptions, Model, ModelFiles};
use crate::progress::Bars;
use crate::source::error::FetchError;
use crate::source::fetch::{Fetched, Fetcher};
use crate::text::template::Chat;
use crate::text::{ChatTemplate, Text, TextError};

/// A model that is ready to run.
pub(super) struct Base {
    pub(super) model: Model,
    pub(super) engine: EngineConfig,
    pub(super) text: Text,
    pub(super) digest: Digest,
    pub(super) revision: Option<String>,
    pub(super) dtype: String,
}

/// Why a model is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    #[error(transparent)]
    Files(#[from] LoadError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Text(#[from] TextError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("the content is {got}, but --model-digest pins {expected}")]
    Digest { expected: Digest, got: Digest },
    #[error("loading panicked: a file is broken in a way that nobody thought of")]
    Panicked,
}

/// Fetches the model and loads it beside the threads that answer.
pub(super) async fn load(
    base: &BaseConfig,
    capacity: &Capacity,
    fetcher: &Fetcher,
    bars: &Bars,
) -> Result<Base, BaseError> {
    let fetched = fetcher.model(&base.source, None).await?;
    let (base, capacity, bars) = (base.clone(), capacity.clone(), bars.clone());
    let loaded = tokio::task::spawn_blocking(move || from_disk(&fetched, &base, &capacity, &bars)).await;
    loaded.unwrap_or(Err(BaseError::Panicked))
}

fn from_disk(
    fetched: &Fetched,
    base: &BaseConfig,
    capacity: &Capacity,
    bars: &Bars,
) -> Result<Base, BaseError> {
    let path = fetched.path();
    let files = ModelFiles::open(&path, &FileLimits::default())?;
    let text = Text::of(&path, &files)?;
    let bar = bars.bar(&base.name, files.bytes());
    let progress = |done, total| bar.at(done, total);
    let mut options = LoadOptions {
        device: Device::new(base.threads),
        quantize: base.quantize.map(|quantize| match quantize {
            Quantize::Q8_0 => model::Quantize::Q8_0,
            Quantize::Q4K => model::Quantize::Q4K,
        }),
        kv: KvOptions {
            blocks: 1,
            block_size: plan::BLOCK,
            dtype: match capacity.kv_type {
                KvType::Auto => KvChoice::Auto,
                KvType::F32 => KvChoice::F32,
                KvType::F16 => KvChoice::F16,
            },
        },
        max_step_rows: capacity.max_step_tokens,
        progress: &progress,
    };
    let shape = files.shape(&options);
    let known = plan::Known {
        trained: shape.max_context,
        asked: base.max_length,
        token_bytes: shape.kv_bytes_per_token,
        free: plan::available(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        weights: files.bytes(),
        eos_ids: text.defaults.eos_ids.clone(),
    };
    let engine = plan::engine(known, capacity)?;
    options.kv.blocks = engine.blocks;
    let dtype = files.encoding();
    let model = files.load(options)?;
    drop(bar);
    // What was loaded is what was hashed: a file that changed in between is found out too.
    if let Some(expected) = base.digest.filter(|digest| *digest != model.digest()) {
        return Err(BaseError::Digest { expected, got: model.digest() });
    }
    tracing::info!(
        model = base.name,
        architecture = shape.architecture,
        weights_mb = model.weight_bytes() >> 20,
        kv_mb = model.kv_bytes() >> 20,
        context = engine.context(),
        threads = base.threads,
        "loaded"
    );
    Ok(Base { digest: model.digest(), model, engine, text, revision: fetched.revision.clone(), dtype })
}

/// The template as handlers use it.
pub(super) fn render(template: Arc<ChatTemplate>) -> Render {
    Arc::new(move |messages, turn: Turn| {
        let chat = Chat {
            messages,
            tools: None,
            add_generation_prompt: turn.add_generation_prompt,
            continue_final_message: turn.continue_final_message,
            variables: &Map::new(),
            now: SystemTime::now(),
        };
        template.render(&chat).map_err(|error| error.to_string())
    })
}
