//! Sends one request and notes when each part of its stream arrives.

use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::Value;

use crate::args::Speaks;
use crate::scenario::Scenario;
use crate::sse::SseParser;
use crate::traffic::Ask;

/// One request, as its user saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The adapter's place; `None` is the base model.
    pub(crate) adapter: Option<usize>,
    /// When it was sent.
    pub(crate) sent: Instant,
    /// When each piece of output arrived.
    pub(crate) pieces: Vec<Instant>,
    /// When it was over.
    pub(crate) ended: Instant,
    /// Tokens of the prompt; 0 where the server does not say.
    pub(crate) prompt_tokens: u64,
    /// Tokens of the answer; the pieces where the server does not say.
    pub(crate) output_tokens: u64,
    /// Why it failed, in few words that many failures share.
    pub(crate) error: Option<String>,
}

/// A server under load. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Server {
    http: reqwest::Client,
    url: String,
    speaks: Speaks,
    model: String,
    token: Option<String>,
}

impl Server {
    /// The server of `scenario`. Connections are kept, one a user, where it keeps its own.
    pub(crate) fn of(scenario: &Scenario) -> Result<Self, reqwest::Error> {
        let builder = reqwest::Client::builder()
            .timeout(scenario.timeout)
            .tcp_nodelay(true)
            .pool_max_idle_per_host(scenario.speaks.kept_connections());
        // Without TLS no certificates are looked for: a machine may have none.
        let plain = !scenario.url.starts_with("https://");
        let builder = if plain { builder.tls_certs_only([]) } else { builder };
        Ok(Self {
            http: builder.build()?,
            url: scenario.url.clone(),
            speaks: scenario.speaks,
            model: scenario.model.clone(),
            token: scenario.token.clone(),
        })
    }

    /// Every model of the server but the base, in the server's order.
    pub(crate) async fn adapters(&self) -> Result<Vec<String>, reqwest::Error> {
        let request = self.authorized(self.http.get(format!("{}/v1/models", self.url)));
        let models: Value = request.send().await?.error_for_status()?.json().await?;
        let ids = models["data"].as_array().into_iter().flatten().filter_map(|model| model["id"].as_str());
        Ok(ids.filter(|id| *id != self.model).map(str::to_owned).collect())
    }

    /// Sends `ask` and reads its stream to the end.
    pub(crate) async fn send(&self, ask: &Ask, name: &str) -> Seen {
        let now = Instant::now();
        let adapter = ask.adapter;
        let mut seen = Seen {
            adapter,
            sent: now,
            pieces: Vec::new(),
            ended: now,
            prompt_tokens: 0,
            output_tokens: 0,
            error: None,
        };
        let name = if adapter.is_some() { name } else { self.model.as_str() };
        let body = self.speaks.body(ask, &self.model, name);
        if let Err(error) = self.stream(&body, &mut seen).await {
            seen.error = Some(error);
        }
        seen.ended = Instant::now();
        seen
    }

    async fn stream(&self, body: &Value, seen: &mut Seen) -> Result<(), String> {
        let request = self.http.post(format!("{}{}", self.url, self.speaks.path())).json(body);
        seen.sent = Instant::now();
        let response = self.authorized(request).send().await.map_err(|error| kind(&error))?;
        if !response.status().is_success() {
            return Err(format!("status {}", response.status().as_u16()));
        }
        let mut bytes = response.bytes_stream();
        let mut parser = SseParser::default();
        let mut finished = false;
        while let Some(piece) = bytes.next().await {
            let piece = piece.map_err(|error| kind(&error))?;
            let arrived = Instant::now();
            for data in parser.push(&piece) {
                let said = self.speaks.understand(&data);
                if let Some(error) = said.error {
                    return Err(format!("stream: {error}"));
                }
                if said.output {
                    seen.pieces.push(arrived);
                    seen.output_tokens = seen.output_tokens.max(seen.pieces.len() as u64);
                }
                seen.output_tokens = said.output_tokens.unwrap_or(seen.output_tokens);
                seen.prompt_tokens = said.prompt_tokens.unwrap_or(seen.prompt_tokens);
                finished |= said.finished;
            }
        }
        if finished { Ok(()) } else { Err("stream: ended without an end".to_owned()) }
    }

    fn authorized(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

/// A failure in few words that many failures share: the innermost cause, without addresses.
fn kind(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timeout".to_owned();
    }
    if error.is_connect() {
        return "connect".to_owned();
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

impl Seen {
    /// From sending to the first output.
    pub(crate) fn first(&self) -> Option<Duration> {
        self.pieces.first().map(|first| first.duration_since(self.sent))
    }

    /// Between one piece of output and the next.
    pub(crate) fn gaps(&self) -> impl Iterator<Item = Duration> {
        self.pieces.windows(2).map(|pair| pair[1].duration_since(pair[0]))
    }

    /// From sending to the end.
    pub(crate) fn total(&self) -> Duration {
        self.ended.duration_since(self.sent)
    }
}
