//! `POST /admin/v1/inspect`: what an adapter's source says of itself, for whoever judges adapters before a replica hears of
//! them. Bounds how many sources are read or told of at a time, and how long each takes. Must not judge what they say.

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use lorikeet_api::{ErrorCode, InspectRequest, InspectedSource};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::admin::{AdminFailure, typed};
use super::limits::Limits;
use crate::engine::request::Failure;
use crate::source::Trust;
use crate::source::asked::Asked;
use crate::source::fetch::Fetcher;

/// What an answer begins with, up to the text of its configuration.
const BEFORE: &str = "{\"config\":\"";

/// Bytes of a configuration that are written at a time.
const PIECE: usize = 8 << 10;

/// Requests that wait for one source that is read to end.
const WAITING: usize = 8;

/// What reads sources.
pub struct Inspector {
    /// The bounds of the face.
    pub limits: Limits,
    fetcher: Fetcher,
    /// How long a source may take.
    time: Duration,
    /// Sources that may be read now, or whose answers are on their way.
    reads: Arc<Semaphore>,
    /// Requests that may be here now, those that wait included.
    places: Semaphore,
    waiting: usize,
}

impl Inspector {
    /// One that reads `concurrent` sources at a time, each for at most `time`.
    #[must_use]
    pub fn new(fetcher: Fetcher, concurrent: usize, time: Duration, limits: Limits) -> Self {
        let waiting = concurrent.saturating_mul(WAITING);
        let (reads, places) = (Arc::new(Semaphore::new(concurrent)), Semaphore::new(concurrent + waiting));
        Self { limits, fetcher, time, reads, places, waiting }
    }

    async fn read(&self, asked: &Asked) -> Result<(InspectedSource, OwnedSemaphorePermit), AdminFailure> {
        let full = Failure::QueueFull { waiting: self.waiting, limit: self.waiting };
        let full = || AdminFailure::Http(full.clone().into());
        let _place = self.places.try_acquire().map_err(|_| full())?;
        let turn = timeout(self.time, Arc::clone(&self.reads).acquire_owned()).await;
        let read = turn.ok().and_then(Result::ok).ok_or_else(full)?;
        let glimpse = self.fetcher.glimpse(&asked.source, Trust::Admin, asked.credentials.as_ref());
        let glimpse = timeout(self.time, glimpse).await.map_err(|_| AdminFailure::Late(self.time))?;
        Ok((glimpse.map_err(AdminFailure::Source)?.into(), read))
    }
}

/// Answers with what the source says.
///
/// # Errors
/// 400 for what is no source or no Secret's name, 422 for a source that may not or cannot be read, 429 when too many wait, 504
/// when the source takes too long.
pub async fn handle(
    State(inspector): State<Arc<Inspector>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, AdminFailure> {
    let request: InspectRequest = typed(&inspector.limits, &headers, body).await?;
    let asked = Asked::parse(&request).map_err(|odd| AdminFailure::Field(odd.field, odd.message))?;
    let (said, read) = inspector.read(&asked).await?;
    written(said, read).map_err(|error| AdminFailure::Store(ErrorCode::Internal, error.to_string()))
}

/// The answer, written while it is sent, so that it is in memory once: JSON may make six times as much of it. Its `read` ends
/// when it is sent.
fn written(said: InspectedSource, read: OwnedSemaphorePermit) -> serde_json::Result<Response> {
    let config = said.config;
    let around = serde_json::to_string(&InspectedSource { config: String::new(), ..said })?;
    let (before, after) = around.split_at(BEFORE.len());
    let (before, after) = (Bytes::from(before.to_owned()), Bytes::from(after.to_owned()));
    let mut at = 0;
    let pieces = iter::from_fn(move || {
        let _read = &read;
        let rest = config.get(at..).filter(|rest| !rest.is_empty())?;
        let end = (PIECE..rest.len()).find(|end| rest.is_char_boundary(*end)).unwrap_or(rest.len());
        at += end;
        Some(serde_json::to_string(&rest[..end]).map(|text| Bytes::from(text).slice(1..)).map(unquoted))
    });
    let all = iter::once(Ok(before)).chain(pieces).chain(iter::once(Ok(after)));
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((json, Body::from_stream(stream::iter(all))).into_response())
}

/// Without its last quote.
fn unquoted(mut text: Bytes) -> Bytes {
    text.truncate(text.len().saturating_sub(1));
    text
}

/// `GET /health`: it answers, so it lives.
pub async fn health() {}
