//! The golden tokenizers written as a GGUF converter writes them, and read again.

use super::*;
use crate::gguf;
use crate::text::tokenizer::tests::{MODELS, cases, golden_json, ids};

/// The metadata that llama.cpp's converter makes of a golden model's tokenizer.
pub(crate) fn converted(model: &str) -> Metadata {
    let file = golden_json(model, "tokenizer.json");
    let sentencepiece = file["model"]["byte_fallback"] == true;
    let mut tokens: Vec<String> = Vec::new();
    let mut types: Vec<i64> = Vec::new();
    let mut put = |id: &Value, token: &str, kind: i64| {
        let id = usize::try_from(id.as_u64().unwrap()).unwrap();
        let filler = tokens.len()..tokens.len().max(id + 1);
        tokens.extend(filler.map(|id| format!("[PAD{id}]")));
        types.resize(tokens.len(), UNUSED);
        tokens[id] = token.to_owned();
        types[id] = kind;
    };
    for (token, id) in file["model"]["vocab"].as_object().unwrap() {
        let byte = sentencepiece && byte_token(token).is_some();
        put(id, token, if byte { BYTE } else { 1 });
    }
    for added in file["added_tokens"].as_array().unwrap() {
        let content = added["content"].as_str().unwrap();
        let kind = if added["special"] == true { CONTROL } else { USER_DEFINED };
        put(&added["id"], content, if content == "<unk>" { UNKNOWN } else { kind });
    }
    // As many as the model is wide.
    put(&json!(355), "[PAD355]", UNUSED);
    let merges: Vec<(String, String)> = serde_json::from_value(file["model"]["merges"].clone()).unwrap();
    let mut metadata = Metadata::default();
    let mut insert = |key: &str, value| metadata.insert(format!("tokenizer.ggml.{key}"), value).unwrap();
    if sentencepiece {
        let rank = |token: &String| merges.iter().position(|(l, r)| format!("{l}{r}") == *token);
        let scores = tokens.iter().map(|token| rank(token).map_or(-1e6, |rank| -(rank as f32)));
        insert("scores", gguf::Value::Array(gguf::Array::Floats(scores.collect())));
        insert("model", gguf::Value::Text("llama".into()));
        insert("add_space_prefix", gguf::Value::Bool(!model.starts_with("gemma")));
    } else {
        let merges = merges.iter().map(|(l, r)| format!("{l} {r}")).collect();
        insert("merges", gguf::Value::Array(gguf::Array::Texts(merges)));
        insert("model", gguf::Value::Text("gpt2".into()));
        let pre = match model {
            "phi" => "phi-2",
            qwen if qwen.starts_with("qwen") => "qwen2",
            _ => "llama-bpe",
        };
        insert("pre", gguf::Value::Text(pre.into()));
    }
    let tokenizer_config = golden_json(model, "tokenizer_config.json");
    for (key, name) in [("bos_token_id", "bos_token"), ("eos_token_id", "eos_token")] {
        if let Some(content) = tokenizer_config[name].as_str() {
            let id = tokens.iter().position(|token| token == content).unwrap();
            insert(key, gguf::Value::Unsigned(id as u64));
        }
    }
    if let Some(add) = tokenizer_config["add_bos_token"].as_bool() {
        insert("add_bos_token", gguf::Value::Bool(add));
    }
    insert("tokens", gguf::Value::Array(gguf::Array::Texts(tokens)));
    insert("token_type", gguf::Value::Array(gguf::Array::Integers(types)));
    if let Some(template) = tokenizer_config["chat_template"].as_str() {
        metadata.insert("tokenizer.chat_template".into(), gguf::Value::Text(template.into())).unwrap();
    }
    let architecture = model.trim_end_matches("_bf16").to_owned();
    metadata.insert("general.architecture".into(), gguf::Value::Text(architecture)).unwrap();
    metadata
}

#[test]
fn a_converted_tokenizer_gives_the_ids_of_the_original() {
    for model in MODELS {
        let (tokenizer, _) = Tokenizer::from_gguf(&converted(model)).unwrap();
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
        for case in golden_json(model, "cases.json")["cases"].as_array().unwrap() {
            assert_eq!(
                tokenizer.decode(&ids(&case["greedy_ids"]), true),
                case["greedy_text"].as_str().unwrap(),
                "{model}"
            );
        }
        assert!(!tokenizer.knows(355), "{model}");
    }
}

fn refusal(change: impl FnOnce(&mut Vec<(String, gguf::Value)>)) -> String {
    let metadata = converted("llama_gqa");
    let mut values: Vec<_> =
        metadata.keys().map(|key| (key.to_owned(), metadata.get(key).unwrap().clone())).collect();
    change(&mut values);
    let mut changed = Metadata::default();
    for (key, value) in values {
        changed.insert(key, value).unwrap();
    }
    Tokenizer::from_gguf(&changed).unwrap_err().to_string()
}

fn set(key: &'static str, value: gguf::Value) -> impl FnOnce(&mut Vec<(String, gguf::Value)>) {
    move |values| {
        values.retain(|(known, _)| known != key);
        values.push((key.to_owned(), value));
    }
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let text = |text: &str| gguf::Value::Text(text.into());
    let texts = |texts: &[&str]| {
        gguf::Value::Array(gguf::Array::Texts(texts.iter().map(ToString::to_string).collect()))
    };
    assert!(
        refusal(set("tokenizer.ggml.model", text("t5")))
            .contains("tokenizer.ggml.model: \"t5\" is not supported")
    );
    assert!(
        refusal(set("tokenizer.ggml.pre", text("babel")))
            .contains("tokenizer.ggml.pre: \"babel\" is not known; these are: default")
    );
    assert!(
        refusal(set("tokenizer.ggml.merges", texts(&["ab"])))
            .contains("tokenizer.ggml.merges: expected two tokens")
    );
    assert!(
        refusal(set("tokenizer.ggml.bos_token_id", gguf::Value::Unsigned(9999)))
            .contains("tokenizer.ggml.bos_token_id: 9999")
    );
    assert!(
        refusal(set("tokenizer.ggml.token_type", gguf::Value::Array(gguf::Array::Integers(vec![1]))))
            .contains("token_type: expected 356")
    );
    assert!(refusal(set("tokenizer.ggml.model", text("llama"))).contains("tokenizer.ggml.scores"));
    assert!(
        refusal(|values| values.retain(|(key, _)| key != "tokenizer.ggml.tokens"))
            .contains("tokenizer.ggml.tokens")
    );
    assert!(refusal(set("tokenizer.ggml.tokens", gguf::Value::Bool(true))).contains("tokenizer.ggml.tokens"));
    let twice = refusal(|values| {
        values.retain(|(key, _)| key != "tokenizer.ggml.token_type" && key != "tokenizer.ggml.tokens");
        values.push(("tokenizer.ggml.tokens".into(), texts(&["a", "b", "a"])));
    });
    assert!(twice.contains("\"a\" is there twice, as 0 and as 2"), "{twice}");
}

/// The ids that llama.cpp's server gave for the same file (`tests/fixtures/smollm2_tokens.json`). `make test` fetches the
/// model; without it there is nothing to compare.
#[test]
fn the_real_model_has_the_ids_that_llama_cpp_gives() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let Ok(file) = gguf::GgufFile::open(
        &root.join(".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"),
        &gguf::Limits::default(),
    ) else {
        println!("skipped: .cache/models has no SmolLM2");
        return;
    };
    let (tokenizer, special) = Tokenizer::from_gguf(file.metadata()).unwrap();
    assert_eq!((tokenizer.vocabulary(), special.bos.as_deref()), (49_152, Some("<|im_start|>")));
    let cases = std::fs::read(root.join("tests/fixtures/smollm2_tokens.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&cases).unwrap();
    for case in &cases {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, true).unwrap(), ids(&case["ids"]), "{text:?}");
        assert_eq!(tokenizer.decode(&ids(&case["ids"]), false), text);
    }
}
