//! HTTP requests that go only where they may. Redirects are followed here, each hop judged like the first; addresses are
//! judged when a name is resolved, by the resolver that makes the connection; a token goes to its own origin alone.

use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::StreamExt as _;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{
    AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LOCATION, RANGE,
};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Method, Response, StatusCode, Url};
use tokio::time::timeout;

use crate::source::Trust;
use crate::source::address::{HostPolicy, HostRule};
use crate::source::config::{FetchConfig, Patience, Secret};
use crate::source::error::FetchError;

/// Redirects that are followed.
const REDIRECTS: usize = 5;

/// On whose behalf files are asked for, and what opens them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller<'a> {
    pub(super) trust: Trust,
    pub(super) bearer: Option<&'a Bearer>,
}

/// A token, and the one origin that it is sent to: that of a URL.
#[derive(Clone, Debug)]
pub(super) struct Bearer {
    pub(super) at: Url,
    pub(super) token: Secret,
}

/// Requests of files.
pub(super) struct Http {
    /// Connects anywhere: for what the command line and the configuration name, and the hosts and ports of rules.
    trusted: Client,
    /// Connects only to addresses that the policy allows.
    guarded: Client,
    policy: Arc<HostPolicy>,
    hub: Option<Url>,
    patience: Patience,
}

/// What is asked of a file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wish<'a> {
    /// Bytes from here on, if the file still has this tag.
    pub(super) from: Option<(u64, &'a str)>,
    /// So many of its first bytes, at least one. A server may answer with all of it.
    pub(super) first: Option<u64>,
    /// Its headers alone.
    pub(super) head: bool,
}

impl Wish<'_> {
    const fn is_part(&self) -> bool {
        self.from.is_some() || self.first.is_some()
    }
}

/// A body that comes piece by piece.
pub(super) struct Body {
    /// Where in the file it begins.
    pub(super) start: u64,
    /// The file's length.
    pub(super) total: Option<u64>,
    /// Its strong entity tag.
    pub(super) tag: Option<String>,
    pub(super) pieces: futures::stream::BoxStream<'static, Result<bytes::Bytes, FetchError>>,
}

impl Http {
    pub(super) fn new(config: &FetchConfig) -> Result<Self, FetchError> {
        let hub: Option<Url> = config.hub.endpoint.parse().ok().filter(|url: &Url| url.has_host());
        let mut policy = config.hosts.clone();
        if let Some(host) = hub.as_ref().and_then(Url::host_str) {
            let port = hub.as_ref().and_then(Url::port_or_known_default);
            policy.allow.push(HostRule::Host(host.to_owned(), port));
        }
        let policy = Arc::new(policy);
        let builder = || client(&config.patience).no_proxy();
        let failed = |error: reqwest::Error| FetchError::Protocol(error.to_string());
        Ok(Self {
            trusted: builder().build().map_err(failed)?,
            guarded: builder().dns_resolver(Guard(Arc::clone(&policy))).build().map_err(failed)?,
            policy,
            hub,
            patience: config.patience,
        })
    }

    /// What a caller of the admin face may reach.
    pub(super) fn policy(&self) -> Arc<HostPolicy> {
        Arc::clone(&self.policy)
    }

    /// The hub's endpoint.
    pub(super) fn hub(&self) -> Result<&Url, FetchError> {
        let invalid = || FetchError::Forbidden("the hub's endpoint is no URL".to_owned());
        self.hub.as_ref().ok_or_else(invalid)
    }

    /// The answer to a request for `url`, where it is a good one. `file` is what people call it.
    pub(super) async fn get(
        &self,
        url: &Url,
        file: &str,
        caller: Caller<'_>,
        wish: Wish<'_>,
    ) -> Result<Response, FetchError> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let answer = self.hop(&url, caller, wish).await?;
            if !answer.status().is_redirection() {
                return check(answer, &url, file);
            }
            url = redirected(&url, &answer)?;
        }
        Err(FetchError::Protocol(format!("{file}: more than {REDIRECTS} redirects")))
    }

    /// A file's bytes, from where the wish says if the server goes along.
    pub(super) async fn open(
        &self,
        url: &Url,
        file: &str,
        caller: Caller<'_>,
        wish: Wish<'_>,
    ) -> Result<Body, FetchError> {
        let answer = match self.get(url, file, caller, wish).await {
            // What was there so far is not a part of what is there now.
            Err(FetchError::Protocol(_)) if wish.is_part() => {
                self.get(url, file, caller, Wish::default()).await?
            }
            other => other?,
        };
        let partial = answer.status() == StatusCode::PARTIAL_CONTENT;
        let range = content_range(answer.headers()).filter(|_| partial);
        let (start, total) = match range {
            Some(range) => range,
            None if partial => return Err(FetchError::Protocol(format!("{file}: a part without its range"))),
            None => (0, answer.content_length()),
        };
        if start != 0 && Some(start) != wish.from.map(|(from, _)| from) {
            return Err(FetchError::Protocol(format!("{file}: another part than the one asked for")));
        }
        let tag = strong_tag(answer.headers());
        let name = file.to_owned();
        let pieces = answer.bytes_stream().map(move |piece| piece.map_err(|error| broken(&name, &error)));
        Ok(Body { start, total, tag, pieces: pieces.boxed() })
    }

    /// A whole text of at most `limit` bytes.
    pub(super) async fn text(
        &self,
        url: &Url,
        file: &str,
        caller: Caller<'_>,
        limit: u64,
    ) -> Result<Vec<u8>, FetchError> {
        let mut body = self.open(url, file, caller, Wish::default()).await?;
        let mut text = Vec::new();
        while let Some(piece) = self.within(file, body.pieces.next()).await? {
            text.extend_from_slice(&piece?);
            if text.len() as u64 > limit {
                return Err(FetchError::TooLarge { what: file.to_owned(), bytes: text.len() as u64, limit });
            }
        }
        Ok(text)
    }

    async fn hop(&self, url: &Url, caller: Caller<'_>, wish: Wish<'_>) -> Result<Response, FetchError> {
        let is_hub = self.hub.as_ref().is_some_and(|hub| hub.origin() == url.origin());
        let client = match caller.trust {
            Trust::CommandLine => &self.trusted,
            // A resolver is asked for a name without its port: whom a rule names with one is told apart here.
            Trust::Admin if is_hub || self.policy.names(url) => &self.trusted,
            Trust::Admin => {
                self.policy.check(url)?;
                &self.guarded
            }
        };
        let mut request = client.request(if wish.head { Method::HEAD } else { Method::GET }, url.clone());
        if let Some((from, tag)) = wish.from {
            request = request.header(RANGE, format!("bytes={from}-")).header(IF_RANGE, tag);
        }
        if let Some(count) = wish.first {
            request = request.header(RANGE, format!("bytes=0-{}", count.saturating_sub(1)));
        }
        // Wherever a redirect leads, the token goes to its own origin alone.
        if let Some(bearer) = caller.bearer.filter(|bearer| bearer.at.origin() == url.origin()) {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", bearer.token.reveal()))
                .map_err(|_| FetchError::Credentials("the token is not printable".to_owned()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let host = url.host_str().unwrap_or_default();
        self.within(host, request.send()).await?.map_err(|error| broken(host, &error))
    }

    async fn within<T>(&self, what: &str, work: impl Future<Output = T>) -> Result<T, FetchError> {
        let late = |_| FetchError::Unavailable(format!("{what}: no answer for {:?}", self.patience.read));
        timeout(self.patience.read, work).await.map_err(late)
    }
}

/// A client that follows no redirect by itself: credentials go where they were sent, and no further.
pub(super) fn client(patience: &Patience) -> ClientBuilder {
    // The process's TLS provider: whoever comes first sets it, to the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .redirect(Policy::none())
        .connect_timeout(patience.connect)
        .user_agent(concat!("lorikeet/", env!("CARGO_PKG_VERSION")))
}

fn redirected(url: &Url, answer: &Response) -> Result<Url, FetchError> {
    let host = url.host_str().unwrap_or_default();
    let wrong = |what: &str| FetchError::Protocol(format!("{host}: a redirect {what}"));
    let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let next =
        url.join(location.ok_or_else(|| wrong("to nowhere"))?).map_err(|_| wrong("to what is no URL"))?;
    match next.scheme() {
        "https" => Ok(next),
        "http" if url.scheme() == "http" => Ok(next),
        "http" => Err(wrong("from https to http")),
        _ => Err(wrong("to another scheme")),
    }
}

/// A good answer, or what a bad one means.
fn check(answer: Response, url: &Url, file: &str) -> Result<Response, FetchError> {
    let (host, status) = (url.host_str().unwrap_or_default(), answer.status());
    match status {
        _ if status.is_success() => Ok(answer),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(FetchError::Unauthorized(host.to_owned())),
        StatusCode::NOT_FOUND | StatusCode::GONE => Err(FetchError::NotFound(file.to_owned())),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Err(FetchError::Unavailable(format!("{host} answers {status}")))
        }
        _ if status.is_server_error() => Err(FetchError::Unavailable(format!("{host} answers {status}"))),
        _ => Err(FetchError::Protocol(format!("{file}: {host} answers {status}"))),
    }
}

/// A connection that broke or never was. reqwest's own text would show the URL with its query.
fn broken(what: &str, error: &reqwest::Error) -> FetchError {
    let mut cause = error.source();
    let mut reason = String::new();
    while let Some(inner) = cause {
        if inner.is::<NotPublic>() {
            return FetchError::Forbidden(format!("{what}: the name leads to an address that is not public"));
        }
        reason = inner.to_string();
        cause = inner.source();
    }
    FetchError::Unavailable(format!(
        "{what}: {}",
        if reason.is_empty() { "the connection broke" } else { &reason }
    ))
}

/// `(start, total)` of a `Content-Range: bytes START-END/TOTAL`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let start = range.split_once('-')?.0.parse().ok()?;
    Some((start, total.parse().ok()))
}

/// The entity tag, where it promises the same bytes.
pub(super) fn strong_tag(headers: &HeaderMap) -> Option<String> {
    let tag = headers.get(ETAG)?.to_str().ok()?;
    (tag.starts_with('"') && tag.len() <= 200).then(|| tag.to_owned())
}

/// Resolves names to addresses that the policy allows.
pub(super) struct Guard(pub(super) Arc<HostPolicy>);

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
