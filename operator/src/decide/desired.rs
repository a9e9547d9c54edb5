//! Desired: what each replica should hold. Every replica knows every adapter; where it is placed it is kept resident.

use std::collections::BTreeMap;

use lorikeet_api::DesiredAdapter;

use crate::decide::place::Place;
use crate::decide::validate::{AdapterKey, Spread, ValidFleet};

/// The desired set of the replica at `index`, ordered by served name. Without one: of any replica, before anybody has
/// heard of it; then only what is pinned on all of them is placed.
#[must_use]
pub fn desired(
    valid: &ValidFleet,
    places: &BTreeMap<AdapterKey, Place>,
    index: Option<usize>,
) -> Vec<DesiredAdapter> {
    let mut set: Vec<DesiredAdapter> = valid
        .served()
        .map(|adapter| {
            let placed = match index {
                Some(index) => {
                    places.get(&adapter.key).is_some_and(|place| place.replicas.binary_search(&index).is_ok())
                }
                None => adapter.pinned && adapter.spread == Spread::All,
            };
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
        })
        .collect();
    set.sort_by(|one, other| one.name.cmp(&other.name));
    set
}
