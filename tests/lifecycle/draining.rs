//! What is under way on an adapter that is swapped or deleted: it goes to its end where that is soon enough, and ends in
//! time with an error where it is not. Nobody else hears of it, and what it held is given back.

use std::path::Path;

use futures::StreamExt as _;
use lorikeet_tests::client::Client;
use lorikeet_tests::golden::{Model, Suite};
use lorikeet_tests::replica::Replica;
use lorikeet_tests::until::until;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::operator::Desired;

/// The context of the suite's model here, and tokens that no machine makes of it in [`SHORT`] seconds.
const CONTEXT: usize = 131_072;
const ENDLESS: usize = CONTEXT - 1024;

/// Tokens that take longer than a swap and are done in [`LONG`] seconds.
const SOON: usize = 8000;

/// Of `--drain-seconds`.
const SHORT: u64 = 2;
const LONG: u64 = 600;

/// The contents.
const OLD: &str = "qv_r8";
const NEW: &str = "attn_r64";

/// The tiny model, which makes long answers here.
struct Stage {
    replica: Replica,
    desired: Desired,
    model: Model,
    prompt: Vec<u32>,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn start(drain_seconds: u64) -> Self {
        let suite = Suite::load();
        let model = suite.model("llama_gqa").clone();
        let adapters = model.adapters_folder().expect("the model has adapters");
        let adapters = adapters.to_str().expect("a UTF-8 path");
        let folder = tempfile::tempdir().expect("a folder");
        copy_with_long_context(&model, folder.path());
        let (drain, context) = (drain_seconds.to_string(), CONTEXT.to_string());
        // What is asked again is computed again.
        let flags = [
            "--source-root",
            adapters,
            "--served-name",
            "base",
            "--kv-memory",
            "256MiB",
            "--max-model-length",
            &context,
            "--no-prefix-cache",
            "--drain-seconds",
            &drain,
        ];
        let replica = Replica::start(folder.path(), &flags).await;
        let desired = Desired::new(replica.admin.clone(), adapters);
        let cases = model.cases();
        let has = |name: &str, prompt: &[u32]| {
            cases.iter().any(|case| case.adapter.as_deref() == Some(name) && case.prompt_ids == prompt)
        };
        let prompt = cases.iter().map(|case| &case.prompt_ids).find(|ids| has(OLD, ids) && has(NEW, ids));
        let prompt = prompt.expect("a prompt of both contents").clone();
        Self { replica, desired, model, prompt, _folder: folder }
    }

    async fn desire(&mut self, name: &str, content: Option<&str>) {
        self.desired.change(name, &content.map(str::to_owned)).await;
    }

    fn body(&self, model: &str, tokens: usize) -> Value {
        json!({
            "model": model, "prompt": self.prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": true,
            "return_token_ids": true,
        })
    }

    /// A stream that has begun.
    async fn stream(&self, model: &str, tokens: usize) -> Stream {
        let mut body = self.body(model, tokens);
        body["stream"] = json!(true);
        let mut stream = Stream::start(&self.replica.public, &body);
        stream.until_more().await;
        stream
    }

    /// The tokens of a whole answer.
    async fn ask(&self, model: &str, tokens: usize) -> Vec<u32> {
        let answer = self.replica.public.post("/v1/completions", &self.body(model, tokens)).await.ok();
        ids(&answer["choices"][0])
    }

    /// What transformers and PEFT make of it with `content`.
    fn golden(&self, content: &str) -> Vec<u32> {
        let cases = self.model.cases();
        let case = cases
            .iter()
            .find(|case| case.adapter.as_deref() == Some(content) && case.prompt_ids == self.prompt);
        case.expect("a case").greedy_ids.clone()
    }

    async fn assert_answers(&self, name: &str, content: &str) {
        let golden = self.golden(content);
        assert_eq!(self.ask(name, golden.len()).await, golden, "{name} is {content}");
    }

    async fn report(&self) -> Value {
        self.replica.admin.get("/admin/v1/adapters").await.ok()
    }

    /// Waits until the host holds the contents that `names` mean, no other, and no request.
    async fn until_holds(&self, names: &[&str]) {
        until(&format!("the memory of {names:?} alone is held"), async || {
            let report = self.report().await;
            let adapters = report["adapters"].as_array().expect("adapters");
            let bytes: u64 = adapters.iter().filter_map(|adapter| adapter["bytes"].as_u64()).sum();
            let known: Vec<&str> = adapters.iter().filter_map(|adapter| adapter["name"].as_str()).collect();
            let rests = adapters.iter().all(|adapter| adapter["running"] == 0);
            if known == names && rests && report["host"]["used"] == bytes { Ok(()) } else { Err(report) }
        })
        .await;
        let gauges = ["vllm:num_requests_running", "vllm:kv_cache_usage_perc"];
        self.replica
            .until("no block is held", |metrics| gauges.iter().all(|gauge| metrics.sum(gauge) == Some(0.0)))
            .await;
    }
}

fn copy_with_long_context(model: &Model, folder: &Path) {
    for entry in std::fs::read_dir(&model.folder).expect("the model's folder") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            std::fs::copy(&path, folder.join(path.file_name().expect("a name"))).expect("copied");
        }
    }
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).expect("the model's config");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["max_position_embeddings"] = json!(CONTEXT);
    std::fs::write(path, config.to_string()).expect("written");
}

/// The tokens of a choice, whole or of one event.
fn ids(choice: &Value) -> Vec<u32> {
    serde_json::from_value(choice["token_ids"].clone()).unwrap_or_default()
}

/// A stream that is read as it comes. Dropped, it is left.
struct Stream {
    tokens: watch::Receiver<Vec<u32>>,
    read: JoinHandle<Value>,
}

impl Stream {
    fn start(client: &Client, body: &Value) -> Self {
        let request = client.request(reqwest::Method::POST, "/v1/completions").json(body);
        let (sender, tokens) = watch::channel(Vec::new());
        let read = tokio::spawn(async move {
            let response = request.send().await.expect("an answer");
            assert_eq!(response.status().as_u16(), 200);
            let (mut bytes, mut rest, mut last) = (response.bytes_stream(), Vec::new(), Value::Null);
            while let Some(piece) = bytes.next().await {
                rest.extend_from_slice(&piece.expect("the stream does not break"));
                while let Some(end) = rest.windows(2).position(|two| two == b"\n\n") {
                    let event: Vec<u8> = rest.drain(..end + 2).collect();
                    let data = event.trim_ascii().strip_prefix(b"data: ").expect("an event");
                    if data == b"[DONE]" {
                        continue;
                    }
                    last = serde_json::from_slice(data).expect("JSON");
                    sender.send_modify(|tokens| tokens.extend(ids(&last["choices"][0])));
                }
            }
            assert!(rest.is_empty(), "it broke off: {}", String::from_utf8_lossy(&rest));
            last
        });
        Self { tokens, read }
    }

    /// Waits until it has more tokens than now.
    async fn until_more(&mut self) {
        let now = self.tokens.borrow_and_update().len();
        self.tokens.wait_for(|tokens| tokens.len() > now).await.expect("it goes on");
    }

    fn has_ended(&self) -> bool {
        self.read.is_finished()
    }

    /// Its tokens and its last event.
    async fn ended(mut self) -> (Vec<u32>, Value) {
        let last = (&mut self.read).await.expect("it is read to its end");
        (self.tokens.borrow().clone(), last)
    }

    /// Its tokens so far; it is left.
    fn leave(self) -> Vec<u32> {
        self.tokens.borrow().clone()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.read.abort();
    }
}

/// It was ended in time: with the first tokens of `golden`, and an error that says why.
fn assert_ended((tokens, last): &(Vec<u32>, Value), golden: &[u32], code: &str) {
    assert!(tokens.len() < ENDLESS && tokens.starts_with(golden), "{} tokens", tokens.len());
    assert_eq!(
        (&last["error"]["code"], &last["error"]["type"]),
        (&json!(code), &json!("server_error")),
        "{last}"
    );
    let message = last["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains(&format!("{SHORT} s")), "how long it had: {message}");
}

/// The answers of neighbours, of which one has the content that goes under a name that stays, are those that they give
/// when nobody is beside them.
async fn assert_undisturbed(stage: &Stage, neighbours: [(&str, Stream); 2]) {
    let mut answers = Vec::new();
    for (name, mut stream) in neighbours {
        stream.until_more().await;
        answers.push((name, stream.leave()));
    }
    for (name, tokens) in answers {
        assert!(
            stage.ask(name, tokens.len()).await == tokens,
            "{name} was disturbed: {} tokens",
            tokens.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_ends_what_runs_on_the_former_content_in_time() {
    let mut stage = Stage::start(SHORT).await;
    stage.desire("one", Some(OLD)).await;
    stage.desire("same", Some(OLD)).await;
    let neighbours =
        [("same", stage.stream("same", ENDLESS).await), ("base", stage.stream("base", ENDLESS).await)];
    let former = stage.stream("one", ENDLESS).await;
    stage.desire("one", Some(NEW)).await;
    stage.assert_answers("one", NEW).await;
    assert_ended(&former.ended().await, &stage.golden(OLD), "adapter_swapped");
    stage.assert_answers("one", NEW).await;
    assert_undisturbed(&stage, neighbours).await;
    stage.desire("same", None).await;
    stage.until_holds(&["one"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_ends_what_runs_in_time_and_is_reported_until_then() {
    let mut stage = Stage::start(SHORT).await;
    stage.desire("one", Some(OLD)).await;
    stage.desire("same", Some(OLD)).await;
    let neighbours =
        [("same", stage.stream("same", ENDLESS).await), ("base", stage.stream("base", ENDLESS).await)];
    let stream = stage.stream("one", ENDLESS).await;
    let whole = {
        let (client, body) = (stage.replica.public.clone(), stage.body("one", ENDLESS));
        tokio::spawn(async move { client.post("/v1/completions", &body).await })
    };
    until("both run", async || {
        let report = stage.report().await;
        if report["adapters"][0]["running"] == 2 { Ok(()) } else { Err(report) }
    })
    .await;
    stage.desire("one", None).await;
    // It drains for as long as anybody runs on it.
    let mut drained = false;
    loop {
        let report = stage.report().await;
        let adapters = report["adapters"].as_array().expect("adapters");
        let Some(one) = adapters.iter().find(|adapter| adapter["name"] == "one") else { break };
        assert_eq!(one["state"], "draining", "{report}");
        drained = true;
        let unknown = stage.replica.public.post("/v1/completions", &stage.body("one", 1)).await;
        assert_eq!(unknown.status, 404, "{}", unknown.text);
    }
    assert!(drained, "nobody saw it drain");
    assert_ended(&stream.ended().await, &stage.golden(OLD), "adapter_removed");
    let whole = whole.await.expect("an answer");
    assert_eq!(
        (whole.status, &whole.json()["error"]["code"]),
        (503, &json!("adapter_removed")),
        "{}",
        whole.text
    );
    assert!(whole.headers.contains_key("retry-after"), "{:?}", whole.headers);
    assert_undisturbed(&stage, neighbours).await;
    stage.until_holds(&["same"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_soon_enough_ends_well_on_the_content_that_it_began_with() {
    let mut stage = Stage::start(LONG).await;
    for name in ["one", "other", "same"] {
        stage.desire(name, Some(OLD)).await;
    }
    let streams = [stage.stream("one", SOON).await, stage.stream("other", SOON).await];
    stage.desire("one", Some(NEW)).await;
    stage.desire("other", None).await;
    assert!(!streams.iter().any(Stream::has_ended), "they were faster than a swap");
    stage.assert_answers("one", NEW).await;
    let alone = stage.ask("same", SOON).await;
    for stream in streams {
        let (tokens, last) = stream.ended().await;
        assert_eq!(last["choices"][0]["finish_reason"], "length", "{last}");
        assert!(tokens == alone, "it went on with another content");
    }
    stage.until_holds(&["one", "same"]).await;
}
