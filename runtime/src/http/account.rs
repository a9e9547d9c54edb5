//! What an answer came to, for its log line: model, tokens, and how it ended. A stream's line is written when the stream
//! is over, however it ended. Never a prompt or a text.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::error::ApiError;
use crate::generate::Piece;

/// Kept by whoever writes the log line, filled by whoever answers.
#[derive(Debug, Default)]
pub struct Account(Mutex<Figures>);

/// An answer in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// The name of the model that answers; none for what asks no model.
    pub model: Option<String>,
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Tokens that were generated.
    pub completion_tokens: usize,
    /// Choices that have not ended.
    pub open: usize,
    /// OpenAI's word for the end of the choice that ended last, or `failed`.
    pub finish: Option<&'static str>,
    /// The code of the failure.
    pub code: Option<&'static str>,
    /// The answer is a stream.
    pub streamed: bool,
}

impl Account {
    /// So many choices of `model` were begun, for so many tokens of prompts.
    pub fn begin(&self, model: &str, prompt_tokens: usize, choices: usize, streamed: bool) {
        self.with(|figures| {
            *figures = Figures {
                model: Some(model.to_owned()),
                prompt_tokens,
                open: choices,
                streamed,
                ..Figures::default()
            };
        });
    }

    /// A piece of any choice.
    pub fn take(&self, piece: &Piece) {
        self.with(|figures| match piece {
            Piece::Started { .. } | Piece::Prompt(_) => {}
            Piece::Token { .. } => figures.completion_tokens += 1,
            Piece::End { reason, .. } => {
                figures.open = figures.open.saturating_sub(1);
                figures.finish = Some(reason.finish_reason());
            }
            Piece::Failed(failure) => {
                figures.open = 0;
                figures.finish = Some("failed");
                figures.code = Some(ApiError::from(failure.clone()).code);
            }
        });
    }

    /// The numbers as they are now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.with(|figures| figures.clone())
    }

    fn with<T>(&self, work: impl FnOnce(&mut Figures) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Figures {
    /// How it ended: a client that left leaves choices open.
    #[must_use]
    pub const fn finish(&self) -> Option<&'static str> {
        if self.open > 0 { Some("client_left") } else { self.finish }
    }
}

/// `body`, and `over` once it is sent to its end or given up.
pub fn watched(body: Body, over: impl FnOnce() + Send + 'static) -> Body {
    Body::new(Watched { body, _over: Over(Some(Box::new(over))) })
}

struct Watched {
    body: Body,
    _over: Over,
}

struct Over(Option<Box<dyn FnOnce() + Send>>);

impl Drop for Over {
    fn drop(&mut self) {
        if let Some(over) = self.0.take() {
            over();
        }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::request::Failure;
    use crate::generate::End;

    use super::*;

    #[test]
    fn an_answer_ends_by_its_last_choice_a_failure_or_a_client_that_leaves() {
        let account = Account::default();
        account.begin("sql", 7, 2, true);
        assert_eq!(account.figures().finish(), Some("client_left"));
        for reason in [End::Length, End::Eos] {
            account.take(&Piece::End { text: String::new(), reason });
        }
        let figures = account.figures();
        assert_eq!((figures.finish(), figures.prompt_tokens, figures.code), (Some("stop"), 7, None));
        account.begin("sql", 7, 2, true);
        account.take(&Piece::Failed(Failure::Draining));
        assert_eq!((account.figures().finish(), account.figures().code), (Some("failed"), Some("draining")));
        assert_eq!(Account::default().figures().finish(), None);
    }
}
