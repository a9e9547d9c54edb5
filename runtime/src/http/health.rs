//! Whether it lives, whether it takes work, what it counted. A stuck engine is told from a busy one by its pulse.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header;
use serde_json::{Value, json};

use super::App;
use super::error::{ApiError, Problem};
use crate::engine::heart::EngineState;
use crate::engine::request::Failure;

/// `GET /health`: 200 while the engine makes steps or has none to make.
///
/// # Errors
/// 503 when it has given up, or has work and began no step for too long.
pub async fn health(State(app): State<Arc<App>>) -> Result<(), ApiError> {
    let pulse = app.generator.engine().heartbeat();
    match pulse.state {
        EngineState::Failed | EngineState::Stopped => Err(Failure::EngineStopped.into()),
        EngineState::Serving | EngineState::Draining if pulse.stuck(app.stuck_after) => {
            Err(Problem::NotReady("The engine is stuck: it has work and began no step for too long.").into())
        }
        EngineState::Serving | EngineState::Draining => Ok(()),
    }
}

/// `GET /ready`: 200 while new requests are taken.
///
/// # Errors
/// 503 while it drains, before the pinned adapters are loaded, or with [`health`]'s.
pub async fn ready(State(app): State<Arc<App>>) -> Result<(), ApiError> {
    if app.draining.load(Ordering::Relaxed)
        || app.generator.engine().heartbeat().state == EngineState::Draining
    {
        return Err(Failure::Draining.into());
    }
    if !app.adapters.ready() {
        return Err(Problem::NotReady("Pinned adapters are not loaded yet.").into());
    }
    health(State(app)).await
}

/// `GET /version`.
pub async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// `GET /metrics`.
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    // An idle engine has not seen which weights were let go since its last step: the next scrape tells.
    app.generator.engine().refresh();
    let page = app.metrics.page(app.generator.engine().config(), &app.adapters.figures());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}
