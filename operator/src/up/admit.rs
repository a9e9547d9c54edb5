//! Admission: what the API server refuses is refused here, by the same schemas and the same CEL rules, which the kinds
//! themselves carry. Pure. Must not know a file, nor decide anything that the API server would let through.

use kube::core::cel::{ErrorKind, ValidationError, Validator};
use kube::{CustomResourceExt, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::decide::mounts::is_object_name;

/// Why an object is refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Fault {
    /// The path of the field, as `spec.placement.replicas`.
    pub field: String,
    /// What was expected, and what came.
    pub message: String,
}

impl Fault {
    /// A fault of `field`.
    #[must_use]
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// The rules of one kind.
pub struct Rules {
    schema: Value,
}

impl Rules {
    /// Those that `K` carries.
    #[must_use]
    pub fn of<K: CustomResourceExt>() -> Self {
        let definition = K::crd();
        let schema = definition.spec.versions.first().and_then(|version| version.schema.as_ref());
        let schema = schema.and_then(|schema| schema.open_api_v3_schema.as_ref());
        Self { schema: serde_json::to_value(schema).unwrap_or_default() }
    }

    /// The object that `given` is, with its defaults. `old` is the one that it takes the place of: what must not change
    /// is compared with it.
    ///
    /// # Errors
    /// Every [`Fault`] there is.
    pub fn admit<K>(&self, given: &Value, old: Option<&K>) -> Result<K, Vec<Fault>>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let mut given = given.clone();
        drop_nulls(&mut given);
        let mut faults = metadata(&given);
        for part in ["apiVersion", "kind", "metadata", "spec"] {
            if given.get(part).is_none() {
                faults.push(Fault::new(part, "expected, but not there"));
            }
        }
        if let Some(spec) = given.get("spec") {
            check(&self.schema["properties"]["spec"], spec, "spec", &mut faults);
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let given = with_defaults(&self.schema, &given);
        let old = old.and_then(|old| serde_json::to_value(old).ok()).map(|mut old| {
            drop_nulls(&mut old);
            old
        });
        if let Err(errors) = Validator::new().validate(&self.schema, &given, old.as_ref()) {
            return Err(errors.iter().map(|error| self.of_rule(error)).collect());
        }
        serde_json::from_value(given).map_err(|error| vec![Fault::new("spec", error.to_string())])
    }

    /// A rule's message names its field already, in words of its own; one that fails on a value of another type has none
    /// yet, and its own is found in the schema.
    fn of_rule(&self, error: &ValidationError) -> Fault {
        let field = error.field_path.trim_start_matches('.');
        let own = match error.kind {
            ErrorKind::EvaluationError => message_of(&self.schema, &error.rule),
            _ => None,
        };
        self.said_once(if field.is_empty() { "spec" } else { field }, own.unwrap_or(&error.message))
    }

    /// The field is where the rule stands; a message that begins with a field's name says it more exactly, or again.
    fn said_once(&self, field: &str, message: &str) -> Fault {
        let Some((named, rest)) = message.split_once(": ") else { return Fault::new(field, message) };
        if field == "spec" && named.starts_with("metadata.") {
            return Fault::new(named, rest);
        }
        if field == named || field.ends_with(&format!(".{named}")) {
            return Fault::new(field, rest);
        }
        let first = named.split(['.', '[']).next().unwrap_or(named);
        let is_below =
            field == "spec" && self.schema["properties"]["spec"]["properties"].get(first).is_some();
        if is_below { Fault::new(format!("spec.{named}"), rest) } else { Fault::new(field, message) }
    }
}

/// The message of `rule`, wherever in the schema it stands.
fn message_of<'a>(schema: &'a Value, rule: &str) -> Option<&'a str> {
    match schema {
        Value::Object(fields) if fields.get("rule").is_some_and(|own| own == rule) => {
            fields.get("message")?.as_str()
        }
        Value::Object(fields) => fields.values().find_map(|inner| message_of(inner, rule)),
        Value::Array(items) => items.iter().find_map(|inner| message_of(inner, rule)),
        _ => None,
    }
}

/// A null says that nothing is said.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// An object of Kubernetes' own, without its nulls. Of its rules those of its metadata alone are known here.
///
/// # Errors
/// Every [`Fault`] of its metadata.
pub fn admit_metadata(given: &Value) -> Result<Value, Vec<Fault>> {
    let mut given = given.clone();
    drop_nulls(&mut given);
    let faults = metadata(&given);
    if faults.is_empty() { Ok(given) } else { Err(faults) }
}

/// Whether `name` is of letters and digits, and within of `-`, `_` and `.` as well; at most 63 of them.
fn is_word(name: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= 63
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && ends(name.chars().next())
        && ends(name.chars().last())
}

/// What is wrong with the keys of `map`, which is `labels` or `annotations`, and with the values of labels.
fn entries(map: &str, given: &Value, faults: &mut Vec<Fault>) {
    for (key, value) in given.as_object().into_iter().flatten() {
        // The domain of an annotation may be spelled as one likes.
        let spelled = if map == "annotations" { key.to_ascii_lowercase() } else { key.clone() };
        let (domain, name) =
            spelled.split_once('/').map_or((None, spelled.as_str()), |(at, name)| (Some(at), name));
        let mut fault = |what: &str, got: &str| {
            let word = "letters, digits, -, _ and ., first and last a letter or digit, at most 63";
            faults
                .push(Fault::new(format!("metadata.{map}"), format!("{what}: expected {word}, got {got:?}")));
        };
        if !(domain.is_none_or(is_object_name) && is_word(name)) {
            fault("a key, after DOMAIN/ if any", key);
        }
        if let Some(text) =
            value.as_str().filter(|text| map == "labels" && !text.is_empty() && !is_word(text))
        {
            fault(&format!("the value of {key:?}"), text);
        }
    }
}

/// Names as the API server takes them.
fn metadata(given: &Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    let label = |name: &str, dots: bool| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || (dots && c == '.');
        (1..=if dots { 253 } else { 63 }).contains(&name.len())
            && name.chars().all(inner)
            && ends(name.chars().next())
            && ends(name.chars().last())
            && !name.split('.').any(|part| part.is_empty() || part.starts_with('-') || part.ends_with('-'))
    };
    let expected = "expected lower-case letters, digits and -, first and last a letter or digit";
    match given["metadata"].get("name") {
        Some(Value::String(name)) if label(name, true) => {}
        Some(other) => faults.push(Fault::new("metadata.name", format!("{expected}, got {}", shown(other)))),
        None => faults.push(Fault::new("metadata.name", "expected, but not there")),
    }
    match given["metadata"].get("namespace") {
        None => {}
        Some(Value::String(name)) if label(name, false) => {}
        Some(other) => {
            faults.push(Fault::new("metadata.namespace", format!("{expected}, got {}", shown(other))))
        }
    }
    let texts = serde_json::json!({"type": "object", "additionalProperties": {"type": "string"}});
    for map in ["labels", "annotations"] {
        if let Some(given) = given["metadata"].get(map) {
            check(&texts, given, &format!("metadata.{map}"), &mut faults);
            entries(map, given, &mut faults);
        }
    }
    faults
}

/// Fills in what is absent and has a default, from the outside in.
fn with_defaults(schema: &Value, given: &Value) -> Value {
    match given {
        Value::Object(fields) => {
            let mut fields = fields.clone();
            for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(default) = schema.get("default") {
                    fields.entry(name.clone()).or_insert_with(|| default.clone());
                }
            }
            let filled = fields.iter().map(|(name, value)| {
                let inner = schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
                (name.clone(), with_defaults(inner, value))
            });
            Value::Object(filled.collect())
        }
        Value::Array(items) => items.iter().map(|item| with_defaults(&schema["items"], item)).collect(),
        _ => given.clone(),
    }
}

/// Whether `given` is of the schema's shape.
fn check(schema: &Value, given: &Value, field: &str, faults: &mut Vec<Fault>) {
    let fault = |message: String| Fault::new(field, message);
    if schema["x-kubernetes-int-or-string"] == true {
        if !(given.is_string() || given.is_i64()) {
            faults.push(fault(format!("expected a number or a text, got {}", shown(given))));
        }
        return;
    }
    if let Some(all) = schema["enum"].as_array()
        && !all.contains(given)
    {
        let words: Vec<String> = all.iter().map(shown).collect();
        faults.push(fault(format!("expected one of {}, got {}", words.join(", "), shown(given))));
        return;
    }
    match (schema["type"].as_str(), given) {
        (Some("object"), Value::Object(fields)) => check_fields(schema, fields, field, faults),
        (Some("array"), Value::Array(items)) => {
            bounds(schema, "Items", items.len(), "items", field, faults);
            for (index, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{field}[{index}]"), faults);
            }
        }
        (Some("string"), Value::String(text)) => {
            bounds(schema, "Length", text.chars().count(), "characters", field, faults);
        }
        (Some("integer"), Value::Number(number)) if number.is_i64() || number.is_u64() => {
            range(schema, number.as_f64().unwrap_or_default(), field, faults);
        }
        (Some("number"), Value::Number(number)) => {
            range(schema, number.as_f64().unwrap_or_default(), field, faults);
        }
        (Some("boolean"), Value::Bool(_)) | (None, _) => {}
        (Some(expected), _) => {
            let article = if matches!(expected, "array" | "integer" | "object") { "an" } else { "a" };
            faults.push(fault(format!("expected {article} {expected}, got {}", shown(given))));
        }
    }
}

fn check_fields(schema: &Value, fields: &Map<String, Value>, field: &str, faults: &mut Vec<Fault>) {
    let known = schema["properties"].as_object();
    let further = schema.get("additionalProperties").filter(|further| further.is_object());
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true || known.is_none() && further.is_none();
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            faults.push(Fault::new(format!("{field}.{name}"), "expected, but not there"));
        }
    }
    if let Some(most) = schema["maxProperties"].as_u64().filter(|most| (fields.len() as u64) > *most) {
        faults.push(Fault::new(field, format!("expected at most {most} entries, got {}", fields.len())));
    }
    for (name, value) in fields {
        let path = format!("{field}.{name}");
        match known.and_then(|known| known.get(name)).or(further) {
            Some(schema) => check(schema, value, &path, faults),
            None if open => {}
            None => {
                let mut names: Vec<&str> =
                    known.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                names.sort_unstable();
                faults.push(Fault::new(path, format!("no such field; there are {}", names.join(", "))));
            }
        }
    }
}

/// `min…` and `max…` of a count.
fn bounds(schema: &Value, of: &str, count: usize, what: &str, field: &str, faults: &mut Vec<Fault>) {
    let count = count as u64;
    if let Some(least) = schema[format!("min{of}")].as_u64().filter(|least| count < *least) {
        faults.push(Fault::new(field, format!("expected at least {least} {what}, got {count}")));
    }
    if let Some(most) = schema[format!("max{of}")].as_u64().filter(|most| count > *most) {
        faults.push(Fault::new(field, format!("expected at most {most} {what}, got {count}")));
    }
}

fn range(schema: &Value, number: f64, field: &str, faults: &mut Vec<Fault>) {
    let least = schema["minimum"].as_f64().filter(|least| number < *least);
    let most = schema["maximum"].as_f64().filter(|most| number > *most);
    if let Some(least) = least {
        faults.push(Fault::new(field, format!("expected at least {least}, got {number}")));
    }
    if let Some(most) = most {
        faults.push(Fault::new(field, format!("expected at most {most}, got {number}")));
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 80 { text.chars().take(77).chain("...".chars()).collect() } else { text }
}

#[cfg(test)]
mod tests {
    use lorikeet_crds::{Adapter, Deployment};
    use serde_json::json;

    use super::*;

    fn adapter(change: impl FnOnce(&mut Value)) -> Value {
        let mut given = json!({
            "apiVersion": "lorikeet.dev/v1alpha1", "kind": "Adapter", "metadata": {"name": "sql"},
            "spec": {"deploymentRef": {"name": "x"}, "source": "hf://acme/sql"}
        });
        change(&mut given);
        given
    }

    fn admit(given: &Value, old: Option<&Adapter>) -> Result<Adapter, String> {
        let joined =
            |faults: Vec<Fault>| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Rules::of::<Adapter>().admit(given, old).map_err(joined)
    }

    #[test]
    fn a_good_object_gets_its_defaults() {
        let adapter = admit(&adapter(|_| {}), None).unwrap();
        assert_eq!(adapter.spec.placement.priority, 0);
        let given = json!({
            "apiVersion": "lorikeet.dev/v1alpha1", "kind": "Deployment", "metadata": {"name": "x"},
            "spec": {"model": {"source": "file:///x"}, "auth": null, "resources": {"limits": {"cpu": 2, "memory": "1Gi"}},
                     "adapters": {"gpuMemory": "1Gi"}}
        });
        let deployment: Deployment = Rules::of::<Deployment>().admit(&given, None).unwrap();
        assert_eq!(deployment.spec.adapters.host_memory.0, "16Gi");
        assert_eq!(deployment.spec.rollout.drain_seconds, 60);
    }

    #[test]
    fn what_the_api_server_refuses_is_refused_by_its_field() {
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 19] = [
            (
                |g| g["spec"]["soruce"] = json!("x"),
                "spec.soruce: no such field; there are baseModel, deploymentRef, digest",
            ),
            (|g| g["spec"]["source"] = json!("ftp://x/y"), "spec.source: expected one of hf://"),
            (|g| g["spec"]["source"] = json!(7), "spec.source: expected a string, got 7"),
            (|g| g["spec"]["source"] = json!("hf://a/../b"), "'..' is not allowed"),
            (
                |g| drop(g["spec"].as_object_mut().unwrap().remove("source")),
                "spec.source: expected, but not there",
            ),
            (|g| g["spec"]["digest"] = json!("sha256:12"), "digest: expected sha256: and 64"),
            (
                |g| g["spec"]["placement"] = json!({"replicas": "Some"}),
                "placement.replicas: expected All, Auto",
            ),
            (|g| g["spec"]["placement"] = json!({"replicas": 0}), "placement.replicas: expected All, Auto"),
            (
                |g| g["spec"]["placement"] = json!({"replicas": true}),
                "spec.placement.replicas: expected a number or",
            ),
            (
                |g| g["spec"]["placement"] = json!({"priority": 2_000_000}),
                "spec.placement.priority: expected at most",
            ),
            (
                |g| g["spec"]["placement"] = json!({"pinned": "yes"}),
                "spec.placement.pinned: expected a boolean",
            ),
            (|g| g["spec"] = json!([]), "spec: expected an object"),
            (
                |g| g["metadata"]["labels"] = json!({"": "x"}),
                "metadata.labels: a key, after DOMAIN/ if any: expected",
            ),
            (|g| g["metadata"]["labels"] = json!({"Acme.example/a": "x"}), "metadata.labels: a key"),
            (|g| g["metadata"]["labels"] = json!({"acme.example/": "x"}), "got \"acme.example/\""),
            (
                |g| g["metadata"]["labels"] = json!({"a": "x y"}),
                "metadata.labels: the value of \"a\": expected",
            ),
            (|g| g["metadata"]["annotations"] = json!({"b c": "x y"}), "metadata.annotations: a key"),
            (|g| g["metadata"]["name"] = json!("SQL"), "metadata.name: expected lower-case letters"),
            (|g| g["metadata"]["name"] = json!("a".repeat(64)), "metadata.name: at most 63 characters"),
        ];
        for (change, expected) in cases {
            let error = admit(&adapter(change), None).unwrap_err();
            assert!(error.contains(expected), "{expected:?} not in {error:?}");
        }
        let texts = adapter(|g| {
            g["metadata"]["labels"] = json!({"acme.example/a_B.c-1": "", "x": "V_1.2"});
            g["metadata"]["annotations"] = json!({"Acme.Example/note": "any text, at all"});
        });
        assert!(admit(&texts, None).is_ok());
    }

    #[test]
    fn a_deployment_has_a_name_that_a_service_can_have() {
        let named = |name: &str| {
            let given = json!({
                "apiVersion": "lorikeet.dev/v1alpha1", "kind": "Deployment", "metadata": {"name": name},
                "spec": {"model": {"source": "file:///x"}}
            });
            let admitted: Result<Deployment, Vec<Fault>> = Rules::of::<Deployment>().admit(&given, None);
            admitted.map(drop).map_err(|faults| faults[0].to_string())
        };
        for good in ["x", "mistral-7b", "a--b"] {
            assert_eq!(named(good), Ok(()), "{good}");
        }
        for bad in ["llama-3.1-8b", "7b-chat"] {
            let said = named(bad).unwrap_err();
            assert!(
                said.starts_with("metadata.name: expected lower-case letters, digits and -, first a letter"),
                "{said}"
            );
        }
    }

    #[test]
    fn what_must_not_change_is_compared_with_what_is_there() {
        let old = admit(&adapter(|_| {}), None).unwrap();
        assert!(admit(&adapter(|g| g["spec"]["source"] = json!("hf://acme/other")), Some(&old)).is_ok());
        let moved =
            admit(&adapter(|g| g["spec"]["deploymentRef"]["name"] = json!("y")), Some(&old)).unwrap_err();
        assert!(moved.contains("deploymentRef: cannot be changed"), "{moved}");
        let renamed = admit(&adapter(|g| g["spec"]["servedName"] = json!("y")), Some(&old)).unwrap_err();
        assert!(renamed.contains("servedName: cannot be changed"), "{renamed}");
    }
}
