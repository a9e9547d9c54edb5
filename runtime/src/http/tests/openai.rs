//! OpenAI's endpoints, against a scripted engine.

use serde_json::{Value, json};

use super::*;

/// The text that the scripted model says after `last`, `count` tokens long.
fn text_after(last: u32, count: u32) -> String {
    let tokenizer = scripted::tokenizer();
    let ids: Vec<u32> = (last + 1..=last + count).collect();
    let whole: Vec<u32> = std::iter::once(last).chain(ids).collect();
    let text = tokenizer.decode(&whole, true);
    text.strip_prefix(&tokenizer.decode(&[last], true)).unwrap().to_owned()
}

const LAST: u32 = 300;

fn ask(extra: &Value) -> Value {
    let mut body = json!({"model": "sql", "prompt": [5, LAST], "max_tokens": 4, "temperature": 0});
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

#[tokio::test]
async fn a_completion_has_the_shape_that_clients_know() {
    let answer = post(&public(), "/v1/completions", &ask(&json!({"return_token_ids": true}))).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = answer.json();
    assert!(body["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!((&body["object"], &body["model"]), (&json!("text_completion"), &json!("sql")));
    let choice = &body["choices"][0];
    assert_eq!(choice["text"], text_after(LAST, 4));
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["logprobs"], Value::Null);
    assert_eq!(choice["prompt_token_ids"], json!([5, LAST]));
    assert_eq!(choice["token_ids"], json!([301, 302, 303, 304]));
    assert_eq!(
        body["usage"],
        json!({"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6, "prompt_tokens_details": {"cached_tokens": 0}})
    );
}

#[tokio::test]
async fn a_stream_says_the_same_as_the_whole_answer_and_ends_with_usage_and_done() {
    let router = public();
    let body = ask(&json!({"stream": true, "stream_options": {"include_usage": true}}));
    let answer = post(&router, "/v1/completions", &body).await;
    assert_eq!(answer.headers["content-type"], "text/event-stream; charset=utf-8");
    assert!(answer.text.ends_with("data: [DONE]\n\n"));
    let events = answer.events();
    let (last, chunks) = events.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 4);
    assert!(chunks.iter().all(|chunk| chunk["usage"].is_null() && chunk["id"] == last["id"]));
    let text: String = chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(text, text_after(LAST, 4));
    let ends: Vec<_> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["finish_reason"].as_str()).collect();
    assert_eq!(ends, ["length"]);
}

#[tokio::test]
async fn prompts_and_choices_come_back_in_their_order() {
    let body = ask(&json!({"prompt": [[5, 300], [5, 400]], "n": 2}));
    let answer = post(&public(), "/v1/completions", &body).await.json();
    let texts: Vec<_> =
        answer["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    let (one, two) = (text_after(300, 4), text_after(400, 4));
    assert_eq!(texts, [&one, &one, &two, &two]);
    let indexes: Vec<_> =
        answer["choices"].as_array().unwrap().iter().map(|choice| &choice["index"]).collect();
    assert_eq!(indexes, [0, 1, 2, 3]);
    assert_eq!(answer["usage"]["prompt_tokens"], 4);
}

#[tokio::test]
async fn a_stop_string_ends_the_text_before_it_or_with_it() {
    let whole = text_after(LAST, 8);
    let stop: String = whole.chars().skip(2).take(3).collect();
    let at = whole.find(&stop).unwrap();
    for (include, end) in [(false, at), (true, at + stop.len())] {
        let body = ask(&json!({"max_tokens": 30, "stop": stop, "include_stop_str_in_output": include}));
        for stream in [false, true] {
            let mut body = body.clone();
            body["stream"] = stream.into();
            let answer = post(&public(), "/v1/completions", &body).await;
            let choices: Vec<Value> = if stream { answer.events() } else { vec![answer.json()] };
            let text: String =
                choices.iter().map(|body| body["choices"][0]["text"].as_str().unwrap()).collect();
            let last = &choices.last().unwrap()["choices"][0];
            assert_eq!(text, &whole[..end]);
            assert_eq!((&last["finish_reason"], &last["stop_reason"]), (&json!("stop"), &json!(stop)));
        }
    }
}

#[tokio::test]
async fn a_stop_id_ends_it_and_is_counted_but_not_shown() {
    let body = ask(&json!({"max_tokens": 30, "stop_token_ids": [303], "return_token_ids": true}));
    let answer = post(&public(), "/v1/completions", &body).await.json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], text_after(LAST, 2));
    assert_eq!(choice["token_ids"], json!([301, 302, 303]));
    assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("stop"), &json!(303)));
    assert_eq!(answer["usage"]["completion_tokens"], 3);
}

#[tokio::test]
async fn log_probabilities_are_four_lists_of_one_length() {
    for stream in [false, true] {
        let body = ask(&json!({"logprobs": 2, "echo": true, "stream": stream}));
        let answer = post(&public(), "/v1/completions", &body).await;
        let chunks = if stream { answer.events() } else { vec![answer.json()] };
        let mut lists = [const { Vec::new() }; 4];
        for chunk in &chunks {
            let logprobs = &chunk["choices"][0]["logprobs"];
            for (list, name) in
                lists.iter_mut().zip(["tokens", "token_logprobs", "top_logprobs", "text_offset"])
            {
                list.extend(logprobs[name].as_array().cloned().unwrap_or_default());
            }
        }
        let lengths: Vec<_> = lists.iter().map(Vec::len).collect();
        assert_eq!(lengths, [6, 6, 6, 6], "two of the prompt, four of the answer: {}", answer.text);
        assert_eq!(lists[1][0], Value::Null, "nothing comes before the first token");
        assert!(lists[1][2].as_f64().unwrap() > -0.01, "the scripted model is sure");
        assert!(lists[2][2].as_object().unwrap().len() >= 2);
        assert_eq!(lists[3][0], 0);
    }
}

#[tokio::test]
async fn echo_alone_runs_no_token() {
    let body = json!({"model": "base", "prompt": "Hello there", "echo": true, "max_tokens": 0});
    let answer = post(&public(), "/v1/completions", &body).await.json();
    assert_eq!(answer["choices"][0]["text"], "Hello there");
    assert_eq!(answer["usage"]["completion_tokens"], 0);
}

#[tokio::test]
async fn models_are_the_base_and_its_adapters_without_a_path() {
    let router = public();
    let answer = get(&router, "/v1/models").await.json();
    let ids: Vec<_> =
        answer["data"].as_array().unwrap().iter().map(|card| card["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["base", "broken", "law", "sql"]);
    assert_eq!(answer["data"][3]["parent"], "base");
    assert_eq!(answer["data"][0]["max_model_len"], scripted::CONTEXT);
    assert_eq!(get(&router, "/v1/models/sql").await.json()["id"], "sql");
    let unknown = get(&router, "/v1/models/nobody").await;
    assert_eq!(
        (unknown.status.as_u16(), unknown.json()["error"]["code"].clone()),
        (404, json!("model_not_found"))
    );
}

#[tokio::test]
async fn a_refused_adapter_answers_with_the_reason_it_was_refused_for() {
    let answer = post(&public(), "/v1/completions", &ask(&json!({"model": "broken"}))).await;
    // Nothing is wrong with the request.
    assert_eq!((answer.status.as_u16(), answer.headers["retry-after"].as_bytes()), (503, &b"60"[..]));
    assert_eq!(answer.json()["error"]["code"], "invalid_weights");
    assert_eq!(answer.json()["error"]["message"], "tensor \"a\": not finite");
}

#[tokio::test]
async fn tokens_go_to_text_and_back() {
    let router = public();
    let tokens = post(&router, "/tokenize", &json!({"model": "sql", "prompt": "Hello there"})).await.json();
    assert_eq!(tokens["count"].as_u64().unwrap() as usize, tokens["tokens"].as_array().unwrap().len());
    assert_eq!(tokens["max_model_len"], scripted::CONTEXT);
    let body = json!({"tokens": tokens["tokens"]});
    let text = post(&router, "/detokenize", &body).await.json();
    assert!(text["prompt"].as_str().unwrap().ends_with("Hello there"), "{text}");
}

#[tokio::test]
async fn a_request_id_that_came_goes_back_and_one_is_made_where_none_came() {
    let router = public();
    let request = Request::get("/v1/models").header("x-request-id", "mine-1").body(Body::empty()).unwrap();
    assert_eq!(send(&router, request).await.headers["x-request-id"], "mine-1");
    assert_eq!(get(&router, "/v1/models").await.headers["x-request-id"].len(), 32);
}

#[tokio::test]
async fn a_full_queue_answers_429_with_a_time_to_come_back() {
    let (app, gate) = scripted::app(Limits::default(), |config| {
        config.max_waiting = 1;
        config.max_sequences = 1;
    });
    gate.close();
    let router = public_router(app, &Keys::open(), false);
    let body = ask(&json!({"n": 16, "stream": true}));
    let answer = post(&router, "/v1/completions", &body).await;
    gate.open();
    assert_eq!(answer.status, 429, "{}", answer.text);
    assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
    assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
}

#[tokio::test]
async fn the_deadline_answers_504_even_when_the_engine_does_not() {
    let limits = Limits { request_time: std::time::Duration::from_millis(20), ..Limits::default() };
    let (app, gate) = scripted::app(limits, |_| {});
    gate.close();
    let answer = post(&public_router(app, &Keys::open(), false), "/v1/completions", &ask(&json!({}))).await;
    gate.open();
    assert_eq!(
        (answer.status.as_u16(), answer.json()["error"]["code"].clone()),
        (504, json!("deadline_exceeded"))
    );
}

#[tokio::test]
async fn a_drained_replica_ends_a_stream_with_an_error_event_and_is_not_ready() {
    let (app, gate) = scripted::app(Limits::default(), |_| {});
    let router = public_router(std::sync::Arc::clone(&app), &Keys::open(), false);
    gate.close();
    let asked = {
        let router = router.clone();
        tokio::spawn(async move {
            post(&router, "/v1/completions", &ask(&json!({"stream": true, "max_tokens": 60}))).await
        })
    };
    let engine = app.generator.engine().clone();
    gate.reached().await;
    let drained = engine.drain(std::time::Instant::now());
    gate.open();
    drained.await;
    let answer = asked.await.unwrap();
    let last = answer.events().pop().unwrap();
    assert_eq!(last["error"]["code"], "draining", "{}", answer.text);
    assert_eq!(get(&router, "/ready").await.status, 503);
    let late = post(&router, "/v1/completions", &ask(&json!({}))).await;
    assert_eq!(late.status, 503);
    assert!(late.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn metrics_count_what_was_asked() {
    let router = public();
    post(&router, "/v1/completions", &ask(&json!({}))).await;
    let page = get(&router, "/metrics").await.text;
    for line in [
        "lorikeet_adapter_generation_tokens_total{adapter=\"sql\"} 4",
        "vllm:request_success_total{engine=\"0\",finished_reason=\"length\",model_name=\"base\"} 1",
        "lorikeet_http_requests_total{route=\"/v1/completions\",status=\"200\"} 1",
        "vllm:time_to_first_token_seconds_count{engine=\"0\",model_name=\"base\"} 1",
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
}
