//! What goes wrong on one machine, and what is said of it: a model that is not there, a replica that is killed under
//! requests and under streams, a Secret that is missing, a pause, a folder without manifests, a port that does not exist, a
//! file that cannot be written.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use lorikeet_tests::golden::Suite;
use lorikeet_tests::until::until;

use crate::cluster_of_one::{ClusterOfOne, condition, is_ready, reason};
use crate::stream::Stream;
use crate::traffic::{Traffic, ask};
use crate::{adapter, deployment, kill, signal};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_is_not_there_is_said_once_and_what_serves_goes_on() {
    let suite = Suite::load();
    let model = suite.model("llama_gqa");
    let mut cluster = ClusterOfOne::new();
    let good = deployment("a", &model.folder, "");
    cluster.write("a.yaml", &good);
    cluster.write("qv.yaml", &adapter("qv", "a", &model.folder.join("adapters/qv_r8")));
    cluster.start();
    cluster.until_ready("Deployment", "a", 1).await;
    let before = ask(&cluster.client(0), "qv").await.expect("an answer");

    cluster.write("a.yaml", &good.replace("llama_gqa", "llama_gone"));
    let failed = |object: &serde_yaml::Value| reason(object, "Ready") == Some("ReplicaFailed");
    let object = cluster.until("Deployment", "a", "says why", failed).await;
    let (truth, message) = condition(&object, "Ready");
    assert!(truth == "False" && message.contains("a-runtime-1: exit status: 1: --model: "), "{message}");
    assert!(message.contains("llama_gone: no such file or folder"), "{message}");
    // Through restarts: the old one serves, its adapter is as ready as before, and nothing is said again.
    until("it has started for the third time", async || {
        let object = cluster.object("Deployment", "a").expect("it is there");
        assert!(failed(&object), "it does not come and go: {object:?}");
        assert!(is_ready(&cluster.object("Adapter", "qv").expect("it is there"), 1));
        assert_eq!(ask(&cluster.client(0), "qv").await.as_ref(), Ok(&before));
        let noted = cluster.noted();
        if noted.contains("-3\n") { Ok(()) } else { Err(noted) }
    })
    .await;
    let said = cluster.process().log();
    assert_eq!(said.matches("replica a-runtime-1 ended").count(), 1, "{said}");
    cluster.write("a.yaml", &good);
    cluster.until_ready("Deployment", "a", 3).await;
    assert_eq!(ask(&cluster.client(0), "qv").await.as_ref(), Ok(&before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_killed_fails_no_request_and_its_streams_are_told() {
    let suite = Suite::load();
    let mut cluster = ClusterOfOne::new();
    cluster.write("a.yaml", &deployment("a", &suite.model("llama_gqa").folder, "  replicas: 2\n"));
    cluster.start();
    cluster.until_ready("Deployment", "a", 1).await;
    let answer = ask(&cluster.client(0), "a").await.expect("an answer");
    let traffic = Traffic::start(cluster.client(0), &BTreeMap::from([("a".to_owned(), answer)]));
    for _ in 0..3 {
        traffic.go_on(20).await;
        let before = cluster.children();
        kill(before[0]);
        traffic.go_on(20).await;
        until_noted(&cluster, &before).await;
        let both = |object: &serde_yaml::Value| object["status"]["readyReplicas"].as_u64() == Some(2);
        cluster.until("Deployment", "a", "has both again", both).await;
    }
    traffic.finish().await;

    // One replica alone, so that it is known whose stream it is.
    cluster.write("a.yaml", &deployment("a", &suite.model("llama_gqa").folder, "  replicas: 1\n"));
    cluster.until_ready("Deployment", "a", 2).await;
    let told = until("a stream is told that its replica ended", async || {
        let before = cluster.children();
        let told = stream_of_a_killed_one(&cluster).await;
        until_noted(&cluster, &before).await;
        cluster.until_ready("Deployment", "a", 2).await;
        if told.contains("replica_ended") { Ok(told) } else { Err(told) }
    })
    .await;
    assert!(told.ends_with("data: [DONE]\n\n"), "{told}");
    for event in told.split("\n\n").filter_map(|event| event.strip_prefix("data: ")) {
        let whole = event == "[DONE]" || serde_json::from_str::<serde_json::Value>(event).is_ok();
        assert!(whole, "half an event: {event}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_hangs_keeps_its_adapter_until_it_is_killed_and_started_again() {
    let suite = Suite::load();
    let model = &suite.model("llama_gqa").folder;
    let mut cluster = ClusterOfOne::new();
    cluster.write("a.yaml", &deployment("a", model, "  replicas: 2\n"));
    let one = "  placement: {replicas: 1}\n";
    cluster.write("qv.yaml", &(adapter("qv", "a", &model.join("adapters/qv_r8")) + one));
    cluster.start();
    cluster.until_ready("Deployment", "a", 1).await;
    let placed = |object: &serde_yaml::Value| {
        let of = |place: &serde_yaml::Value| place["pod"].as_str().map(str::to_owned);
        object["status"]["placements"].as_sequence().into_iter().flatten().find_map(of)
    };
    let replica = placed(&cluster.until_ready("Adapter", "qv", 1).await).expect("it is on one");
    let noted: serde_yaml::Value = serde_yaml::from_str(&cluster.noted()).expect("YAML");
    let all = noted["default/a"].as_sequence().expect("replicas");
    let incarnation = all.iter().find(|one| one["name"].as_str() == Some(&replica)).expect("it is noted");
    let pid = incarnation["incarnation"].as_str().and_then(|text| text.split('-').next()).expect("PID-START");
    signal("-STOP", pid.parse().expect("a number"));
    let killed = format!("replica {replica} ended: killed: /health did not answer, 3 times in a row; it is");
    until("it is not ready, its adapter stays, and it is killed", async || {
        let (said, object) = (cluster.process().log(), cluster.object("Adapter", "qv").expect("it is there"));
        if said.contains(&killed) {
            return Ok(());
        }
        assert_eq!(placed(&object), Some(replica.clone()), "it is late: that moves nothing");
        Err((said, cluster.object("Deployment", "a")))
    })
    .await;
    let is_started = |object: &serde_yaml::Value| is_ready(object, 1);
    until("it is started again", async || {
        let noted = cluster.noted();
        if noted.contains("-2\n") { Ok(()) } else { Err(noted) }
    })
    .await;
    cluster.until("Deployment", "a", "has both again", is_started).await;
    cluster.process().terminate();
    cluster.until_ended().await;
}

/// Waits until a process that is not among `before` is known, and the statuses with it.
async fn until_noted(cluster: &ClusterOfOne, before: &[u32]) {
    until(&format!("a process beside {before:?} is noted"), async || {
        let (noted, children) = (cluster.noted(), cluster.children());
        let is_noted = |pid: &u32| !before.contains(pid) && noted.contains(&format!(" {pid}-"));
        if children.iter().any(is_noted) { Ok(()) } else { Err((children, noted)) }
    })
    .await;
}

/// Kills the replica of a long stream that is under way; everything that came. The stream may have been faster.
async fn stream_of_a_killed_one(cluster: &ClusterOfOne) -> String {
    let children = cluster.children();
    let stream = Stream::under_way(&cluster.client(0), "a", 200).await;
    children.iter().for_each(|pid| kill(*pid));
    stream.read().await.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_waited_for_is_said_and_nothing_is_started_before() {
    let suite = Suite::load();
    let model = &suite.model("llama_gqa").folder;
    let mut cluster = ClusterOfOne::new();
    cluster.start();
    cluster.until_said("no manifests in ").await;
    let paused = |paused: bool| deployment("a", model, &format!("  paused: {paused}\n"));
    cluster.write("a.yaml", &paused(true));
    let is_paused = |object: &serde_yaml::Value| reason(object, "Ready") == Some("Paused");
    let object = cluster.until("Deployment", "a", "says that it is paused", is_paused).await;
    assert_eq!(condition(&object, "Ready").0, "False");
    cluster.until_said("Paused").await;
    assert!(cluster.children().is_empty(), "nothing is started");
    cluster.write("a.yaml", &paused(false));
    cluster.until_ready("Deployment", "a", 2).await;
    let running = cluster.children();

    // Paused and edited: all stays as it is, and is not what the spec asks for.
    for (edit, generation) in [("serving: {maxQueue: 5}", 3), ("replicas: 3", 4)] {
        cluster.write("a.yaml", &deployment("a", model, &format!("  paused: true\n  {edit}\n")));
        let seen =
            |object: &serde_yaml::Value| object["status"]["observedGeneration"].as_u64() == Some(generation);
        let object = cluster.until("Deployment", "a", "has seen it", seen).await;
        assert_eq!(
            (condition(&object, "Ready").0, reason(&object, "Ready")),
            ("False".to_owned(), Some("Paused")),
            "{edit}"
        );
        assert_eq!(condition(&object, "Available").0, "True");
        assert_eq!(cluster.children(), running);
        assert_eq!(cluster.client(0).get("/v1/models").await.status, 200);
    }
    cluster.write("a.yaml", &paused(true));
    let object = cluster.until_ready("Deployment", "a", 5).await;
    assert_eq!(reason(&object, "Reconciling"), Some("Paused"), "nothing is lacking: {object:?}");
    assert_eq!(cluster.children(), running);

    let auth = "  auth: {apiKeysSecretRef: {name: keys}}\n";
    cluster.write("a.yaml", &deployment("a", model, auth));
    let lacks = |object: &serde_yaml::Value| reason(object, "Ready") == Some("SecretNotFound");
    let object = cluster.until("Deployment", "a", "lacks its Secret", lacks).await;
    let (_, message) = condition(&object, "Ready");
    assert!(message.contains("no manifest has a Secret default/keys"), "{message}");
    cluster.until_said("Deployment a (a.yaml:7): auth.apiKeysSecretRef: no manifest has").await;
    assert_eq!(cluster.children(), running, "what runs goes on");
    cluster.write(
        "keys.yaml",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {keys: the-key}\n",
    );
    cluster.until_ready("Deployment", "a", 6).await;
    assert_eq!(cluster.client(0).get("/v1/models").await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_without_a_port_is_told_so_and_the_others_serve() {
    let suite = Suite::load();
    let model = &suite.model("llama_gqa").folder;
    let mut cluster = ClusterOfOne::at(SocketAddr::from((Ipv4Addr::LOCALHOST, u16::MAX)));
    cluster.write("a.yaml", &deployment("a", model, ""));
    cluster.start();
    cluster.until_ready("Deployment", "a", 1).await;
    cluster.write("b.yaml", &deployment("b", model, ""));
    cluster
        .until_said("Deployment b: --listen 127.0.0.1:65535: the 1 ports after it are not all ports")
        .await;
    let portless = |object: &serde_yaml::Value| {
        reason(object, "Ready") == Some("PortUnavailable") && condition(object, "Available").0 == "True"
    };
    let b = cluster.until("Deployment", "b", "runs, and says that nobody can ask it", portless).await;
    assert!(
        condition(&b, "Ready").1.contains("65535: the 1 ports after it") && b["status"]["url"].is_null(),
        "{b:?}"
    );
    assert_eq!([condition(&b, "Ready").0, condition(&b, "Stalled").0], ["False", "True"], "{b:?}");
    assert_eq!(cluster.client(0).get("/v1/models").await.ok()["data"][0]["id"], "a");
    // The port goes to who is there.
    cluster.remove("a.yaml");
    let url = cluster.client(0).url().to_owned();
    let served = |object: &serde_yaml::Value| object["status"]["url"].as_str() == Some(url.as_str());
    cluster.until("Deployment", "b", "has the port", |one| served(one) && is_ready(one, 1)).await;
    assert_eq!(cluster.client(0).get("/v1/models").await.ok()["data"][0]["id"], "b");
    cluster.process().terminate();
    cluster.until_ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_written_ends_nothing_and_is_written_once_it_can_be() {
    let suite = Suite::load();
    let model = &suite.model("llama_gqa").folder;
    let mut cluster = ClusterOfOne::new();
    cluster.write("a.yaml", &deployment("a", model, ""));
    let keys = "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {keys: the-key}\n";
    cluster.write("keys.yaml", keys);
    cluster.start();
    cluster.until_ready("Deployment", "a", 1).await;
    let running = cluster.children();

    // A folder in the place of an object's file.
    let folder = cluster.path("state/Adapter/default/qv.yaml");
    std::fs::create_dir_all(folder.join("x")).expect("a folder");
    cluster.write("qv.yaml", &adapter("qv", "a", &model.join("adapters/qv_r8")));
    cluster
        .until_said("/state/Adapter/default/qv.yaml: Is a directory (os error 21); it is tried again")
        .await;
    let client = cluster.client(0);
    until("it serves all the same", async || ask(&client, "qv").await).await;
    std::fs::remove_dir_all(&folder).expect("removed");
    cluster.until_ready("Adapter", "qv", 1).await;
    cluster.until_said("over: objects: /").await;

    // A folder in the place of a Secret's file.
    let folder = cluster.path("state/run/secrets/default/keys/keys");
    std::fs::create_dir_all(folder.join("x")).expect("a folder");
    let auth = "  auth: {apiKeysSecretRef: {name: keys}}\n";
    cluster.write("a.yaml", &deployment("a", model, auth));
    let lacks = |object: &serde_yaml::Value| reason(object, "Ready") == Some("SecretNotFound");
    let object = cluster.until("Deployment", "a", "says what is in the way", lacks).await;
    let (_, message) = condition(&object, "Ready");
    assert!(message.starts_with("auth.apiKeysSecretRef: /"), "{message}");
    assert!(message.contains("/secrets/default/keys/keys: Is a directory"), "{message}");
    assert_eq!(ask(&client, "qv").await.map(|ids| ids.len()), Ok(12), "what runs goes on");
    assert_eq!(cluster.children(), running);
    std::fs::remove_dir_all(&folder).expect("removed");
    cluster.until_ready("Deployment", "a", 2).await;
    assert_eq!(client.get("/v1/models").await.status, 401);
    let said = cluster.process().log();
    assert_eq!(
        said.matches("Is a directory (os error 21); it is tried again").count(),
        2,
        "each once: {said}"
    );
    cluster.process().terminate();
    cluster.until_ended().await;
}
