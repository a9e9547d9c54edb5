//! Whose an object is that bears the name of a child of ours. Pure. Nothing of somebody else's is ever touched.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lorikeet_crds::FIELD_MANAGER;

use crate::build::LABEL;

const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The Deployment's, or nobody's with our labels, as after a deletion that left the children.
    Ours,
    /// Of a Deployment of the same name that is gone: the garbage collector will take it.
    Former,
    /// Somebody else's.
    Other,
}

/// Whose the object with `metadata` is, seen from the Deployment `name` with `uid`.
#[must_use]
pub fn owner(metadata: &ObjectMeta, uid: &str, name: &str) -> Owner {
    let controller = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let label = |key: &str, value: &str| {
        metadata.labels.as_ref().and_then(|labels| labels.get(key)).is_some_and(|is| is == value)
    };
    match controller {
        Some(controller) if controller.uid == uid => Owner::Ours,
        Some(controller)
            if controller.kind == "Deployment"
                && controller.api_version.starts_with(lorikeet_crds::GROUP) =>
        {
            if controller.name == name {
                Owner::Former
            } else {
                Owner::Other
            }
        }
        Some(_) => Owner::Other,
        None if label(MANAGED_BY, FIELD_MANAGER) && label(LABEL, name) => Owner::Ours,
        None => Owner::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    use super::*;

    fn owned(api_version: &str, name: &str, uid: &str) -> ObjectMeta {
        let reference = OwnerReference {
            api_version: api_version.to_owned(),
            kind: "Deployment".to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: None,
        };
        ObjectMeta { owner_references: Some(vec![reference]), ..ObjectMeta::default() }
    }

    #[test]
    fn only_what_is_ours_or_was_left_behind_by_us_is_taken() {
        let ours = "lorikeet.dev/v1alpha1";
        assert_eq!(owner(&owned(ours, "x", "1"), "1", "x"), Owner::Ours);
        assert_eq!(owner(&owned(ours, "x", "0"), "1", "x"), Owner::Former);
        assert_eq!(owner(&owned(ours, "y", "2"), "1", "x"), Owner::Other);
        assert_eq!(owner(&owned("apps/v1", "x", "2"), "1", "x"), Owner::Other);
        assert_eq!(owner(&ObjectMeta::default(), "1", "x"), Owner::Other);
        let labels = [(MANAGED_BY, FIELD_MANAGER), (LABEL, "x")];
        let left = ObjectMeta {
            labels: Some(BTreeMap::from(labels.map(|(key, value)| (key.to_owned(), value.to_owned())))),
            ..ObjectMeta::default()
        };
        assert_eq!(owner(&left, "1", "x"), Owner::Ours);
        assert_eq!(owner(&left, "1", "y"), Owner::Other);
    }
}
