//! Every spelling of the golden suite's models, and single fields changed in one good file.

use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::model::config::{Activation, NormKind};

fn golden(model: &str, file: &str) -> Map<String, Value> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden");
    serde_json::from_slice(&std::fs::read(root.join(model).join(file)).unwrap()).unwrap()
}

fn parsed(object: &Map<String, Value>) -> Result<ModelConfig, ConfigError> {
    parse(&serde_json::to_vec(object).unwrap())
}

/// The good file with some fields changed.
fn changed(model: &str, file: &str, changes: Value) -> Result<ModelConfig, ConfigError> {
    let mut object = golden(model, file);
    for (key, value) in changes.as_object().unwrap() {
        object.insert(key.clone(), value.clone());
    }
    parsed(&object)
}

#[track_caller]
fn refused(model: &str, changes: Value, words: &[&str]) {
    let message = changed(model, "config.classic.json", changes).unwrap_err().to_string();
    for word in words {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
}

#[test]
fn three_spellings_of_every_model_say_the_same() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden");
    let suite: Value = serde_json::from_slice(&std::fs::read(root.join("suite.json")).unwrap()).unwrap();
    for model in suite["models"].as_array().unwrap() {
        let name = model["dir"].as_str().unwrap();
        let hub = parsed(&golden(name, "config.json")).unwrap();
        assert_eq!(parsed(&golden(name, "config.classic.json")).unwrap(), hub, "{name}: classic");
        assert_eq!(parsed(&golden(name, "config.v5.json")).unwrap(), hub, "{name}: transformers 5");
        assert_eq!(hub.hidden, model["hidden"].as_u64().unwrap() as usize);
        assert_eq!(hub.kv_heads, model["kv_heads"].as_u64().unwrap() as usize);
    }
}

#[test]
fn an_unknown_architecture_is_refused_with_its_name_and_the_list() {
    refused("llama_gqa", json!({"model_type": "mixtral"}), &["mixtral", "llama", "qwen3"]);
    refused("llama_gqa", json!({"architectures": ["LlamaForSequenceClassification"]}), &["LlamaForSequence"]);
    refused("llama_gqa", json!({"model_type": null, "architectures": ["FalconForCausalLM"]}), &["Falcon"]);
    assert!(parse(b"[]").unwrap_err().to_string().contains("config.json"));
    assert!(parse(b"{}").unwrap_err().to_string().contains("model_type: missing"));
    let mut object = golden("llama_gqa", "config.json");
    object.remove("model_type");
    assert_eq!(parsed(&object).unwrap().family, Family::Llama);
}

#[test]
fn values_that_would_change_the_results_are_refused_by_name() {
    refused("llama_gqa", json!({"hidden_act": "gelu"}), &["hidden_act", "gelu", "silu"]);
    for kind in ["yarn", "dynamic", "longrope", "su", "mrope", "ntk"] {
        refused(
            "llama_gqa",
            json!({"rope_scaling": {"type": kind, "factor": 2.0}}),
            &["rope_type", kind, "llama3"],
        );
        refused(
            "llama_gqa",
            json!({"rope_parameters": {"rope_type": kind, "factor": 2.0}}),
            &["rope_type", kind],
        );
    }
    refused(
        "llama_gqa",
        json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
        &["rope_type"],
    );
    refused("llama_gqa", json!({"partial_rotary_factor": 0.5}), &["partial_rotary_factor"]);
    refused("llama_gqa", json!({"sliding_window": 16}), &["sliding_window", "16"]);
    refused(
        "llama_gqa",
        json!({"quantization_config": {"quant_method": "gptq"}}),
        &["quantization_config", "gptq"],
    );
    refused("llama_gqa", json!({"layer_types": ["full_attention", "sliding_attention"]}), &["layer_types"]);
    refused(
        "llama_gqa",
        json!({"layer_types": ["full_attention", "linear_attention"]}),
        &["linear_attention"],
    );
    refused("mistral_sw", json!({"attention_bias": true}), &["attention_bias", "mistral"]);
    refused("phi", json!({"qk_layernorm": true}), &["qk_layernorm"]);
    refused("phi3", json!({"rope_scaling": {"type": "longrope", "long_factor": [1.0]}}), &["longrope"]);
    refused("gemma", json!({"hidden_activation": "gelu"}), &["hidden_activation"]);
    refused("gemma", json!({"use_bidirectional_attention": true}), &["use_bidirectional_attention"]);
    refused("gemma", json!({"final_logit_softcapping": 30.0}), &["final_logit_softcapping"]);
}

#[test]
fn fields_of_the_wrong_type_or_range_are_refused_with_what_came() {
    for (field, value) in [
        ("hidden_size", json!(-64)),
        ("hidden_size", json!(64.5)),
        ("hidden_size", json!("64")),
        ("hidden_size", json!(0)),
        ("vocab_size", json!(1u64 << 40)),
        ("rms_norm_eps", json!("small")),
        ("rms_norm_eps", json!(0.0)),
        ("rope_theta", json!(0)),
        ("tie_word_embeddings", json!("yes")),
        ("attention_bias", json!(1)),
        ("num_key_value_heads", json!(3)),
        ("head_dim", json!(15)),
    ] {
        let mut changes = Map::new();
        changes.insert(field.to_owned(), value.clone());
        let message = changed("llama_gqa", "config.classic.json", changes.into()).unwrap_err().to_string();
        assert!(message.contains(field) || message.contains("norm eps"), "{field}: {value}: {message}");
    }
    let mut object = golden("llama_gqa", "config.json");
    object.remove("intermediate_size");
    assert!(parsed(&object).unwrap_err().to_string().contains("intermediate_size: missing"));
    let both = json!({"rope_theta": 10000.0, "rope_parameters": {"rope_theta": 500000.0}});
    refused("llama_gqa", both, &["rope_theta", "500000", "10000"]);
}

#[test]
fn mistral_slides_by_default_and_null_is_no_window() {
    let mut object = golden("mistral_sw", "config.classic.json");
    assert_eq!(parsed(&object).unwrap().windows, [Some(16), Some(16)]);
    object.insert("sliding_window".to_owned(), Value::Null);
    assert_eq!(parsed(&object).unwrap().windows, [None, None]);
    object.remove("sliding_window");
    assert_eq!(parsed(&object).unwrap().windows, [Some(4096), Some(4096)]);
}

#[test]
fn qwen2_slides_only_where_it_is_switched_on() {
    let windows = |changes| changed("qwen2", "config.classic.json", changes).unwrap().windows;
    assert_eq!(windows(json!({})), [None; 3]);
    assert_eq!(windows(json!({"use_sliding_window": true})), [None, Some(8), Some(8)]);
    assert_eq!(windows(json!({"use_sliding_window": true, "max_window_layers": 0})), [Some(8); 3]);
}

#[test]
fn families_bring_what_their_files_leave_out() {
    let gemma2 = parsed(&golden("gemma2", "config.classic.json")).unwrap();
    assert_eq!(gemma2.norm, NormKind::Rms { unit_offset: true });
    assert_eq!(gemma2.windows, [Some(12), None, Some(12)]);
    assert!(gemma2.tied_head && gemma2.attention_cap == Some(4.0) && gemma2.logit_cap == Some(6.0));
    assert!((gemma2.attention_scale - 1.0 / 24f32.sqrt()).abs() < 1e-7);
    let phi = parsed(&golden("phi", "config.classic.json")).unwrap();
    assert_eq!((phi.head_dim, phi.rope.rotary_dim, phi.kv_heads), (20, 8, 3));
    assert_eq!(phi.activation, Activation::GeluTanh);
    let llama =
        changed("llama_gqa", "config.json", json!({"attention_bias": true, "mlp_bias": true})).unwrap();
    assert!(llama.biases.qkv && llama.biases.output && llama.biases.mlp && !llama.biases.head);
    let linear = json!({"rope_scaling": {"type": "linear", "factor": 4.0}});
    let linear = changed("llama_gqa", "config.classic.json", linear).unwrap();
    assert_eq!(linear.rope.scaling, RopeScaling::Linear { factor: 4.0 });
}
