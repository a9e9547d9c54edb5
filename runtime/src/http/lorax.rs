//! LoRAX's endpoints under its own field names: `/generate`, `/generate_stream`, `POST /` and `/info`. The adapter is
//! `parameters.adapter_id`, by the name under which it is registered.
//!
//! Errors keep OpenAI's object; LoRAX's `error_type` stands beside it, by which its clients choose their exception.

mod answer;
mod request;

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::body::Asked;
use super::error::ApiError;
use super::fields::Fields;
use super::run::{self, Answer, Order};
use super::stream::respond;
use super::{App, Asker};
use answer::{Events, Form};

/// `POST /generate`.
///
/// # Errors
/// Every problem of the body, the adapter or the engine.
pub async fn generate(
    State(app): State<Arc<App>>,
    asker: Asker,
    Asked(fields): Asked,
) -> Result<Response, ApiError> {
    let (answer, headers) = one(&app, &asker, fields).await?;
    Ok((headers, Json(answer)).into_response())
}

/// `POST /generate_stream`.
///
/// # Errors
/// Every problem of the body, the adapter or the engine.
pub async fn generate_stream(
    State(app): State<Arc<App>>,
    asker: Asker,
    Asked(fields): Asked,
) -> Result<Response, ApiError> {
    stream(app, &asker, fields).await
}

/// `POST /`: either, by `stream`; whole answers come as a list of one.
///
/// # Errors
/// Every problem of the body, the adapter or the engine.
pub async fn compat(
    State(app): State<Arc<App>>,
    asker: Asker,
    Asked(mut fields): Asked,
) -> Result<Response, ApiError> {
    if fields.flag("stream")?.unwrap_or(false) {
        return stream(app, &asker, fields).await;
    }
    let (answer, headers) = one(&app, &asker, fields).await?;
    Ok((headers, Json([answer])).into_response())
}

/// `GET /info`.
pub async fn info(State(app): State<Arc<App>>) -> Json<Value> {
    let config = app.generator.engine().config();
    Json(json!({
        "model_id": app.card.name,
        "model_sha": app.card.digest,
        "model_dtype": app.card.dtype,
        "model_device_type": "cpu",
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": config.max_sequences + config.max_waiting,
        "max_best_of": 1,
        "max_stop_sequences": app.limits.stop_strings,
        "max_input_length": app.context().saturating_sub(1),
        "max_total_tokens": app.context(),
        "waiting_served_ratio": 1.0,
        "max_batch_total_tokens": config.blocks.saturating_mul(config.block_size),
        "max_waiting_tokens": 0,
        "validation_workers": 1,
        "eager_prefill": true,
        "version": env!("CARGO_PKG_VERSION"),
        "sha": null,
        "docker_label": null,
        "request_logger_url": null,
    }))
}

async fn order(
    app: &Arc<App>,
    asker: &Asker,
    fields: Fields,
    streamed: bool,
) -> Result<(Order, Form), ApiError> {
    let arrived = Instant::now();
    let read = request::read(fields, app, streamed)?;
    let prompt = app.encode_one(read.inputs.clone(), read.parameters.add_special.unwrap_or(true)).await?;
    let most = read.parameters.room("inputs", prompt.len(), app.context())?;
    let form = Form {
        adapter: read.target.adapter().map(str::to_owned),
        characters: read.inputs.chars().count(),
        full_text: read.full_text.then_some(read.inputs),
        details: read.details,
        prefill: read.prefill,
        alternatives: read.alternatives,
        seed: read.parameters.seed.filter(|_| read.parameters.sampling.temperature > 0.0),
        prompt: prompt.clone(),
        arrived,
        validated: Instant::now(),
    };
    let order = Order {
        target: read.target,
        caller: asker.caller,
        account: Arc::clone(&asker.account),
        arrived,
        prompts: vec![prompt],
        most: vec![most],
        parameters: read.parameters,
    };
    Ok((order, form))
}

async fn one(app: &Arc<App>, asker: &Asker, fields: Fields) -> Result<(Value, HeaderMap), ApiError> {
    let (order, form) = order(app, asker, fields, false).await?;
    let answers = run::collect(run::start(app, order).await?).await?;
    let answer = answers.into_iter().next().unwrap_or_default();
    let headers = times(app, &form, &answer);
    Ok((form.whole(app.tokenizer(), &answer), headers))
}

async fn stream(app: Arc<App>, asker: &Asker, fields: Fields) -> Result<Response, ApiError> {
    let (order, form) = order(&app, asker, fields, true).await?;
    let running = run::start(&app, order).await?;
    let mut headers = HeaderMap::new();
    identity(&app, &form, &mut headers);
    let mut response = respond(running, Events::new(app, form));
    response.headers_mut().extend(headers);
    Ok(response)
}

fn put(headers: &mut HeaderMap, name: &'static str, value: impl ToString) {
    // A name that a header cannot hold is left out: the body has it.
    if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

fn identity(app: &App, form: &Form, headers: &mut HeaderMap) {
    put(headers, "x-compute-type", "cpu");
    put(headers, "x-compute-characters", form.characters);
    put(headers, "x-model-id", &app.card.name);
    if let Some(adapter) = &form.adapter {
        put(headers, "x-adapter-id", adapter);
        put(headers, "x-adapter-source", "local");
    }
}

/// LoRAX's times: whole milliseconds.
fn times(app: &App, form: &Form, answer: &Answer) -> HeaderMap {
    let mut headers = HeaderMap::new();
    identity(app, form, &mut headers);
    let now = Instant::now();
    let started = answer.started.unwrap_or(now);
    let first = answer.first_token.unwrap_or(now);
    let tokens = answer.tokens.len() as u128;
    let millis = |from: Instant, to: Instant| to.saturating_duration_since(from).as_millis();
    let total = millis(form.arrived, now);
    let inference = millis(started, now);
    put(&mut headers, "x-compute-time", total);
    put(&mut headers, "x-total-time", total);
    put(&mut headers, "x-prompt-tokens", form.prompt.len());
    put(&mut headers, "x-generated-tokens", tokens);
    put(&mut headers, "x-skipped-tokens", answer.cached_tokens);
    put(&mut headers, "x-total-tokens", form.prompt.len() as u128 + tokens);
    put(&mut headers, "x-validation-time", millis(form.arrived, form.validated));
    put(&mut headers, "x-queue-time", millis(form.validated, started));
    put(&mut headers, "x-inference-time", inference);
    put(&mut headers, "x-time-per-token", inference / tokens.max(1));
    put(&mut headers, "x-time-to-first-token", millis(form.arrived, first));
    put(&mut headers, "x-time-per-output-token", millis(first, now) / tokens.saturating_sub(1).max(1));
    headers
}
