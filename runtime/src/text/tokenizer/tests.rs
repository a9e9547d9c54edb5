//! The golden tokenizers: ids and texts as transformers gives them.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

pub(crate) const MODELS: [&str; 13] = [
    "gemma",
    "gemma2",
    "llama2_mha",
    "llama3_rope",
    "llama3_rope_bf16",
    "llama_gqa",
    "mistral_sw",
    "mistral_v02",
    "phi",
    "phi3",
    "qwen2",
    "qwen2_bf16",
    "qwen3",
];

pub(crate) fn golden(model: &str, file: &str) -> Vec<u8> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden").join(model).join(file);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn golden_json(model: &str, file: &str) -> Value {
    serde_json::from_slice(&golden(model, file)).unwrap()
}

pub(crate) fn golden_tokenizer(model: &str) -> Tokenizer {
    let special = SpecialTokens::parse(
        &golden_json(model, "tokenizer_config.json"),
        &golden_json(model, "special_tokens_map.json"),
    );
    Tokenizer::from_json(&golden(model, "tokenizer.json"), &special.unwrap()).unwrap()
}

/// `tokenizer_cases.json`; the two models in bf16 share their sibling's tokenizer and have none of their own.
pub(crate) fn cases(model: &str) -> Value {
    golden_json(model.trim_end_matches("_bf16"), "tokenizer_cases.json")
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

#[test]
fn every_golden_text_has_the_ids_and_the_text_of_the_reference() {
    for model in MODELS {
        let tokenizer = golden_tokenizer(model);
        for case in cases(model)["encode"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, true).unwrap(), ids(&case["ids"]), "{model}: {text:?}");
            assert_eq!(
                tokenizer.encode(text, false).unwrap(),
                ids(&case["ids_no_special"]),
                "{model}: {text:?}"
            );
            assert_eq!(
                tokenizer.decode(&ids(&case["ids"]), true),
                case["decoded"].as_str().unwrap(),
                "{model}: {text:?}"
            );
        }
    }
}

#[test]
fn decoding_is_the_crates_own_token_by_token_and_in_all() {
    for model in MODELS {
        let tokenizer = golden_tokenizer(model);
        assert_ne!(*tokenizer.decoding(), Decoding::Window, "{model}");
        for id in 0..tokenizer.vocabulary() as u32 + 3 {
            for skip in [false, true] {
                assert_eq!(
                    tokenizer.decode(&[id], skip),
                    tokenizer.decode_slowly(&[id], skip),
                    "{model}: {id}"
                );
            }
        }
        let all: Vec<u32> = (0..tokenizer.vocabulary() as u32).collect();
        assert_eq!(tokenizer.decode(&all, false), tokenizer.decode_slowly(&all, false), "{model}");
    }
}

#[test]
fn ids_that_only_the_model_has_are_nothing() {
    let tokenizer = golden_tokenizer("qwen2");
    assert_eq!(tokenizer.vocabulary(), 336);
    for id in [336, 351, u32::MAX] {
        assert!(!tokenizer.knows(id));
        assert_eq!((tokenizer.decode(&[id], false), tokenizer.piece_bytes(id)), (String::new(), &[][..]));
    }
}

#[test]
fn a_token_has_its_real_bytes() {
    let bytes = golden_tokenizer("llama_gqa");
    let emoji = bytes.encode("🙂", false).unwrap();
    assert_eq!(
        emoji.iter().flat_map(|&id| bytes.piece_bytes(id).to_vec()).collect::<Vec<_>>(),
        "🙂".as_bytes()
    );
    assert_eq!(bytes.piece(emoji[0]), "\u{fffd}");
    let sentence = golden_tokenizer("llama2_mha");
    let ids = sentence.encode("the ß", false).unwrap();
    assert_eq!(
        ids.iter().flat_map(|&id| sentence.piece_bytes(id).to_vec()).collect::<Vec<_>>(),
        " the ß".as_bytes()
    );
    let special = sentence.id_of("</s>").unwrap();
    assert!(sentence.is_special(special) && !sentence.is_special(ids[0]));
    assert_eq!(sentence.piece(special), "</s>");
}

#[test]
fn the_configuration_decides_whether_a_beginning_and_an_end_are_added() {
    let file = golden("llama_gqa", "tokenizer.json");
    let with = |add_bos, add_eos| {
        let (bos, eos) = (Some("<|begin_of_text|>".to_owned()), Some("<|end_of_text|>".to_owned()));
        let special = SpecialTokens { bos, eos, add_bos, add_eos, ..SpecialTokens::default() };
        Tokenizer::from_json(&file, &special).unwrap().encode("A", true).unwrap()
    };
    assert_eq!(with(None, None), [334, 32]);
    assert_eq!(with(Some(false), None), [32]);
    assert_eq!(with(None, Some(true)), [334, 32, 335]);
    assert_eq!(with(Some(false), Some(true)), [32, 335]);
    // No post-processor at all, and a beginning asked for.
    let mut file: Value = serde_json::from_slice(&file).unwrap();
    file["post_processor"] = Value::Null;
    let special = SpecialTokens {
        bos: Some("<|begin_of_text|>".into()),
        add_bos: Some(true),
        ..SpecialTokens::default()
    };
    let tokenizer = Tokenizer::from_json(file.to_string().as_bytes(), &special).unwrap();
    assert_eq!(tokenizer.encode("A", true).unwrap(), [334, 32]);
}

#[test]
fn settings_of_training_are_dropped() {
    let mut file: Value = golden_json("llama_gqa", "tokenizer.json");
    file["truncation"] =
        json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
    file["model"]["dropout"] = json!(0.5);
    let tokenizer = Tokenizer::from_json(file.to_string().as_bytes(), &SpecialTokens::default()).unwrap();
    let plain = golden_tokenizer("llama_gqa");
    for text in ["The wind over the harbour", "x"] {
        assert_eq!(tokenizer.encode(text, true).unwrap(), plain.encode(text, true).unwrap());
    }
}

#[test]
fn a_malformed_file_is_an_error_and_not_a_panic() {
    let good = golden("llama2_mha", "tokenizer.json");
    for bytes in
        [&b""[..], b"{}", b"[]", b"null", b"{\"decoder\":[}}}", &good[..good.len() / 2], &[0xFF, 0xFE]]
    {
        let error = Tokenizer::from_json(bytes, &SpecialTokens::default()).unwrap_err();
        assert!(error.to_string().starts_with("tokenizer.json: "), "{error}");
    }
    let large = vec![b' '; MAX_FILE_BYTES + 1];
    assert!(matches!(
        Tokenizer::from_json(&large, &SpecialTokens::default()),
        Err(TokenizerError::TooLarge { .. })
    ));
    let mut file = golden_json("llama2_mha", "tokenizer.json");
    file["added_tokens"][2]["content"] = json!("<far away>");
    file["model"]["vocab"]["<far away>"] = json!(4_000_000_000_u32);
    assert!(matches!(
        Tokenizer::from_json(file.to_string().as_bytes(), &SpecialTokens::default()),
        Err(TokenizerError::TooManyTokens { .. })
    ));
}
