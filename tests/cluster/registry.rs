//! What a pod finds of the registry: the ConfigMaps that its volume projects, as they are when its container starts.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt as _;
use kube::api::ListParams;
use lorikeet_api::{DesiredAdapter, DesiredSet};

use crate::kubelet::Shared;

/// Its files, by name, and their texts. All are read at once: most of those that may be there are not.
pub(crate) async fn files(shared: &Shared, pod: &Pod) -> kube::Result<Vec<(String, String)>> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let sources = volumes.filter_map(|volume| volume.projected.as_ref()?.sources.as_ref()).flatten();
    let maps: BTreeSet<&str> =
        sources.filter_map(|source| source.config_map.as_ref()).map(|map| map.name.as_str()).collect();
    let all = shared.api::<ConfigMap>().list(&ListParams::default()).await?;
    let projected = all.items.into_iter().filter(|map| maps.contains(map.name_any().as_str()));
    Ok(projected.filter_map(|map| map.data).flatten().collect())
}

/// The adapters that they name.
pub(crate) async fn adapters(shared: &Shared, pod: &Pod) -> kube::Result<Vec<DesiredAdapter>> {
    let set = |text: &str| serde_json::from_str::<DesiredSet>(text).expect("a shard of the registry");
    Ok(files(shared, pod).await?.iter().flat_map(|(_, text)| set(text).adapters).collect())
}
