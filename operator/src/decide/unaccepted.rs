//! Status of an Adapter that is not accepted: it was refused, or its source is still being read. What it served before an
//! edit is served on, and its status goes on saying so. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use lorikeet_api::AdapterReport;
use lorikeet_crds::adapter::{AdapterStatus, PlacementCount, ReplicaPlacement};
use lorikeet_crds::condition::{Saying, Truth};
use lorikeet_crds::{Adapter, ConditionType, Reason};

use crate::decide::adapter_status::{self, ready, stamped};
use crate::decide::place::Place;
use crate::decide::placements::Placements;
use crate::decide::reports::Reports;
use crate::decide::validate::{Refusal, ValidAdapter};
use crate::fleet::Probe;

/// Between why an Adapter is not accepted and the digest of what it serves until it is.
const MEANWHILE: &str = "; until it is accepted its former content is served, ";

/// Of what is said of an Adapter that is not accepted: why, without what is served meanwhile.
#[must_use]
pub fn own_words(message: &str) -> &str {
    message.rsplit_once(MEANWHILE).map_or(message, |(why, _)| why)
}

/// Why it is not accepted.
#[derive(Clone, Copy, Debug)]
pub enum Why<'a> {
    /// It was refused.
    Refused(&'a Refusal),
    /// Its source is being read, or waits to be.
    Reading(Option<&'a Probe>),
}

/// What it serves nevertheless.
#[derive(Clone, Copy, Debug)]
pub enum Still<'a> {
    /// Nothing.
    Nothing,
    /// Something, perhaps: a replica that could tell was not heard.
    Unheard,
    /// What it served before an edit, and where that is placed.
    Former(&'a ValidAdapter, &'a Place),
}

/// The status of `adapter`.
#[must_use]
pub fn unaccepted_status(
    adapter: &Adapter,
    why: Why<'_>,
    still: Still<'_>,
    reports: &Reports<'_>,
    placements: &Placements<'_>,
    now: Timestamp,
) -> AdapterStatus {
    let before = adapter.status.clone().unwrap_or_default();
    let content = match still {
        Still::Nothing => AdapterStatus::default(),
        Still::Unheard => unheard(before, placements),
        Still::Former(former, place) => content(before, former, place, reports, placements),
    };
    let status = stamped(adapter, &sayings(adapter, why, content.digest.as_deref()), now);
    AdapterStatus {
        observed_generation: status.observed_generation,
        conditions: status.conditions,
        ..content
    }
}

/// What was said before, as far as it speaks of replicas that may have it still.
fn unheard(before: AdapterStatus, placements: &Placements<'_>) -> AdapterStatus {
    let unheard: BTreeSet<&str> = placements.unheard().collect();
    let said = |row: &&ReplicaPlacement| unheard.contains(row.pod.as_str());
    let rows: Vec<ReplicaPlacement> = before.placements.iter().filter(said).cloned().collect();
    let ready = before.replicas.ready.min(unheard.len() as u32);
    AdapterStatus { placements: rows.into(), replicas: PlacementCount { ready, ..before.replicas }, ..before }
}

fn content(
    before: AdapterStatus,
    former: &ValidAdapter,
    place: &Place,
    reports: &Reports<'_>,
    placements: &Placements<'_>,
) -> AdapterStatus {
    let current: Vec<(usize, &AdapterReport)> = reports.current(former).collect();
    let known = current.iter().map(|(_, report)| *report).find(|report| report.digest.is_some());
    let replicas = AdapterStatus {
        served_name: Some(former.served_name.clone()),
        replicas: PlacementCount { desired: place.wanted, ready: ready(place, &current) },
        placements: placements.of(former),
        ..before
    };
    match known {
        Some(report) => AdapterStatus {
            served_name: replicas.served_name,
            replicas: replicas.replicas,
            placements: replicas.placements,
            // Whether it was compared only the status says.
            base_model: replicas.base_model.filter(|_| replicas.digest == report.digest),
            ..adapter_status::content(report)
        },
        // It is of the content, not of a replica: it stays while none of them says anything.
        None => AdapterStatus { digest: former.digest.clone().or(replicas.digest), ..replicas },
    }
}

fn sayings(adapter: &Adapter, why: Why<'_>, digest: Option<&str>) -> [Saying; 6] {
    let (reason, mut message) = match why {
        Why::Refused(refusal) => (refusal.reason(), refusal.to_string()),
        Why::Reading(probe) => {
            let source = adapter.spec.source.source.split('?').next().unwrap_or_default();
            let how = match probe {
                Some(Probe::Awaited(whom)) => format!("is read as soon as there is {whom}"),
                _ => "is being read".to_owned(),
            };
            (Reason::Progressing, format!("adapter_config.json of {source} {how}"))
        }
    };
    if let Some(digest) = digest {
        message = format!("{message}{MEANWHILE}{digest}");
    }
    let is_refused = matches!(why, Why::Refused(_));
    let saying = |condition, truth| Saying { condition, truth, reason, message: message.clone() };
    [
        saying(ConditionType::Accepted, if is_refused { Truth::False } else { Truth::Unknown }),
        saying(ConditionType::Resolved, Truth::Unknown),
        saying(ConditionType::Loaded, Truth::False),
        saying(ConditionType::Ready, Truth::False),
        saying(ConditionType::Reconciling, (!is_refused).into()),
        saying(ConditionType::Stalled, is_refused.into()),
    ]
}
