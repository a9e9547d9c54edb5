//! Label selectors, as the API server reads them. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Whether `labels` satisfy `selector`. An operator that does not exist is satisfied by nothing.
#[must_use]
pub fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|expression| {
            let value = labels.get(&expression.key);
            let listed =
                value.is_some_and(|value| expression.values.iter().flatten().any(|one| one == value));
            match expression.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    use super::*;

    #[test]
    fn every_operator_means_what_kubernetes_means() {
        let labels = BTreeMap::from([("team".to_owned(), "nlp".to_owned())]);
        for (operator, values, expected) in [
            ("In", vec!["nlp"], true),
            ("In", vec!["cv"], false),
            ("NotIn", vec!["cv"], true),
            ("Exists", vec![], true),
            ("DoesNotExist", vec![], false),
            ("Like", vec!["nlp"], false),
        ] {
            let expression = LabelSelectorRequirement {
                key: "team".to_owned(),
                operator: operator.to_owned(),
                values: Some(values.into_iter().map(str::to_owned).collect()),
            };
            let selector = LabelSelector { match_expressions: Some(vec![expression]), match_labels: None };
            assert_eq!(matches(&selector, &labels), expected, "{operator}");
        }
    }
}
