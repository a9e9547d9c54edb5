//! What `/metrics` says is what the clients saw: tokens, sequences and answers by adapter and by end.

use std::collections::BTreeMap;

use futures::StreamExt;
use futures::future::join_all;
use lorikeet_tests::golden::Suite;
use lorikeet_tests::metrics::Metrics;
use lorikeet_tests::replica::Replica;
use reqwest::Method;
use serde_json::{Value, json};

/// The base model and two adapters that answer, one that is only left.
const ANSWERING: [&str; 3] = ["base", "qv_r8", "all_r16"];
const LEFT: &str = "rslora_r4";
const ROUNDS: usize = 4;

/// What the clients saw of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Seen {
    prompt: f64,
    output: f64,
    sequences: f64,
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

/// Asks for two choices, whole or as a stream, and tells by the usage what was computed.
async fn ask(replica: &Replica, model: &'static str, stream: bool) -> (&'static str, Seen) {
    let mut body = json!({"model": model, "prompt": "The wind", "n": 2, "max_tokens": 12, "seed": 7, "ignore_eos": true});
    let usage = if stream {
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let events = replica.public.stream("/v1/completions", &body).await;
        events.last().expect("a last event")["usage"].clone()
    } else {
        replica.public.post("/v1/completions", &body).await.ok()["usage"].clone()
    };
    // Every sequence computes the prompt for itself, the answer tells it once.
    let seen = Seen {
        prompt: 2.0 * number(&usage["prompt_tokens"]),
        output: number(&usage["completion_tokens"]),
        sequences: 2.0,
    };
    (model, seen)
}

/// Asks for a long stream and leaves after its first piece.
async fn leave(replica: &Replica) {
    let body =
        json!({"model": LEFT, "prompt": "The wind", "max_tokens": 240, "ignore_eos": true, "stream": true});
    let request = replica.public.request(Method::POST, "/v1/completions").json(&body);
    let mut pieces = request.send().await.expect("an answer").bytes_stream();
    assert!(pieces.next().await.is_some_and(|piece| piece.is_ok()));
}

async fn start() -> Replica {
    let suite = Suite::load();
    let model = suite.model("llama_gqa");
    let adapters = model.adapters_folder().expect("the model has adapters");
    let adapters = adapters.to_str().expect("a UTF-8 path");
    Replica::start(&model.folder, &["--served-name", "base", "--adapters", adapters, "--max-sequences", "4"])
        .await
}

fn same(metrics: &Metrics, name: &str, label: &str, expected: f64) {
    assert_eq!(metrics.sum_where(name, label), Some(expected), "{name} {label}\n{metrics}");
}

#[tokio::test]
async fn the_figures_are_what_the_clients_saw() {
    let replica = start().await;
    let asked = (0..ROUNDS).flat_map(|round| ANSWERING.map(|model| ask(&replica, model, round % 2 == 0)));
    let mut seen: BTreeMap<&str, Seen> = BTreeMap::new();
    for (model, one) in join_all(asked).await {
        let all = seen.entry(model).or_default();
        all.prompt += one.prompt;
        all.output += one.output;
        all.sequences += one.sequences;
    }
    for body in [json!({"prompt": 7}), json!({"prompt": "a", "model": "nobody"})] {
        assert_ne!(replica.public.post("/v1/completions", &body).await.status, 200);
    }
    let sum = |of: fn(&Seen) -> f64| seen.values().map(of).sum::<f64>();
    let (prompt, output, sequences) =
        (sum(|one| one.prompt), sum(|one| one.output), sum(|one| one.sequences));
    let idle = |metrics: &Metrics| {
        metrics.sum("vllm:num_requests_running") == Some(0.0)
            && metrics.sum("vllm:num_requests_waiting") == Some(0.0)
    };
    let metrics = replica.until("nothing runs", idle).await;
    same(&metrics, "vllm:prompt_tokens_total", "", prompt);
    same(&metrics, "vllm:generation_tokens_total", "", output);
    same(&metrics, "vllm:request_success_total", "finished_reason=\"length\"", sequences);
    for (name, expected) in [
        ("vllm:time_to_first_token_seconds_count", sequences),
        ("vllm:e2e_request_latency_seconds_count", sequences),
        ("vllm:request_queue_time_seconds_count", sequences),
        ("vllm:inter_token_latency_seconds_count", output - sequences),
        ("vllm:request_generation_tokens_sum", output),
        ("vllm:request_prompt_tokens_sum", prompt),
        ("vllm:request_params_n_sum", sequences),
        ("vllm:request_params_max_tokens_sum", 12.0 * sequences),
    ] {
        same(&metrics, name, "", expected);
    }
    for (model, one) in &seen {
        let label = format!("adapter=\"{model}\"");
        same(&metrics, "lorikeet_adapter_prompt_tokens_total", &label, one.prompt);
        same(&metrics, "lorikeet_adapter_generation_tokens_total", &label, one.output);
        same(&metrics, "lorikeet_adapter_time_to_first_token_seconds_count", &label, one.sequences);
        same(
            &metrics,
            "lorikeet_adapter_requests_total",
            &format!("{label},outcome=\"finished\""),
            one.sequences,
        );
    }
    for (status, expected) in [(200, ROUNDS * ANSWERING.len()), (400, 1), (404, 1)] {
        let label = format!("route=\"/v1/completions\",status=\"{status}\"");
        same(&metrics, "lorikeet_http_requests_total", &label, expected as f64);
    }
    same(&metrics, "lorikeet_resident_misses_total", "", 2.0);
    let first = metrics.sum("vllm:time_to_first_token_seconds_sum");
    assert!(first <= metrics.sum("vllm:e2e_request_latency_seconds_sum"), "{metrics}");
}

#[tokio::test]
async fn what_runs_and_what_was_left_is_told() {
    let replica = start().await;
    let info = |metrics: &Metrics| {
        let all: Vec<String> =
            metrics.beginning("vllm:lora_requests_info").map(|(series, _)| series.to_owned()).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all.concat()
    };
    assert!(info(&replica.metrics().await).contains("running_lora_adapters=\"\",waiting_lora_adapters=\"\""));
    let running = format!("running_lora_adapters=\"{LEFT}\"");
    let seen = async { replica.until("it runs", |metrics| info(metrics).contains(&running)).await };
    let leaving = async {
        loop {
            leave(&replica).await;
        }
    };
    tokio::select! {
        _ = seen => {}
        () = leaving => {}
    }
    let label = format!("adapter=\"{LEFT}\",outcome=\"aborted\"");
    let told = |metrics: &Metrics| {
        let left = metrics.sum_where("lorikeet_adapter_requests_total", &label);
        let ended = metrics.sum_where("vllm:request_success_total", "finished_reason=\"abort\"");
        metrics.sum("vllm:num_requests_running") == Some(0.0) && left > Some(0.0) && left == ended
    };
    let _ = replica.until("all that was left is told", told).await;
}
