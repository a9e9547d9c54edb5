//! What is under way when something changes: a stream goes to its end when Ctrl-C is pressed and when the file of its adapter
//! is deleted; a digest that is edited swaps what is asked later.

use std::time::Instant;

use futures::StreamExt as _;
use lorikeet_tests::args::root;
use lorikeet_tests::client::Client;
use lorikeet_tests::golden::Suite;
use lorikeet_tests::until::until;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::cluster_of_one::{ClusterOfOne, copy};
use crate::traffic::ask;
use crate::{adapter, deployment};

/// Choices of a stream.
const CHOICES: usize = 16;
/// Tokens of each: as long as the model can make it.
const TINY: usize = 220;
const MINIATURE: usize = 480;

/// A stream that is read as it comes.
struct Stream {
    accepted: oneshot::Receiver<()>,
    read: JoinHandle<(String, Instant)>,
}

impl Stream {
    fn start(client: &Client, model: &str, tokens: usize) -> Self {
        let body = json!({
            "model": model, "prompt": "The wind", "max_tokens": tokens, "n": CHOICES, "ignore_eos": true, "stream": true,
        });
        let request = client.request(reqwest::Method::POST, "/v1/completions").json(&body);
        let (accept, accepted) = oneshot::channel();
        let read = tokio::spawn(async move {
            let response = request.send().await.expect("an answer");
            assert_eq!(response.status().as_u16(), 200);
            // Whoever waits for it may have failed.
            let _ = accept.send(());
            let (mut bytes, mut text) = (response.bytes_stream(), Vec::new());
            while let Some(piece) = bytes.next().await {
                text.extend_from_slice(&piece.expect("the stream does not break"));
            }
            (String::from_utf8(text).expect("text"), Instant::now())
        });
        Self { accepted, read }
    }

    /// Several at a time, so that none is over too soon. All are accepted.
    async fn several(client: &Client, model: &str, tokens: usize, count: usize) -> Vec<Self> {
        let mut streams: Vec<Self> = (0..count).map(|_| Self::start(client, model, tokens)).collect();
        for stream in &mut streams {
            (&mut stream.accepted).await.expect("it is accepted");
        }
        streams
    }

    /// When it ended; it must be whole.
    async fn ended(self) -> Instant {
        let (text, end) = self.read.await.expect("it is read to its end");
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        let events = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        let events = events.filter(|event| *event != "[DONE]").map(|event| {
            serde_json::from_str::<Value>(event).unwrap_or_else(|error| panic!("{error}: {event}"))
        });
        let ends = events.filter(|event| event["choices"][0]["finish_reason"] == "length").count();
        assert_eq!(ends, CHOICES, "every choice came to its end: {text}");
        end
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_lets_streams_finish() {
    let suite = Suite::load();
    let mut cluster = ClusterOfOne::new();
    cluster.write("a.yaml", &deployment("a", &suite.model("llama_gqa").folder, ""));
    until("streams were under way as it was told to end", async || {
        cluster.start();
        cluster.until_ready("Deployment", "a", 1).await;
        let streams = Stream::several(&cluster.client(0), "a", TINY, 4).await;
        cluster.process().interrupt();
        for stream in streams {
            stream.ended().await;
        }
        cluster.until_ended().await;
        let log = cluster.log_of("a-runtime-0");
        let (_, drain) = log.split_once("\"draining\"").expect("it drained");
        assert!(drain.contains("\"drained\""), "{drain}");
        // The machine may have been faster.
        if drain.contains("\"finish\":\"length\"") { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_deleted_lets_streams_of_its_adapter_finish() {
    // Large enough that its streams take seconds, which is what it takes to see that a file is gone.
    let miniature = root().join("deploy/loraland");
    let mut cluster = ClusterOfOne::new();
    cluster.write("a.yaml", &deployment("a", &miniature.join("base"), ""));
    cluster.start();
    let manifest = adapter("qv", "a", &miniature.join("adapters/viggo"));
    until("streams outlived the name of their adapter", async || {
        cluster.write("qv.yaml", &manifest);
        cluster.until_ready("Adapter", "qv", 1).await;
        let client = cluster.client(0);
        let streams = Stream::several(&client, "qv", MINIATURE, 2).await;
        cluster.remove("qv.yaml");
        until("it is not known any more", async || match ask(&client, "qv").await {
            Err((404, _)) => Ok(()),
            other => Err(other),
        })
        .await;
        let unknown = Instant::now();
        let mut outlived = false;
        for stream in streams {
            outlived |= stream.ended().await > unknown;
        }
        cluster.until_gone("Adapter", "qv").await;
        if outlived { Ok(()) } else { Err("every stream was faster") }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_that_is_edited_swaps_to_the_content_that_it_names() {
    let suite = Suite::load();
    let model = &suite.model("llama_gqa").folder;
    let mut cluster = ClusterOfOne::new();
    cluster.write("a.yaml", &deployment("a", model, ""));
    let folder = cluster.path("claims/one");
    copy(&model.join("adapters/qv_r8"), &folder);
    let plain = adapter("one", "a", &folder);
    cluster.write("one.yaml", &plain);
    cluster.write("other.yaml", &adapter("other", "a", &model.join("adapters/attn_r64")));
    cluster.start();
    let digest = |object: &serde_yaml::Value| object["status"]["digest"].as_str().map(str::to_owned);
    let old = digest(&cluster.until_ready("Adapter", "one", 1).await).expect("a digest");
    let new = digest(&cluster.until_ready("Adapter", "other", 1).await).expect("a digest");
    let pinned = |digest: &str| format!("{plain}  digest: {digest}\n");
    cluster.write("one.yaml", &pinned(&old));
    cluster.until_ready("Adapter", "one", 2).await;
    let client = cluster.client(0);
    let (before, other) = (ask(&client, "one").await, ask(&client, "other").await);
    assert!(before.is_ok() && before != other, "two that answer alike tell nothing: {before:?}");

    // Another content is there now; nobody asked for it.
    std::fs::rename(&folder, cluster.path("claims/before")).expect("moved");
    copy(&model.join("adapters/attn_r64"), &folder);
    assert_eq!(ask(&client, "one").await, before);
    cluster.write("one.yaml", &pinned(&new));
    let swapped = cluster.until_ready("Adapter", "one", 3).await;
    assert_eq!(digest(&swapped), Some(new));
    assert_eq!(ask(&client, "one").await, other);
}
