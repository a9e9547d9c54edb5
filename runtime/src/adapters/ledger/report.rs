//! What a replica says of its adapters, and what of it changed since when. Pure.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lorikeet_api::{AdapterReport, AdapterState, Failure, Tier, TierBytes};

use super::{Entry, Ledger, Load, Variant};
use crate::adapters::failure::LoadFailure;
use crate::adapters::pin::Generation;

/// How many names that are gone are remembered for partial reports.
const REMEMBERED: usize = 4096;

/// The numbers of changes.
#[derive(Default)]
pub(super) struct Changes {
    last: u64,
    gone: VecDeque<(u64, Arc<str>)>,
    /// Of changes up to here not every removal is remembered.
    forgotten: u64,
    draining: HashSet<Arc<str>>,
}

impl Changes {
    /// The number of another change.
    pub(super) fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(super) fn drains(&mut self, name: &Arc<str>) {
        self.draining.insert(Arc::clone(name));
    }

    pub(super) fn drains_no_more(&mut self, name: &str) {
        self.draining.remove(name);
    }

    pub(super) fn drain_count(&self) -> usize {
        self.draining.len()
    }

    /// Those draining names of which `is_over` is true, which are then no longer kept.
    pub(super) fn drained(&mut self, is_over: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        self.draining.extract_if(|name| is_over(name)).collect()
    }

    pub(super) fn removed(&mut self, name: Arc<str>) {
        let number = self.next();
        self.gone.push_back((number, name));
        if self.gone.len() > REMEMBERED
            && let Some((number, _)) = self.gone.pop_front()
        {
            self.forgotten = number;
        }
    }
}

/// What changed since a report, or all.
pub(crate) struct Reported {
    /// The number of the newest change.
    pub(crate) report: u64,
    /// All there are.
    pub(crate) complete: bool,
    pub(crate) adapters: Vec<AdapterReport>,
    pub(crate) removed: Vec<String>,
}

impl Ledger {
    /// The number of the newest change.
    pub(crate) fn report_number(&self) -> u64 {
        self.changes.last
    }

    /// What the store says of the base model or of itself changed.
    pub(crate) fn note(&mut self) {
        self.changes.next();
    }

    /// Bytes of the host tier.
    pub(crate) fn host_bytes(&self) -> TierBytes {
        let (used, budget) = self.host.bytes();
        TierBytes { used, budget }
    }

    /// What changed after report `after`, where enough is remembered; everything otherwise. `runs` tells of a
    /// generation whether it is on the device.
    pub(crate) fn reported(&self, after: Option<u64>, runs: &dyn Fn(Generation) -> bool) -> Reported {
        let after = after.filter(|after| (self.changes.forgotten..=self.changes.last).contains(after));
        let since = |changed: u64| after.is_none_or(|after| changed > after);
        let named = self.names.iter().filter(|(_, entry)| since(entry.changed));
        let mut removed: Vec<String> = Vec::new();
        if let Some(after) = after {
            let gone = self.changes.gone.iter().rev().take_while(|(number, _)| *number > after);
            let back = |name: &&Arc<str>| !self.names.contains_key(*name);
            removed = gone.map(|(_, name)| name).filter(back).map(|name| name.to_string()).collect();
            removed.sort();
            removed.dedup();
        }
        Reported {
            report: self.changes.last,
            complete: after.is_none(),
            adapters: named.map(|(name, entry)| self.describe(name, entry, runs)).collect(),
            removed,
        }
    }

    /// What is to be said of one name.
    pub(crate) fn describe(
        &self,
        name: &str,
        entry: &Entry,
        runs: &dyn Fn(Generation) -> bool,
    ) -> AdapterReport {
        let serving = &entry.serving;
        let facts = serving.facts.as_deref();
        // An error of the newest content is told under its source: its writer looks for it there.
        let refused = entry.next.as_ref().filter(|next| failure(serving).or(failure(next)).is_some());
        AdapterReport {
            name: name.to_owned(),
            source: refused.unwrap_or(serving).desire.source(),
            credentials: refused.unwrap_or(serving).desire.credentials(),
            state: self.state(entry),
            tier: self.tier(serving, runs),
            digest: facts.map(|facts| facts.generation.digest().to_string()),
            revision: facts.and_then(|facts| facts.revision.clone()),
            rank: facts.map_or(0, |facts| facts.rank),
            bytes: facts.map_or(0, |facts| facts.bytes),
            target_modules: facts.map_or_else(Vec::new, |facts| facts.target_modules.to_vec()),
            base_model: facts.map(|facts| facts.base_model.to_string()),
            running: entry.tenures.held() as u32,
            waiting: entry.waiting.load(Ordering::Relaxed) as u32,
            demand: entry.demand.told(),
            error: refused
                .and_then(failure)
                .or(failure(serving))
                .map(|failure| Failure { code: failure.code, message: failure.message.clone() }),
        }
    }

    fn state(&self, entry: &Entry) -> AdapterState {
        let held = entry.serving.is_held(&self.host);
        match &entry.serving.load {
            _ if entry.draining => AdapterState::Draining,
            _ if held => AdapterState::Ready,
            Load::Running { .. } => AdapterState::Loading,
            Load::Failed { .. } => AdapterState::Failed,
            Load::Idle => AdapterState::Registered,
        }
    }

    fn tier(&self, variant: &Variant, runs: &dyn Fn(Generation) -> bool) -> Tier {
        match variant.generation() {
            Some(generation) if runs(generation) => Tier::Resident,
            Some(generation) if self.host.contains(generation) => Tier::Host,
            Some(_) => Tier::Disk,
            None => Tier::Remote,
        }
    }
}

fn failure(variant: &Variant) -> Option<&LoadFailure> {
    match &variant.load {
        Load::Failed { failure, .. } => Some(failure),
        _ => None,
    }
}
