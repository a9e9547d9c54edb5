//! What every request passes on its way in and out: its id, the bounds of its head, a net under its handler, the log
//! line. Never logs a body, a header's value or a query.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures::FutureExt as _;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};

use super::account::{Account, watched};
use super::auth::{Caller, Keys};
use super::error::{ApiError, Code, Problem};
use super::limits::Limits;
use crate::metrics::Metrics;

/// The header that carries a request's id, in and out.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LONGEST_ID: usize = 128;

/// Who asks, and under which number: every handler may take it.
#[derive(Clone, Debug, Default)]
pub struct Asker {
    /// The request's id, its own or made here.
    pub request_id: Arc<str>,
    /// Whose key it was.
    pub caller: Caller,
    /// What its log line will say.
    pub account: Arc<Account>,
}

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| Problem::Internal.into())
    }
}

/// What the outermost layer knows of its face.
#[derive(Clone)]
pub struct Door {
    /// The bounds of a head.
    pub limits: Limits,
    /// What counts answers, where anything does.
    pub metrics: Option<Arc<Metrics>>,
}

/// The outermost layer of every face.
pub async fn pass(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let request_id = request_id(request.headers());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let method = request.method().clone();
    let account = Arc::<Account>::default();
    request.extensions_mut().insert(Asker {
        request_id: Arc::clone(&request_id),
        caller: Caller::default(),
        account: Arc::clone(&account),
    });
    let mut response = match check_head(request.uri(), request.headers(), &door.limits) {
        Err(problem) => ApiError::from(problem).into_response(),
        Ok(()) => match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                tracing::error!(%request_id, route, "a handler panicked; only its request failed");
                ApiError::from(Problem::Internal).into_response()
            }
        },
    };
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if let Some(metrics) = &door.metrics {
        metrics.answered(&route, response.status().as_u16());
    }
    let code = response.extensions().get::<Code>().map(|code| code.0);
    let line = Line { method, route, request_id, status: response.status(), code, begun, account };
    if line.account.figures().streamed && line.status.is_success() {
        // Its end is to come.
        return response.map(|body| watched(body, move || line.write()));
    }
    line.write();
    response
}

/// Refuses whoever has no key, and notes whose key it is.
pub async fn with_key(State(keys): State<Keys>, mut request: Request, next: Next) -> Response {
    match keys.caller(request.headers()) {
        Ok(caller) => {
            if let Some(asker) = request.extensions_mut().get_mut::<Asker>() {
                asker.caller = caller;
            }
            next.run(request).await
        }
        Err(problem) => ApiError::from(problem).into_response(),
    }
}

/// Refuses what a browser was made to send: another site's page (`Origin`), or one whose name was bound to this
/// address (`Host`). For a face that asks for no token.
pub async fn from_loopback(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let host = headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if headers.contains_key(http::header::ORIGIN) || !loopback(host) {
        let message =
            "host: expected a loopback address and no Origin: this face is open to local programs alone";
        return ApiError::from(Problem::Forbidden(message.into())).into_response();
    }
    next.run(request).await
}

fn loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || address.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

fn check_head(uri: &Uri, headers: &HeaderMap, limits: &Limits) -> Result<(), Problem> {
    let target = uri.path().len() + uri.query().map_or(0, |query| query.len() + 1);
    if target > limits.uri_bytes {
        return Err(Problem::UriTooLong(limits.uri_bytes));
    }
    if headers.len() > limits.headers {
        let message = format!("headers: expected at most {}, got {}", limits.headers, headers.len());
        return Err(Problem::HeadersTooLarge(message));
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if bytes > limits.header_bytes {
        let message = format!("headers: expected at most {} bytes, got {bytes}", limits.header_bytes);
        return Err(Problem::HeadersTooLarge(message));
    }
    Ok(())
}

/// The caller's id where it is short and plain, else one of our own.
fn request_id(headers: &HeaderMap) -> Arc<str> {
    let plain = |id: &&str| {
        (1..=LONGEST_ID).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte))
    };
    match headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(plain) {
        Some(id) => id.into(),
        None => {
            use std::hash::BuildHasher as _;
            let random = std::collections::hash_map::RandomState::new();
            format!("{:016x}{:016x}", random.hash_one(0), random.hash_one(1)).into()
        }
    }
}

/// What is logged of a request that was answered.
struct Line {
    method: http::Method,
    route: String,
    request_id: Arc<str>,
    status: StatusCode,
    code: Option<&'static str>,
    begun: Instant,
    account: Arc<Account>,
}

impl Line {
    fn write(&self) {
        let (method, route, request_id) = (&self.method, &*self.route, &*self.request_id);
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let figures = self.account.figures();
        let status = self.status.as_u16();
        let code = self.code.or(figures.code);
        let finish = figures.finish().filter(|_| self.status.is_success());
        let of_model = figures.model.is_some();
        let model = figures.model.as_deref();
        let prompt_tokens = of_model.then_some(figures.prompt_tokens);
        let completion_tokens = of_model.then_some(figures.completion_tokens);
        macro_rules! answered {
            ($level:ident) => {
                tracing::$level!(
                    %method, route, request_id, status, code, model, prompt_tokens, completion_tokens, finish, millis,
                    "answered"
                )
            };
        }
        match self.status {
            status if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE => {
                answered!(error)
            }
            _ if self.is_quiet() => answered!(debug),
            _ => answered!(info),
        }
    }

    /// Probes, scrapes and long polls come all the time.
    fn is_quiet(&self) -> bool {
        let polled = self.method == http::Method::GET && self.route == lorikeet_api::ADAPTERS_PATH;
        polled || matches!(&*self.route, "/health" | "/ready" | "/ping" | "/metrics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_kept_only_where_it_is_short_and_plain() {
        let id = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_static(value));
            request_id(&headers)
        };
        assert_eq!(&*id("trace-1:a.b_c"), "trace-1:a.b_c");
        for odd in ["", "a b", "a\"b", "<script>"] {
            assert_eq!(id(odd).len(), 32, "{odd}");
        }
    }

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for host in ["localhost", "localhost:8081", "127.0.0.1:8081", "[::1]:8081", "[::1]"] {
            assert!(loopback(host), "{host}");
        }
        for host in
            ["", "evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example", "10.0.0.1:8081"]
        {
            assert!(!loopback(host), "{host}");
        }
    }
}
