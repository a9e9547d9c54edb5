//! `POST /tokenize` and `/detokenize`, in vLLM's shapes.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use http::HeaderMap;
use serde_json::{Value, json};

use super::chat::Turn;
use super::error::{ApiError, Problem};
use super::parameters::refuse_unsupported;
use super::target::check;
use super::{App, body, messages};

/// Tokens of a body at most: what one sequence may have, and then some.
const MAX_TOKENS: usize = 1 << 20;

/// A prompt, or messages through the template, as ids.
///
/// # Errors
/// Every problem of the body.
pub async fn tokenize(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let mut fields = body::json(&headers, body, &app.limits).await?;
    check(&app, fields.text("model")?.as_deref())?;
    let add_special = fields.flag("add_special_tokens")?;
    let strings = fields.flag("return_token_strs")?.unwrap_or(false);
    let tokens = match fields.text("prompt")? {
        Some(prompt) => {
            refuse_unsupported(&fields)?;
            app.encode(prompt, add_special.unwrap_or(true)).await?
        }
        None => {
            let messages = messages::take(&mut fields).map_err(|problem| match problem {
                Problem::MissingField(_) => Problem::MissingField("prompt".into()),
                other => other,
            })?;
            let turn = Turn::take(&mut fields)?;
            refuse_unsupported(&fields)?;
            let prompt = app.render(messages, turn).await?;
            app.encode(prompt, add_special.unwrap_or(false)).await?
        }
    };
    let strings: Option<Vec<String>> =
        strings.then(|| tokens.iter().map(|id| app.tokenizer().piece(*id)).collect());
    Ok(Json(json!({
        "count": tokens.len(),
        "max_model_len": app.context(),
        "tokens": tokens,
        "token_strs": strings,
    })))
}

/// Ids as text.
///
/// # Errors
/// Every problem of the body.
pub async fn detokenize(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let mut fields = body::json(&headers, body, &app.limits).await?;
    check(&app, fields.text("model")?.as_deref())?;
    let tokens = fields.token_ids("tokens", app.vocabulary(), MAX_TOKENS)?;
    let tokens = tokens.ok_or_else(|| Problem::MissingField("tokens".into()))?;
    Ok(Json(json!({"prompt": app.tokenizer().decode(&tokens, false)})))
}
