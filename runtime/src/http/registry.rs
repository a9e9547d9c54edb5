//! What faces ask of the adapters, and no more: by name, never by file. Behind it stands the store; in tests, a script.

use std::time::Duration;

use futures::future::BoxFuture;
use lorikeet_api::{Accepted, AdapterReport, DesiredChange, DesiredSet, ErrorCode, ReportedSet};

use super::error::Problem;
use crate::adapters::pin::Pin;
use crate::metrics::TierFigures;

/// Why the store does not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: ErrorCode,
    /// For people: the field, what was expected, what came.
    pub message: String,
    /// When to ask again, where that may help.
    pub retry_after: Option<Duration>,
}

/// The adapters of a replica.
pub trait Registry: Send + Sync {
    /// Whether new requests may name it. Asked for every request: no I/O.
    fn knows(&self, name: &str) -> bool;
    /// The names that it knows and was not refused the content of, ordered.
    fn names(&self) -> Vec<String>;
    /// A hold on its weights, if they are in memory.
    fn try_pin(&self, name: &str) -> Option<Pin>;
    /// A hold on its weights; cold ones are loaded.
    fn pin<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Pin, Refusal>>;
    /// Whether everything that must be loaded before the first request is.
    fn ready(&self) -> bool;
    /// Takes over a whole desired set.
    ///
    /// # Errors
    /// When it is malformed or not newer.
    fn apply(&self, set: DesiredSet) -> Result<Accepted, Refusal>;
    /// Takes over a change.
    ///
    /// # Errors
    /// When it is malformed or computed against another version.
    fn change(&self, change: DesiredChange) -> Result<Accepted, Refusal>;
    /// Forgets one adapter when its requests have ended.
    ///
    /// # Errors
    /// When there is none of that name.
    fn remove(&self, name: &str) -> Result<Accepted, Refusal>;
    /// One adapter as it is.
    fn adapter(&self, name: &str) -> Option<AdapterReport>;
    /// All as they are.
    fn report(&self) -> ReportedSet;
    /// What changed after a report, as soon as something did or the wait is over.
    fn report_after<'a>(
        &'a self,
        instance: &'a str,
        after: u64,
        wait: Duration,
    ) -> BoxFuture<'a, ReportedSet>;
    /// Loads an adapter under a name, as vLLM's endpoint does.
    fn load<'a>(
        &'a self,
        name: &'a str,
        source: &'a str,
        in_place: bool,
    ) -> BoxFuture<'a, Result<(), Refusal>>;
    /// Forgets one, as vLLM's endpoint does.
    fn unload<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), Refusal>>;
    /// Its figures for `/metrics`.
    fn figures(&self) -> TierFigures;
}

impl From<Refusal> for Problem {
    /// For whoever asks a model: one that is refused or unreachable is not there for now, and it is not the asker's fault.
    fn from(refusal: Refusal) -> Self {
        let Refusal { code, message, retry_after } = refusal;
        match code {
            ErrorCode::UnknownAdapter => Self::UnknownModel(message),
            ErrorCode::Draining => Self::NotReady("The replica is draining."),
            ErrorCode::NotReady => Self::NotReady("The model is being loaded."),
            ErrorCode::Internal | ErrorCode::Unknown => Self::Internal,
            code => match retry_after {
                Some(after) => Self::AdapterUnavailable { code: code.as_str(), message, after },
                None => Self::AdapterRefused { code: code.as_str(), message },
            },
        }
    }
}
