//! Known: what is known of an adapter's content without reading its source: as replicas report it, and as its status has kept
//! it. Pure.

use lorikeet_api::{AdapterReport, MAX_BASE_MODEL_BYTES};
use lorikeet_crds::adapter::BaseModelRule;
use lorikeet_crds::condition::{Truth, find};
use lorikeet_crds::{Adapter, AdapterStatus, ConditionType};

use crate::fleet::AdapterFacts;

/// The settings of a configuration that make a rank, where nobody says which of them did.
const RANKS: &str = "r or rank_pattern";

/// What is known of a content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// What it says of itself; a rank of 0 and what is absent are not known. Its bytes are those in memory, where a replica has
    /// loaded it.
    pub facts: AdapterFacts,
    /// It is all that reading its source could tell.
    pub is_whole: bool,
}

impl Known {
    /// What `reports` of one content say of it; where they differ the most. `rule`: whether names of base models count.
    #[must_use]
    pub fn by<'a>(reports: impl Iterator<Item = &'a AdapterReport>, rule: BaseModelRule) -> Self {
        let (mut rank, mut bytes, mut base_model) = (0, 0, None);
        for report in reports {
            rank = rank.max(report.rank);
            bytes = bytes.max(report.bytes);
            base_model = base_model.or(report.base_model.as_ref());
        }
        let is_whole = rank > 0 && (base_model.is_some() || rule == BaseModelRule::Any);
        Self { facts: facts(rank, base_model, bytes), is_whole }
    }

    /// What `status` says of what is served.
    #[must_use]
    pub fn of_status(status: &AdapterStatus) -> Self {
        let (rank, bytes) = (status.rank.unwrap_or(0), status.bytes.unwrap_or(0));
        Self { facts: facts(rank, status.base_model.as_ref(), bytes), is_whole: false }
    }
}

fn facts(rank: u32, base_model: Option<&String>, bytes: u64) -> AdapterFacts {
    AdapterFacts {
        rank: rank.into(),
        rank_field: RANKS.to_owned(),
        base_model: base_model.filter(|name| !name.is_empty()).cloned(),
        bytes: Some(bytes).filter(|bytes| *bytes > 0),
    }
}

/// The status of `adapter`, where it is accepted as it is now: what that says of a content is of what its spec asks for.
#[must_use]
pub fn accepted_status(adapter: &Adapter) -> Option<&AdapterStatus> {
    let status = adapter.status.as_ref()?;
    let accepted = find(&status.conditions, ConditionType::Accepted)?;
    let is_current = accepted.observed_generation == adapter.metadata.generation;
    (accepted.status == Truth::True.as_str() && is_current).then_some(status)
}

/// The name of a base model as a status of `adapter` keeps it: only where it is compared, so that what was accepted whatever
/// its name is not refused for it later.
#[must_use]
pub fn kept_name(adapter: &Adapter, name: Option<&String>) -> Option<String> {
    let is_compared = adapter.spec.base_model == BaseModelRule::Same;
    name.filter(|name| is_compared && (1..=MAX_BASE_MODEL_BYTES).contains(&name.len())).cloned()
}
