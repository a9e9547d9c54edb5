//! HTTP to one replica's admin face: TLS against the fleet's own authority, a bearer token, short time limits. No retry.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lorikeet_api::{ADAPTERS_PATH, Accepted, AdminError, DesiredChange, DesiredSet, ReportedSet};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A write that takes longer has failed; the state it left is read from the next report.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a replica holds a report back while nothing changes.
const POLL_SECONDS: u64 = 20;
/// The largest answer that is read: 100,000 adapters' reports.
const MAX_ANSWER: usize = 64 << 20;

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

/// The authority and the token of a fleet's admin faces.
#[derive(PartialEq, Eq)]
pub struct Access {
    /// The authority's certificate, PEM.
    pub authority: String,
    /// The bearer token.
    pub token: String,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Access(..)")
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
    http: reqwest::Client,
    url: reqwest::Url,
    token: String,
}

impl Client {
    /// A client of the replica at `endpoint`.
    ///
    /// # Errors
    /// The authority's certificate cannot be read.
    pub fn new(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let authority = reqwest::Certificate::from_pem(endpoint.access.authority.as_bytes());
        let http = reqwest::Client::builder()
            .tls_certs_only([authority.map_err(ClientError::Authority)?])
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .resolve(&endpoint.host, endpoint.address)
            .build()
            .map_err(ClientError::Authority)?;
        let url = format!("https://{}:{}{ADAPTERS_PATH}", endpoint.host, endpoint.address.port());
        let url = url.parse().map_err(|_| ClientError::Unreachable(format!("{url:?} is not an address")))?;
        Ok(Self { http, url, token: endpoint.access.token.clone() })
    }

    /// The next report after `after` of process `instance`, or the same when nothing changes; complete without them.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn report(&self, after: Option<(&str, u64)>) -> Result<ReportedSet, ClientError> {
        let mut url = self.url.clone();
        let mut timeout = WRITE_TIMEOUT;
        if let Some((instance, after)) = after {
            url.query_pairs_mut()
                .append_pair("instance", instance)
                .append_pair("after", &after.to_string())
                .append_pair("wait_seconds", &POLL_SECONDS.to_string());
            timeout += Duration::from_secs(POLL_SECONDS);
        }
        answer(self.http.get(url).timeout(timeout).bearer_auth(&self.token)).await
    }

    /// Replaces the whole desired set.
    ///
    /// # Errors
    /// [`ClientError::Conflict`] when the replica has a newer version; any other.
    pub async fn put(&self, set: &DesiredSet) -> Result<Accepted, ClientError> {
        self.write(reqwest::Method::PUT, set).await
    }

    /// Changes the desired set.
    ///
    /// # Errors
    /// [`ClientError::Conflict`] when the replica has another version than `change.base`; any other.
    pub async fn patch(&self, change: &DesiredChange) -> Result<Accepted, ClientError> {
        self.write(reqwest::Method::PATCH, change).await
    }

    async fn write(&self, method: reqwest::Method, body: &impl Serialize) -> Result<Accepted, ClientError> {
        let request =
            self.http.request(method, self.url.clone()).timeout(WRITE_TIMEOUT).bearer_auth(&self.token);
        answer(request.json(body)).await
    }
}

async fn answer<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> Result<T, ClientError> {
    let unreachable = |error: reqwest::Error| ClientError::Unreachable(chain(&error.without_url()));
    let mut response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(ClientError::Unreachable(format!("the answer is over {MAX_ANSWER} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    if status == reqwest::StatusCode::CONFLICT {
        return Err(ClientError::Conflict);
    }
    if !status.is_success() {
        let message = serde_json::from_slice::<AdminError>(&body)
            .map_or_else(|_| "no reason given".to_owned(), |error| error.error.message);
        return Err(ClientError::Refused { status: status.as_u16(), message });
    }
    serde_json::from_slice(&body)
        .map_err(|error| ClientError::Unreachable(format!("the answer is not of this API: {error}")))
}

/// An error with its causes: the first alone often says only that sending failed.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
