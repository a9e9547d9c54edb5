//! What is under way when something changes: a stream goes to its end when Ctrl-C is pressed and when the file of its adapter
//! is deleted; a digest that is edited swaps what is asked later, and what streams goes on with the former content.

use std::path::PathBuf;
use std::time::Instant;

use lorikeet_tests::args::root;
use lorikeet_tests::until::until;

use crate::cluster_of_one::{ClusterOfOne, copy};
use crate::stream::Stream;
use crate::traffic::ask;
use crate::{adapter, deployment};

/// Tokens of each choice of a stream: as long as the model can make it. It takes seconds on any machine, which is what it takes
/// to see that a file is gone, and to let a process go.
const TOKENS: usize = 480;
/// Streams at a time.
const STREAMS: usize = 2;

/// The miniature: a base model, and adapters by name.
fn miniature() -> PathBuf {
    root().join("deploy/loraland")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_lets_streams_finish() {
    let mut cluster = ClusterOfOne::new();
    cluster.write("a.yaml", &deployment("a", &miniature().join("base"), ""));
    until("streams were under way as it was told to end", async || {
        cluster.start();
        cluster.until_ready("Deployment", "a", 1).await;
        let streams = Stream::several(&cluster.client(0), "a", TOKENS, STREAMS).await;
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
    let miniature = miniature();
    let mut cluster = ClusterOfOne::new();
    cluster.write("a.yaml", &deployment("a", &miniature.join("base"), ""));
    cluster.start();
    let manifest = adapter("qv", "a", &miniature.join("adapters/viggo"));
    until("streams outlived the name of their adapter", async || {
        cluster.write("qv.yaml", &manifest);
        cluster.until_ready("Adapter", "qv", 1).await;
        let client = cluster.client(0);
        let streams = Stream::several(&client, "qv", TOKENS, STREAMS).await;
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
    let model = miniature();
    let mut cluster = ClusterOfOne::new();
    cluster.write("a.yaml", &deployment("a", &model.join("base"), ""));
    let folder = cluster.path("claims/one");
    copy(&model.join("adapters/viggo"), &folder);
    let plain = adapter("one", "a", &folder);
    cluster.write("one.yaml", &plain);
    cluster.write("other.yaml", &adapter("other", "a", &model.join("adapters/wikisql")));
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
    let whole = async |name: &str| Stream::under_way(&client, name, TOKENS).await.answer().await.0;
    let texts = [whole("one").await, whole("other").await];
    assert!(texts[0] != texts[1], "two that answer alike tell nothing");

    // Another content is there now; nobody asked for it.
    let put = |content: &str| {
        std::fs::remove_dir_all(&folder).expect("removed");
        copy(&model.join("adapters").join(content), &folder);
    };
    put("wikisql");
    assert_eq!(ask(&client, "one").await, before);
    let contents = [("viggo", old, before), ("wikisql", new, other)];
    let (mut generation, mut now) = (2, 0);
    until("streams outlived a swap", async || {
        // To and fro.
        let former = now;
        now = 1 - former;
        let (content, pin, answer) = &contents[now];
        generation += 1;
        put(content);
        let streams = Stream::several(&client, "one", TOKENS, STREAMS).await;
        cluster.write("one.yaml", &pinned(pin));
        let swapped = cluster.until_ready("Adapter", "one", generation).await;
        let ready = Instant::now();
        assert_eq!(digest(&swapped).as_ref(), Some(pin));
        assert_eq!(ask(&client, "one").await, *answer);
        let mut outlived = false;
        for stream in streams {
            let (text, end) = stream.answer().await;
            assert_eq!(text, texts[former], "it goes on with the content that it began with");
            outlived |= end > ready;
        }
        if outlived { Ok(()) } else { Err("every stream was faster") }
    })
    .await;
}
