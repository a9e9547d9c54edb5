//! `POST /tokenize` and `/detokenize`, in vLLM's shapes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::body::Asked;
use super::chat::Turn;
use super::error::{ApiError, Problem};
use super::parameters::refuse_unsupported;
use super::target::check;
use super::{App, messages};

/// A prompt, or messages through the template, as ids.
///
/// # Errors
/// Every problem of the body.
pub async fn tokenize(
    State(app): State<Arc<App>>,
    Asked(mut fields): Asked,
) -> Result<Json<Value>, ApiError> {
    check(&app, fields.text("model")?.as_deref())?;
    let add_special = fields.flag("add_special_tokens")?;
    let strings = fields.flag("return_token_strs")?.unwrap_or(false);
    let tokens = match fields.text("prompt")? {
        Some(prompt) => {
            refuse_unsupported(&fields)?;
            app.encode_one(prompt, add_special.unwrap_or(true)).await?
        }
        None => {
            let messages = messages::take(&mut fields, app.limits.messages);
            let messages = messages.map_err(|problem| match problem {
                Problem::MissingField(_) => Problem::MissingField("prompt".into()),
                other => other,
            })?;
            let turn = Turn::take(&mut fields)?;
            refuse_unsupported(&fields)?;
            let prompt = app.render(messages, turn).await?;
            app.encode_one(prompt, add_special.unwrap_or(false)).await?
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
    Asked(mut fields): Asked,
) -> Result<Json<Value>, ApiError> {
    check(&app, fields.text("model")?.as_deref())?;
    let tokens = fields.token_ids("tokens", app.vocabulary(), usize::MAX)?;
    let tokens = tokens.ok_or_else(|| Problem::MissingField("tokens".into()))?;
    Ok(Json(json!({"prompt": app.decode(tokens, false).await?})))
}
