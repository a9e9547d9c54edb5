//! `POST /v1/chat/completions`: messages through the base model's template; whole or as a stream.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};

use super::body::Asked;
use super::completions::count;
use super::error::ApiError;
use super::fields::{Fields, invalid};
use super::logprobs::{ChatLogprob, ChatLogprobs, of_prompt};
use super::openai::{ChatChoice, Delta, Envelope, Message, Usage};
use super::parameters::{Parameters, refuse_unsupported};
use super::run::{self, Answer, Order};
use super::stream::{Frames, Scribe, respond};
use super::{App, Asker, messages};
use crate::engine::request::Token;
use crate::generate::{End, Piece};

/// What shapes the answer.
struct Form {
    id: String,
    created: u64,
    model: String,
    logprobs: bool,
    prompt: Vec<u32>,
    parameters: Parameters,
}

/// How the messages become a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Ends where the assistant begins to speak.
    pub add_generation_prompt: bool,
    /// The last message is the assistant's and goes on.
    pub continue_final_message: bool,
}

impl Turn {
    /// Takes both fields.
    ///
    /// # Errors
    /// When both are asked for.
    pub fn take(fields: &mut Fields) -> Result<Self, super::error::Problem> {
        let continue_final_message = fields.flag("continue_final_message")?.unwrap_or(false);
        let add = fields.flag("add_generation_prompt")?;
        if continue_final_message && add == Some(true) {
            return Err(invalid("continue_final_message", "expected only without add_generation_prompt"));
        }
        Ok(Self { add_generation_prompt: add.unwrap_or(!continue_final_message), continue_final_message })
    }
}

/// Answers.
///
/// # Errors
/// Every problem of the body, the model or the engine.
pub async fn handle(
    State(app): State<Arc<App>>,
    asker: Asker,
    Asked(mut fields): Asked,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let target = app.target(fields.text("model")?.as_deref())?;
    let messages = messages::take(&mut fields, app.limits.messages)?;
    let turn = Turn::take(&mut fields)?;
    let (logprobs, top) = logprobs(&mut fields, app.limits.logprobs)?;
    let max_tokens = fields.count("max_tokens", 1..=u32::MAX)?;
    let max_tokens = fields.count("max_completion_tokens", 1..=u32::MAX)?.or(max_tokens);
    let mut parameters = Parameters::read(&mut fields, app.bounds())?;
    refuse_unsupported(&fields)?;
    parameters.max_tokens = max_tokens;
    parameters.sampling.logprobs = logprobs.then_some(top);
    if parameters.stream.is_some() && parameters.sampling.prompt_logprobs.is_some() {
        return Err(invalid("prompt_logprobs", "expected only without stream").into());
    }
    let prompt = app.render(messages, turn).await?;
    let prompt = app.encode_one(prompt, parameters.add_special.unwrap_or(false)).await?;
    let most = parameters.room("messages", prompt.len(), app.context())?;
    let form = Form {
        id: format!("chatcmpl-{}", asker.request_id),
        created: super::unix_time(),
        model: target.name(&app).to_owned(),
        logprobs,
        prompt: prompt.clone(),
        parameters: parameters.clone(),
    };
    let order = Order {
        target,
        caller: asker.caller,
        account: asker.account,
        arrived,
        prompts: vec![prompt],
        most: vec![most],
        parameters,
    };
    let running = run::start(&app, order).await?;
    if form.parameters.stream.is_some() {
        return Ok(respond(running, Chunks::new(app, form)));
    }
    let answers = run::collect(running).await?;
    Ok(whole(&app, &form, answers))
}

fn logprobs(fields: &mut Fields, most: u32) -> Result<(bool, u32), super::error::Problem> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    match fields.count("top_logprobs", 0..=most)? {
        Some(top) if top > 0 && !wanted => Err(invalid("top_logprobs", "expected only with logprobs = true")),
        top => Ok((wanted, top.unwrap_or(0))),
    }
}

impl Form {
    fn envelope(
        &self,
        object: &'static str,
        choices: Vec<ChatChoice>,
        usage: Option<Option<Usage>>,
    ) -> Envelope<'_, ChatChoice> {
        Envelope {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            choices,
            usage,
            prompt_token_ids: None,
            prompt_logprobs: None,
        }
    }

    fn logprobs(&self, app: &App, tokens: &[Token]) -> Option<ChatLogprobs> {
        let entry =
            |token: &Token| token.logprobs.as_ref().map(|token| ChatLogprob::new(app.tokenizer(), token));
        self.logprobs.then(|| ChatLogprobs { content: tokens.iter().filter_map(entry).collect() })
    }
}

fn empty(index: usize, end: Option<&End>) -> ChatChoice {
    ChatChoice {
        index: count(index),
        message: None,
        delta: None,
        logprobs: None,
        finish_reason: end.map(End::finish_reason),
        stop_reason: end.and_then(End::stop_reason),
        token_ids: None,
    }
}

fn whole(app: &App, form: &Form, answers: Vec<Answer>) -> Response {
    let output = answers.iter().map(|answer| answer.tokens.len()).sum();
    let cached = answers.first().map_or(0, |answer| answer.cached_tokens);
    let prompt_logprobs = form
        .parameters
        .sampling
        .prompt_logprobs
        .and_then(|_| answers.first().map(|answer| of_prompt(app.tokenizer(), &answer.prompt_logprobs)));
    let ids = form.parameters.return_token_ids;
    let choices = answers.into_iter().enumerate().map(|(index, answer)| ChatChoice {
        logprobs: form.logprobs(app, &answer.tokens),
        token_ids: ids.then(|| answer.tokens.iter().map(|token| token.id).collect()),
        message: Some(Message { role: "assistant", content: answer.text, refusal: None }),
        ..empty(index, answer.end.as_ref())
    });
    let usage = Usage::new(count(form.prompt.len()), cached, count(output));
    let mut envelope = form.envelope("chat.completion", choices.collect(), Some(Some(usage)));
    envelope.prompt_logprobs = prompt_logprobs;
    envelope.prompt_token_ids = ids.then_some(&form.prompt);
    Json(envelope).into_response()
}

/// The chunks of a stream.
struct Chunks {
    app: Arc<App>,
    form: Form,
    begun: Vec<bool>,
    tokens: u32,
    cached: u32,
}

impl Chunks {
    fn new(app: Arc<App>, form: Form) -> Self {
        let choices = form.parameters.choices as usize;
        Self { app, form, begun: vec![false; choices], tokens: 0, cached: 0 }
    }

    fn usage(&self) -> Usage {
        Usage::new(count(self.form.prompt.len()), self.cached, self.tokens)
    }

    fn send(&self, choice: ChatChoice, first: bool, out: &mut Frames) {
        let usage = match self.form.parameters.stream.unwrap_or_default() {
            options if options.continuous_usage => Some(Some(self.usage())),
            options => options.include_usage.then_some(None),
        };
        let mut envelope = self.form.envelope("chat.completion.chunk", vec![choice], usage);
        envelope.prompt_token_ids =
            (first && self.form.parameters.return_token_ids).then_some(self.form.prompt.as_slice());
        out.data(&envelope);
    }

    /// The first chunk of a choice names who speaks.
    fn begin(&mut self, index: usize, out: &mut Frames) {
        let Some(begun) = self.begun.get_mut(index) else { return };
        if !std::mem::replace(begun, true) {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
            self.send(ChatChoice { delta: Some(delta), ..empty(index, None) }, true, out);
        }
    }
}

impl Scribe for Chunks {
    fn open(&mut self, _out: &mut Frames) {}

    fn piece(&mut self, index: usize, piece: Piece, out: &mut Frames) {
        match piece {
            Piece::Started { cached_tokens } => self.cached = cached_tokens,
            Piece::Prompt(_) | Piece::Failed(_) => {}
            Piece::Token { token, text, .. } => {
                self.begin(index, out);
                self.tokens += 1;
                let ids = self.form.parameters.return_token_ids;
                if text.is_empty() && !self.form.logprobs && !ids {
                    return;
                }
                let choice = ChatChoice {
                    delta: Some(Delta { role: None, content: Some(text) }),
                    logprobs: self.form.logprobs(&self.app, std::slice::from_ref(&token)),
                    token_ids: ids.then(|| vec![token.id]),
                    ..empty(index, None)
                };
                self.send(choice, false, out);
            }
            Piece::End { text, reason } => {
                self.begin(index, out);
                let content = (!text.is_empty()).then_some(text);
                let delta = Some(Delta { role: None, content });
                self.send(ChatChoice { delta, ..empty(index, Some(&reason)) }, false, out);
            }
        }
    }

    fn close(&mut self, out: &mut Frames) {
        if self.form.parameters.stream.is_some_and(|options| options.include_usage) {
            out.data(&self.form.envelope("chat.completion.chunk", Vec::new(), Some(Some(self.usage()))));
        }
        out.done();
    }

    fn fail(&mut self, error: &ApiError, out: &mut Frames) {
        out.data(&error.body());
        out.done();
    }
}
