//! Desired: what each replica should hold. Every replica knows every adapter; where it is placed it is kept resident.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use internment::ArcIntern;
use lorikeet_api::DesiredAdapter;

use crate::decide::place::Place;
use crate::decide::validate::{AdapterKey, Spread, ValidAdapter, ValidFleet};
use crate::fleet::DesiredList;

/// The desired sets of the replicas at `indices`, in their order; each ordered by served name. Replicas that should hold the
/// same share one list, and lists share what they have in common: 64 replicas of 10,000 adapters are not 640,000 copies.
#[must_use]
pub fn desired_lists(
    valid: &ValidFleet,
    places: &BTreeMap<AdapterKey, Place>,
    indices: &[usize],
) -> Vec<DesiredList> {
    let served = by_name(valid);
    // Of each replica, which of `served` are placed there.
    let mut placed = vec![vec![0_u64; served.len().div_ceil(64)]; indices.len()];
    for (at, adapter) in served.iter().enumerate() {
        for index in places.get(&adapter.key).into_iter().flat_map(|place| &place.replicas) {
            if let Ok(replica) = indices.binary_search(index) {
                placed[replica][at / 64] |= 1 << (at % 64);
            }
        }
    }
    let both: Vec<[ArcIntern<DesiredAdapter>; 2]> = served
        .iter()
        .map(|adapter| [false, true].map(|placed| ArcIntern::new(one(valid, adapter, placed))))
        .collect();
    let list = |placed: &[u64]| -> DesiredList {
        let is_placed = |at: usize| placed[at / 64] >> (at % 64) & 1 == 1;
        both.iter().enumerate().map(|(at, both)| both[usize::from(is_placed(at))].clone()).collect()
    };
    let mut lists: HashMap<&[u64], DesiredList> = HashMap::new();
    placed.iter().map(|placed| Arc::clone(lists.entry(placed).or_insert_with(|| list(placed)))).collect()
}

/// The desired set of any replica, before anybody has heard of it: only what is pinned on all of them is placed.
#[must_use]
pub fn desired_anywhere(valid: &ValidFleet) -> Vec<DesiredAdapter> {
    let placed = |adapter: &ValidAdapter| adapter.pinned && adapter.spread == Spread::All;
    by_name(valid).into_iter().map(|adapter| one(valid, adapter, placed(adapter))).collect()
}

fn by_name(valid: &ValidFleet) -> Vec<&ValidAdapter> {
    let mut served: Vec<&ValidAdapter> = valid.served().collect();
    served.sort_by(|one, other| one.served_name.cmp(&other.served_name));
    served
}

fn one(valid: &ValidFleet, adapter: &ValidAdapter, placed: bool) -> DesiredAdapter {
    DesiredAdapter {
        name: adapter.served_name.clone(),
        source: adapter.source.clone(),
        revision: None,
        credentials: adapter.credentials.clone(),
        digest: adapter.digest.clone(),
        resident: placed,
        pinned: placed && adapter.pinned,
        priority: adapter.priority,
        max_rank: Some(valid.max_rank),
    }
}
