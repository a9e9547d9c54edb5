//! Status of an Adapter: from what the replicas report of it. Pure; never from what was asked of them.

use jiff::Timestamp;
use lorikeet_api::{AdapterReport, AdapterState, ErrorCode, Failure};
use lorikeet_crds::adapter::{AdapterStatus, PlacementCount, ReplicaPlacement};
use lorikeet_crds::condition::{Saying, Truth, conditions};
use lorikeet_crds::{Adapter, ConditionType, Reason};

use crate::decide::contents::differing;
use crate::decide::known::{accepted_status, kept_name};
use crate::decide::place::Place;
use crate::decide::placements::{Placements, REFUSED};
use crate::decide::reports::{Reports, is_resident};
use crate::decide::sources::shown;
use crate::decide::validate::ValidAdapter;
use crate::fleet::AdapterFacts;

/// The status of an Adapter that is being deleted.
#[must_use]
pub fn leaving_status(adapter: &Adapter, now: Timestamp) -> AdapterStatus {
    let message = "Running requests finish, then it is forgotten";
    let saying =
        |condition, truth| Saying { condition, truth, reason: Reason::Draining, message: message.to_owned() };
    // Whether it would be served, and from what, nobody asks any more.
    let sayings = [
        saying(ConditionType::Accepted, Truth::Unknown),
        saying(ConditionType::Resolved, Truth::Unknown),
        saying(ConditionType::Loaded, Truth::False),
        saying(ConditionType::Ready, Truth::False),
        saying(ConditionType::Reconciling, Truth::True),
        saying(ConditionType::Stalled, Truth::False),
    ];
    let before = adapter.status.clone().unwrap_or_default();
    AdapterStatus {
        served_name: before.served_name,
        placements: before.placements,
        replicas: before.replicas,
        ..stamped(adapter, &sayings, now)
    }
}

/// An Adapter that is served, and where it goes.
#[derive(Clone, Copy)]
pub struct Served<'a> {
    /// As it was applied.
    pub adapter: &'a Adapter,
    /// As it was validated.
    pub valid: &'a ValidAdapter,
    /// What was read of its source, where it is accepted for that.
    pub read: Option<&'a AdapterFacts>,
    /// Where it is placed.
    pub place: &'a Place,
    /// Its Deployment is paused.
    pub paused: bool,
    /// Its Deployment is asked to have no replica.
    pub idle: bool,
}

/// The status of an Adapter that is served.
#[must_use]
pub fn served_status(
    subject: &Served<'_>,
    reports: &Reports<'_>,
    placements: &Placements<'_>,
    now: Timestamp,
) -> AdapterStatus {
    let Served { adapter, valid, place, .. } = *subject;
    let current: Vec<(usize, &AdapterReport)> = reports.current(valid).collect();
    let count = PlacementCount { desired: place.wanted, ready: ready(place, &current) };
    let known = current
        .iter()
        .map(|(_, report)| *report)
        .find(|report| report.digest.is_some() && report.error.is_none());
    let failure = || current.iter().find_map(|(_, report)| told(report));
    let lack =
        contents_differ(valid, &current).or_else(|| failure().map(|failure| Lack::of_failure(&failure)));
    let placements = placements.of(valid);
    let loaded = loaded_saying(subject, count, refusing(&placements));
    let sayings = sayings(subject, loaded, known, lack.as_ref());
    let content = match known {
        // Which is meant nobody can say. What it takes is known of either.
        Some(report) if lack.as_ref().is_some_and(|lack| lack.is_unresolved) => {
            AdapterStatus { digest: None, revision: None, ..content(report) }
        }
        Some(report) => content(report),
        None if lack.is_none() => {
            let digest = adapter.status.as_ref().and_then(|before| before.digest.clone());
            AdapterStatus { digest, ..content_before(subject) }
        }
        None => measures(content_before(subject)),
    };
    let base_model = match known {
        Some(report) => report.base_model.clone(),
        None => content.base_model.clone(),
    };
    let stamped = stamped(adapter, &sayings, now);
    AdapterStatus {
        observed_generation: stamped.observed_generation,
        conditions: stamped.conditions,
        served_name: Some(valid.served_name.clone()),
        replicas: count,
        placements,
        base_model: kept_name(adapter, base_model.as_ref()),
        ..content
    }
}

/// What a replica says of the content that it has.
pub(super) fn content(report: &AdapterReport) -> AdapterStatus {
    AdapterStatus {
        digest: report.digest.clone(),
        revision: report.revision.clone(),
        rank: Some(report.rank).filter(|rank| *rank > 0),
        bytes: Some(report.bytes).filter(|bytes| *bytes > 0),
        target_modules: report.target_modules.clone(),
        ..AdapterStatus::default()
    }
}

/// What was known of the content stays while no replica says anything of it: it is of the content, not of a replica. Before
/// there was anything to say it is what was read.
fn content_before(subject: &Served<'_>) -> AdapterStatus {
    match (accepted_status(subject.adapter), subject.read) {
        (Some(before), _) => before.clone(),
        (None, Some(read)) => AdapterStatus {
            rank: u32::try_from(read.rank).ok(),
            bytes: read.bytes,
            base_model: read.base_model.clone(),
            ..AdapterStatus::default()
        },
        (None, None) => AdapterStatus::default(),
    }
}

/// Of `status` what its Deployment's limits are held against.
fn measures(status: AdapterStatus) -> AdapterStatus {
    AdapterStatus {
        rank: status.rank,
        bytes: status.bytes,
        base_model: status.base_model,
        ..AdapterStatus::default()
    }
}

/// What is wrong with the content, by what replicas say.
struct Lack {
    reason: Reason,
    message: String,
    /// It goes away by itself or by somebody else's work: the replicas try again.
    passes: bool,
    /// No content can be named.
    is_unresolved: bool,
}

impl Lack {
    fn of_failure(failure: &Failure) -> Self {
        Self {
            reason: reason(failure.code),
            message: failure.message.clone(),
            passes: is_passing(failure.code),
            is_unresolved: false,
        }
    }
}

/// Whether replicas that took what was asked for serve several contents of it.
fn contents_differ(valid: &ValidAdapter, current: &[(usize, &AdapterReport)]) -> Option<Lack> {
    if valid.digest.is_some() {
        return None;
    }
    let taken = current.iter().filter(|(_, report)| report.error.is_none());
    let digests = taken.filter_map(|(_, report)| report.digest.as_deref());
    let message = differing(digests, shown(&valid.source), "digest")?;
    Some(Lack { reason: Reason::ContentsDiffer, message, passes: false, is_unresolved: true })
}

/// What a replica says is wrong, and what it serves meanwhile.
fn told(report: &AdapterReport) -> Option<Failure> {
    let failure = report.error.clone()?;
    let former = report.digest.as_deref().filter(|_| report.state == AdapterState::Ready);
    let message = match former {
        Some(digest) => {
            format!("{}; until it is mended its former content is served, {digest}", failure.message)
        }
        None => failure.message,
    };
    Some(Failure { message, ..failure })
}

/// On how many of the replicas that it is placed on it is resident. One that moves is so where it comes from too.
pub(super) fn ready(place: &Place, current: &[(usize, &AdapterReport)]) -> u32 {
    // Both ascend.
    let mut placed = place.replicas.iter().peekable();
    let mut is_placed = |index: usize| {
        while placed.next_if(|next| **next < index).is_some() {}
        placed.peek() == Some(&&index)
    };
    let resident = current.iter().filter(|(index, report)| is_placed(*index) && is_resident(report)).count();
    place.wanted.min(resident as u32)
}

/// A status that has its conditions alone.
pub(super) fn stamped(adapter: &Adapter, sayings: &[Saying], now: Timestamp) -> AdapterStatus {
    let before = adapter.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    AdapterStatus {
        observed_generation: adapter.metadata.generation,
        conditions: conditions(before, sayings, adapter.metadata.generation, now),
        ..AdapterStatus::default()
    }
}

fn sayings(
    subject: &Served<'_>,
    loaded: Saying,
    known: Option<&AdapterReport>,
    lack: Option<&Lack>,
) -> [Saying; 6] {
    let Served { valid, place, paused, idle, .. } = *subject;
    let accepted = Saying {
        condition: ConditionType::Accepted,
        truth: Truth::True,
        reason: Reason::Valid,
        message: "Valid".to_owned(),
    };
    let resolved = resolved_saying(valid, known, lack);
    let failed = lack.map(|lack| (lack.reason, lack.message.clone()));
    let lacking =
        failed.or_else(|| (loaded.truth != Truth::True).then(|| (loaded.reason, loaded.message.clone())));
    let hard = lack.filter(|lack| !lack.passes).map(|lack| lack.reason);
    let stalling =
        hard.unwrap_or(if place.without_room > 0 { Reason::InsufficientMemory } else { Reason::Paused });
    let [ready, mut reconciling, stalled] = super::status::kstatus(lacking, paused, stalling);
    if idle && place.wanted == 0 {
        // Nobody works on it, and nothing is wrong.
        reconciling.truth = Truth::False;
    }
    [accepted, resolved, loaded, ready, reconciling, stalled]
}

fn resolved_saying(valid: &ValidAdapter, known: Option<&AdapterReport>, lack: Option<&Lack>) -> Saying {
    let (truth, reason, message) = match (known, lack) {
        (_, Some(lack)) if lack.is_unresolved => (Truth::False, lack.reason, lack.message.clone()),
        (Some(report), _) => {
            let digest = report.digest.as_deref().unwrap_or_default();
            (Truth::True, Reason::AsDesired, format!("{} is {digest}", shown(&valid.source)))
        }
        (None, Some(lack)) => (Truth::False, lack.reason, lack.message.clone()),
        (None, None) => {
            (Truth::Unknown, Reason::Loading, format!("no replica has read {} yet", shown(&valid.source)))
        }
    };
    Saying { condition: ConditionType::Resolved, truth, reason, message }
}

/// One of the replicas that do not take what they should hold.
fn refusing(placements: &[ReplicaPlacement]) -> Option<&ReplicaPlacement> {
    placements.iter().find(|placement| placement.state == REFUSED)
}

fn loaded_saying(subject: &Served<'_>, count: PlacementCount, refusing: Option<&ReplicaPlacement>) -> Saying {
    let Served { place, idle, .. } = *subject;
    let (reason, message) = if count.desired == 0 && idle {
        let message = "spec.replicas of the Deployment is 0: it is served again once that is more";
        (Reason::NoReplicas, message.to_owned())
    } else if count.desired == 0 {
        (Reason::NoReplicas, "the Deployment has no replica that has loaded its model and answers".to_owned())
    } else if place.without_room > 0 {
        let message = format!(
            "{} of {} replicas have no room for it in adapters.gpuMemory; raise it, or lower placement.replicas; if its source has \
             become smaller, set revision or digest: an edit has it measured anew",
            place.without_room, count.desired
        );
        (Reason::InsufficientMemory, message)
    } else {
        let why = refusing.filter(|_| count.ready < count.desired).map(|one| {
            format!("; {} does not take it: {}", one.pod, one.error.as_deref().unwrap_or_default())
        });
        let why = why.unwrap_or_default();
        let message = format!("resident on {} of {} replicas{why}", count.ready, count.desired);
        (if count.ready == count.desired { Reason::AsDesired } else { Reason::Loading }, message)
    };
    let truth = (count.desired > 0 && count.ready == count.desired).into();
    Saying { condition: ConditionType::Loaded, truth, reason, message }
}

/// Faults that go away by themselves or by somebody else's work: the replicas try again.
const fn is_passing(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::SourceUnavailable
            | ErrorCode::NoRoom
            | ErrorCode::SourceUnauthorized
            | ErrorCode::Draining
            | ErrorCode::NotReady
            | ErrorCode::Internal
    )
}

/// A replica's error code as a condition's reason: one word each way.
#[must_use]
pub const fn reason(code: ErrorCode) -> Reason {
    match code {
        ErrorCode::SourceUnavailable | ErrorCode::SourceNotFound => Reason::SourceUnavailable,
        ErrorCode::SourceForbidden => Reason::SourceForbidden,
        ErrorCode::SourceUnauthorized => Reason::SourceUnauthorized,
        ErrorCode::DigestMismatch => Reason::DigestMismatch,
        ErrorCode::TooLarge => Reason::TooLarge,
        ErrorCode::InvalidConfig => Reason::InvalidConfig,
        ErrorCode::InvalidWeights => Reason::InvalidWeights,
        ErrorCode::BaseModelMismatch => Reason::BaseModelMismatch,
        ErrorCode::UnsupportedFeature => Reason::UnsupportedFeature,
        ErrorCode::RankExceeded => Reason::RankExceeded,
        ErrorCode::BudgetExceeded => Reason::BudgetExceeded,
        ErrorCode::NoRoom => Reason::InsufficientMemory,
        ErrorCode::NameConflict => Reason::NameConflict,
        ErrorCode::Draining => Reason::Draining,
        ErrorCode::NotReady => Reason::Loading,
        ErrorCode::StaleVersion
        | ErrorCode::UnknownAdapter
        | ErrorCode::InvalidRequest
        | ErrorCode::Internal
        | ErrorCode::Unknown => Reason::Internal,
    }
}
