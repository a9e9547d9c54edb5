//! What can go wrong while a fleet is carried out. The variant is the metric's label and the Event's reason.

use kube::Error;

/// One thing that failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What was read is not the newest: the next look will see it.
    #[error("{what}: somebody changed it meanwhile")]
    Conflict {
        /// The call.
        what: String,
    },
    /// The operator may not.
    #[error("{what}: {message}")]
    Forbidden {
        /// The call.
        what: String,
        /// What the API server said.
        message: String,
    },
    /// The API server does not take it: a fault of ours, or of an admission rule.
    #[error("{what}: {message}")]
    Refused {
        /// The call.
        what: String,
        /// What the API server said.
        message: String,
    },
    /// The API server has too much to do, or is broken.
    #[error("{what}: {message}")]
    Unavailable {
        /// The call.
        what: String,
        /// What it said.
        message: String,
    },
    /// An object of that name is somebody else's.
    #[error("{what} is there and not ours; rename it, or the Deployment")]
    NotOurs {
        /// The object.
        what: String,
    },
    /// No credentials can be made.
    #[error("admin credentials: {0}")]
    Credentials(#[from] rcgen::Error),
    /// An object has no form as JSON.
    #[error("a child has no form as JSON: {0}")]
    Form(#[from] serde_json::Error),
    /// A step panicked: a fault of ours.
    #[error("a fault of ours: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

impl Failure {
    /// The failure of a call, named by `what`.
    #[must_use]
    pub fn of(what: impl Into<String>, error: Error) -> Self {
        let what = what.into();
        match error {
            Error::Api(status) if status.is_conflict() || status.is_already_exists() => {
                Self::Conflict { what }
            }
            Error::Api(status) if status.is_forbidden() || status.code == 401 => {
                Self::Forbidden { what, message: status.message }
            }
            Error::Api(status) if status.code == 429 || status.code >= 500 => {
                Self::Unavailable { what, message: status.message }
            }
            Error::Api(status) => Self::Refused { what, message: status.message },
            other => Self::Unavailable { what, message: other.to_string() },
        }
    }

    /// As metrics and Events name it.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "Conflict",
            Self::Forbidden { .. } => "Forbidden",
            Self::Refused { .. } => "Refused",
            Self::Unavailable { .. } => "Unavailable",
            Self::NotOurs { .. } => "NotOurs",
            Self::Credentials(_) => "Credentials",
            Self::Form(_) => "Form",
            Self::Broken(_) => "Broken",
        }
    }

    /// Whether a user should hear of it: it will not pass by itself.
    #[must_use]
    pub const fn is_lasting(&self) -> bool {
        matches!(self, Self::Forbidden { .. } | Self::Refused { .. } | Self::NotOurs { .. })
    }
}

/// Whether who asked may not.
#[must_use]
pub fn is_forbidden(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 403)
}

/// Whether the object, or its namespace, is gone or going: nothing is left to be done.
#[must_use]
pub fn is_gone(error: &Error) -> bool {
    let Error::Api(status) = error else { return false };
    let terminating = status
        .details
        .as_ref()
        .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"));
    terminating || status.is_not_found()
}
