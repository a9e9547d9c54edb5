//! What handlers share: the engine, the adapters, the model's words. Must not know a route.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use lorikeet_api::ErrorCode;
use serde_json::Value;

use super::beside::Beside;
use super::chat::Turn;
use super::error::{self, ApiError, Problem};
use super::fields::invalid;
use super::limits::Limits;
use super::models::ModelCard;
use super::parameters::Bounds;
use super::registry::Registry;
use super::target::Target;
use crate::adapters::pin::Pin;
use crate::engine::request::Failure;
use crate::generate::Generator;
use crate::metrics::Metrics;
use crate::metrics::sequence::Watch;
use crate::text::tokenizer::TokenizerError;
use crate::text::{GenerationDefaults, Tokenizer};

/// What a message costs a template beside its text, in bytes of text.
const MESSAGE: usize = 64;

/// Messages as a prompt, or why the template refuses them.
pub type Render = Arc<dyn Fn(&[Value], Turn) -> Result<String, String> + Send + Sync>;

/// Everything that handlers share.
pub struct App {
    /// Starts sequences.
    pub generator: Generator,
    /// The adapters.
    pub adapters: Box<dyn Registry>,
    /// The base model's chat template.
    pub template: Option<Render>,
    /// Where long texts are worked on.
    pub beside: Beside,
    /// What the model's `generation_config.json` says.
    pub defaults: GenerationDefaults,
    /// The base model.
    pub card: ModelCard,
    /// The figures.
    pub metrics: Arc<Metrics>,
    /// What a caller of the public face may ask for.
    pub limits: Limits,
    /// The same of the admin face.
    pub admin_limits: Limits,
    /// A busy engine that begins no step for so long is stuck.
    pub stuck_after: Duration,
    /// Set when the replica takes no new work.
    pub draining: AtomicBool,
}

impl App {
    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        self.generator.tokenizer()
    }

    /// Tokens of a sequence, prompt and output.
    #[must_use]
    pub fn context(&self) -> usize {
        self.generator.engine().context()
    }

    /// Token ids are below this.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.generator.engine().vocabulary()
    }

    /// What parameters are checked against.
    #[must_use]
    pub fn bounds(&self) -> Bounds<'_> {
        Bounds { limits: &self.limits, defaults: &self.defaults, vocabulary: self.vocabulary() }
    }

    /// The ids of texts.
    ///
    /// # Errors
    /// 400 when the tokenizer cannot take one.
    pub async fn encode(&self, texts: Vec<String>, add_special: bool) -> Result<Vec<Vec<u32>>, ApiError> {
        let tokenizer = self.tokenizer().clone();
        let bytes = texts.iter().map(String::len).sum();
        let encode = move || texts.iter().map(|text| tokenizer.encode(text, add_special)).collect();
        let encoded: Result<Vec<Vec<u32>>, TokenizerError> = self.beside.run(bytes, encode).await?;
        encoded.map_err(|error| invalid("prompt", &error.to_string()).into())
    }

    /// The ids of one text.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub async fn encode_one(&self, text: String, add_special: bool) -> Result<Vec<u32>, ApiError> {
        Ok(self.encode(vec![text], add_special).await?.pop().unwrap_or_default())
    }

    /// The text of ids.
    ///
    /// # Errors
    /// When the tokenizer panics.
    pub async fn decode(&self, ids: Vec<u32>, skip_special: bool) -> Result<String, ApiError> {
        let tokenizer = self.tokenizer().clone();
        self.beside.run(size_of_val(&*ids), move || tokenizer.decode(&ids, skip_special)).await
    }

    /// The prompt of a chat.
    ///
    /// # Errors
    /// 400 when the model has no template, or its template refuses the messages.
    pub async fn render(&self, messages: Vec<Value>, turn: Turn) -> Result<String, ApiError> {
        let Some(template) = self.template.clone() else {
            let what = "the model has no chat template: use /v1/completions";
            return Err(invalid("messages", what).into());
        };
        let texts = messages.iter().filter_map(|message| message.get("content")?.as_str());
        let bytes = texts.map(|text| text.len() + MESSAGE).sum();
        let render = move || template(&messages, turn).map_err(|error| error::shorten(&error));
        let rendered = self.beside.run(bytes, render).await?;
        rendered.map_err(|error: String| invalid("messages", &error).into())
    }

    /// The adapter's weights, held; cold ones are waited for until `deadline`.
    pub(crate) async fn pin(
        &self,
        target: &Target,
        deadline: Instant,
        watches: &[Watch],
    ) -> Result<Option<Pin>, ApiError> {
        let Target::Adapter(name) = target else { return Ok(None) };
        if let Some(pin) = self.adapters.try_pin(name) {
            return Ok(Some(pin));
        }
        watches.iter().for_each(Watch::cold_start);
        match tokio::time::timeout_at(deadline.into(), self.adapters.pin(name)).await {
            Ok(Ok(pin)) => Ok(Some(pin)),
            // It was there when the request came, and is not any more.
            Ok(Err(error)) if error.code == ErrorCode::UnknownAdapter => {
                Err(Problem::UnknownModel(name.clone()).into())
            }
            Ok(Err(error)) => Err(Problem::from(error).into()),
            Err(_) => Err(Failure::DeadlineExceeded.into()),
        }
    }

    /// The engine's refusal, with an honest time to come back.
    #[must_use]
    pub fn busy(&self, failure: Failure) -> ApiError {
        ApiError::from(failure).after(self.metrics.retry_after())
    }
}
