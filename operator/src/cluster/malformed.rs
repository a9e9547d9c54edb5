//! Objects of ours that cannot be read whole, as one that an older or newer definition let through. Fields of a status that
//! nobody understands are taken out of it: the operator writes it anew. Of what a spec that cannot be read stands for, the
//! decision about its fleet tells. Where not even that is known the object is told so in its status, and one that is being
//! deleted is let go.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{ApiResource, Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt as _};
use lorikeet_crds::condition::{Saying, Truth, conditions};
use lorikeet_crds::{Adapter, ConditionType, Deployment, FIELD_MANAGER, FINALIZER, Reason};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::cluster::failure::{Failure, is_gone};
use crate::cluster::reading::{InParts, Reading, read};
use crate::cluster::statuses::merge;
use crate::cluster::table::ObjectKey;
use crate::cluster::world::OwnKind;

/// What nobody can say of a Deployment that cannot be read.
const OF_DEPLOYMENT: [ConditionType; 3] =
    [ConditionType::ModelLoaded, ConditionType::AdaptersReady, ConditionType::Available];
/// What nobody can say of an Adapter that cannot be read.
const OF_ADAPTER: [ConditionType; 2] = [ConditionType::Resolved, ConditionType::Loaded];

/// Mends the status of the object as it is by now, or tells it that it cannot be read.
///
/// # Errors
/// Any [`Failure`] of the calls.
pub async fn tell(client: &Client, kind: OwnKind, key: &ObjectKey, now: Timestamp) -> Result<(), Failure> {
    let resource = match kind {
        OwnKind::Deployment => ApiResource::erase::<Deployment>(&()),
        OwnKind::Adapter => ApiResource::erase::<Adapter>(&()),
    };
    let what = format!("{} {}/{}", resource.kind, key.0, key.1);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.0, &resource);
    let ended = match kind {
        OwnKind::Deployment => told::<Deployment>(&api, &key.1, &OF_DEPLOYMENT, now).await,
        OwnKind::Adapter => told::<Adapter>(&api, &key.1, &OF_ADAPTER, now).await,
    };
    match ended {
        Err(error) if !is_gone(&error) => Err(Failure::of(what, error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn told<K: InParts>(
    api: &Api<DynamicObject>,
    name: &str,
    unknown: &[ConditionType],
    now: Timestamp,
) -> kube::Result<()> {
    let Some(object) = api.get_opt(name).await? else { return Ok(()) };
    let version = object.resource_version();
    let manager = PatchParams::apply(FIELD_MANAGER);
    let error = match read::<K>(&object) {
        Reading::Whole(_) | Reading::Part { .. } => return Ok(()),
        Reading::WithoutStatus { status, .. } => {
            if let Some(change) = merge(&object.data["status"], &status) {
                let patch = json!({"metadata": {"resourceVersion": version}, "status": change});
                api.patch_status(name, &manager, &Patch::Merge(&patch)).await?;
            }
            return Ok(());
        }
        Reading::Nothing { error } => error,
    };
    if object.metadata.deletion_timestamp.is_some() {
        let mut finalizers = object.finalizers().to_vec();
        finalizers.retain(|one| one != FINALIZER);
        if finalizers.len() < object.finalizers().len() {
            let patch = json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
            api.patch(name, &manager, &Patch::Merge(&patch)).await?;
        }
        return Ok(());
    }
    let before = object.data.pointer("/status/conditions").cloned().unwrap_or_default();
    let after = saying(&before, unknown, &error, object.metadata.generation, now);
    if before != after {
        let patch = json!({
            "metadata": {"resourceVersion": version},
            "status": {"observedGeneration": object.metadata.generation, "conditions": after}
        });
        api.patch_status(name, &manager, &Patch::Merge(&patch)).await?;
    }
    Ok(())
}

fn saying(
    before: &Value,
    unknown: &[ConditionType],
    error: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> Value {
    let before = Vec::<Condition>::deserialize(before).unwrap_or_default();
    let saying = |condition, truth| Saying {
        condition,
        truth,
        reason: Reason::InvalidSpec,
        message: format!("the object cannot be read: {error}"),
    };
    let kstatus = [
        saying(ConditionType::Ready, Truth::False),
        saying(ConditionType::Reconciling, Truth::False),
        saying(ConditionType::Stalled, Truth::True),
    ];
    let mut sayings = vec![saying(ConditionType::Accepted, Truth::False)];
    sayings.extend(unknown.iter().map(|condition| saying(*condition, Truth::Unknown)));
    sayings.extend(kstatus);
    serde_json::to_value(conditions(&before, &sayings, generation, now)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_and_by_every_condition_of_its_kind() {
        let [early, late] = [1, 2].map(|second| Timestamp::from_second(second).unwrap());
        let kstatus = [("Ready", "False"), ("Reconciling", "False"), ("Stalled", "True")];
        let of_deployment =
            [("ModelLoaded", "Unknown"), ("AdaptersReady", "Unknown"), ("Available", "Unknown")];
        let of_adapter = [("Resolved", "Unknown"), ("Loaded", "Unknown")];
        for (unknown, own) in [(&OF_DEPLOYMENT[..], &of_deployment[..]), (&OF_ADAPTER, &of_adapter)] {
            let first = saying(&Value::Null, unknown, "no source", Some(1), early);
            let said = Vec::<Condition>::deserialize(&first).unwrap();
            let said: Vec<_> = said.iter().map(|one| (one.type_.as_str(), one.status.as_str())).collect();
            assert_eq!(said, [&[("Accepted", "False")], own, &kstatus].concat());
            assert_eq!(saying(&first, unknown, "no source", Some(1), late), first);
        }
    }
}
