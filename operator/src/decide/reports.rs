//! What the replicas report of one adapter, gathered. Pure. A report counts only where it speaks of what the spec asks
//! for now: a replica that still serves the former source has not loaded this one.

use std::collections::{BTreeMap, HashMap};

use lorikeet_api::{AdapterReport, AdapterState, ReportedSet, Tier};

use crate::decide::place::Measured;
use crate::decide::sources::shown;
use crate::decide::validate::{AdapterKey, ValidAdapter};
use crate::fleet::{Contact, Replica};

/// The newest reports of the replicas, by served name.
pub struct Reports<'a> {
    replicas: &'a [Replica],
    by_name: Vec<HashMap<&'a str, &'a AdapterReport>>,
}

impl<'a> Reports<'a> {
    /// Indexes what `replicas` say now.
    #[must_use]
    pub fn of(replicas: &'a [Replica]) -> Self {
        Self::indexed(replicas, |contact| match contact {
            Contact::Reported(report) => Some(report),
            Contact::Pending | Contact::Unreachable { .. } => None,
        })
    }

    /// Indexes what `replicas` said last, those that do not answer now included.
    #[must_use]
    pub fn last(replicas: &'a [Replica]) -> Self {
        Self::indexed(replicas, last)
    }

    fn indexed(replicas: &'a [Replica], report: fn(&Contact) -> Option<&ReportedSet>) -> Self {
        let index = |report: &'a ReportedSet| -> HashMap<&'a str, &'a AdapterReport> {
            report.adapters.iter().map(|one| (one.name.as_str(), one)).collect()
        };
        let reports: Vec<_> = replicas.iter().map(|replica| report(&replica.contact)).collect();
        let by_name = reports.into_iter().map(|report| report.map(index).unwrap_or_default()).collect();
        Self { replicas, by_name }
    }

    /// What each replica says of `name`, with its index.
    pub fn of_name(&self, name: &str) -> impl Iterator<Item = (usize, &'a AdapterReport)> {
        (0..self.by_name.len()).filter_map(move |index| self.get(index, name).map(|report| (index, report)))
    }

    /// What replica `index` says of `name`.
    #[must_use]
    pub fn get(&self, index: usize, name: &str) -> Option<&'a AdapterReport> {
        self.by_name.get(index).and_then(|reports| reports.get(name)).copied()
    }

    /// Whether any replica that answers still has `name`.
    #[must_use]
    pub fn mentions(&self, name: &str) -> bool {
        self.by_name.iter().any(|reports| reports.contains_key(name))
    }

    /// The reports of `adapter` as its spec is now, with the index of their replica.
    pub fn current(
        &self,
        adapter: &'a ValidAdapter,
    ) -> impl Iterator<Item = (usize, &'a AdapterReport)> + '_ {
        (0..self.replicas.len())
            .filter_map(|index| self.get(index, &adapter.served_name).map(|report| (index, report)))
            .filter(|(_, report)| speaks_of(report, adapter))
    }

    /// Bytes and demand of each adapter.
    #[must_use]
    pub fn measured(&self, adapters: &[&ValidAdapter]) -> BTreeMap<AdapterKey, Measured> {
        let of = |adapter: &ValidAdapter| {
            (0..self.replicas.len()).filter_map(|index| self.get(index, &adapter.served_name)).fold(
                Measured::default(),
                |sum, report| Measured {
                    bytes: sum.bytes.max(report.bytes),
                    demand: sum.demand.saturating_add(report.running).saturating_add(report.waiting),
                },
            )
        };
        adapters.iter().map(|adapter| (adapter.key.clone(), of(adapter))).collect()
    }
}

/// What a replica said last.
#[must_use]
pub fn last(contact: &Contact) -> Option<&ReportedSet> {
    match contact {
        Contact::Reported(report) => Some(report),
        Contact::Unreachable { last, .. } => last.as_deref(),
        Contact::Pending => None,
    }
}

/// Whether `report` is about the content that `adapter` asks for.
#[must_use]
pub fn speaks_of(report: &AdapterReport, adapter: &ValidAdapter) -> bool {
    let pinned = adapter.digest.as_ref().is_none_or(|digest| {
        // A refused digest is reported as an error under this source, without a digest of its own.
        report.digest.as_ref() == Some(digest)
            || report.state == AdapterState::Failed
            || report.error.is_some()
    });
    report.source == shown(&adapter.source) && pinned
}

/// Whether the replica serves it without a load: from the device, or from host memory, which the device takes it from
/// with its next request (and which is the device's own where that is the processor).
#[must_use]
pub fn is_resident(report: &AdapterReport) -> bool {
    report.state == AdapterState::Ready
        && matches!(report.tier, Tier::Resident | Tier::Host)
        && report.error.is_none()
}
