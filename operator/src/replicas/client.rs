//! HTTP to one replica's admin face, or to the inspector beside it: TLS against the fleet's own authority, a bearer token, short time limits. No retry.
//! A token is sent only to who has a certificate of its own generation.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream;
use internment::ArcIntern;
use lorikeet_api::{
    ADAPTERS_PATH, Accepted, AdminError, DesiredAdapter, DesiredChange, ErrorCode, Failure, INSPECT_PATH,
    InspectRequest, InspectedSource, Version,
};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;

use crate::fleet::{DesiredList, Report};
use crate::replicas::arriving::Arriving;

/// An answer that does not begin in that time, or go on, will not come; what a write left is read from the next report.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// What an answer of many adapters may take beside that, and what each adapter that is sent adds.
const REPORT_TIMEOUT: Duration = Duration::from_secs(30);
const ADAPTER_TIMEOUT: Duration = Duration::from_millis(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a replica holds a report back while nothing changes.
const POLL_SECONDS: u64 = 20;
/// The longest report that is read, in bytes: 100,000 adapters'.
const MAX_REPORT: usize = 64 << 20;
/// The longest other answer: a source's configuration of [`MAX_CONFIG_BYTES`](lorikeet_api::MAX_CONFIG_BYTES), each of them escaped.
const MAX_ANSWER: usize = 8 << 20;
/// Adapters of a whole set that are sent at once.
const PIECE: usize = 256;

/// Where a replica's admin face is, and what opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The name in its certificate.
    pub host: String,
    /// Where it is.
    pub address: SocketAddr,
    /// Changes when the process behind the address does.
    pub incarnation: String,
    /// What opens it.
    pub access: Arc<Access>,
}

/// What opens a fleet's admin faces.
#[derive(Debug, PartialEq, Eq)]
pub struct Access {
    /// What replicas are given now.
    pub newest: Pass,
    /// What replicas answer to whose files are still as they were before a renewal.
    pub former: Option<Pass>,
}

/// One generation of it.
#[derive(PartialEq, Eq)]
pub struct Pass {
    /// The authority's certificate, PEM.
    pub authority: String,
    /// The bearer token.
    pub token: String,
}

impl Endpoint {
    /// Whether `other` is the same process, whatever opens it.
    #[must_use]
    pub fn is_same_process(&self, other: &Self) -> bool {
        (&self.host, self.address, &self.incarnation) == (&other.host, other.address, &other.incarnation)
    }
}

impl Access {
    fn passes(&self) -> impl Iterator<Item = &Pass> {
        std::iter::once(&self.newest).chain(&self.former)
    }
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Pass(..)")
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The authority's certificate cannot be read.
    #[error("the admin authority: {0}")]
    Authority(reqwest::Error),
    /// No answer, or a broken one.
    #[error("{0}")]
    Unreachable(String),
    /// No answer, or no more of one, in the time that it has.
    #[error("it does not answer in time")]
    Late,
    /// It loads its model.
    #[error("the replica loads its model")]
    Loading,
    /// The replica has another version than the change was made against, or a newer one.
    #[error("the replica's desired set is of another version")]
    Conflict,
    /// The replica refused.
    #[error("{status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
}

/// A client of one replica.
#[derive(Clone)]
pub struct Client {
    url: reqwest::Url,
    /// The newest first.
    keys: Arc<[Key]>,
    /// Which of them opened it last.
    opens: Arc<AtomicUsize>,
}

/// One generation of what opens a replica.
struct Key {
    /// Trusts that generation's authority alone.
    http: reqwest::Client,
    token: String,
}

impl Key {
    fn new(endpoint: &Endpoint, pass: &Pass) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(pass.authority.as_bytes())?])
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .resolve(&endpoint.host, endpoint.address)
            .build()?;
        Ok(Self { http, token: pass.token.clone() })
    }
}

impl Client {
    /// A client of the replica at `endpoint`.
    ///
    /// # Errors
    /// The authority's certificate cannot be read.
    pub fn new(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let keys: Result<Arc<[_]>, _> =
            endpoint.access.passes().map(|pass| Key::new(endpoint, pass)).collect();
        let keys = keys.map_err(ClientError::Authority)?;
        let url = format!("https://{}:{}{ADAPTERS_PATH}", endpoint.host, endpoint.address.port());
        let url = url.parse().map_err(|_| ClientError::Unreachable(format!("{url:?} is not an address")))?;
        Ok(Self { url, keys, opens: Arc::default() })
    }

    /// The next report after `after` of process `instance`, or the same when nothing changes, at once unless it `waits`;
    /// complete without them.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn report(&self, after: Option<(&str, u64)>, waits: bool) -> Result<Report, ClientError> {
        let mut url = self.url.clone();
        let mut patience = ANSWER_TIMEOUT;
        if let Some((instance, after)) = after {
            let seconds = if waits { POLL_SECONDS } else { 0 };
            url.query_pairs_mut()
                .append_pair("instance", instance)
                .append_pair("after", &after.to_string())
                .append_pair("wait_seconds", &seconds.to_string());
            patience += Duration::from_secs(seconds);
        }
        let asked = self.opened(|http| http.get(url.clone()).timeout(patience + REPORT_TIMEOUT));
        let response = tokio::time::timeout(patience, asked).await.map_err(|_| ClientError::Late)?;
        read_report(accepted(response?).await?).await
    }

    /// Replaces the whole desired set. It is sent in pieces: of ten thousand adapters it is megabytes, and 64 replicas may
    /// be written to at once.
    ///
    /// # Errors
    /// [`ClientError::Conflict`] when the replica has a newer version; any other.
    pub async fn put(&self, version: Version, adapters: DesiredList) -> Result<Accepted, ClientError> {
        let limit = ANSWER_TIMEOUT + work(adapters.len());
        let json = HeaderValue::from_static("application/json");
        let request = |http: &reqwest::Client| {
            let body = reqwest::Body::wrap_stream(stream::iter(pieces(version, Arc::clone(&adapters))));
            http.put(self.url.clone()).header(CONTENT_TYPE, json.clone()).body(body).timeout(limit)
        };
        read(accepted(self.opened(request).await?).await?).await
    }

    /// Changes the desired set.
    ///
    /// # Errors
    /// [`ClientError::Conflict`] when the replica has another version than `change.base`; any other.
    pub async fn patch(
        &self,
        change: &DesiredChange<ArcIntern<DesiredAdapter>>,
    ) -> Result<Accepted, ClientError> {
        let limit = ANSWER_TIMEOUT + work(change.set.len());
        let request = |http: &reqwest::Client| {
            http.request(Method::PATCH, self.url.clone()).json(change).timeout(limit)
        };
        read(accepted(self.opened(request).await?).await?).await
    }

    /// What an inspector reads of a source, or why it cannot be read.
    ///
    /// # Errors
    /// Any [`ClientError`]: the inspector has not tried.
    pub async fn inspect(
        &self,
        request: &InspectRequest,
    ) -> Result<Result<InspectedSource, Failure>, ClientError> {
        let mut url = self.url.clone();
        url.set_path(INSPECT_PATH);
        let response =
            self.opened(|http| http.post(url.clone()).json(request).timeout(REPORT_TIMEOUT)).await?;
        match response.status() {
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
                let AdminError { error } = read(response).await?;
                Ok(Err(Failure { code: error.code, message: error.message }))
            }
            _ => read(accepted(response).await?).await.map(Ok),
        }
    }

    /// The answer to `request`, with the key that opened the replica last, or with another where that one opens it no longer.
    async fn opened(
        &self,
        request: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response, ClientError> {
        let last = self.opens.load(Ordering::Relaxed);
        let send = |which: usize| {
            let Key { http, token } = &self.keys[which];
            request(http).bearer_auth(token).send()
        };
        let mut answer = send(last).await;
        for other in (0..self.keys.len()).filter(|which| *which != last) {
            if !is_shut(&answer) {
                break;
            }
            answer = send(other).await;
            self.opens.store(other, Ordering::Relaxed);
        }
        answer.map_err(unreachable)
    }
}

/// What a write of so many adapters may take beyond any other answer.
pub(super) fn work(adapters: usize) -> Duration {
    ADAPTER_TIMEOUT.saturating_mul(u32::try_from(adapters).unwrap_or(u32::MAX))
}

/// Whether another key may open the replica: it has another certificate, or does not take the token.
fn is_shut(answer: &reqwest::Result<Response>) -> bool {
    match answer {
        Ok(response) => response.status() == StatusCode::UNAUTHORIZED,
        Err(error) => error.is_connect(),
    }
}

/// A `DesiredSet` as JSON, piece by piece.
fn pieces(version: Version, adapters: DesiredList) -> impl Iterator<Item = serde_json::Result<Vec<u8>>> {
    let count = adapters.len();
    let head = serde_json::to_string(&version);
    let head = head.map(|version| format!("{{\"version\":{version},\"adapters\":[").into_bytes());
    let piece = move |from: usize| {
        let mut piece = Vec::new();
        for (at, one) in adapters.iter().enumerate().skip(from).take(PIECE) {
            if at > 0 {
                piece.push(b',');
            }
            serde_json::to_writer(&mut piece, one)?;
        }
        Ok(piece)
    };
    std::iter::once(head).chain((0..count).step_by(PIECE).map(piece)).chain([Ok(b"]}".to_vec())])
}

/// The answer, where it is a good one.
async fn accepted(response: Response) -> Result<Response, ClientError> {
    let status = response.status();
    if status == StatusCode::CONFLICT {
        return Err(ClientError::Conflict);
    }
    if status.is_success() {
        return Ok(response);
    }
    let error: Result<AdminError, ClientError> = read(response).await;
    Err(match error {
        Ok(error) if error.error.code == ErrorCode::NotReady => ClientError::Loading,
        Ok(error) => ClientError::Refused { status: status.as_u16(), message: error.error.message },
        Err(_) => ClientError::Refused { status: status.as_u16(), message: "no reason given".to_owned() },
    })
}

/// Reads an answer.
async fn read<T: DeserializeOwned>(response: Response) -> Result<T, ClientError> {
    let mut answer = Vec::new();
    each_piece(response, MAX_ANSWER, |piece| {
        answer.extend_from_slice(piece);
        Ok(())
    })
    .await?;
    serde_json::from_slice(&answer).map_err(strange)
}

/// Reads a report while it arrives.
async fn read_report(response: Response) -> Result<Report, ClientError> {
    let mut arriving = Arriving::default();
    each_piece(response, MAX_REPORT, |piece| arriving.take(piece)).await?;
    arriving.end().map_err(strange)
}

/// Hands the body of `response`, of at most `limit` bytes, to `take`.
async fn each_piece(
    mut response: Response,
    limit: usize,
    mut take: impl FnMut(&[u8]) -> serde_json::Result<()>,
) -> Result<(), ClientError> {
    let mut left = limit;
    let next = async |response: &mut Response| {
        let piece = tokio::time::timeout(ANSWER_TIMEOUT, response.chunk()).await;
        piece.map_err(|_| ClientError::Late)?.map_err(unreachable)
    };
    while let Some(piece) = next(&mut response).await? {
        left = left.checked_sub(piece.len()).ok_or_else(|| too_long(limit))?;
        take(&piece).map_err(strange)?;
    }
    Ok(())
}

fn too_long(limit: usize) -> ClientError {
    ClientError::Unreachable(format!("the answer has more than {limit} bytes"))
}

fn strange(error: serde_json::Error) -> ClientError {
    ClientError::Unreachable(format!("the answer is not of this API: {}", chain(&error)))
}

fn unreachable(error: reqwest::Error) -> ClientError {
    ClientError::Unreachable(chain(&error.without_url()))
}

/// An error with its causes: the first alone often says only that sending failed.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use lorikeet_api::DesiredSet;

    use super::*;

    #[test]
    fn the_pieces_of_a_set_are_the_set() {
        for count in [0, 1, PIECE, 2 * PIECE + 1] {
            let one = |at: usize| DesiredAdapter { name: format!("a{at}"), ..DesiredAdapter::default() };
            let set = DesiredSet {
                version: Version { epoch: 3, sequence: 7 },
                adapters: (0..count).map(one).collect(),
            };
            let list = set.adapters.iter().cloned().map(ArcIntern::new).collect();
            let body: Result<Vec<_>, _> = pieces(set.version, list).collect();
            assert_eq!(serde_json::from_slice::<DesiredSet>(&body.unwrap().concat()).unwrap(), set);
        }
    }
}
