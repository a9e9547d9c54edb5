//! Why an adapter is not loaded, in the admin face's codes, and when it is worth another try. Pure.

use std::time::Duration;

use lorikeet_api::ErrorCode;

use crate::source::InvalidSource;
use crate::source::error::FetchError;

/// Why a load failed. The message names the file or field, what was expected and what came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LoadFailure {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

/// The longest message that is kept: messages carry words of files that others wrote.
const MAX_MESSAGE: usize = 600;

/// The first pause before a source that did not answer is asked again, and the longest.
const UNAVAILABLE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The same before a content that was refused is read again: somebody may have finished copying it.
const REFUSED: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(900));

impl LoadFailure {
    /// A failure with this code.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl std::fmt::Display) -> Self {
        let message = message.to_string();
        let cut = message.char_indices().nth(MAX_MESSAGE).map(|(at, _)| at);
        Self { code, message: cut.map_or(message.clone(), |at| format!("{}…", &message[..at])) }
    }

    /// Another try may succeed though nobody changes anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self.code,
            ErrorCode::SourceUnavailable
                | ErrorCode::SourceUnauthorized
                | ErrorCode::NoRoom
                | ErrorCode::NotReady
                | ErrorCode::Internal
        )
    }

    /// How long to wait before the next try after `tries` that failed; `None` when the source cannot come to hold
    /// anything else.
    #[must_use]
    pub fn pause(&self, tries: u32, mutable: bool) -> Option<Duration> {
        let (first, longest) = match self.is_transient() {
            true => UNAVAILABLE,
            false if mutable && self.code != ErrorCode::SourceForbidden => REFUSED,
            false => return None,
        };
        Some(first.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(longest))
    }
}

impl From<InvalidSource> for LoadFailure {
    fn from(error: InvalidSource) -> Self {
        Self::new(ErrorCode::SourceForbidden, error)
    }
}

impl From<FetchError> for LoadFailure {
    fn from(error: FetchError) -> Self {
        Self::new(error.code(), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_source_is_asked_again_soon_and_then_more_rarely() {
        let failure = LoadFailure::new(ErrorCode::SourceUnavailable, "x");
        let pauses: Vec<u64> = (1..=8).map(|tries| failure.pause(tries, false).unwrap().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn a_refused_content_is_read_again_only_where_it_can_have_changed() {
        let failure = LoadFailure::new(ErrorCode::InvalidWeights, "x");
        assert_eq!(failure.pause(1, true), Some(Duration::from_secs(15)));
        assert_eq!(failure.pause(1, false), None);
        assert_eq!(LoadFailure::new(ErrorCode::SourceForbidden, "x").pause(1, true), None);
    }

    #[test]
    fn a_message_is_cut_between_letters() {
        let failure = LoadFailure::new(ErrorCode::Internal, "é".repeat(2 * MAX_MESSAGE));
        assert_eq!(failure.message.chars().count(), MAX_MESSAGE + 1);
    }
}
