//! Asking the replicas: whatever bears the finalizer, or is with them already, at once; the rest when it does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt as _;
use kube::Resource as _;
use lorikeet_crds::{Adapter, Reason};

use crate::cluster::finalizer::{self, Outlives, Written, lacking, withhold};
use crate::cluster::look::Look;
use crate::cluster::statuses::event;
use crate::decide::validate::key_of;
use crate::decide::{Decision, Occurrence};
use crate::fleet::{AdapterKey, DesiredList, Fleet};

/// What came of asking the replicas.
pub(super) struct Asked {
    /// The finalizers.
    pub finalizers: Written,
    /// Accepted Adapters that lack the finalizer still.
    pub lacking: BTreeSet<AdapterKey>,
    /// Those of them that no replica may hear of yet.
    pub untold: BTreeSet<AdapterKey>,
}

impl Look<'_> {
    fn outlives(&self) -> Outlives<'_> {
        Outlives { is_cluster_wide: self.looker.is_cluster_wide, own: &self.looker.settings.namespace }
    }

    /// Asks the replicas. Puts the finalizer on before they hear of an Adapter, and takes it off when nothing holds a
    /// deletion any longer.
    pub(super) async fn ask(&mut self, fleet: &Fleet, decision: &mut Decision) -> Asked {
        let is_paused = self.sight.deployment.as_ref().is_some_and(|one| one.spec.paused);
        self.lane.bearers.see(&self.sight.adapters);
        let (adapters, outlives) = (&self.sight.adapters, self.outlives());
        let lacking = if is_paused { Vec::new() } else { lacking(adapters, decision, outlives) };
        // Seen as they were before they were given it: nothing that is written over that would be taken.
        let (stale, mut on): (Vec<_>, Vec<_>) =
            lacking.into_iter().partition(|one| self.lane.bearers.has(one));
        let off = finalizer::released(adapters, decision, outlives);
        let desired = std::mem::take(&mut decision.desired);
        // What is held already, or there, does not wait for what is neither.
        let mut untold = finalizer::untold(&on, &fleet.replicas);
        self.want(desired.clone(), &untold);
        let concurrent = self.looker.limits.concurrent_writes;
        // A write of a status that is under way would find another version: the end of that brings the next look.
        let now: Vec<_> = on.iter().copied().filter(|one| !self.telling.contains(&key_of(one))).collect();
        let mut written = finalizer::write(&self.looker.client, &now, &off, concurrent).await;
        self.failures.append(&mut written.failures);
        self.lane.bearers.add(on.iter().copied().filter(|one| written.held.contains(&key_of(one))));
        written.held.extend(stale.iter().map(|one| key_of(one)));
        self.tell_timeouts(decision, &written.freed).await;
        let lacks = |one: &&Arc<Adapter>| !written.held.contains(&key_of(one));
        on.retain(lacks);
        let before = untold.len();
        untold.retain(lacks);
        if untold.len() < before {
            self.want(desired, &untold);
        }
        let keys = |of: &[&Arc<Adapter>]| of.iter().map(|one| key_of(one)).collect();
        let (lacking, untold) = (keys(&on), keys(&untold));
        Asked { finalizers: written, lacking, untold }
    }

    /// Says of those of `freed` that had not drained that they had not. They have no status any more that it could go with, and
    /// are let go once: so it is told once.
    async fn tell_timeouts(&self, decision: &mut Decision, freed: &[Arc<Adapter>]) {
        let is_timeout = |one: &mut Occurrence| one.reason == Reason::DrainTimeout;
        let timeouts: BTreeMap<Option<AdapterKey>, Occurrence> =
            decision.events.extract_if(.., is_timeout).map(|one| (one.adapter.clone(), one)).collect();
        let told = freed.iter().filter_map(|adapter| Some((adapter, timeouts.get(&Some(key_of(adapter)))?)));
        let herald = &self.looker.herald;
        futures::stream::iter(told)
            .for_each_concurrent(self.looker.limits.concurrent_writes, async |(adapter, one)| {
                herald.at_adapter(&event(one), &adapter.object_ref(&())).await;
            })
            .await;
    }

    /// Asks the replicas to hold what is `desired`, but for what they may not hear of.
    fn want(&self, mut desired: BTreeMap<String, DesiredList>, untold: &[&Arc<Adapter>]) {
        withhold(&mut desired, untold);
        self.looker.replicas().want(self.fleet, desired);
    }
}
