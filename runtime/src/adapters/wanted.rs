//! What somebody wants under a name: which content, and where it is kept. Values only.

use std::sync::Arc;

use lorikeet_api::{DesiredAdapter, ErrorCode};

use crate::adapters::failure::LoadFailure;
use crate::digest::Digest;
use crate::source::credentials::SecretName;
use crate::source::{Source, Trust};

/// Which content: equal ones are one load.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Where it is.
    pub source: Source,
    /// Who named the source.
    pub trust: Trust,
    /// The Secret that opens it.
    pub credentials: Option<SecretName>,
    /// What its content must be.
    pub digest: Option<Digest>,
    /// The greatest rank accepted; the replica's own limit when absent.
    pub max_rank: Option<u32>,
}

impl Wanted {
    /// Another read may find another content.
    #[must_use]
    pub fn is_mutable(&self) -> bool {
        self.digest.is_none() && self.source.is_mutable()
    }
}

/// How dearly an adapter is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placement {
    /// Never evicted.
    pub pinned: bool,
    /// Loaded ahead of requests and evicted after all that is not placed.
    pub resident: bool,
    /// Of two that are alike in the above, the lower goes first.
    pub priority: i32,
}

impl Placement {
    /// It is loaded ahead of requests.
    #[must_use]
    pub const fn is_ahead(self) -> bool {
        self.pinned || self.resident
    }
}

/// One name's content and placement. What cannot be wanted (a source that is none) is kept with the reason, so that it
/// is reported under its name and does not keep the rest of a set from being taken.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Desire {
    pub(crate) wanted: Result<Arc<Wanted>, LoadFailure>,
    /// The source as it was written, as far as it may be shown.
    written: Arc<str>,
    pub(crate) placement: Placement,
}

impl Desire {
    /// A source alone.
    pub(crate) fn of_source(source: &str, trust: Trust, placement: Placement) -> Self {
        let desired = DesiredAdapter { source: source.to_owned(), ..DesiredAdapter::default() };
        Self { placement, ..Self::of(&desired, trust) }
    }

    /// What a desired set says of a name.
    pub(crate) fn of(desired: &DesiredAdapter, trust: Trust) -> Self {
        let placement =
            Placement { pinned: desired.pinned, resident: desired.resident, priority: desired.priority };
        Self { wanted: wanted(desired, trust).map(Arc::new), written: shown(&desired.source), placement }
    }

    /// The source as reports show it: as it was written, so that its writer knows it again.
    pub(crate) fn source(&self) -> String {
        self.written.to_string()
    }

    /// The Secret that it is read with.
    pub(crate) fn credentials(&self) -> Option<String> {
        self.wanted.as_ref().ok()?.credentials.as_ref().map(ToString::to_string)
    }

    /// `other` wants the same and may have written it otherwise.
    pub(crate) fn rewrite(&mut self, other: &Self) {
        self.placement = other.placement;
        self.written = Arc::clone(&other.written);
    }
}

/// Without a URL's query, which may hold a signature.
fn shown(source: &str) -> Arc<str> {
    let shown = if source.contains("://") { source.split('?').next().unwrap_or(source) } else { source };
    Arc::from(shown.chars().take(2048).collect::<String>())
}

fn wanted(desired: &DesiredAdapter, trust: Trust) -> Result<Wanted, LoadFailure> {
    let source = Source::parse(&desired.source, desired.revision.as_deref())?;
    let digest = desired.digest.as_deref().map(str::parse).transpose();
    let digest = digest.map_err(|error| LoadFailure::new(ErrorCode::InvalidRequest, error))?;
    let credentials = desired.credentials.as_deref().map(str::parse).transpose();
    let credentials = credentials.map_err(|error| LoadFailure::new(ErrorCode::InvalidRequest, error))?;
    Ok(Wanted { source, trust, credentials, digest, max_rank: desired.max_rank })
}
