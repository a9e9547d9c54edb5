//! vLLM's adapter endpoints, word for word: tools that manage adapters of vLLM manage ours.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode, header};
use lorikeet_api::ErrorCode;
use serde_json::json;

use super::error::ApiError;
use super::registry::Refusal;
use super::{App, admin, body};

/// vLLM's error: the code is the status.
fn error(status: StatusCode, kind: &str, message: &str) -> Response {
    let body = json!({"error": {"message": message, "type": kind, "param": null, "code": status.as_u16()}});
    (status, Json(body)).into_response()
}

/// A refusal for which vLLM has no words of its own: what is wrong with the adapter is a bad request there.
fn other(refused: &Refusal) -> Response {
    match admin::status(refused.code) {
        status if status.is_server_error() && status != StatusCode::BAD_GATEWAY => {
            error(status, "InternalServerError", &refused.message)
        }
        _ => error(StatusCode::BAD_REQUEST, "BadRequestError", &refused.message),
    }
}

fn success(message: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], message).into_response()
}

/// `POST /v1/load_lora_adapter`.
///
/// # Errors
/// What is wrong with the request itself; the rest is answered in vLLM's words.
pub async fn load(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let mut fields = body::json(&headers, body, &app.admin_limits).await?;
    let name = fields.text("lora_name")?.unwrap_or_default();
    let path = fields.text("lora_path")?.unwrap_or_default();
    let in_place = fields.flag("load_inplace")?.unwrap_or(false);
    if name.is_empty() || path.is_empty() {
        let message = "Both 'lora_name' and 'lora_path' must be provided.";
        return Ok(error(StatusCode::BAD_REQUEST, "InvalidUserInput", message));
    }
    Ok(match app.adapters.load(&name, &path, in_place).await {
        Ok(()) => success(format!("Success: LoRA adapter '{name}' added successfully.")),
        Err(refused) if refused.code == ErrorCode::NameConflict => {
            let message = format!(
                "The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set \
                 'load_inplace' to True."
            );
            error(StatusCode::BAD_REQUEST, "InvalidUserInput", &message)
        }
        Err(refused) if matches!(refused.code, ErrorCode::SourceUnavailable | ErrorCode::SourceNotFound) => {
            error(StatusCode::NOT_FOUND, "NotFoundError", &refused.message)
        }
        Err(refused) => other(&refused),
    })
}

/// `POST /v1/unload_lora_adapter`.
///
/// # Errors
/// What is wrong with the request itself; the rest is answered in vLLM's words.
pub async fn unload(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut fields = body::json(&headers, body, &app.admin_limits).await?;
    let name = fields.text("lora_name")?.unwrap_or_default();
    if name.is_empty() {
        let message = "'lora_name' needs to be provided to unload a LoRA adapter.";
        return Ok(error(StatusCode::BAD_REQUEST, "InvalidUserInput", message));
    }
    Ok(match app.adapters.unload(&name).await {
        Ok(()) => success(format!("Success: LoRA adapter '{name}' removed successfully.")),
        Err(refused) if refused.code == ErrorCode::UnknownAdapter => {
            let message = format!("The lora adapter '{name}' cannot be found.");
            error(StatusCode::NOT_FOUND, "NotFoundError", &message)
        }
        Err(refused) => other(&refused),
    })
}
