//! The errors of the admin face: a closed list of codes. No status numbers: one place in the runtime maps them.

use serde::{Deserialize, Serialize};

/// The body of every answer that is not 2xx, in OpenAI's shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdminError {
    /// The one field of the body.
    pub error: AdminErrorBody,
}

/// The error itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdminErrorBody {
    /// For people: the field, what was expected, what came.
    pub message: String,
    /// OpenAI's class of the error, as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field at fault.
    #[serde(default)]
    pub param: Option<String>,
    /// For programs.
    pub code: ErrorCode,
}

/// What went wrong, for programs. The spelling is the contract: reasons and metric labels derive from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The source is not reachable or has no such file.
    SourceUnavailable,
    /// The source is a folder of the replica's machine that is not there.
    SourceNotFound,
    /// The source is of a kind, or at a place, that this replica may not read.
    SourceForbidden,
    /// The source asked for credentials or refused them.
    SourceUnauthorized,
    /// The content is not what the digest pins.
    DigestMismatch,
    /// A size, count or length is over a limit.
    TooLarge,
    /// `adapter_config.json` is missing, not JSON or has a bad value.
    InvalidConfig,
    /// The weights file is missing, malformed or has bad values.
    InvalidWeights,
    /// The adapter does not fit the base model.
    BaseModelMismatch,
    /// The adapter uses a feature that is not supported.
    UnsupportedFeature,
    /// The rank is over the limit.
    RankExceeded,
    /// It does not fit the byte budget even alone.
    BudgetExceeded,
    /// It would fit the byte budget, but requests hold what is there: worth another try.
    NoRoom,
    /// The desired set is not newer than the one that is held.
    StaleVersion,
    /// Two adapters, or an adapter and the base, have one name.
    NameConflict,
    /// No adapter has that name.
    UnknownAdapter,
    /// The request is malformed.
    InvalidRequest,
    /// The replica is draining.
    Draining,
    /// The replica loads its model.
    NotReady,
    /// The replica's fault.
    Internal,
    /// A code of a newer replica.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 21] = [
        Self::SourceUnavailable,
        Self::SourceNotFound,
        Self::SourceForbidden,
        Self::SourceUnauthorized,
        Self::DigestMismatch,
        Self::TooLarge,
        Self::InvalidConfig,
        Self::InvalidWeights,
        Self::BaseModelMismatch,
        Self::UnsupportedFeature,
        Self::RankExceeded,
        Self::BudgetExceeded,
        Self::NoRoom,
        Self::StaleVersion,
        Self::NameConflict,
        Self::UnknownAdapter,
        Self::InvalidRequest,
        Self::Draining,
        Self::NotReady,
        Self::Internal,
        Self::Unknown,
    ];

    /// As it is spelled on the wire, in metric labels and in reasons.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SourceUnavailable => "source_unavailable",
            Self::SourceNotFound => "source_not_found",
            Self::SourceForbidden => "source_forbidden",
            Self::SourceUnauthorized => "source_unauthorized",
            Self::DigestMismatch => "digest_mismatch",
            Self::TooLarge => "too_large",
            Self::InvalidConfig => "invalid_config",
            Self::InvalidWeights => "invalid_weights",
            Self::BaseModelMismatch => "base_model_mismatch",
            Self::UnsupportedFeature => "unsupported_feature",
            Self::RankExceeded => "rank_exceeded",
            Self::BudgetExceeded => "budget_exceeded",
            Self::NoRoom => "no_room",
            Self::StaleVersion => "stale_version",
            Self::NameConflict => "name_conflict",
            Self::UnknownAdapter => "unknown_adapter",
            Self::InvalidRequest => "invalid_request",
            Self::Draining => "draining",
            Self::NotReady => "not_ready",
            Self::Internal => "internal",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_spelled_as_the_wire_spells_it() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
