//! Resources that no API server would take in a pod are refused in a Deployment's spec, where the user can see it. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::decide::validate::Refusal;

/// Checks the resources of a replica.
///
/// # Errors
/// A quantity is none, a request is over its limit, or a claim is asked for, which pods of ours have none of.
pub fn check(resources: &ResourceRequirements) -> Result<(), Refusal> {
    let limits = quantities("resources.limits", resources.limits.as_ref())?;
    let requests = quantities("resources.requests", resources.requests.as_ref())?;
    for (name, (request, text)) in requests {
        if limits.get(name).is_some_and(|(limit, _)| request > *limit) {
            let expected = "at most the limit of the same name";
            return Err(invalid("resources.requests", expected, name, text));
        }
    }
    match resources.claims.iter().flatten().next() {
        Some(claim) => Err(Refusal::InvalidSpec {
            field: "resources.claims",
            expected: "none: replicas have no resource claims",
            got: claim.name.clone(),
        }),
        None => Ok(()),
    }
}

type Quantities<'a> = BTreeMap<&'a str, (f64, &'a str)>;

fn quantities<'a>(
    field: &'static str,
    given: Option<&'a BTreeMap<String, Quantity>>,
) -> Result<Quantities<'a>, Refusal> {
    let expected = "a quantity, as 500m, 2 or 8Gi";
    let one = |(name, quantity): (&'a String, &'a Quantity)| {
        let number =
            crate::quantity::parse(&quantity.0).ok_or_else(|| invalid(field, expected, name, &quantity.0))?;
        Ok((name.as_str(), (number, quantity.0.as_str())))
    };
    given.into_iter().flatten().map(one).collect()
}

fn invalid(field: &'static str, expected: &'static str, name: &str, got: &str) -> Refusal {
    Refusal::InvalidSpec { field, expected, got: format!("{name}: {got}") }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(resources: Value) -> Result<(), Refusal> {
        check(&serde_json::from_value(resources).unwrap())
    }

    #[test]
    fn a_fault_names_its_field() {
        assert_eq!(of(json!({"limits": {"memory": "4Gi"}, "requests": {"cpu": 2, "memory": "2Gi"}})), Ok(()));
        for (resources, said) in [
            (
                json!({"limits": {"memory": "much"}}),
                "resources.limits: expected a quantity, as 500m, 2 or 8Gi, got \"memory: much\"",
            ),
            (json!({"requests": {"cpu": "-1"}}), "resources.requests: expected a quantity"),
            (
                json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1100m"}}),
                "at most the limit of the same name, got \"cpu: 1100m\"",
            ),
            (json!({"claims": [{"name": "gpu"}]}), "resources.claims: expected none"),
        ] {
            let refusal = of(resources).unwrap_err().to_string();
            assert!(refusal.contains(said), "{refusal}");
        }
    }
}
