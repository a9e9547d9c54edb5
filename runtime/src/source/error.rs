//! Why files did not come. Messages name hosts and files, never a query, a token or an absolute path of this machine.

use std::sync::Arc;

use lorikeet_api::ErrorCode;

use crate::digest::Digest;
use crate::source::InvalidSource;

/// Why files did not come. Cheap to clone: everybody who waited gets it.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum FetchError {
    #[error(transparent)]
    Invalid(#[from] InvalidSource),
    #[error("source: {0}")]
    Forbidden(String),
    #[error("{0}: not found")]
    NotFound(String),
    /// A folder of this machine that is not there.
    #[error("{0}: no such folder")]
    NoFolder(String),
    /// A file that a folder of this machine lacks.
    #[error("{0}: not found, though its folder is there")]
    NoFile(String),
    #[error(
        "adapter_model.safetensors: not found; {0} is a pickle and is never opened: save it as safetensors"
    )]
    Pickle(String),
    #[error("{0}: not a regular file")]
    NotAFile(String),
    #[error("source: {0} asks for other credentials than those configured")]
    Unauthorized(String),
    #[error("secretRef: {0}")]
    Credentials(String),
    #[error("source: {0}")]
    Unavailable(String),
    #[error("{what}: {bytes} bytes, at most {limit} are read")]
    TooLarge { what: String, bytes: u64, limit: u64 },
    #[error("digest: expected {expected}, got {got}")]
    DigestMismatch { expected: Digest, got: Digest },
    #[error("source: the server's answer is not usable: {0}")]
    Protocol(String),
    #[error("{what}: {error}")]
    Io { what: String, error: Arc<std::io::Error> },
}

impl FetchError {
    /// An error of this machine's own disk.
    pub(crate) fn io(what: impl Into<String>, error: std::io::Error) -> Self {
        let what = what.into();
        match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Self::NotFound(what),
            std::io::ErrorKind::PermissionDenied => Self::Unauthorized(what),
            _ => Self::Io { what, error: Arc::new(error) },
        }
    }

    /// The error of a request for the file `name`, which it names then.
    pub(crate) fn of_file(self, name: &str) -> Self {
        if self.to_string().contains(name) {
            return self;
        }
        let named = |why: String| format!("{name}: {why}");
        match self {
            Self::Forbidden(why) => Self::Forbidden(named(why)),
            Self::Unauthorized(who) => Self::Unauthorized(named(who)),
            Self::Unavailable(why) => Self::Unavailable(named(why)),
            Self::Protocol(why) => Self::Protocol(named(why)),
            other => other,
        }
    }

    /// Another try at once may bring the rest: the connection broke, or the server was busy.
    pub(crate) const fn is_worth_a_retry(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// The error for programs.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(_) | Self::Forbidden(_) | Self::NotAFile(_) => ErrorCode::SourceForbidden,
            Self::Pickle(_) => ErrorCode::UnsupportedFeature,
            Self::NoFolder(_) => ErrorCode::SourceNotFound,
            Self::NoFile(name) if name.ends_with(".json") => ErrorCode::InvalidConfig,
            Self::NoFile(_) => ErrorCode::InvalidWeights,
            Self::NotFound(_) | Self::Unavailable(_) | Self::Protocol(_) => ErrorCode::SourceUnavailable,
            // Worth another try: a Secret may be mounted, or get its key, later.
            Self::Unauthorized(_) | Self::Credentials(_) => ErrorCode::SourceUnauthorized,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::DigestMismatch { .. } => ErrorCode::DigestMismatch,
            Self::Io { .. } => ErrorCode::Internal,
        }
    }
}
