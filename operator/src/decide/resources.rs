//! Resources that no API server would take in a pod, or that end a replica once its adapters are in, are refused in a
//! Deployment's spec, where the user can see it. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use lorikeet_crds::deployment::DeploymentSpec;

use crate::decide::scale::gpus;
use crate::decide::validate::Refusal;
use crate::quantity;

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

/// Checks that what adapters may take in memory is less than what a replica may have, or no model would fit beside them:
/// without a GPU both budgets are in memory.
///
/// # Errors
/// It is not: the replica would be ended when its model or its adapters are loaded, and again each time after.
pub fn check_memory(spec: &DeploymentSpec, resident: u64, host: u64) -> Result<(), Refusal> {
    let limit = spec.resources.as_ref().and_then(|all| all.limits.as_ref()?.get("memory"));
    let Some(limit) = limit.and_then(|limit| quantity::bytes(&limit.0)) else { return Ok(()) };
    let (fields, bytes) = if gpus(&spec.node_pool) > 0 {
        ("adapters.hostMemory", host)
    } else {
        ("adapters.gpuMemory and adapters.hostMemory", host.saturating_add(resident))
    };
    if bytes >= limit { Err(Refusal::MemoryExceeded { fields, limit, bytes }) } else { Ok(()) }
}

type Quantities<'a> = BTreeMap<&'a str, (f64, &'a str)>;

fn quantities<'a>(
    field: &'static str,
    given: Option<&'a BTreeMap<String, Quantity>>,
) -> Result<Quantities<'a>, Refusal> {
    let expected = "a quantity, as 500m, 2 or 8Gi";
    let one = |(name, quantity): (&'a String, &'a Quantity)| {
        let number =
            quantity::parse(&quantity.0).ok_or_else(|| invalid(field, expected, name, &quantity.0))?;
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
    fn what_adapters_may_take_is_less_than_what_a_replica_may_have() {
        let of = |limits: Value, gpus: i32, resident: u64, host: u64| {
            let spec = json!({
                "model": {"source": "hf://acme/base"}, "resources": {"limits": limits}, "nodePool": {"gpus": gpus}
            });
            let spec: DeploymentSpec = serde_json::from_value(spec).unwrap();
            check_memory(&spec, resident << 30, host << 30).map_err(|refusal| refusal.to_string())
        };
        assert_eq!(of(json!({"memory": "25Gi"}), 0, 8, 16), Ok(()));
        assert_eq!(of(json!({"memory": "17Gi"}), 1, 8, 16), Ok(()), "a GPU has memory of its own");
        assert_eq!(of(json!({"cpu": "4"}), 0, 8, 16), Ok(()));
        assert!(of(json!({"memory": "24Gi"}), 0, 8, 16).is_err(), "that leaves nothing for the model");
        let both = of(json!({"memory": "4Gi"}), 0, 8, 16).unwrap_err();
        let said = "adapters.gpuMemory and adapters.hostMemory: expected less than resources.limits.memory, 4294967296 bytes, \
                    got 25769803776";
        assert!(both.starts_with(said), "{both}");
        let host = of(json!({"memory": "8Gi"}), 1, 8, 16).unwrap_err();
        assert!(
            host.starts_with("adapters.hostMemory: expected less than resources.limits.memory"),
            "{host}"
        );
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
