//! The inspector beside a scripted replica: says of a source what its shelf has, and of any other what replicas report of what
//! they loaded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use lorikeet_api::{ErrorCode, Failure, INSPECT_PATH, InspectRequest, InspectedSource, WeightsSize};
use serde_json::{Value, json};

use crate::fake::Fake;
use crate::fake::face::{opens, refusal};

/// The header of a safetensors file.
const HEADER: u64 = 64;
/// What scripted replicas report of every adapter.
const RANK: u32 = 8;
const BYTES: u64 = 1 << 20;

/// The `adapter_config.json` of one of `rank`, made for `base`.
pub(crate) fn config(rank: u32, base: &str) -> Value {
    json!({"peft_type": "LORA", "r": rank, "base_model_name_or_path": base, "target_modules": ["q_proj"]})
}

/// What there is under sources, as replicas read them; under those of which nothing was said there is an adapter that suits the
/// Deployments of the scenarios. All that have a copy share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf(Arc<Mutex<BTreeMap<String, Result<InspectedSource, Failure>>>>);

impl Shelf {
    /// Under `source` there are `config`, and weights of `bytes`.
    pub(crate) fn has(&self, source: &str, config: &Value, bytes: u64) {
        self.put(source, Ok(inspected(config, bytes)));
    }

    /// `source` cannot be read, and why.
    pub(crate) fn lacks(&self, source: &str, code: ErrorCode, message: &str) {
        self.put(source, Err(Failure { code, message: message.to_owned() }));
    }

    fn put(&self, source: &str, found: Result<InspectedSource, Failure>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(source.to_owned(), found);
    }

    fn at(&self, source: &str) -> Result<InspectedSource, Failure> {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(source).cloned();
        found.unwrap_or_else(|| Ok(inspected(&config(RANK, "acme/base"), BYTES)))
    }
}

fn inspected(config: &Value, bytes: u64) -> InspectedSource {
    let weights = Some(WeightsSize { length: 8 + HEADER + bytes, header: HEADER });
    InspectedSource { config: config.to_string(), weights }
}

/// What it was asked for.
#[derive(Default)]
pub(crate) struct Inspections(Mutex<Vec<InspectRequest>>);

impl Inspections {
    /// All of it, the oldest first.
    pub(crate) fn all(&self) -> Vec<InspectRequest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The face of the inspector beside `fake`.
pub(crate) fn router(fake: &Arc<Fake>) -> Router {
    Router::new()
        .route(INSPECT_PATH, post(inspect))
        .with_state(Arc::clone(fake))
        .layer(middleware::from_fn_with_state(Arc::clone(fake), guarded))
}

async fn guarded(State(fake): State<Arc<Fake>>, request: Request, next: Next) -> Response {
    if opens(&fake, &request) { next.run(request).await } else { StatusCode::UNAUTHORIZED.into_response() }
}

async fn inspect(State(fake): State<Arc<Fake>>, Json(request): Json<InspectRequest>) -> Response {
    let script = fake.behaviour();
    let found = script.shelf.at(&request.source);
    fake.inspections.0.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    if script.inspector_hung {
        std::future::pending::<()>().await;
    }
    match found {
        Ok(inspected) => Json(inspected).into_response(),
        Err(Failure { code, message }) => refusal(StatusCode::UNPROCESSABLE_ENTITY, code, &message),
    }
}
