//! Passes requests on, or does not, as the judge says.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use crate::proxy::confine::confined;
use crate::proxy::{Call, Fault, Shared, watches};

/// A body that may break off.
pub(super) type Body = UnsyncBoxBody<Bytes, Cut>;

/// The connection breaks.
#[derive(Debug)]
pub(super) struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("cut")
    }
}

impl std::error::Error for Cut {}

/// Serves until the task is dropped.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        if !shared.state().down {
            connections.spawn(connection(stream, Arc::clone(&shared)));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    // Small answers, one by one.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
    // A cut ends it.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
    let call = called(&shared, &request);
    let fault = judge(&shared, &call)?;
    match fault {
        Fault::None | Fault::CutAfter | Fault::Strike => {}
        Fault::Delay(time) => tokio::time::sleep(time).await,
        Fault::Refuse(status, reason) => return Ok(refusal(status, reason)),
        Fault::CutBefore => return Err(Cut),
        Fault::Hang => std::future::pending().await,
        Fault::Hold => return hold(shared, call, request).await,
    }
    if let Some(frozen) = frozen(&shared, &call) {
        return frozen.await;
    }
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let answer = forward(&shared, &call, parts, body).await;
    if matches!(fault, Fault::Strike) {
        shared.struck.send_replace(Some(call.clone()));
    }
    match fault {
        Fault::CutAfter | Fault::Strike => Err(Cut),
        _ => answer,
    }
}

/// The request as the API server is asked.
fn called(shared: &Shared, request: &Request<Incoming>) -> Call {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    let (path, query) = match &shared.state().confined {
        Some(namespace) if request.method() == Method::GET => confined(path, query, namespace),
        _ => (path.to_owned(), query.to_owned()),
    };
    Call { method: request.method().to_string(), path, query }
}

fn judge(shared: &Shared, call: &Call) -> Result<Fault, Cut> {
    let mut state = shared.state();
    if state.down {
        return Err(Cut);
    }
    state.calls.push(call.clone());
    let fault = state.judge.as_mut().map_or(Fault::None, |judge| judge(call));
    // Not another request after the one that struck.
    state.down = matches!(fault, Fault::Strike);
    Ok(fault)
}

/// While the view is frozen: a list as it was, or a watch that hears nothing.
fn frozen(
    shared: &Arc<Shared>,
    call: &Call,
) -> Option<futures::future::BoxFuture<'static, Result<Response<Body>, Cut>>> {
    if call.method != "GET" || call.is_lease() {
        return None;
    }
    let key = call.target();
    let mut state = shared.state();
    let Some(frozen) = &state.frozen else {
        if !call.is_watch() {
            state.lists.insert(key, ());
        }
        return None;
    };
    if call.is_watch() {
        let silence = watches::silence(Arc::clone(shared));
        return Some(Box::pin(async move { Ok(json_answer(200, silence)) }));
    }
    let body = frozen.get(&key)?.clone();
    Some(Box::pin(async move { Ok(json_answer(200, whole(body))) }))
}

/// Passes it on once it is delivered, whoever has hung up by then.
async fn hold(shared: Arc<Shared>, call: Call, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    shared.held.send_modify(|held| *held += 1);
    let arriving = tokio::spawn(async move {
        // The proxy outlives it.
        let _ = shared.held.subscribe().wait_for(|held| *held == 0).await;
        forward(&shared, &call, parts, body).await
    });
    arriving.await.map_err(|_| Cut)?
}

async fn forward(
    shared: &Arc<Shared>,
    call: &Call,
    parts: Parts,
    body: Bytes,
) -> Result<Response<Body>, Cut> {
    let url = format!("{}{}", shared.server, call.target());
    let mut headers = parts.headers;
    headers.remove(hyper::header::HOST);
    headers.remove(hyper::header::CONTENT_LENGTH);
    let token = bearer(&headers);
    let sent = shared.upstream.request(parts.method, url).headers(headers).body(body).send().await;
    let answer = sent.map_err(|_| Cut)?;
    if let Some((passed, token)) = shared.passed.as_ref().zip(token) {
        passed.push(&token, call, answer.status().as_u16());
    }
    let (status, headers) = (answer.status(), answer.headers().clone());
    let body = if call.is_watch() && status.is_success() {
        watches::events(Arc::clone(shared), call.clone(), answer)
    } else {
        whole(answer.bytes().await.map_err(|_| Cut)?)
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in &headers {
        if name != hyper::header::TRANSFER_ENCODING && name != hyper::header::CONTENT_LENGTH {
            response.headers_mut().append(name, value.clone());
        }
    }
    Ok(response)
}

/// The token that a request shows.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let shown = headers.get(hyper::header::AUTHORIZATION)?.to_str().ok()?;
    shown.strip_prefix("Bearer ").map(str::to_owned)
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn json_answer(status: u16, body: Body) -> Response<Body> {
    let builder = Response::builder().status(status).header("content-type", "application/json");
    builder.body(body).expect("a response")
}

/// An error as the API server says it.
fn refusal(status: u16, reason: &str) -> Response<Body> {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": status,
        "reason": reason, "message": format!("made by a test: {reason}"),
    });
    json_answer(status, whole(body.to_string().into()))
}
