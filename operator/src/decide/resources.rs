//! Resources that no API server would take in a pod are refused in a Deployment's spec, where the user can see it. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::decide::validate::Refusal;

/// By how much a suffix multiplies.
const UNITS: [(&str, f64); 16] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("", 1.0),
];

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
        let number = number(&quantity.0).ok_or_else(|| invalid(field, expected, name, &quantity.0))?;
        Ok((name.as_str(), (number, quantity.0.as_str())))
    };
    given.into_iter().flatten().map(one).collect()
}

fn invalid(field: &'static str, expected: &'static str, name: &str, got: &str) -> Refusal {
    Refusal::InvalidSpec { field, expected, got: format!("{name}: {got}") }
}

/// What a quantity is: digits, at most one point, and a unit or an exponent. None is below zero here.
fn number(text: &str) -> Option<f64> {
    let digits = text.trim_start_matches('+');
    let end = digits.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(digits.len());
    let (mantissa, unit) = digits.split_at(end);
    let is_plain = text.len() - digits.len() <= 1 && mantissa.bytes().any(|byte| byte.is_ascii_digit());
    let mantissa: f64 = mantissa.parse().ok().filter(|_| is_plain)?;
    let by = UNITS.iter().find(|(suffix, _)| *suffix == unit).map(|(_, by)| *by);
    let exponent = || unit.strip_prefix(['e', 'E'])?.parse::<i32>().ok().map(|power| 10f64.powi(power));
    by.or_else(exponent).map(|by| mantissa * by)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(resources: Value) -> Result<(), Refusal> {
        check(&serde_json::from_value(resources).unwrap())
    }

    #[test]
    fn quantities_are_as_kubernetes_takes_them() {
        for (text, expected) in [
            ("2", 2.0),
            ("+1.5", 1.5),
            ("500m", 0.5),
            ("8Gi", 8.0 * 1_073_741_824.0),
            ("1e3", 1e3),
            ("2E", 2e18),
        ] {
            assert_eq!(number(text), Some(expected), "{text}");
        }
        for text in ["", "much", "-1", "1 Gi", "8GiB", ".", "++1", "1.2.3", "NaN", "inf", "e3"] {
            assert_eq!(number(text), None, "{text}");
        }
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
