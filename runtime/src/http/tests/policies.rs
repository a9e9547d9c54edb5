//! Who may use which route.

use std::time::Duration;

use super::super::inspect::Inspector;
use super::super::routes::{Policy, Route, administration, inspection, inspector_router, public};
use super::*;
use crate::source::config::FetchConfig;
use crate::source::fetch::Fetcher;

fn keys() -> (Keys, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "the-key\n").unwrap();
    (Keys::from_file(file.path()).unwrap(), file)
}

/// What each route must be: a new one fails here until someone has decided.
const PUBLIC: &[(&str, Policy)] = &[
    ("/health", Policy::Open),
    ("/ready", Policy::Open),
    ("/ping", Policy::Open),
    ("/version", Policy::Open),
    ("/metrics", Policy::Metrics),
    ("/v1/models", Policy::Key),
    ("/v1/models/{*name}", Policy::Key),
    ("/v1/completions", Policy::Key),
    ("/v1/chat/completions", Policy::Key),
    ("/tokenize", Policy::Key),
    ("/detokenize", Policy::Key),
    ("/generate", Policy::Key),
    ("/generate_stream", Policy::Key),
    ("/", Policy::Key),
    ("/info", Policy::Key),
];
const ADMIN: &[(&str, Policy)] = &[
    ("/health", Policy::Open),
    ("/ready", Policy::Open),
    ("/metrics", Policy::Key),
    ("/admin/v1/adapters", Policy::Key),
    ("/admin/v1/adapters/{name}", Policy::Key),
    ("/v1/load_lora_adapter", Policy::Key),
    ("/v1/unload_lora_adapter", Policy::Key),
];
const INSPECTOR: &[(&str, Policy)] = &[("/health", Policy::Open), ("/admin/v1/inspect", Policy::Key)];

fn listed<S>(routes: Vec<Route<S>>) -> Vec<(&'static str, Policy)> {
    routes.into_iter().map(|(path, policy, _)| (path, policy)).collect()
}

async fn walk(router: &Router, routes: &[(&str, Policy)], metrics_open: bool) {
    for (path, policy) in routes {
        let path = path.replace("{*name}", "base").replace("{name}", "sql");
        let open = *policy == Policy::Open || (*policy == Policy::Metrics && metrics_open);
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            for (key, good) in [(None, false), (Some("Bearer wrong"), false), (Some("Bearer the-key"), true)]
            {
                let mut request = Request::builder().method(method).uri(&path).header("host", "localhost");
                if let Some(key) = key {
                    request = request.header("authorization", key);
                }
                let answer = send(router, request.body(Body::empty()).unwrap()).await;
                if open || good {
                    assert_ne!(answer.status, 401, "{method} {path} {key:?}");
                } else {
                    assert!(
                        [401, 405].contains(&answer.status.as_u16()),
                        "{method} {path} {key:?}: {}",
                        answer.status
                    );
                    assert!(answer.json()["error"]["code"].is_string());
                }
            }
        }
    }
}

#[tokio::test]
async fn every_route_of_every_face_keeps_its_policy() {
    assert_eq!(listed(public()), PUBLIC);
    assert_eq!(listed(administration()), ADMIN);
    assert_eq!(listed(inspection()), INSPECTOR);
    let (keys, _file) = keys();
    let app = || scripted::app(Limits::default(), |_| {}).0;
    walk(&public_router(app(), &keys, false), PUBLIC, true).await;
    walk(&public_router(app(), &keys, true), PUBLIC, false).await;
    walk(&admin_router(app(), &keys), ADMIN, false).await;
    let fetcher = Fetcher::new(FetchConfig::default()).unwrap();
    let inspector = Inspector::new(fetcher, 1, Duration::from_secs(1), Limits::default());
    walk(&inspector_router(std::sync::Arc::new(inspector), &keys), INSPECTOR, false).await;
}

#[tokio::test]
async fn a_refusal_says_the_same_whatever_is_wrong_with_the_key() {
    let (keys, _file) = keys();
    let router = public_router(scripted::app(Limits::default(), |_| {}).0, &keys, false);
    let mut bodies = Vec::new();
    for key in ["Bearer wrong", "Bearer THE-KEY", "Basic the-key", ""] {
        let request = Request::get("/v1/models").header("authorization", key).body(Body::empty()).unwrap();
        let answer = send(&router, request).await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        bodies.push(answer.text);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
}

#[tokio::test]
async fn paths_that_only_look_like_a_route_are_none() {
    let router = super::public();
    for path in [
        "//v1/models",
        "/v1/../admin/v1/adapters",
        "/v1/%2e%2e/health",
        "/admin/v1/adapters",
        "/V1/models",
        "/v1/load_lora_adapter",
    ] {
        let answer = get(&router, path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["error"]["code"].as_str().unwrap()),
            (404, "unknown_path"),
            "{path}"
        );
    }
}
