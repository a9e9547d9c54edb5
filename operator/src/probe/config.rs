//! `adapter_config.json`, as far as a Deployment's limits go: rank and base model. Pure.
//!
//! Refuses what every replica refuses for the same reason. Settings that replicas support or not are theirs to judge.

use serde_json::{Map, Value};

use crate::fleet::{AdapterFacts, ConfigFault, Probe};

/// The longest configuration that is read, here and by replicas.
pub const MAX_BYTES: usize = lorikeet_api::MAX_CONFIG_BYTES;

/// What the configuration `json` says.
#[must_use]
pub fn read(json: &[u8]) -> Probe {
    if json.len() > MAX_BYTES {
        return Probe::Faulty(ConfigFault::TooLong { limit: MAX_BYTES as u64 });
    }
    let config = match serde_json::from_slice(json) {
        Ok(Value::Object(config)) => config,
        Ok(other) => return Probe::Faulty(ConfigFault::NotAnObject(kind(&other))),
        Err(error) => return Probe::Faulty(ConfigFault::NotJson(error.to_string())),
    };
    match config.get("peft_type") {
        Some(Value::String(name)) if name == "LORA" => {}
        // Other methods have other settings; replicas name what they do not support.
        _ => return Probe::Unjudged("its peft_type is not LORA".to_owned()),
    }
    match greatest_rank(&config) {
        Ok((rank_field, rank)) => {
            let base_model = config.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned);
            Probe::Facts(AdapterFacts { rank, rank_field, base_model, bytes: None })
        }
        Err(fault) => Probe::Faulty(fault),
    }
}

/// The greatest of `r` and the ranks of `rank_pattern`, with its field.
fn greatest_rank(config: &Map<String, Value>) -> Result<(String, u64), ConfigFault> {
    let null = Value::Null;
    let mut greatest = ("r".to_owned(), rank("r", config.get("r").unwrap_or(&null))?);
    let patterns = match config.get("rank_pattern").unwrap_or(&null) {
        Value::Null => return Ok(greatest),
        Value::Object(patterns) => patterns,
        other => return Err(invalid("rank_pattern", "an object", other)),
    };
    for (module, value) in patterns {
        let field = format!("rank_pattern.{}", shortened(module));
        let rank = rank(&field, value)?;
        if rank > greatest.1 {
            greatest = (field, rank);
        }
    }
    Ok(greatest)
}

fn rank(field: &str, value: &Value) -> Result<u64, ConfigFault> {
    value
        .as_u64()
        .filter(|rank| *rank > 0)
        .ok_or_else(|| invalid(field, "a rank: a whole number from 1", value))
}

fn invalid(field: &str, expected: &'static str, got: &Value) -> ConfigFault {
    ConfigFault::Invalid { field: field.to_owned(), expected, got: shortened(&got.to_string()) }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_owned(),
    }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(json: &str) -> AdapterFacts {
        match read(json.as_bytes()) {
            Probe::Facts(facts) => facts,
            other => panic!("{other:?}"),
        }
    }

    fn fault(json: &str) -> String {
        match read(json.as_bytes()) {
            Probe::Faulty(fault) => fault.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_greatest_rank_counts_wherever_it_is() {
        let plain = facts(r#"{"peft_type": "LORA", "r": 8, "base_model_name_or_path": "a/b"}"#);
        assert_eq!((plain.rank, plain.rank_field.as_str()), (8, "r"));
        assert_eq!(plain.base_model.as_deref(), Some("a/b"));
        let pattern = facts(r#"{"peft_type": "LORA", "r": 8, "rank_pattern": {"q_proj": 64, "v_proj": 4}}"#);
        assert_eq!((pattern.rank, pattern.rank_field.as_str()), (64, "rank_pattern.q_proj"));
        assert_eq!(pattern.base_model, None);
    }

    #[test]
    fn what_no_replica_takes_is_a_fault_that_names_field_and_value() {
        for (json, parts) in [
            ("{", &["expected JSON"][..]),
            ("[]", &["expected a JSON object", "a list"]),
            (r#"{"peft_type": "LORA"}"#, &["r:", "whole number from 1", "null"]),
            (r#"{"peft_type": "LORA", "r": 0}"#, &["r:", "got 0"]),
            (r#"{"peft_type": "LORA", "r": "8"}"#, &["r:", "got \"8\""]),
            (r#"{"peft_type": "LORA", "r": 8, "rank_pattern": {"q": -1}}"#, &["rank_pattern.q", "got -1"]),
            (r#"{"peft_type": "LORA", "r": 8, "rank_pattern": []}"#, &["rank_pattern", "an object"]),
        ] {
            let said = fault(json);
            assert!(parts.iter().all(|part| said.contains(part)), "{json}: {said}");
        }
        let long = format!(r#"{{"x": "{}"}}"#, "x".repeat(MAX_BYTES));
        assert!(fault(&long).contains("at most 1048576 bytes"));
    }

    #[test]
    fn another_method_is_for_the_replicas_to_judge() {
        for json in [r#"{"peft_type": "PROMPT_TUNING"}"#, "{}", r#"{"peft_type": 1, "r": 1}"#] {
            assert!(matches!(read(json.as_bytes()), Probe::Unjudged(_)), "{json}");
        }
    }
}
