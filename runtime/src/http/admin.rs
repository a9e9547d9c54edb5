//! The admin face's own calls: the desired set goes in, the reported set comes out. Types are `lorikeet-api`'s, which
//! the operator shares.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::{HeaderMap, StatusCode};
use lorikeet_api::{
    Accepted, AdapterReport, AdminError, AdminErrorBody, DesiredChange, DesiredSet, ErrorCode, ReportedSet,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::{ApiError, Problem, shorten, shorten_to};
use super::limits::Limits;
use super::registry::Refusal;
use super::server::Stopping;
use super::{App, body};
use crate::source::error::FetchError;

/// A long poll ends after so long, whatever was asked for: proxies in between have their own patience.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Characters of a parser's own words that an answer has: they list the fields that there are.
const SAID: usize = 400;

/// An answer that is not 2xx.
#[derive(Debug)]
pub enum AdminFailure {
    /// What the store says.
    Store(ErrorCode, String),
    /// What HTTP says.
    Http(ApiError),
    /// A field that cannot be, and why.
    Field(&'static str, String),
    /// A source that is asked after cannot be read.
    Source(FetchError),
    /// It did not say enough in that time.
    Late(Duration),
}

impl From<Refusal> for AdminFailure {
    fn from(error: Refusal) -> Self {
        Self::Store(error.code, error.message)
    }
}

impl From<Problem> for AdminFailure {
    fn from(problem: Problem) -> Self {
        Self::Http(problem.into())
    }
}

impl IntoResponse for AdminFailure {
    fn into_response(self) -> Response {
        let (status, code, param, message) = match self {
            Self::Http(error) => return error.into_response(),
            Self::Store(code, message) => (status(code), code, None, message),
            Self::Field(field, message) => {
                (StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest, Some(field), message)
            }
            Self::Source(error) => {
                (StatusCode::UNPROCESSABLE_ENTITY, error.code(), Some("source"), error.to_string())
            }
            Self::Late(time) => {
                let message = format!("source: not read within {time:?}");
                (StatusCode::GATEWAY_TIMEOUT, ErrorCode::SourceUnavailable, Some("source"), message)
            }
        };
        let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
        let param = param.map(str::to_owned);
        let body = AdminError { error: AdminErrorBody { message, kind: kind.into(), param, code } };
        let mut response = (status, Json(body)).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(http::header::RETRY_AFTER, http::HeaderValue::from_static("1"));
        }
        response
    }
}

/// The store's codes as statuses.
pub(super) const fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidRequest => StatusCode::BAD_REQUEST,
        ErrorCode::SourceForbidden => StatusCode::FORBIDDEN,
        ErrorCode::UnknownAdapter | ErrorCode::SourceNotFound => StatusCode::NOT_FOUND,
        ErrorCode::StaleVersion | ErrorCode::NameConflict => StatusCode::CONFLICT,
        ErrorCode::DigestMismatch
        | ErrorCode::TooLarge
        | ErrorCode::InvalidConfig
        | ErrorCode::InvalidWeights
        | ErrorCode::BaseModelMismatch
        | ErrorCode::UnsupportedFeature
        | ErrorCode::RankExceeded
        | ErrorCode::BudgetExceeded => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::SourceUnavailable | ErrorCode::SourceUnauthorized => StatusCode::BAD_GATEWAY,
        ErrorCode::Draining | ErrorCode::NotReady | ErrorCode::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Internal | ErrorCode::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A body as one of the types that the admin face takes.
pub(super) async fn typed<T: DeserializeOwned>(
    limits: &Limits,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, AdminFailure> {
    let fields = body::json(headers, body, limits).await?;
    serde_json::from_value(fields.into_rest().into()).map_err(|error| {
        AdminFailure::Store(
            ErrorCode::InvalidRequest,
            format!("body: {}", shorten_to(SAID, &error.to_string())),
        )
    })
}

/// `PUT /admin/v1/adapters`.
///
/// # Errors
/// 400 for a malformed set, 409 when its version is not newer.
pub async fn put(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Accepted>, AdminFailure> {
    let set: DesiredSet = typed(&app.admin_limits, &headers, body).await?;
    Ok(Json(app.adapters.apply(set)?))
}

/// `PATCH /admin/v1/adapters`.
///
/// # Errors
/// 400 for a malformed change, 409 when it was not computed against the version that is held.
pub async fn patch(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Accepted>, AdminFailure> {
    let change: DesiredChange = typed(&app.admin_limits, &headers, body).await?;
    Ok(Json(app.adapters.change(change)?))
}

/// What a report is asked after, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct After {
    instance: Option<String>,
    after: Option<String>,
    wait_seconds: Option<String>,
}

impl After {
    fn report(&self) -> Result<Option<u64>, AdminFailure> {
        let number = |text: &String| text.parse().map_err(|_| odd("after", "a report's number", text));
        self.after.as_ref().map(number).transpose()
    }

    fn wait(&self) -> Result<Duration, AdminFailure> {
        let Some(text) = &self.wait_seconds else { return Ok(Duration::ZERO) };
        let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Ok(seconds.ok_or_else(|| odd("wait_seconds", "a number of seconds", text))?.min(LONGEST_WAIT))
    }
}

fn odd(field: &str, wanted: &str, got: &str) -> AdminFailure {
    let message = format!("{field}: expected {wanted}, got \"{}\"", shorten(got));
    AdminFailure::Store(ErrorCode::InvalidRequest, message)
}

/// `GET /admin/v1/adapters`: at once, or when there is something new or the face stops.
///
/// # Errors
/// 400 for a malformed query.
pub async fn report(
    State(app): State<Arc<App>>,
    stopping: Option<Extension<Stopping>>,
    query: Result<Query<After>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<ReportedSet>, AdminFailure> {
    let Query(after) = query.map_err(|error| {
        let said = error.body_text();
        let said = said.strip_prefix("Failed to deserialize query string: ").unwrap_or(&said);
        AdminFailure::Store(ErrorCode::InvalidRequest, format!("query: {}", shorten_to(SAID, said)))
    })?;
    let (number, wait) = (after.report()?, after.wait()?);
    let Some(number) = number else { return Ok(Json(app.adapters.report())) };
    let instance = after.instance.unwrap_or_default();
    let stops = async {
        match stopping {
            Some(Extension(stopping)) => stopping.begun().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        report = app.adapters.report_after(&instance, number, wait) => Ok(Json(report)),
        () = stops => Ok(Json(app.adapters.report())),
    }
}

/// `GET /admin/v1/adapters/{name}`.
///
/// # Errors
/// 404.
pub async fn one(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<AdapterReport>, AdminFailure> {
    app.adapters.adapter(&name).map(Json).ok_or_else(|| unknown(&name))
}

/// `DELETE /admin/v1/adapters/{name}`.
///
/// # Errors
/// 404.
pub async fn remove(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<Accepted>, AdminFailure> {
    Ok(Json(app.adapters.remove(&name)?))
}

fn unknown(name: &str) -> AdminFailure {
    AdminFailure::Store(
        ErrorCode::UnknownAdapter,
        format!("name: no adapter has the name {:?}", shorten(name)),
    )
}
