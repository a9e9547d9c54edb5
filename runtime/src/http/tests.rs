//! The faces over a scripted model, through the router and over real sockets.

mod admin;
mod bad_requests;
mod inspect;
mod lorax;
mod openai;
mod policies;
mod sockets;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

use super::auth::Keys;
use super::limits::Limits;
use super::routes::{admin_router, public_router};
use super::scripted;

/// A public face without keys.
fn public() -> Router {
    public_router(scripted::app(Limits::default(), |_| {}).0, &Keys::open(), false)
}

/// An admin face without keys.
fn administration() -> Router {
    admin_router(scripted::app(Limits::default(), |_| {}).0, &Keys::open())
}

/// What came back.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{}: {}", self.status, self.text))
    }

    /// The events of a stream, `[DONE]` left out.
    fn events(&self) -> Vec<Value> {
        let data = self.text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    Answer { status: parts.status, headers: parts.headers, text }
}

async fn get(router: &Router, path: &str) -> Answer {
    send(router, Request::get(path).header("host", "localhost").body(Body::empty()).unwrap()).await
}

async fn call(router: &Router, method: &str, path: &str, body: &Value) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap();
    send(router, request).await
}

async fn post(router: &Router, path: &str, body: &Value) -> Answer {
    call(router, "POST", path, body).await
}
