//! The registry: the desired set beside the pod, so that a replica which starts while the operator is away still knows
//! its adapters. In shards, since a ConfigMap ends at 1 MiB and a change should write one of them, not all.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use lorikeet_api::DesiredSet;

use crate::build::Scope;
use crate::decide::desired::desired_anywhere;
use crate::decide::shards::{Shards, shard};
use crate::decide::validate::ValidFleet;

/// The name of shard `index` after the Deployment's.
#[must_use]
pub fn suffix(index: usize) -> String {
    format!("-registry-{index}")
}

/// The shards; each a [`DesiredSet`] of the first version under the key `<index>.json`. Only what is
/// pinned on all replicas is resident by it: where the others are placed is pushed, and changes too often to be written here.
#[must_use]
pub fn registry(scope: &Scope, valid: &ValidFleet) -> Vec<ConfigMap> {
    let count = Shards::of(valid.served()).count();
    let mut shards = vec![DesiredSet::default(); count];
    for adapter in desired_anywhere(valid) {
        shards[shard(&adapter.name, count)].adapters.push(adapter);
    }
    let config_map = |(index, set): (usize, DesiredSet)| ConfigMap {
        metadata: scope.metadata(&suffix(index)),
        data: serde_json::to_string(&set).ok().map(|json| BTreeMap::from([(format!("{index}.json"), json)])),
        ..ConfigMap::default()
    };
    shards.into_iter().enumerate().filter(|(_, set)| !set.adapters.is_empty()).map(config_map).collect()
}
