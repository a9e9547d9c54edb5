//! A terminal that is closed ends `up` as Ctrl-C does, and does not end one that was started to outlive it.

use lorikeet_tests::golden::Suite;

use crate::cluster_of_one::ClusterOfOne;
use crate::stream::Stream;
use crate::{adapter, deployment};

/// Nothing can be printed: as to a terminal that is gone.
const SPEECHLESS: [&str; 4] = ["sh", "-c", "exec \"$@\" > /dev/full 2> /dev/full", "sh"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_that_is_closed_lets_streams_finish() {
    let suite = Suite::load();
    let mut cluster = ClusterOfOne::new();
    cluster.write("a.yaml", &deployment("a", &suite.model("llama_gqa").folder, ""));
    cluster.start_under(&SPEECHLESS);
    cluster.until_ready("Deployment", "a", 1).await;
    let streams = Stream::several(&cluster.client(0), "a", 220, 4).await;
    // By the shell and by the system.
    cluster.process().hang_up();
    cluster.process().hang_up();
    for stream in streams {
        stream.ended().await;
    }
    cluster.until_ended().await;
    let log = cluster.log_of("a-runtime-0");
    assert!(log.contains("\"drained\""), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_started_to_outlive_its_terminal_does() {
    let suite = Suite::load();
    let model = &suite.model("llama_gqa").folder;
    let mut cluster = ClusterOfOne::new();
    cluster.write("a.yaml", &deployment("a", model, "  adapters: {allowedNamespaces: {from: All}}\n"));
    let apart = adapter("qv", "a", &model.join("adapters/qv_r8"))
        .replace("{name: qv}", "{name: qv, namespace: acme}")
        .replace("{name: a}", "{name: a, namespace: default}");
    cluster.write("qv.yaml", &apart);
    cluster.start_under(&["nohup"]);
    cluster.until_ready("Deployment", "a", 1).await;
    // What is announced to be typed can be typed.
    cluster.until_said(" why acme/qv --state ").await;
    let why = cluster.why("acme/qv");
    assert!(why.contains("acme/qv"), "{why}");

    cluster.process().hang_up();
    cluster.write("other.yaml", &adapter("other", "a", &model.join("adapters/attn_r64")));
    cluster.until_ready("Adapter", "other", 1).await;
    cluster.process().terminate();
    cluster.until_ended().await;
    // Its last step noted that there are no replicas; the spec asks for one all the same.
    let why = cluster.why("other");
    assert!(why.contains("a has no replicas while no `up` runs; start it again"), "{why}");
}
