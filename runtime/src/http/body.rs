//! A body read whole, bounded in bytes and in time, as JSON. Takes the place of axum's extractor, whose refusals are
//! plain text.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequest, Request};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt as _;

use super::App;
use super::error::{ApiError, Problem, shorten};
use super::fields::Fields;
use super::limits::Limits;

/// The JSON object of a request to the public face, for handlers to take.
#[derive(Debug)]
pub struct Asked(pub Fields);

impl FromRequest<Arc<App>> for Asked {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let (head, body) = request.into_parts();
        Ok(Self(json(&head.headers, body, &app.limits).await?))
    }
}

/// Reads a JSON object.
///
/// # Errors
/// 415 for another content type, 413, 408, 400 for what is not a JSON object.
pub async fn json(headers: &HeaderMap, body: Body, limits: &Limits) -> Result<Fields, Problem> {
    declared_json(headers)?;
    Fields::parse(&read(body, limits).await?)
}

/// Reads a body of any type.
///
/// # Errors
/// [`Problem::BodyTooLarge`] (before reading, where the length is declared), [`Problem::BodyTimeout`],
/// [`Problem::BodyBroken`].
pub async fn read(body: Body, limits: &Limits) -> Result<Bytes, Problem> {
    let too_large = Problem::BodyTooLarge(limits.body_bytes);
    if body.size_hint().lower() > limits.body_bytes as u64 {
        return Err(too_large);
    }
    let collect = async move {
        let mut body = body;
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Problem::BodyBroken)?.into_data() else { continue };
            if bytes.len() + data.len() > limits.body_bytes {
                return Err(too_large);
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    };
    tokio::time::timeout(limits.body_time, collect)
        .await
        .unwrap_or(Err(Problem::BodyTimeout(limits.body_time.as_secs())))
}

fn declared_json(headers: &HeaderMap) -> Result<(), Problem> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|value| *value != "identity") {
        return Err(Problem::WrongMediaType {
            header: "content-encoding",
            wanted: "none",
            got: shown(encoding),
        });
    }
    let wrong = |got| Problem::WrongMediaType { header: "content-type", wanted: "application/json", got };
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Err(wrong("none".into())) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let json =
        essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    if json { Ok(()) } else { Err(wrong(shown(value))) }
}

fn shown(value: &HeaderValue) -> String {
    shorten(&String::from_utf8_lossy(value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(content_type: &'static str) -> Result<(), Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        declared_json(&headers)
    }

    #[test]
    fn json_is_json_with_whatever_parameters() {
        assert!(declared("application/json").is_ok());
        assert!(declared("Application/JSON; charset=utf-8").is_ok());
        assert!(declared("application/problem+json").is_ok());
        assert!(declared("text/plain").is_err());
        assert!(declared_json(&HeaderMap::new()).is_err());
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_even_undeclared() {
        let limits = Limits { body_bytes: 10, ..Limits::default() };
        let chunks =
            futures::stream::iter((0..3).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(b"12345"))));
        assert_eq!(read(Body::from_stream(chunks), &limits).await, Err(Problem::BodyTooLarge(10)));
        assert_eq!(read(Body::from("12345678901"), &limits).await, Err(Problem::BodyTooLarge(10)));
        assert_eq!(read(Body::from("1234567890"), &limits).await, Ok(Bytes::from_static(b"1234567890")));
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_given_up() {
        let limits = Limits { body_time: std::time::Duration::from_millis(1), ..Limits::default() };
        let never = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        assert_eq!(read(Body::from_stream(never), &limits).await, Err(Problem::BodyTimeout(0)));
    }
}
