//! `GET /v1/models`: the base and its adapters as vLLM's cards. No path of this machine is in one.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::App;
use super::error::ApiError;
use super::target::Target;

/// What answers under the base model's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelCard {
    /// The name.
    pub name: String,
    /// When it was loaded, in Unix time.
    pub created: u64,
    /// Of its content.
    pub digest: Option<String>,
    /// How its weights are kept.
    pub dtype: String,
}

/// All cards: of adapters those that may be served.
pub async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let adapters = app.adapters.names().into_iter().map(|name| card(&app, &Target::Adapter(name)));
    let cards: Vec<Value> = std::iter::once(card(&app, &Target::Base)).chain(adapters).collect();
    Json(json!({"object": "list", "data": cards}))
}

/// One card.
///
/// # Errors
/// 404.
pub async fn one(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    Ok(Json(card(&app, &app.target(Some(&name))?)))
}

fn card(app: &App, target: &Target) -> Value {
    let name = target.name(app);
    let base = *target == Target::Base;
    json!({
        "id": name,
        "object": "model",
        "created": app.card.created,
        "owned_by": "lorikeet",
        "root": name,
        "parent": (!base).then_some(&app.card.name),
        "max_model_len": base.then(|| app.context()),
    })
}
