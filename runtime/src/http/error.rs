//! What goes wrong at a face, and the one place where it becomes a status. Must not decide anything else.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::engine::request::Failure;

/// An answer that is not 2xx. Every one is built from a [`Problem`], so that [`ApiError::from`] is the only map.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// OpenAI's class, as `invalid_request_error`.
    pub kind: &'static str,
    /// For programs.
    pub code: &'static str,
    /// The field at fault.
    pub param: Option<String>,
    /// For people.
    pub message: String,
    /// Seconds after which to try again.
    pub retry_after: Option<u32>,
}

/// Everything that can be wrong, in the words of whoever found it.
#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    /// The body is not JSON, or not an object.
    InvalidJson(String),
    /// A name occurs twice in an object.
    DuplicateField(String),
    /// A field that must be there is not.
    MissingField(String),
    /// A field's value is of another type or outside its range.
    InvalidValue {
        /// The field.
        param: String,
        /// What was expected, what came.
        message: String,
    },
    /// A parameter that exists elsewhere and would be ignored here.
    UnsupportedParameter {
        /// The field.
        param: String,
        /// What to do.
        message: String,
    },
    /// Prompt and output are longer than the model's context.
    ContextLength {
        /// The field that holds the prompt.
        param: &'static str,
        /// The model's maximum.
        limit: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens asked for.
        output: usize,
    },
    /// The prompt has no tokens.
    EmptyPrompt(&'static str),
    /// A token id that the vocabulary does not have.
    InvalidTokenId {
        /// The field.
        param: String,
        /// What came, what is allowed.
        message: String,
    },
    /// No key, or not one of ours.
    Unauthorized,
    /// The caller may not be here (a foreign `Host` or `Origin` on the admin face).
    Forbidden(String),
    /// No model of that name that this caller may use.
    UnknownModel(String),
    /// The adapter is known and was refused: its own code and words.
    AdapterRefused {
        /// A code of `lorikeet-api`.
        code: &'static str,
        /// Why.
        message: String,
    },
    /// The adapter cannot be fetched now.
    AdapterUnavailable {
        /// A code of `lorikeet-api`.
        code: &'static str,
        /// Why.
        message: String,
        /// When the next try is due.
        after: Duration,
    },
    /// No such path.
    UnknownPath(String),
    /// The path has no such method.
    WrongMethod(String),
    /// The body did not come in time.
    BodyTimeout(u64),
    /// The body is over its limit.
    BodyTooLarge(usize),
    /// The body ended before it was whole.
    BodyBroken,
    /// The target is over its limit.
    UriTooLong(usize),
    /// The body is not declared as plain JSON.
    WrongMediaType {
        /// The header at fault.
        header: &'static str,
        /// What it should say.
        wanted: &'static str,
        /// What it says, cut short.
        got: String,
    },
    /// The head is over its limit.
    HeadersTooLarge(String),
    /// The head is no HTTP.
    MalformedHead,
    /// The engine refused or failed.
    Engine(Failure),
    /// The replica is not serving yet, or no more.
    NotReady(&'static str),
    /// Our fault. The words go to the log, not to the caller.
    Internal,
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";
const RATE: &str = "rate_limit_error";

impl From<Problem> for ApiError {
    #[expect(clippy::too_many_lines, reason = "the table of the status contract: one arm a problem")]
    fn from(problem: Problem) -> Self {
        use StatusCode as S;
        let message = problem.message();
        let error = |status, kind, code| Self {
            status,
            kind,
            code,
            param: None,
            message: message.clone(),
            retry_after: None,
        };
        match problem {
            Problem::InvalidJson(_) => error(S::BAD_REQUEST, INVALID, "invalid_json"),
            Problem::DuplicateField(param) => {
                error(S::BAD_REQUEST, INVALID, "duplicate_parameter").with_param(param)
            }
            Problem::MissingField(param) => {
                error(S::BAD_REQUEST, INVALID, "missing_required_parameter").with_param(param)
            }
            Problem::InvalidValue { param, .. } => {
                error(S::BAD_REQUEST, INVALID, "invalid_value").with_param(param)
            }
            Problem::UnsupportedParameter { param, .. } => {
                error(S::BAD_REQUEST, INVALID, "unsupported_parameter").with_param(param)
            }
            Problem::ContextLength { param, .. } => {
                error(S::BAD_REQUEST, INVALID, "context_length_exceeded").with_param(param.into())
            }
            Problem::EmptyPrompt(param) => {
                error(S::BAD_REQUEST, INVALID, "empty_prompt").with_param(param.into())
            }
            Problem::InvalidTokenId { param, .. } => {
                error(S::BAD_REQUEST, INVALID, "invalid_token_id").with_param(param)
            }
            Problem::MalformedHead => error(S::BAD_REQUEST, INVALID, "malformed_head"),
            Problem::BodyBroken => error(S::BAD_REQUEST, INVALID, "incomplete_body"),
            Problem::Unauthorized => error(S::UNAUTHORIZED, "authentication_error", "invalid_api_key"),
            Problem::Forbidden(_) => error(S::FORBIDDEN, "permission_error", "forbidden"),
            Problem::UnknownModel(_) => {
                error(S::NOT_FOUND, INVALID, "model_not_found").with_param("model".into())
            }
            Problem::UnknownPath(_) => error(S::NOT_FOUND, INVALID, "unknown_path"),
            Problem::WrongMethod(_) => error(S::METHOD_NOT_ALLOWED, INVALID, "method_not_allowed"),
            Problem::BodyTimeout(_) => error(S::REQUEST_TIMEOUT, INVALID, "request_timeout"),
            Problem::BodyTooLarge(_) => error(S::PAYLOAD_TOO_LARGE, INVALID, "body_too_large"),
            Problem::UriTooLong(_) => error(S::URI_TOO_LONG, INVALID, "uri_too_long"),
            Problem::WrongMediaType { .. } => {
                error(S::UNSUPPORTED_MEDIA_TYPE, INVALID, "unsupported_media_type")
            }
            Problem::HeadersTooLarge(_) => {
                error(S::REQUEST_HEADER_FIELDS_TOO_LARGE, INVALID, "headers_too_large")
            }
            Problem::AdapterUnavailable { code, after, .. } => {
                let seconds = u32::try_from(after.as_secs()).unwrap_or(u32::MAX).clamp(1, 60);
                error(S::SERVICE_UNAVAILABLE, SERVER, code).with_param("model".into()).retry(seconds)
            }
            // Nothing is wrong with the request: whoever keeps the adapter has to mend it.
            Problem::AdapterRefused { code, .. } => {
                error(S::SERVICE_UNAVAILABLE, SERVER, code).with_param("model".into()).retry(60)
            }
            Problem::NotReady(_) => error(S::SERVICE_UNAVAILABLE, SERVER, "not_ready").retry(1),
            Problem::Internal => error(S::INTERNAL_SERVER_ERROR, SERVER, "internal_error"),
            Problem::Engine(failure) => match failure {
                Failure::QueueFull { .. } => error(S::TOO_MANY_REQUESTS, RATE, "queue_full").retry(1),
                Failure::Draining => error(S::SERVICE_UNAVAILABLE, SERVER, "draining").retry(1),
                // A new request gets the new content, or hears that there is no such model.
                Failure::AdapterSwapped { .. } => error(S::SERVICE_UNAVAILABLE, SERVER, "adapter_swapped")
                    .with_param("model".into())
                    .retry(1),
                Failure::AdapterRemoved { .. } => error(S::SERVICE_UNAVAILABLE, SERVER, "adapter_removed")
                    .with_param("model".into())
                    .retry(1),
                Failure::EngineStopped => error(S::SERVICE_UNAVAILABLE, SERVER, "engine_stopped").retry(5),
                Failure::DeadlineExceeded => error(S::GATEWAY_TIMEOUT, SERVER, "deadline_exceeded"),
                Failure::NeverFits { .. } => error(S::BAD_REQUEST, INVALID, "context_length_exceeded"),
                Failure::AdapterTooLarge { .. } => {
                    error(S::SERVICE_UNAVAILABLE, SERVER, "budget_exceeded").retry(60)
                }
                // nginx's number for a client that closed: only the log sees it.
                Failure::Cancelled => error(S::from_u16(499).unwrap_or(S::BAD_REQUEST), INVALID, "cancelled"),
                Failure::Internal(_) => error(S::INTERNAL_SERVER_ERROR, SERVER, "internal_error"),
            },
        }
    }
}

impl Problem {
    /// The words for people: the field, what was expected, what came. Never a path of this machine, never a prompt.
    fn message(&self) -> String {
        match self {
            Self::InvalidJson(why) => format!("body: {why}"),
            Self::DuplicateField(name) => format!("{name}: given twice"),
            Self::MissingField(name) => format!("{name}: required, but missing"),
            Self::InvalidValue { message, .. }
            | Self::UnsupportedParameter { message, .. }
            | Self::InvalidTokenId { message, .. }
            | Self::AdapterRefused { message, .. }
            | Self::AdapterUnavailable { message, .. }
            | Self::Forbidden(message)
            | Self::HeadersTooLarge(message) => message.clone(),
            Self::ContextLength { limit, prompt, output, .. } => format!(
                "This model's maximum context length is {limit} tokens. However, you requested {} tokens \
                 ({prompt} in the prompt, {output} in the completion). Please reduce the length of the prompt \
                 or the completion.",
                prompt.saturating_add(*output)
            ),
            Self::EmptyPrompt("messages") => "messages: expected at least one message, got none".into(),
            Self::EmptyPrompt(param) => format!("{param}: expected at least one token, got none"),
            Self::Unauthorized => {
                "Incorrect API key provided: expected 'Authorization: Bearer <key>'.".into()
            }
            Self::UnknownModel(name) => format!("The model `{}` does not exist.", shorten(name)),
            Self::UnknownPath(path) => format!("No such path: {}", shorten(path)),
            Self::WrongMethod(method) => format!("This path has no method {}", shorten(method)),
            Self::BodyTimeout(seconds) => format!("body: expected within {seconds} s"),
            Self::BodyTooLarge(limit) => format!("body: expected at most {limit} bytes"),
            Self::MalformedHead => "head: expected a request line and headers as HTTP/1.1 has them".into(),
            Self::BodyBroken => "body: ended before it was whole".into(),
            Self::UriTooLong(limit) => format!("target: expected at most {limit} bytes"),
            Self::WrongMediaType { header, wanted, got } => format!("{header}: expected {wanted}, got {got}"),
            Self::NotReady(why) => (*why).into(),
            Self::Internal | Self::Engine(Failure::Internal(_)) => {
                "The server failed on this request. Others are not affected.".into()
            }
            Self::Engine(failure) => failure.to_string(),
        }
    }
}

/// A caller's own text, cut for an answer or a log line and free of control characters.
pub(crate) fn shorten(text: &str) -> String {
    shorten_to(80, text)
}

/// As [`shorten`], to `keep` characters.
pub(crate) fn shorten_to(keep: usize, text: &str) -> String {
    let mut short: String = text.chars().take(keep).flat_map(char::escape_debug).collect();
    if text.chars().nth(keep).is_some() {
        short.push('…');
    }
    short
}

impl ApiError {
    fn with_param(mut self, param: String) -> Self {
        self.param = Some(param);
        self
    }

    const fn retry(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The same with another time to wait, where the problem is one that waiting helps.
    #[must_use]
    pub fn after(mut self, seconds: u32) -> Self {
        if self.retry_after.is_some() {
            self.retry_after = Some(seconds);
        }
        self
    }

    /// The body: OpenAI's error object, and beside it the class that LoRAX's clients choose their exception by.
    #[must_use]
    pub fn body(&self) -> Value {
        json!({
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            },
            "error_type": self.lorax_type(),
        })
    }

    /// LoRAX's word for it: `lorax-client` raises `ValidationError`, `OverloadedError`, `GenerationError` by it.
    fn lorax_type(&self) -> &'static str {
        match self.status {
            StatusCode::BAD_REQUEST => "validation",
            StatusCode::TOO_MANY_REQUESTS => "overloaded",
            StatusCode::INTERNAL_SERVER_ERROR | StatusCode::GATEWAY_TIMEOUT => "generation",
            _ => "request",
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body().to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(Code(self.code));
        response
    }
}

/// The code of a failed answer, for the log line and the counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Code(pub(crate) &'static str);

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        Problem::Engine(failure).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_contract_holds_for_what_the_engine_answers() {
        let table = [
            (Failure::QueueFull { waiting: 9, limit: 9 }, 429, true),
            (Failure::Draining, 503, true),
            (Failure::AdapterSwapped { seconds: 9 }, 503, true),
            (Failure::AdapterRemoved { seconds: 9 }, 503, true),
            (Failure::EngineStopped, 503, true),
            (Failure::DeadlineExceeded, 504, false),
            (Failure::NeverFits { needed: 9, available: 8 }, 400, false),
            (Failure::AdapterTooLarge { needed: 9, budget: 8 }, 503, true),
            (Failure::Internal("layer 3".into()), 500, false),
        ];
        for (failure, status, waits) in table {
            let error = ApiError::from(failure.clone());
            assert_eq!((error.status.as_u16(), error.retry_after.is_some()), (status, waits), "{failure:?}");
        }
    }

    #[test]
    fn our_own_fault_does_not_tell_the_caller_what_it_was() {
        let error = ApiError::from(Failure::Internal("secret detail".into()));
        assert!(!error.body().to_string().contains("secret"));
    }

    #[test]
    fn a_callers_text_comes_back_short_and_without_control_characters() {
        let error = ApiError::from(Problem::UnknownModel(format!("a\n\u{1b}[31m{}", "x".repeat(10_000))));
        assert!(
            error.message.len() < 200 && !error.message.contains('\n') && !error.message.contains('\u{1b}')
        );
    }
}
