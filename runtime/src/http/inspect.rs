//! `POST /admin/v1/inspect`: what an adapter's source says of itself, for whoever judges adapters before a replica hears of
//! them. Bounds how many sources are read and how long each takes. Must not judge what they say.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use http::HeaderMap;
use lorikeet_api::{InspectRequest, InspectedSource};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::admin::{AdminFailure, typed};
use super::limits::Limits;
use crate::engine::request::Failure;
use crate::source::Trust;
use crate::source::asked::Asked;
use crate::source::fetch::Fetcher;

/// Requests that wait for one source that is read to end.
const WAITING: usize = 8;

/// What reads sources.
pub struct Inspector {
    /// The bounds of the face.
    pub limits: Limits,
    fetcher: Fetcher,
    /// How long a source may take.
    time: Duration,
    /// Sources that may be read now.
    reads: Semaphore,
    /// Requests that may be here now, those that wait included.
    places: Semaphore,
    waiting: usize,
}

impl Inspector {
    /// One that reads `concurrent` sources at a time, each for at most `time`.
    #[must_use]
    pub fn new(fetcher: Fetcher, concurrent: usize, time: Duration, limits: Limits) -> Self {
        let waiting = concurrent.saturating_mul(WAITING);
        let (reads, places) = (Semaphore::new(concurrent), Semaphore::new(concurrent + waiting));
        Self { limits, fetcher, time, reads, places, waiting }
    }

    async fn read(&self, asked: &Asked) -> Result<InspectedSource, AdminFailure> {
        let full = Failure::QueueFull { waiting: self.waiting, limit: self.waiting };
        let full = || AdminFailure::Http(full.clone().into());
        let _place = self.places.try_acquire().map_err(|_| full())?;
        let turn = timeout(self.time, self.reads.acquire()).await;
        let _read = turn.ok().and_then(Result::ok).ok_or_else(full)?;
        let glimpse = self.fetcher.glimpse(&asked.source, Trust::Admin, asked.credentials.as_ref());
        let glimpse = timeout(self.time, glimpse).await.map_err(|_| AdminFailure::Late(self.time))?;
        Ok(glimpse.map_err(AdminFailure::Source)?.into())
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
) -> Result<Json<InspectedSource>, AdminFailure> {
    let request: InspectRequest = typed(&inspector.limits, &headers, body).await?;
    let asked = Asked::parse(&request).map_err(|odd| AdminFailure::Field(odd.field, odd.message))?;
    inspector.read(&asked).await.map(Json)
}

/// `GET /health`: it answers, so it lives.
pub async fn health() {}
