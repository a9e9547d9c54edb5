//! The events of a watch, one by one: passed on, dropped, or replaced by 410 Gone.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};

use crate::proxy::relay::{Body, Cut};
use crate::proxy::{Call, EventFault, Shared};

/// What is left of an answer, and what of it was not passed on yet.
struct Rest {
    shared: Arc<Shared>,
    call: Call,
    answer: stream::BoxStream<'static, reqwest::Result<Bytes>>,
    severed: tokio::sync::watch::Receiver<u64>,
    line: Vec<u8>,
    ended: bool,
}

/// The events of `answer`, as the judge lets them through, until all watches are severed.
pub(super) fn events(shared: Arc<Shared>, call: Call, answer: reqwest::Response) -> Body {
    let severed = shared.severed.subscribe();
    let answer = answer.bytes_stream().boxed();
    let rest = Rest { shared, call, answer, severed, line: Vec::new(), ended: false };
    StreamBody::new(stream::unfold(rest, next)).boxed_unsync()
}

/// A watch that hears nothing until all watches are severed.
pub(super) fn silence(shared: Arc<Shared>) -> Body {
    let mut severed = shared.severed.subscribe();
    let end = stream::once(async move {
        // The proxy's end ends it too.
        let _ = severed.changed().await;
        Err(Cut)
    });
    StreamBody::new(end).boxed_unsync()
}

async fn next(mut rest: Rest) -> Option<(Result<Frame<Bytes>, Cut>, Rest)> {
    if rest.ended {
        return None;
    }
    loop {
        if let Some(end) = rest.line.iter().position(|byte| *byte == b'\n') {
            let event: Vec<u8> = rest.line.drain(..=end).collect();
            match judged(&rest, &event) {
                EventFault::None => return Some((Ok(Frame::data(event.into())), rest)),
                EventFault::Drop => continue,
                EventFault::Gone => {
                    rest.ended = true;
                    return Some((Ok(Frame::data(gone())), rest));
                }
            }
        }
        let piece = tokio::select! {
            piece = rest.answer.next() => piece,
            _ = rest.severed.changed() => {
                rest.ended = true;
                return Some((Err(Cut), rest));
            }
        };
        match piece {
            // While the view is frozen nothing is heard, and the watch is severed when it thaws.
            Some(Ok(_)) if rest.shared.state().frozen.is_some() => {}
            Some(Ok(bytes)) => rest.line.extend_from_slice(&bytes),
            Some(Err(_)) => {
                rest.ended = true;
                return Some((Err(Cut), rest));
            }
            None => return None,
        }
    }
}

fn judged(rest: &Rest, event: &[u8]) -> EventFault {
    let mut state = rest.shared.state();
    match (state.events.as_mut(), serde_json::from_slice::<Value>(event)) {
        (Some(judge), Ok(event)) => judge(&rest.call, &event),
        _ => EventFault::None,
    }
}

fn gone() -> Bytes {
    let status = json!({"type": "ERROR", "object": {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 410, "reason": "Expired",
        "message": "too old resource version: made by a test",
    }});
    format!("{status}\n").into()
}
