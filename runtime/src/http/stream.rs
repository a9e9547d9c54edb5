//! Server-sent events: pieces of sequences in, frames out. Dropping the body drops the sequences, and that cancels them.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream::unfold;
use futures::{FutureExt as _, StreamExt as _};
use http::{HeaderValue, header};
use serde::Serialize;

use super::error::ApiError;
use super::run::Running;
use crate::generate::Piece;

/// After so long without a token a comment tells client and proxies that the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Bytes of one write: tokens that are there together go out together.
const FRAME: usize = 16 << 10;

/// Frames on their way out.
#[derive(Debug, Default)]
pub struct Frames(Vec<u8>);

impl Frames {
    /// One event. JSON has no raw line break, so a text cannot break out of its frame.
    pub fn data(&mut self, event: &impl Serialize) {
        self.0.extend_from_slice(b"data: ");
        if let Err(error) = serde_json::to_writer(&mut self.0, event) {
            tracing::error!(%error, "an event cannot be written");
        }
        self.0.extend_from_slice(b"\n\n");
    }

    /// OpenAI's last line.
    pub fn done(&mut self) {
        self.0.extend_from_slice(b"data: [DONE]\n\n");
    }
}

/// Writes the pieces of one endpoint.
pub trait Scribe: Send + 'static {
    /// Before the first piece.
    fn open(&mut self, out: &mut Frames);
    /// A piece of a choice; never [`Piece::Failed`].
    fn piece(&mut self, choice: usize, piece: Piece, out: &mut Frames);
    /// After the last piece.
    fn close(&mut self, out: &mut Frames);
    /// Instead of all that would come: an error is an event of its own, never a bare end.
    fn fail(&mut self, error: &ApiError, out: &mut Frames);
}

struct State<S> {
    running: Running,
    scribe: S,
    open: BTreeSet<usize>,
    begun: bool,
    over: bool,
}

/// The answer that streams what `scribe` writes.
#[must_use]
pub fn respond(running: Running, scribe: impl Scribe) -> Response {
    let open = (0..running.choices).collect();
    let state = State { running, scribe, open, begun: false, over: false };
    let frames = unfold(state, |mut state| async move {
        let frames = state.frames().await?;
        Some((Ok::<_, std::convert::Infallible>(frames), state))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl<S: Scribe> State<S> {
    async fn frames(&mut self) -> Option<Bytes> {
        let mut out = Frames::default();
        if !std::mem::replace(&mut self.begun, true) {
            self.scribe.open(&mut out);
        }
        while out.0.is_empty() {
            if self.over {
                return None;
            }
            match tokio::time::timeout(KEEP_ALIVE, self.running.pieces.next()).await {
                Ok(next) => self.take(next, &mut out),
                Err(_) => out.0.extend_from_slice(b": still here\n\n"),
            }
        }
        while !self.over && out.0.len() < FRAME {
            let Some(next) = self.running.pieces.next().now_or_never() else { break };
            self.take(next, &mut out);
        }
        Some(out.0.into())
    }

    fn take(&mut self, next: Option<(usize, Piece)>, out: &mut Frames) {
        match next {
            Some((_, Piece::Failed(failure))) => {
                self.over = true;
                self.scribe.fail(&failure.into(), out);
                self.running.pieces.clear();
            }
            Some((choice, piece)) => {
                if matches!(piece, Piece::End { .. }) {
                    self.open.remove(&choice);
                }
                self.scribe.piece(choice, piece, out);
                if self.open.is_empty() {
                    self.over = true;
                    self.scribe.close(out);
                }
            }
            None if self.over => {}
            None => {
                self.over = true;
                self.scribe.close(out);
            }
        }
    }
}
