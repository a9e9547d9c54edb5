//! Former: what an Adapter serves while an edit of it is not accepted. Nothing is remembered for it: it is what replicas
//! report under its name, pinned to the content that they have. Pure.
//!
//! An Adapter has a former content only if its own status says that it had its name: a name that was another Adapter's
//! before is nothing to continue.

use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use lorikeet_api::{AdapterReport, AdapterState};
use lorikeet_crds::adapter::BaseModelRule;
use lorikeet_crds::{Adapter, AdapterStatus, ConditionType};

use crate::decide::events::is_true;
use crate::decide::known::Known;
use crate::decide::reports::{Reports, last};
use crate::decide::sources::{carried, is_shown_whole, shown};
use crate::decide::validate::{AdapterKey, Spread, ValidAdapter, served_name_of, spread};
use crate::fleet::{AdapterFacts, Fleet, Replica};

/// What an Adapter served before an edit.
#[derive(Clone, Debug, PartialEq)]
pub enum Former {
    /// Nothing.
    Nothing,
    /// Something, perhaps: a replica that could tell was not heard. So much is known of it.
    Unheard(AdapterFacts),
    /// This, of which so much is known.
    Serves(ValidAdapter, AdapterFacts),
}

/// The former contents of a fleet's Adapters. Made once a decision, and worked out where one is asked for.
pub struct Formers<'a> {
    fleet: &'a Fleet,
    reports: OnceCell<Reports<'a>>,
    /// What any replica says, by name: of thousands of adapters most replicas say the same, and it is here once.
    said: OnceCell<HashMap<&'a str, Vec<&'a AdapterReport>>>,
    bearers: OnceCell<HashMap<String, usize>>,
}

impl<'a> Formers<'a> {
    /// Those of `fleet`.
    #[must_use]
    pub const fn of(fleet: &'a Fleet) -> Self {
        Self { fleet, reports: OnceCell::new(), said: OnceCell::new(), bearers: OnceCell::new() }
    }

    /// Whether replicas have read what `adapter` asks for now, found no fault, and say all of it that matters here.
    #[must_use]
    pub fn is_read(&self, adapter: &Adapter) -> bool {
        self.known(adapter).is_whole
    }

    /// What replicas that have read what `adapter` asks for now, and found no fault, say of it.
    #[must_use]
    pub fn known(&self, adapter: &Adapter) -> Known {
        let source = self.carried(adapter);
        let pin = adapter.spec.source.digest.as_ref();
        let current = self.said(&served_name_of(adapter)).iter().copied().filter(|report| {
            report.source == shown(&source)
                && report.error.is_none()
                && report.digest.as_ref().is_some_and(|digest| match pin {
                    Some(pin) => pin == digest,
                    None => is_shown_whole(&source),
                })
        });
        Known::by(current, adapter.spec.base_model)
    }

    /// What `adapter`, which is not accepted and has its name, goes on serving.
    #[must_use]
    pub fn of_adapter(&self, adapter: &Adapter, key: &AdapterKey) -> Former {
        let Some(status) = adapter.status.as_ref().filter(|status| has_served(status)) else {
            return Former::Nothing;
        };
        let name = served_name_of(adapter);
        let is_its_own = |report: &AdapterReport| {
            report.digest.is_some() && report.digest == status.digest || self.bearers(&name) == 1
        };
        let mut votes: HashMap<(&str, Option<&str>, Option<&str>), Vote> = HashMap::new();
        for (index, report) in
            self.reports(&name).into_iter().filter(|(_, one)| is_served(one) && is_its_own(one))
        {
            let content = (report.source.as_str(), report.digest.as_deref(), report.credentials.as_deref());
            let vote = votes.entry(content).or_default();
            vote.count += 1;
            vote.first = vote.first.max(Reverse(index));
            vote.is_known = report.digest.is_some();
            vote.is_certain = vote.is_known && report.digest == status.digest;
        }
        let Some(((source, digest, credentials), _)) = votes.into_iter().max_by_key(|(_, vote)| *vote) else {
            let is_unheard = |replica: &Replica| last(&replica.contact).is_none();
            return match self.fleet.replicas.iter().any(is_unheard) || self.fleet.replicas.is_empty() {
                true => Former::Unheard(Known::of_status(status).facts),
                false => Former::Nothing,
            };
        };
        let digest = digest.map(str::to_owned).or_else(|| pinned_before(adapter, status, source));
        if digest.is_none() && !is_shown_whole(source) {
            // Without its query it is another content, perhaps, and with the query of an edit it is what was not accepted.
            return Former::Nothing;
        }
        let known = self.known_of(&name, source, digest.as_deref(), status);
        let before = as_before(adapter, key, source, digest);
        Former::Serves(ValidAdapter { credentials: credentials.map(str::to_owned), ..before }, known)
    }

    /// What is known of the content of `digest` that is served as `name`. The name of its base model only by the status: that says
    /// whether it was compared.
    fn known_of(
        &self,
        name: &str,
        source: &str,
        digest: Option<&str>,
        status: &AdapterStatus,
    ) -> AdapterFacts {
        let of_it = self
            .said(name)
            .iter()
            .copied()
            .filter(|one| one.source == source && one.digest.as_deref() == digest);
        let by_reports = Known::by(of_it, BaseModelRule::Any).facts;
        let told = if digest.is_some() && status.digest.as_deref() == digest {
            Known::of_status(status).facts
        } else {
            AdapterFacts::default()
        };
        AdapterFacts {
            rank: if by_reports.rank > 0 { by_reports.rank } else { told.rank },
            bytes: by_reports.bytes.or(told.bytes),
            base_model: told.base_model,
            rank_field: by_reports.rank_field,
        }
    }

    fn carried(&self, adapter: &Adapter) -> String {
        let source = &adapter.spec.source;
        carried(&source.source, source.revision.as_deref(), &self.fleet.claims)
    }

    /// What each replica says of `name`, or said last, with its index.
    fn reports(&self, name: &str) -> Vec<(usize, &'a AdapterReport)> {
        self.reports.get_or_init(|| Reports::last(&self.fleet.replicas)).of_name(name).collect()
    }

    /// What any replica says of `name`, or said last; each thing said once.
    fn said(&self, name: &str) -> &[&'a AdapterReport] {
        let index = || {
            let (mut seen, mut all) = (HashSet::new(), HashMap::<&str, Vec<&AdapterReport>>::new());
            let reports = self.fleet.replicas.iter().filter_map(|replica| last(&replica.contact));
            for report in reports.flat_map(|report| &report.adapters).map(|said| &**said) {
                if seen.insert(std::ptr::from_ref(report)) {
                    all.entry(&report.name).or_default().push(report);
                }
            }
            all
        };
        self.said.get_or_init(index).get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// How many Adapters say that they have `name`.
    fn bearers(&self, name: &str) -> usize {
        let count = || {
            let mut bearers = HashMap::new();
            for adapter in &self.fleet.adapters {
                *bearers.entry(served_name_of(adapter)).or_default() += 1;
            }
            bearers
        };
        self.bearers.get_or_init(count).get(name).copied().unwrap_or(0)
    }
}

fn as_before(adapter: &Adapter, key: &AdapterKey, source: &str, digest: Option<String>) -> ValidAdapter {
    let placement = &adapter.spec.placement;
    ValidAdapter {
        key: key.clone(),
        served_name: served_name_of(adapter),
        // As it was reported, and so without what may be a signature: that of the present source may be of an edit. Who
        // has the content knows it by its digest, and who cannot fetch it so takes no other for it.
        source: source.to_owned(),
        credentials: None,
        digest,
        spread: spread(&placement.replicas).unwrap_or(Spread::Auto),
        pinned: placement.pinned,
        priority: placement.priority,
        bytes: adapter.status.as_ref().and_then(|status| status.bytes).unwrap_or(0),
    }
}

/// How much speaks for a content, the weightiest first: that the status names it, that it is known, how many replicas have
/// it. The first replica decides between equals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Vote {
    is_certain: bool,
    is_known: bool,
    count: usize,
    first: Reverse<usize>,
}

impl Default for Vote {
    fn default() -> Self {
        Self { is_certain: false, is_known: false, count: 0, first: Reverse(usize::MAX) }
    }
}

/// Whether the Adapter was accepted before, or goes on serving something: then its status has its name. Not by what the status
/// says of contents or replicas: that is what was heard last, and of a replica that was not heard nothing is said.
#[must_use]
pub const fn has_served(status: &AdapterStatus) -> bool {
    status.served_name.is_some()
}

/// Whether the replica would answer requests from it.
fn is_served(report: &AdapterReport) -> bool {
    match report.state {
        AdapterState::Draining => false,
        AdapterState::Failed => report.digest.is_some(),
        AdapterState::Registered | AdapterState::Loading | AdapterState::Ready => true,
    }
}

/// The digest that an earlier decision about this same edit pinned: a replica that has restarted since says only where it
/// would read from. Of a source that is not shown whole any that was served: it is the only one that is known to be right.
fn pinned_before(adapter: &Adapter, status: &AdapterStatus, source: &str) -> Option<String> {
    let of_this_edit = status.observed_generation == adapter.metadata.generation
        && !is_true(&status.conditions, ConditionType::Accepted);
    status.digest.clone().filter(|_| of_this_edit || !is_shown_whole(source))
}
