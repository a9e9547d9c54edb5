//! The golden models and adapters, and what is wrong with the bad ones.

use std::path::PathBuf;

use serde_json::Value;

use super::*;

fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden").join(path)
}

fn said(path: &str, model: Option<&str>, json: bool) -> (bool, String) {
    let (path, model) = (golden(path), model.map(golden));
    let inspection =
        Inspection { path: &path, model: model.as_deref(), limits: AdapterLimits::new(256, 8 << 30), json };
    let mut out = Vec::new();
    let accepted = run(&inspection, &mut out).unwrap();
    (accepted, String::from_utf8(out).unwrap())
}

#[test]
fn every_golden_model_is_described() {
    for model in crate::text::tokenizer::tests::MODELS {
        let (accepted, text) = said(model, None, true);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(accepted && value["accepted"] == true && value["kind"] == "model", "{model}: {text}");
        assert!(value["parameters"].as_u64().unwrap() > 10_000, "{model}: {text}");
        assert_eq!(
            value["weight_bytes"].as_u64().unwrap() % value["parameters"].as_u64().unwrap(),
            0,
            "{model}"
        );
    }
    let (_, text) = said("mistral_sw", None, false);
    assert!(text.contains("architecture   mistral\n") && text.contains("BPE, byte-level"), "{text}");
}

#[test]
fn every_golden_adapter_is_described_and_fits_its_model() {
    for model in crate::text::tokenizer::tests::MODELS {
        for entry in std::fs::read_dir(golden(model).join("adapters")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let cases = crate::text::tokenizer::tests::golden_json(model, "cases.json");
            let path = format!("{model}/adapters/{name}");
            let (accepted, text) = said(&path, Some(model), true);
            let value: Value = serde_json::from_str(&text).unwrap();
            if cases["adapters"][&name]["expect"] == "ok" {
                assert!(accepted, "{path}: {text}");
                let modules = cases["adapters"][&name]["modules"].as_object().unwrap();
                let found: u64 =
                    value["modules"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
                assert_eq!(found, modules.len() as u64, "{path}");
                assert!(value["fits"]["memory_bytes"].as_u64().unwrap() > 0);
            } else {
                assert!(accepted || value["reason"].is_string(), "{path}: {text}");
            }
        }
    }
}

#[test]
fn every_invalid_adapter_is_refused_with_the_message_of_serving() {
    let bad = std::fs::read_dir(golden("bad")).unwrap();
    let mut refused = 0;
    for name in bad
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".json"))
    {
        let (accepted, text) = said(&format!("bad/{name}"), Some("llama_gqa"), false);
        if !accepted {
            assert!(text.starts_with("refused: ") && text.len() > 30, "{name}: {text}");
            refused += 1;
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn an_adapter_of_another_model_does_not_fit() {
    let adapters = golden("llama_gqa/adapters");
    let name =
        std::fs::read_dir(adapters).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    let (accepted, text) = said(&format!("llama_gqa/adapters/{name}"), Some("phi"), false);
    assert!(!accepted && text.starts_with("refused: "), "{text}");
}

#[test]
fn what_is_nothing_is_refused() {
    let (accepted, text) = said("", None, false);
    assert!(!accepted && text.starts_with("refused: "), "{text}");
    let (accepted, text) = said("no/such/place", None, true);
    assert!(!accepted && text.contains("\"accepted\": false"), "{text}");
    for (path, expected) in [
        ("no/such/place", "no/such/place: not found"),
        ("llama_gqa", "this is a model"),
        ("bad", "adapter_config.json: not found"),
        ("llama_gqa/config.json", "expected the directory of an adapter"),
    ] {
        let (accepted, text) = said(path, Some("phi"), false);
        assert!(!accepted && text.contains(expected), "{path}: {text}");
    }
}
