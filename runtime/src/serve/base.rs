//! The base model: files fetched, described, planned for, loaded; with what belongs to it.

use std::fmt;
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::SystemTime;

use lorikeet_kernels::device::Device;
use serde_json::Map;

use super::plan::{self, PlanError};
use crate::adapters::build::FILES;
use crate::args::{KvType, Quantize};
use crate::config::{BaseConfig, Capacity};
use crate::digest::Digest;
use crate::engine::config::EngineConfig;
use crate::http::Render;
use crate::http::chat::Turn;
use crate::model::{self, FileLimits, KvChoice, KvOptions, LoadError, LoadOptions, Model, ModelFiles};
use crate::progress::Bars;
use crate::source::Source;
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
    #[error("--model: {0}: no such file or folder{1}")]
    Absent(String, Hint),
    #[error("--model: {0}: this is an adapter; give its base model here, and it as --adapter NAME={0}")]
    Adapter(String),
    #[error("--model: {0}")]
    Files(#[from] LoadError),
    #[error("--model: {0}")]
    Fetch(#[from] FetchError),
    #[error("--model: {0}")]
    Text(#[from] TextError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("--model-digest: expected {expected}, got {got}")]
    Digest { expected: Digest, got: Digest },
    #[error("--model: loading panicked: a file is broken in a way that nobody thought of")]
    Panicked,
}

/// What may have been meant by a path that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint(Option<String>);

impl Hint {
    /// `OWNER/NAME` is how the hub's repositories are called.
    fn of(path: &Path) -> Self {
        let parts: Vec<Component<'_>> = path.components().collect();
        let is_name = parts.len() == 2 && parts.iter().all(|part| matches!(part, Component::Normal(_)));
        Self(is_name.then(|| path.display().to_string()))
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(name) => write!(out, "; a repository of the Hugging Face hub is hf://{name}"),
            None => Ok(()),
        }
    }
}

/// What can be said of a path at a glance.
fn look(source: &Source) -> Result<(), BaseError> {
    let Source::Path(path) = source else { return Ok(()) };
    let shown = || path.display().to_string();
    if !path.exists() {
        return Err(BaseError::Absent(shown(), Hint::of(path)));
    }
    if path.join(FILES[0]).exists() && !path.join("config.json").exists() {
        return Err(BaseError::Adapter(shown()));
    }
    Ok(())
}

/// Fetches the model and loads it beside the threads that answer.
pub(super) async fn load(
    base: &BaseConfig,
    capacity: &Capacity,
    fetcher: &Fetcher,
    bars: &Bars,
) -> Result<Base, BaseError> {
    look(&base.source)?;
    let fetched = fetcher.model(&base.source, base.credentials.as_ref(), None).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_no_model_says_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("adapter_config.json"), "{}").unwrap();
        let said = |path: &Path| look(&Source::Path(path.to_owned())).unwrap_err().to_string();
        let absent = said(Path::new("mistralai/Mistral-7B"));
        let expected = "--model: mistralai/Mistral-7B: no such file or folder; a repository of the Hugging Face hub is \
                        hf://mistralai/Mistral-7B";
        assert_eq!(absent, expected);
        assert_eq!(said(Path::new("/no/where")), "--model: /no/where: no such file or folder");
        assert!(said(folder.path()).contains("this is an adapter"), "{}", said(folder.path()));
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        assert!(look(&Source::Path(folder.path().to_owned())).is_ok());
    }
}
