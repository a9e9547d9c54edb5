//! LoRAX's endpoints, against a scripted engine.

use serde_json::json;

use super::*;

fn ask(extra: &Value) -> Value {
    let mut parameters = json!({"adapter_id": "sql", "max_new_tokens": 3, "details": true});
    for (name, value) in extra.as_object().unwrap() {
        parameters[name] = value.clone();
    }
    json!({"inputs": "Hello", "parameters": parameters})
}

#[tokio::test]
async fn generate_answers_in_lorax_words_with_its_headers() {
    let answer = post(
        &public(),
        "/generate",
        &ask(&json!({"decoder_input_details": true, "return_k_alternatives": 2})),
    )
    .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = answer.json();
    let details = &body["details"];
    assert_eq!((&details["finish_reason"], &details["generated_tokens"]), (&json!("length"), &json!(3)));
    assert_eq!(details["tokens"].as_array().unwrap().len(), 3);
    assert_eq!(
        details["prefill"].as_array().unwrap().len() as u64,
        details["prompt_tokens"].as_u64().unwrap()
    );
    assert_eq!(details["tokens"][0]["alternative_tokens"].as_array().unwrap().len(), 2);
    assert_eq!(answer.headers["x-adapter-id"], "sql");
    for name in ["x-total-time", "x-queue-time", "x-inference-time", "x-time-per-token", "x-generated-tokens"]
    {
        assert!(answer.headers[name].to_str().unwrap().parse::<u64>().is_ok(), "{name}");
    }
}

#[tokio::test]
async fn a_stream_has_an_event_a_token_and_the_details_in_the_last() {
    let answer = post(&public(), "/generate_stream", &ask(&json!({}))).await;
    let events = answer.events();
    assert_eq!(events.len(), 3);
    assert!(!answer.text.contains("[DONE]"));
    assert!(events[..2].iter().all(|event| event["details"].is_null() && event["generated_text"].is_null()));
    let text: String = events.iter().map(|event| event["token"]["text"].as_str().unwrap()).collect();
    assert_eq!(events[2]["generated_text"], text);
    assert_eq!(events[2]["details"]["generated_tokens"], 3);
    assert_eq!(answer.headers["x-adapter-id"], "sql");
}

#[tokio::test]
async fn the_root_answers_as_a_list_or_as_a_stream() {
    let router = public();
    assert_eq!(post(&router, "/", &ask(&json!({}))).await.json().as_array().unwrap().len(), 1);
    let mut body = ask(&json!({}));
    body["stream"] = true.into();
    assert_eq!(post(&router, "/", &body).await.events().len(), 3);
}

#[tokio::test]
async fn what_the_client_sends_by_default_is_taken() {
    let nulls = json!({
        "adapter_source": null, "merged_adapters": null, "api_token": null, "best_of": null, "do_sample": false,
        "ignore_eos_token": false, "repetition_penalty": null, "return_full_text": false, "seed": null, "stop": [],
        "temperature": null, "top_k": null, "top_p": null, "truncate": null, "typical_p": null, "watermark": false,
        "response_format": null, "decoder_input_details": false, "return_k_alternatives": null
    });
    assert_eq!(post(&public(), "/generate", &ask(&nulls)).await.status, 200);
}

#[tokio::test]
async fn errors_name_the_class_that_its_client_raises() {
    let router = public();
    let unknown = post(&router, "/generate", &ask(&json!({"adapter_id": "nobody"}))).await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.json()["error"]["message"].as_str().unwrap().contains("nobody"));
    let bad = post(&router, "/generate", &ask(&json!({"top_p": 2}))).await.json();
    assert_eq!(bad["error_type"], "validation");
    assert_eq!(bad["error"]["param"], "parameters.top_p");
}

#[tokio::test]
async fn info_tells_the_limits() {
    let info = get(&public(), "/info").await.json();
    assert_eq!(info["model_id"], "base");
    assert_eq!(info["max_total_tokens"], scripted::CONTEXT);
}
