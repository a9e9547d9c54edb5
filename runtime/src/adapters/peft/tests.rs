//! What a configuration means and why one is refused: one good fixture, broken one field at a time.

use serde_json::json;

use super::*;

fn good() -> Value {
    json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]})
}

fn with(field: &str, value: Value) -> Result<Peft, PeftError> {
    let mut config = good();
    config[field] = value;
    Peft::parse(config.to_string().as_bytes(), 64)
}

#[test]
fn the_scale_is_alpha_over_rank_or_over_its_root() {
    assert_eq!(with("r", json!(4)).unwrap().scale_of("x"), 4.0);
    assert_eq!(with("use_rslora", json!(true)).unwrap().scale_of("x"), 16.0 / 8.0_f64.sqrt());
}

#[test]
fn the_first_pattern_that_matches_wins() {
    let peft = with("rank_pattern", json!({"layers\\.1\\.self_attn\\.q_proj": 2, "q_proj": 4})).unwrap();
    assert_eq!(peft.rank_of("model.layers.1.self_attn.q_proj"), 2);
    assert_eq!(peft.rank_of("model.layers.0.self_attn.q_proj"), 4);
    assert_eq!(peft.rank_of("model.layers.0.self_attn.v_proj"), 8);
    assert_eq!(peft.rank_of("model.layers.0.self_attn.xq_proj"), 8);
}

#[test]
fn a_name_targets_the_modules_that_end_in_it() {
    let modules = with("exclude_modules", json!(["layers.0.self_attn.v_proj"])).unwrap().modules;
    assert!(modules.target("model.layers.0.self_attn.q_proj", false));
    assert!(!modules.target("model.layers.0.self_attn.v_proj", false));
    assert!(modules.target("model.layers.1.self_attn.v_proj", false));
    assert!(!modules.target("model.layers.0.self_attn.qq_proj", false));
}

#[test]
fn an_expression_targets_whole_paths_alone() {
    let modules = with("target_modules", json!(r".*\.1\.(q|v)_proj")).unwrap().modules;
    assert!(modules.target("model.layers.1.q_proj", false));
    assert!(!modules.target("model.layers.1.q_proj.x", false));
    assert!(!modules.target("model.layers.0.q_proj", false));
}

#[test]
fn layers_limit_a_list_of_names() {
    for (layers, expected) in
        [(json!([1]), [false, true]), (json!(0), [true, false]), (json!([]), [true, true])]
    {
        let modules = with("layers_to_transform", layers).unwrap().modules;
        for (layer, expected) in expected.into_iter().enumerate() {
            assert_eq!(modules.target(&format!("model.layers.{layer}.self_attn.q_proj"), false), expected);
        }
    }
}

#[test]
fn all_linear_leaves_the_head_and_the_embedding_alone() {
    let modules = with("target_modules", json!("all-linear")).unwrap().modules;
    assert!(modules.target("model.layers.0.mlp.down_proj", false));
    assert!(!modules.target("lm_head", true));
    assert!(!modules.target("model.embed_tokens", false));
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (field, value) in [
        ("modules_to_save", json!(["lm_head"])),
        ("bias", json!("lora_only")),
        ("layer_replication", json!([[0, 1]])),
        ("trainable_token_indices", json!([3])),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("task_type", json!("SEQ_CLS")),
        ("use_something_of_2027", json!(true)),
    ] {
        let error = with(field, value).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
        assert_eq!(error.code(), ErrorCode::UnsupportedFeature);
    }
    assert_eq!(with("peft_type", json!("IA3")).unwrap_err().code(), ErrorCode::UnsupportedFeature);
}

#[test]
fn a_bad_value_is_refused_with_the_field_and_what_came() {
    for (field, value) in [
        ("r", json!(0)),
        ("r", json!(-4)),
        ("r", json!(4.5)),
        ("r", json!("8")),
        ("r", Value::Null),
        ("r", json!(65)),
        ("lora_alpha", json!("8")),
        ("lora_alpha", json!(1e39)),
        ("lora_alpha", json!(true)),
        ("target_modules", Value::Null),
        ("target_modules", json!([1])),
        ("target_modules", json!("(")),
        ("target_modules", json!("(?=look)ahead")),
        ("target_modules", json!("(((a{999}){999}){999})")),
        ("layers_to_transform", json!("x")),
        ("rank_pattern", json!({"q_proj": 0})),
        ("use_dora", json!("yes")),
    ] {
        let error = with(field, value.clone()).unwrap_err().to_string();
        assert!(error.contains(field), "{field}: {value}: {error}");
    }
}

#[test]
fn a_missing_alpha_is_pefts_own_default() {
    let mut config = good();
    config.as_object_mut().unwrap().remove("lora_alpha");
    assert_eq!(Peft::parse(config.to_string().as_bytes(), 64).unwrap().alpha, 8.0);
}

#[test]
fn a_report_tells_the_base_model_that_is_named_and_none_that_is_too_long() {
    let told = |value: Value| {
        with("base_model_name_or_path", value).map(|peft| peft.told_base_model().to_owned()).unwrap()
    };
    let longest = "m".repeat(lorikeet_api::MAX_BASE_MODEL_BYTES);
    for (named, expected) in [
        (json!("acme/base"), "acme/base"),
        (json!(longest), longest.as_str()),
        (json!(format!("{longest}m")), ""),
        (json!(""), ""),
        (Value::Null, ""),
    ] {
        assert_eq!(told(named), expected);
    }
}
