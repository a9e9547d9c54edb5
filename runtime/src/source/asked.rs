//! What a request to look into a source names, parsed. Opens nothing.

use lorikeet_api::InspectRequest;

use super::credentials::{InvalidSecretName, SecretName};
use super::{InvalidSource, Source};

/// A source to look into, and the Secret that opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The source.
    pub source: Source,
    /// The Secret that opens it.
    pub credentials: Option<SecretName>,
}

/// A field of a request that cannot be. The message begins with the field's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OddField {
    /// Its name.
    pub field: &'static str,
    /// Why it cannot be.
    pub message: String,
}

impl Asked {
    /// Parses what `request` names.
    ///
    /// # Errors
    /// The first field that cannot be.
    pub fn parse(request: &InspectRequest) -> Result<Self, OddField> {
        let source = Source::parse(&request.source, request.revision.as_deref()).map_err(|error| {
            let of_revision = matches!(error, InvalidSource::Revision(_) | InvalidSource::NoRevisions);
            OddField { field: if of_revision { "revision" } else { "source" }, message: error.to_string() }
        })?;
        let odd = |error: InvalidSecretName| OddField { field: "credentials", message: error.to_string() };
        let credentials = request.credentials.as_deref().map(str::parse).transpose().map_err(odd)?;
        Ok(Self { source, credentials })
    }
}
