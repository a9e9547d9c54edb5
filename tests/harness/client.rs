//! A client of one address: JSON in, JSON or a stream of JSON out.

use std::time::Duration;

use futures::StreamExt;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

/// No answer takes longer, on the slowest machine that runs the suites.
const PATIENCE: Duration = Duration::from_secs(300);

/// Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as it came.
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text))
    }

    /// The body as JSON of an answer that must be 200.
    ///
    /// # Panics
    /// When the status is another.
    #[must_use]
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()
    }

    /// The message of an error in OpenAI's shape.
    ///
    /// # Panics
    /// When the body has no such message.
    #[must_use]
    #[track_caller]
    pub fn message(&self) -> String {
        let message = self.json().pointer("/error/message").and_then(Value::as_str).map(str::to_owned);
        message.unwrap_or_else(|| panic!("no error message: {} {}", self.status, self.text))
    }
}

impl Client {
    /// A client of `http://HOST:PORT`.
    ///
    /// # Panics
    /// When the HTTP library cannot be set up.
    #[must_use]
    pub fn of(url: String) -> Self {
        // It may have been installed by another test of this program.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = reqwest::Client::builder().timeout(PATIENCE).tls_certs_only([]).tcp_nodelay(true);
        Self { http: builder.build().expect("a client"), url }
    }

    /// The address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A request to build on.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// Sends `request`.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub async fn send(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, text: response.text().await? })
    }

    /// `GET path`.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn get(&self, path: &str) -> Answer {
        Self::send(self.request(Method::GET, path))
            .await
            .unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// `POST path` with a JSON body.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let sent = Self::send(self.request(Method::POST, path).json(body)).await;
        sent.unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// `POST path` of a streaming request: the data of every event, `[DONE]` left out.
    ///
    /// # Panics
    /// When the answer is no stream, or breaks off.
    pub async fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let response = self.request(Method::POST, path).json(body).send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), 200, "{path}");
        let mut bytes = response.bytes_stream();
        let mut text = Vec::new();
        while let Some(piece) = bytes.next().await {
            text.extend_from_slice(&piece.expect("a whole stream"));
        }
        let text = String::from_utf8(text).expect("a stream is UTF-8");
        let data = text.split("\n\n").filter_map(|event| event.trim().strip_prefix("data:")).map(str::trim);
        data.filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}")))
            .collect()
    }
}
