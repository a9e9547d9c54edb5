//! Reads an adapter's configuration and the size of its weights over HTTP: bounded in bytes and redirects, each hop judged
//! like the first, addresses judged by the resolver that makes the connection. Sends no secret.

use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_RANGE, LOCATION, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};

use crate::fleet::Probe;
use crate::probe::address::{HostPolicy, HostRule};
use crate::probe::{config, weights};

/// Redirects that are followed.
const REDIRECTS: usize = 5;

/// Reads over HTTP.
pub(super) struct Web {
    /// Connects anywhere: for the hosts and ports that a rule names.
    named: Client,
    /// Connects only to addresses that the policy allows.
    guarded: Client,
    policy: Arc<HostPolicy>,
}

/// Why a file was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WebError {
    /// The host may not be asked.
    #[error("{0}")]
    Forbidden(String),
    /// The host does not answer as it should, whatever is asked of it.
    #[error("{0}")]
    Unavailable(String),
    /// It answers, and not with the file.
    #[error("{0}")]
    Refused(String),
}

impl Web {
    /// Reaches what `policy` allows, and the hub.
    ///
    /// # Errors
    /// There is no TLS.
    pub(super) fn new(mut policy: HostPolicy, hub: Option<&Url>) -> Result<Self, reqwest::Error> {
        // The process's TLS provider: whoever comes first sets it, to the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        if let Some((host, hub)) = hub.and_then(|hub| Some((hub.host_str()?, hub))) {
            policy.allow.push(HostRule::Host(host.to_owned(), hub.port_or_known_default()));
        }
        let policy = Arc::new(policy);
        let agent = concat!("lorikeet-operator/", env!("CARGO_PKG_VERSION"));
        let builder = || Client::builder().redirect(Policy::none()).no_proxy().user_agent(agent);
        let guarded = builder().dns_resolver(Guard(Arc::clone(&policy))).build()?;
        Ok(Self { named: builder().build()?, guarded, policy })
    }

    /// What the adapter with these files says of itself.
    ///
    /// # Errors
    /// Its configuration, or the size of its weights, was not read.
    pub(super) async fn read(&self, config: &Url, weights: &Url) -> Result<Probe, WebError> {
        let json = self.text(config).await?;
        match config::read(&json) {
            Probe::Facts(mut facts) => {
                facts.bytes = self.size(weights).await?;
                Ok(Probe::Facts(facts))
            }
            fault => Ok(fault),
        }
    }

    /// The file, one byte over the longest that is taken at most.
    async fn text(&self, url: &Url) -> Result<Vec<u8>, WebError> {
        let mut answer = self.get(url, None).await?;
        let mut text = Vec::new();
        while text.len() <= config::MAX_BYTES
            && let Some(piece) = answer.chunk().await.map_err(|error| broken(url, &error))?
        {
            text.extend_from_slice(&piece[..piece.len().min(config::MAX_BYTES + 1 - text.len())]);
        }
        Ok(text)
    }

    /// The bytes of the weights, by the file's length and its first bytes; nothing where nobody says how long it is. Asked for with GET, as signed addresses are
    /// often good for nothing else; of a server that sends the whole file no more is taken.
    async fn size(&self, url: &Url) -> Result<Option<u64>, WebError> {
        let range = format!("bytes=0-{}", weights::START - 1);
        let mut answer = self.get(url, Some(&range)).await?;
        let length = match answer.status() {
            StatusCode::PARTIAL_CONTENT => total(&answer),
            _ => answer.content_length(),
        };
        let mut start = Vec::new();
        while start.len() < weights::START
            && let Some(piece) = answer.chunk().await.map_err(|error| broken(url, &error))?
        {
            start.extend_from_slice(&piece[..piece.len().min(weights::START - start.len())]);
        }
        let start: Option<[u8; weights::START]> = start.try_into().ok();
        Ok(length.zip(start).and_then(|(length, start)| weights::size(length, start)))
    }

    async fn get(&self, url: &Url, range: Option<&str>) -> Result<Response, WebError> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS {
            self.policy.check(&at).map_err(|error| WebError::Forbidden(error.to_string()))?;
            // A resolver is asked for a name without its port: whom a rule names with one is told apart here.
            let client = if self.policy.names(&at) { &self.named } else { &self.guarded };
            let request = client.get(at.clone());
            let request = match range {
                Some(range) => request.header(RANGE, range),
                None => request,
            };
            let answer = request.send().await.map_err(|error| broken(&at, &error))?;
            if !answer.status().is_redirection() {
                return good(answer, &at);
            }
            at = redirected(&at, &answer)?;
        }
        Err(WebError::Refused(format!("{}: more than {REDIRECTS} redirects", host(url))))
    }
}

/// The host of `url`, for people: its path and query may say more than a status should.
fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default()
}

fn good(answer: Response, url: &Url) -> Result<Response, WebError> {
    let status = answer.status();
    let said = || format!("{} answers {status}", host(url));
    match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(answer),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(WebError::Unavailable(said())),
        _ if status.is_server_error() => Err(WebError::Unavailable(said())),
        _ => Err(WebError::Refused(said())),
    }
}

fn redirected(url: &Url, answer: &Response) -> Result<Url, WebError> {
    let wrong = |what: &str| WebError::Refused(format!("{}: a redirect {what}", host(url)));
    let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let next =
        url.join(location.ok_or_else(|| wrong("to nowhere"))?).map_err(|_| wrong("to what is no URL"))?;
    match next.scheme() {
        "https" => Ok(next),
        "http" if url.scheme() == "http" => Ok(next),
        _ => Err(wrong("to another scheme")),
    }
}

/// The length of the whole file, of `Content-Range: bytes START-END/TOTAL`.
fn total(answer: &Response) -> Option<u64> {
    answer.headers().get(CONTENT_RANGE)?.to_str().ok()?.rsplit_once('/')?.1.parse().ok()
}

/// A connection that broke or never was. reqwest's own text would show the URL with its query.
fn broken(url: &Url, error: &reqwest::Error) -> WebError {
    let (mut cause, mut reason) = (error.source(), "the connection broke".to_owned());
    while let Some(inner) = cause {
        if inner.is::<NotPublic>() {
            let host = host(url);
            return WebError::Forbidden(format!("{host}: the name leads to an address that is not public"));
        }
        reason = inner.to_string();
        cause = inner.source();
    }
    WebError::Unavailable(format!("{}: {reason}", host(url)))
}

/// Resolves names to addresses that the policy allows.
struct Guard(Arc<HostPolicy>);

/// A name leads to an address that the policy does not allow.
#[derive(Debug, thiserror::Error)]
#[error("the address is not public")]
struct NotPublic;

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.0);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<SocketAddr> =
                found.into_iter().filter(|address| policy.allows(address.ip())).collect();
            if allowed.is_empty() {
                return Err(NotPublic.into());
            }
            let addresses: Addrs = Box::new(allowed.into_iter());
            Ok(addresses)
        })
    }
}
