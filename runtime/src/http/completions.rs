//! `POST /v1/completions`: a prompt as text or ids, or a batch of either; whole or as a stream.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;

use super::body::Asked;
use super::error::{ApiError, Problem};
use super::fields::{Fields, expected, invalid, token_ids};
use super::logprobs::{CompletionLogprobs, of_prompt};
use super::openai::{CompletionChoice, Envelope, Usage};
use super::parameters::{Parameters, refuse_unsupported};
use super::run::{self, Answer, Order};
use super::stream::{Frames, Scribe, respond};
use super::{App, Asker};
use crate::engine::request::Token;
use crate::generate::{End, Piece};

/// OpenAI's and vLLM's, where `max_tokens` is not given.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// One prompt as it came.
enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

/// What shapes the answer, of all choices.
struct Form {
    id: String,
    created: u64,
    model: String,
    logprobs: Option<u32>,
    /// The prompts' texts, where they are part of the answer.
    echo: Option<Vec<String>>,
    prompts: Vec<Vec<u32>>,
    parameters: Parameters,
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
    let prompts = prompts(&mut fields, app.vocabulary(), app.limits.prompts)?;
    let logprobs = fields.count("logprobs", 0..=app.limits.logprobs)?;
    let echo = fields.flag("echo")?.unwrap_or(false);
    let lowest = u32::from(!echo);
    let max_tokens = fields.count("max_tokens", lowest..=u32::MAX)?;
    let mut parameters = Parameters::read(&mut fields, app.bounds())?;
    refuse_unsupported(&fields)?;
    parameters.max_tokens = max_tokens.or(Some(DEFAULT_MAX_TOKENS));
    parameters.sampling.logprobs = logprobs;
    parameters.goes_on = echo;
    if echo && logprobs.is_some() {
        parameters.sampling.prompt_logprobs = parameters.sampling.prompt_logprobs.max(logprobs);
    } else if parameters.stream.is_some() && parameters.sampling.prompt_logprobs.is_some() {
        return Err(invalid("prompt_logprobs", "expected only without stream").into());
    }
    let asked = prompts.len().saturating_mul(parameters.choices as usize);
    if asked > app.limits.sequences {
        let most = app.limits.sequences;
        return Err(
            invalid("n", &format!("expected at most {most} choices of all prompts, got {asked}")).into()
        );
    }
    let (ids, texts) = encode(&app, prompts, parameters.add_special.unwrap_or(true), echo).await?;
    let most = ids
        .iter()
        .map(|prompt| parameters.room("prompt", prompt.len(), app.context()))
        .collect::<Result<Vec<_>, _>>()?;
    let form = Form {
        id: format!("cmpl-{}", asker.request_id),
        created: super::unix_time(),
        model: target.name(&app).to_owned(),
        logprobs,
        echo: echo.then_some(texts),
        prompts: ids.clone(),
        parameters: parameters.clone(),
    };
    let order = Order {
        target,
        caller: asker.caller,
        account: asker.account,
        arrived,
        prompts: ids,
        most,
        parameters,
    };
    let running = run::start(&app, order).await?;
    if form.parameters.stream.is_some() {
        return Ok(respond(running, Chunks::new(app, form)));
    }
    let answers = run::collect(running).await?;
    Ok(whole(&app, &form, answers))
}

fn prompts(fields: &mut Fields, vocabulary: usize, most: usize) -> Result<Vec<Prompt>, Problem> {
    let wanted = "a string, a list of token ids, or a list of either";
    let list = match fields.take("prompt") {
        None => return Err(Problem::MissingField("prompt".into())),
        Some(Value::String(text)) => return Ok(vec![Prompt::Text(text)]),
        Some(Value::Array(list)) if list.is_empty() => return Err(Problem::EmptyPrompt("prompt")),
        Some(Value::Array(list)) if list.iter().all(Value::is_number) => {
            return Ok(vec![Prompt::Ids(token_ids("prompt", &list, vocabulary)?)]);
        }
        Some(Value::Array(list)) => list,
        Some(other) => return Err(expected("prompt", wanted, &other)),
    };
    if list.len() > most {
        return Err(invalid("prompt", &format!("expected at most {most} prompts, got {}", list.len())));
    }
    list.into_iter()
        .enumerate()
        .map(|(place, value)| match value {
            Value::String(text) => Ok(Prompt::Text(text)),
            Value::Array(ids) => Ok(Prompt::Ids(token_ids(&format!("prompt[{place}]"), &ids, vocabulary)?)),
            other => Err(expected(&format!("prompt[{place}]"), "a string or a list of token ids", &other)),
        })
        .collect()
}

/// The prompts' ids and, where they are to be part of the answer, their texts.
async fn encode(
    app: &App,
    prompts: Vec<Prompt>,
    add_special: bool,
    echo: bool,
) -> Result<(Vec<Vec<u32>>, Vec<String>), ApiError> {
    let texts = prompts.iter().filter_map(|prompt| match prompt {
        Prompt::Text(text) => Some(text.clone()),
        Prompt::Ids(_) => None,
    });
    let mut encoded = app.encode(texts.collect(), add_special).await?.into_iter();
    let (mut ids, mut echoed) = (Vec::with_capacity(prompts.len()), Vec::new());
    for prompt in prompts {
        match prompt {
            Prompt::Text(text) => {
                ids.push(encoded.next().unwrap_or_default());
                echoed.extend(echo.then_some(text));
            }
            Prompt::Ids(list) => {
                if echo {
                    echoed.push(app.decode(list.clone(), true).await?);
                }
                ids.push(list);
            }
        }
    }
    Ok((ids, echoed))
}

impl Form {
    fn prompt_of(&self, choice: usize) -> usize {
        choice / self.parameters.choices.max(1) as usize
    }

    fn prompt_ids(&self, choice: usize) -> &[u32] {
        self.prompts.get(self.prompt_of(choice)).map_or(&[], Vec::as_slice)
    }

    fn echo(&self, choice: usize) -> Option<&str> {
        self.echo.as_ref().and_then(|texts| texts.get(self.prompt_of(choice))).map(String::as_str)
    }

    fn prompt_tokens(&self) -> u32 {
        count(self.prompts.iter().map(Vec::len).sum())
    }

    fn envelope(
        &self,
        choices: Vec<CompletionChoice>,
        usage: Option<Option<Usage>>,
    ) -> Envelope<'_, CompletionChoice> {
        Envelope {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &self.model,
            choices,
            usage,
            prompt_token_ids: None,
            prompt_logprobs: None,
        }
    }

    fn choice(&self, index: usize, text: String, end: Option<&End>) -> CompletionChoice {
        let _ = self;
        CompletionChoice {
            index: count(index),
            text,
            logprobs: None,
            finish_reason: end.map(End::finish_reason),
            stop_reason: end.and_then(End::stop_reason),
            prompt_logprobs: None,
            prompt_token_ids: None,
            token_ids: None,
        }
    }

    /// The prompt's part of the log-probabilities, where the prompt is part of the answer.
    fn echo_logprobs(
        &self,
        app: &App,
        choice: usize,
        answer: &Answer,
        offset: &mut usize,
    ) -> CompletionLogprobs {
        let mut list = CompletionLogprobs::default();
        for (place, id) in self.prompt_ids(choice).iter().enumerate() {
            let logprobs = place.checked_sub(1).and_then(|place| answer.prompt_logprobs.get(place));
            list.push(app.tokenizer(), *id, logprobs, offset);
        }
        list
    }
}

fn whole(app: &App, form: &Form, answers: Vec<Answer>) -> Response {
    let per_prompt = form.parameters.choices.max(1) as usize;
    let output = answers.iter().map(|answer| answer.tokens.len()).sum();
    let cached = answers.iter().step_by(per_prompt).map(|answer| answer.cached_tokens).sum();
    let choices =
        answers.into_iter().enumerate().map(|(index, answer)| choice(app, form, index, answer)).collect();
    let usage = Usage::new(form.prompt_tokens(), cached, count(output));
    Json(form.envelope(choices, Some(Some(usage)))).into_response()
}

fn choice(app: &App, form: &Form, index: usize, answer: Answer) -> CompletionChoice {
    let mut offset = 0;
    let mut logprobs = form.logprobs.map(|_| match form.echo(index) {
        Some(_) => form.echo_logprobs(app, index, &answer, &mut offset),
        None => CompletionLogprobs::default(),
    });
    if let Some(list) = &mut logprobs {
        for token in &answer.tokens {
            list.push(app.tokenizer(), token.id, token.logprobs.as_ref(), &mut offset);
        }
    }
    let text = form.echo(index).map_or_else(String::new, str::to_owned) + &answer.text;
    let mut choice = form.choice(index, text, answer.end.as_ref());
    choice.logprobs = logprobs;
    if form.parameters.sampling.prompt_logprobs.is_some() {
        choice.prompt_logprobs = Some(of_prompt(app.tokenizer(), &answer.prompt_logprobs));
    }
    if form.parameters.return_token_ids {
        choice.prompt_token_ids = Some(form.prompt_ids(index).to_vec());
        choice.token_ids = Some(answer.tokens.iter().map(|token| token.id).collect());
    }
    choice
}

/// The chunks of a stream.
struct Chunks {
    app: Arc<App>,
    form: Form,
    choices: Vec<Choice>,
}

#[derive(Default)]
struct Choice {
    begun: bool,
    offset: usize,
    tokens: u32,
    cached: u32,
    /// What of the prompt came before the first token.
    prompt: Answer,
}

impl Chunks {
    fn new(app: Arc<App>, form: Form) -> Self {
        let choices = form.prompts.len() * form.parameters.choices.max(1) as usize;
        Self { app, form, choices: (0..choices).map(|_| Choice::default()).collect() }
    }

    fn usage(&self) -> Usage {
        let per_prompt = self.form.parameters.choices.max(1) as usize;
        let cached = self.choices.iter().step_by(per_prompt).map(|choice| choice.cached).sum();
        Usage::new(self.form.prompt_tokens(), cached, self.choices.iter().map(|choice| choice.tokens).sum())
    }

    fn usage_field(&self) -> Option<Option<Usage>> {
        match self.form.parameters.stream.unwrap_or_default() {
            options if options.continuous_usage => Some(Some(self.usage())),
            options => options.include_usage.then_some(None),
        }
    }

    fn send(&self, choice: CompletionChoice, out: &mut Frames) {
        out.data(&self.form.envelope(vec![choice], self.usage_field()));
    }

    /// Before a choice's first token: its prompt, where that is part of the answer.
    fn begin(&mut self, index: usize, out: &mut Frames) {
        let Some(state) = self.choices.get_mut(index) else { return };
        if std::mem::replace(&mut state.begun, true) {
            return;
        }
        let ids = self.form.parameters.return_token_ids;
        let Some(text) = self.form.echo(index) else {
            if ids {
                let mut chunk = self.form.choice(index, String::new(), None);
                chunk.prompt_token_ids = Some(self.form.prompt_ids(index).to_vec());
                chunk.token_ids = Some(Vec::new());
                self.send(chunk, out);
            }
            return;
        };
        let mut chunk = self.form.choice(index, text.to_owned(), None);
        if self.form.logprobs.is_some() {
            let list = self.form.echo_logprobs(&self.app, index, &state.prompt, &mut state.offset);
            chunk.logprobs = Some(list);
        }
        if ids {
            chunk.prompt_token_ids = Some(self.form.prompt_ids(index).to_vec());
            chunk.token_ids = Some(Vec::new());
        }
        self.send(chunk, out);
    }

    fn token(&mut self, index: usize, token: &Token, text: String, out: &mut Frames) {
        let Some(state) = self.choices.get_mut(index) else { return };
        state.tokens += 1;
        let detailed = self.form.logprobs.is_some() || self.form.parameters.return_token_ids;
        if text.is_empty() && !detailed {
            return;
        }
        let mut chunk = self.form.choice(index, text, None);
        if self.form.logprobs.is_some() {
            let mut list = CompletionLogprobs::default();
            list.push(self.app.tokenizer(), token.id, token.logprobs.as_ref(), &mut state.offset);
            chunk.logprobs = Some(list);
        }
        chunk.token_ids = self.form.parameters.return_token_ids.then(|| vec![token.id]);
        self.send(chunk, out);
    }
}

impl Scribe for Chunks {
    fn open(&mut self, _out: &mut Frames) {}

    fn piece(&mut self, index: usize, piece: Piece, out: &mut Frames) {
        match piece {
            Piece::Started { cached_tokens } => {
                if let Some(choice) = self.choices.get_mut(index) {
                    choice.cached = cached_tokens;
                }
            }
            Piece::Prompt(logprobs) => {
                if let Some(choice) = self.choices.get_mut(index) {
                    choice.prompt.prompt_logprobs.extend(logprobs);
                }
            }
            Piece::Token { token, text, .. } => {
                self.begin(index, out);
                self.token(index, &token, text, out);
            }
            Piece::End { text, reason } => {
                self.begin(index, out);
                self.send(self.form.choice(index, text, Some(&reason)), out);
            }
            Piece::Failed(_) => {}
        }
    }

    fn close(&mut self, out: &mut Frames) {
        if self.form.parameters.stream.is_some_and(|options| options.include_usage) {
            out.data(&self.form.envelope(Vec::new(), Some(Some(self.usage()))));
        }
        out.done();
    }

    fn fail(&mut self, error: &ApiError, out: &mut Frames) {
        out.data(&error.body());
        out.done();
    }
}

/// A count of tokens or choices, as the wire has it.
pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
