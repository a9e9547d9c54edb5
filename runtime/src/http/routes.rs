//! Every route with its policy: a route cannot be without one.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};

use super::auth::Keys;
use super::error::{ApiError, Problem};
use super::front::Door;
use super::inspect::{self, Inspector};
use super::{App, admin, chat, completions, front, health, lorax, models, root, tokenize, vllm};

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Everybody: probes have no keys.
    Open,
    /// Everybody, unless keys are asked for on metrics too.
    Metrics,
    /// Whoever has a key of the face, where the face has keys.
    Key,
}

/// A path, who may use it, and what answers.
pub(crate) type Route<S = Arc<App>> = (&'static str, Policy, MethodRouter<S>);

/// The routes of the public face.
pub(crate) fn public() -> Vec<Route> {
    use Policy::{Key, Metrics, Open};
    vec![
        ("/health", Open, get(health::health)),
        ("/ready", Open, get(health::ready)),
        ("/ping", Open, get(health::health).post(health::health)),
        ("/version", Open, get(health::version)),
        ("/metrics", Metrics, get(health::metrics)),
        ("/v1/models", Key, get(models::list)),
        ("/v1/models/{*name}", Key, get(models::one)),
        ("/v1/completions", Key, post(completions::handle)),
        ("/v1/chat/completions", Key, post(chat::handle)),
        ("/tokenize", Key, post(tokenize::tokenize)),
        ("/detokenize", Key, post(tokenize::detokenize)),
        ("/generate", Key, post(lorax::generate)),
        ("/generate_stream", Key, post(lorax::generate_stream)),
        ("/", Key, get(root::words).post(lorax::compat)),
        ("/info", Key, get(lorax::info)),
    ]
}

/// The routes of the admin face.
pub(crate) fn administration() -> Vec<Route> {
    use Policy::{Key, Open};
    vec![
        ("/health", Open, get(health::health)),
        ("/ready", Open, get(health::ready)),
        ("/metrics", Key, get(health::metrics)),
        (lorikeet_api::ADAPTERS_PATH, Key, get(admin::report).put(admin::put).patch(admin::patch)),
        ("/admin/v1/adapters/{name}", Key, get(admin::one).delete(admin::remove)),
        ("/v1/load_lora_adapter", Key, post(vllm::load)),
        ("/v1/unload_lora_adapter", Key, post(vllm::unload)),
    ]
}

/// The routes of an inspector's face.
pub(crate) fn inspection() -> Vec<Route<Arc<Inspector>>> {
    use Policy::{Key, Open};
    vec![("/health", Open, get(inspect::health)), (lorikeet_api::INSPECT_PATH, Key, post(inspect::handle))]
}

/// The public face's router. With `metrics_need_key`, [`Policy::Metrics`] is [`Policy::Key`].
pub fn public_router(app: Arc<App>, keys: &Keys, metrics_need_key: bool) -> Router {
    let door = door(&app);
    router(app, door, public(), keys, metrics_need_key)
}

/// The admin face's router; without keys only programs of this machine may speak to it.
pub fn admin_router(app: Arc<App>, keys: &Keys) -> Router {
    let door = door(&app);
    closed(router(app, door, administration(), keys, true), keys)
}

/// The router of an inspector's face; without keys only programs of this machine may speak to it.
pub fn inspector_router(inspector: Arc<Inspector>, keys: &Keys) -> Router {
    let door = Door { limits: inspector.limits.clone(), metrics: None };
    closed(router(inspector, door, inspection(), keys, true), keys)
}

fn closed(router: Router, keys: &Keys) -> Router {
    if keys.required() { router } else { router.layer(from_fn(front::from_loopback)) }
}

fn door(app: &App) -> Door {
    Door { limits: app.limits.clone(), metrics: Some(Arc::clone(&app.metrics)) }
}

fn router<S: Clone + Send + Sync + 'static>(
    state: S,
    door: Door,
    routes: Vec<Route<S>>,
    keys: &Keys,
    metrics_need_key: bool,
) -> Router {
    let mut router = Router::new();
    for (path, policy, methods) in routes {
        let open = policy == Policy::Open || (policy == Policy::Metrics && !metrics_need_key);
        let methods =
            if open { methods } else { methods.layer(from_fn_with_state(keys.clone(), front::with_key)) };
        router = router.route(path, methods);
    }
    router
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::new(door), front::pass))
        .with_state(state)
}

async fn unknown(request: Request) -> ApiError {
    Problem::UnknownPath(request.uri().path().to_owned()).into()
}

async fn wrong_method(request: Request) -> Response {
    use axum::response::IntoResponse as _;
    ApiError::from(Problem::WrongMethod(request.method().to_string())).into_response()
}
