//! `lorikeet-operator up`: manifests of the miniature with its 25 adapters are applied, edited, broken, mended and deleted
//! while requests run. No request fails, and every answer is one of the two generations'. Then: kill -9, a second `up`,
//! rollouts.
//!
//! `LORIKEET_OPERATOR` and `LORIKEET_BINARY` name other programs to judge.

mod cluster_of_one;
mod demand;
mod faults;
mod recipe;
mod secrets;
mod signals;
mod stream;
mod traffic;
mod under_way;

use std::collections::BTreeMap;

use lorikeet_tests::args::root;
use lorikeet_tests::golden::Suite;
use lorikeet_tests::say::say;
use lorikeet_tests::until::until;

use crate::cluster_of_one::{ClusterOfOne, condition, copy, is_ready};
use crate::traffic::{Ids, Traffic, ask};

/// The files of `deploy/loraland`, models and manifests.
fn miniature() -> ClusterOfOne {
    let cluster = ClusterOfOne::new();
    let from = root().join("deploy/loraland");
    for folder in ["base", "adapters"] {
        copy(&from.join(folder), &cluster.path("claims/loraland").join(folder));
    }
    copy(&from.join("tasks"), &cluster.path("manifests"));
    for file in ["deployment.yaml", "kustomization.yaml", "claim.yaml"] {
        std::fs::copy(from.join(file), cluster.path("manifests").join(file)).expect("copied");
    }
    cluster
}

/// The shape of `kubectl get -o yaml`.
fn assert_is_kubectls(object: &serde_yaml::Value, kind: &str) {
    assert_eq!(object["apiVersion"].as_str(), Some("lorikeet.dev/v1alpha1"));
    assert_eq!(object["kind"].as_str(), Some(kind));
    let metadata = &object["metadata"];
    for text in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        assert!(metadata[text].is_string(), "metadata.{text}: {object:?}");
    }
    assert_eq!(metadata["generation"].as_u64(), Some(1));
    assert!(object["spec"].is_mapping() && object["status"]["conditions"].is_sequence(), "{object:?}");
}

/// What every adapter answers now.
async fn answers(cluster: &ClusterOfOne) -> BTreeMap<String, Ids> {
    let client = cluster.client(0);
    let models = client.get("/v1/models").await.ok();
    let names = models["data"].as_array().expect("models").iter().filter_map(|model| model["id"].as_str());
    let mut answers = BTreeMap::new();
    for name in names {
        answers.insert(name.to_owned(), ask(&client, name).await.expect("an answer"));
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_are_applied_edited_broken_mended_and_deleted_while_requests_run() {
    let mut cluster = miniature();
    cluster.start();
    let is_whole =
        |object: &serde_yaml::Value| is_ready(object, 1) && condition(object, "AdaptersReady").0 == "True";
    let deployment = cluster.until("Deployment", "loraland", "is Ready with its Adapters", is_whole).await;
    assert_eq!(deployment["status"]["adapters"]["ready"].as_u64(), Some(25), "{deployment:?}");
    assert_eq!(deployment["status"]["url"].as_str(), Some(cluster.client(0).url()));
    assert_is_kubectls(&cluster.object("Adapter", "viggo").expect("it is there"), "Adapter");
    assert_is_kubectls(&deployment, "Deployment");
    let answers = answers(&cluster).await;
    assert_eq!(answers.len(), 26, "25 adapters and the base model");
    let one = "glue_sst2";
    // Two that answer alike tell nothing.
    let differs =
        |(name, ids): &(&String, &Ids)| *name != "loraland" && *name != "viggo" && **ids != answers[one];
    let (other, _) = answers.iter().find(differs).expect("one that answers otherwise");

    let traffic = Traffic::start(cluster.client(0), &answers);
    traffic.go_on(50).await;
    edit_break_and_mend(&mut cluster, &traffic, &answers, (one, other)).await;
    delete_and_bring_back(&mut cluster, &traffic, &answers).await;
    say(&format!("{} answers, each right", traffic.finish().await));
    let logged = cluster.log_of("loraland-runtime-0");
    assert!(logged.contains(r#""model":"viggo","prompt_tokens""#), "{logged}");
    assert!(logged.contains(r#""completion_tokens":12,"finish":"length""#), "{logged}");
    let shown = cluster.process().log();
    assert_eq!(shown.matches("NAME ").count(), 2, "each head once: {shown}");
    let boolq = shown.lines().filter(|line| line.starts_with("adapter.lorikeet.dev/boolq "));
    assert_eq!(boolq.count(), 1, "what did not change is not shown again: {shown}");
    let answers_on = format!("loraland answers on {}; ", cluster.client(0).url());
    assert!(shown.contains(&answers_on) && shown.contains(" why bc5cdr --state "), "{shown}");
    assert!(
        shown.contains("deployment.lorikeet.dev/loraland") && shown.contains("adapter.lorikeet.dev/viggo")
    );
    assert!(shown.contains("kustomization.yaml:1: Kustomization: passed over"), "{shown}");
    assert!(
        cluster.why("viggo").contains("loraland-runtime-0: holds it: it is placed here"),
        "{}",
        cluster.why("viggo")
    );
    cluster.process().terminate();
    cluster.until_childless().await;
}

async fn edit_break_and_mend(
    cluster: &mut ClusterOfOne,
    traffic: &Traffic,
    answers: &BTreeMap<String, Ids>,
    (one, other): (&str, &str),
) {
    let (file, good) = ("glue-sst2.yaml", cluster.text("glue-sst2.yaml"));
    // Edited: another content under the name.
    traffic.allow(one, &[&answers[one], &answers[other]]);
    let edited = good.replace("adapters/glue_sst2", &format!("adapters/{other}"));
    cluster.write(file, &edited);
    cluster.until_ready("Adapter", "glue-sst2", 2).await;
    traffic.allow(one, &[&answers[other]]);
    traffic.go_on(60).await;
    // Broken: by a rule, by what is no YAML, by what is not there.
    cluster.write(file, &edited.replace("pvc://", "ftp://"));
    cluster.until_said("glue-sst2.yaml:7: Adapter glue-sst2: spec.source: expected one of hf://").await;
    cluster.write(file, &format!("{edited}  - [\n"));
    cluster.until_said("glue-sst2.yaml:9: did not find expected key").await;
    traffic.go_on(60).await;
    assert!(
        cluster.object("Adapter", "glue-sst2").is_some_and(|object| is_ready(&object, 2)),
        "it stays as it was"
    );
    cluster.write(file, &edited.replace(&format!("adapters/{other}"), "adapters/nowhere"));
    let failing = |object: &serde_yaml::Value| {
        object["status"]["observedGeneration"].as_u64() == Some(3)
            && condition(object, "Ready").0 == "False"
            && condition(object, "Ready").1.contains(
                "nowhere: no such folder; it is tried again until it can be read; until it is accepted its former content",
            )
    };
    cluster.until("Adapter", "glue-sst2", "says why", failing).await;
    traffic.go_on(60).await;
    // Mended.
    traffic.allow(one, &[&answers[one], &answers[other]]);
    cluster.write(file, &good);
    cluster.until_ready("Adapter", "glue-sst2", 4).await;
    traffic.allow(one, &[&answers[one]]);
    traffic.go_on(60).await;
}

async fn delete_and_bring_back(
    cluster: &mut ClusterOfOne,
    traffic: &Traffic,
    answers: &BTreeMap<String, Ids>,
) {
    let good = cluster.text("viggo.yaml");
    traffic.may_be_absent("viggo", true);
    cluster.remove("viggo.yaml");
    cluster.until_gone("Adapter", "viggo").await;
    let gone = ask(&cluster.client(0), "viggo").await.expect_err("it is gone");
    assert_eq!(gone.0, 404, "{}", gone.1);
    traffic.go_on(60).await;
    cluster.write("viggo.yaml", &good);
    cluster.until_ready("Adapter", "viggo", 1).await;
    traffic.may_be_absent("viggo", false);
    assert_eq!(ask(&cluster.client(0), "viggo").await.as_ref(), Ok(&answers["viggo"]));
    traffic.go_on(60).await;
}

/// Ends a process as the system does that has no memory left.
pub(crate) fn kill(pid: u32) {
    signal("-KILL", pid);
}

pub(crate) fn signal(name: &str, pid: u32) {
    let done = std::process::Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(done.is_ok_and(|done| done.success()), "{pid} is there");
}

/// Threads that a replica computes with, as it was told.
fn threads_of(pid: u32) -> String {
    let told = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let told = String::from_utf8_lossy(&told).into_owned();
    let threads = told.split('\0').find_map(|one| one.strip_prefix("LORIKEET_THREADS="));
    threads.unwrap_or_default().to_owned()
}

/// An Adapter of a Deployment of a golden model.
pub(crate) fn adapter(name: &str, of: &str, source: &std::path::Path) -> String {
    format!(
        "apiVersion: lorikeet.dev/v1alpha1\nkind: Adapter\nmetadata: {{name: {name}}}\nspec:\n  deploymentRef: {{name: {of}}}\n  \
         source: 'file://{}'\n  baseModel: Any\n",
        source.canonicalize().expect("an adapter").display()
    )
}

/// A Deployment of a golden model.
pub(crate) fn deployment(name: &str, model: &std::path::Path, further: &str) -> String {
    format!(
        "apiVersion: lorikeet.dev/v1alpha1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  model: {{source: 'file://{}'}}\n  \
         rollout: {{drainSeconds: 120}}\n{further}",
        model.canonicalize().expect("a model").display()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_one_leaves_no_child_and_the_next_goes_on() {
    let suite = Suite::load();
    let model = &suite.model("llama_gqa").folder;
    let mut cluster = ClusterOfOne::new();
    let further =
        "  nodePool: {accelerator: nvidia-a100-80gb}\n  autoscaling: {minReplicas: 1, maxReplicas: 4}\n";
    cluster.write("a.yaml", &deployment("a", model, further));
    cluster.start();
    let before = cluster.until_ready("Deployment", "a", 1).await;
    for vain in ["running on the CPU", "autoscaling: nothing scales here"] {
        assert!(condition(&before, "Accepted").1.contains(vain), "{before:?}");
    }
    let refused = cluster.second().await;
    let id = cluster.process().id().to_string();
    assert!(refused.contains(&format!("in use by process {id};")), "{refused}");
    assert_eq!(cluster.children().len(), 1);
    cluster.kill();
    cluster.until_childless().await;

    cluster.start();
    cluster.until_said("deployment.lorikeet.dev/a").await;
    let after = cluster.until_ready("Deployment", "a", 1).await;
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(cluster.client(0).get("/v1/models").await.status, 200);
    // A replica that dies is started again.
    let child = cluster.children()[0];
    kill(child);
    cluster.until_said("replica a-runtime-0 ended: signal: 9 (SIGKILL); it is started again").await;
    until("another process runs", async || {
        let children = cluster.children();
        if children.iter().any(|pid| *pid != child) { Ok(()) } else { Err(children) }
    })
    .await;
    cluster.until_ready("Deployment", "a", 1).await;

    cluster.process().terminate();
    cluster.until_ended().await;
    let log = cluster.log_of("a-runtime-0");
    assert!(log.contains("drained") && !log.contains("did not end in time"), "nobody was waited for: {log}");
    let stopped = cluster.object("Deployment", "a").expect("it stays");
    assert_eq!(condition(&stopped, "Available").0, "False", "{stopped:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_stand_behind_one_port_and_a_rollout_fails_no_request() {
    let suite = Suite::load();
    let (model, other) = (&suite.model("llama_gqa").folder, &suite.model("mistral_sw").folder);
    let mut cluster = ClusterOfOne::new();
    cluster.write("a.yaml", &deployment("a", model, "  replicas: 2\n"));
    cluster.write("b.yaml", &deployment("b", other, ""));
    cluster.start();
    let a = cluster.until_ready("Deployment", "a", 1).await;
    let b = cluster.until_ready("Deployment", "b", 1).await;
    assert_eq!(a["status"]["readyReplicas"].as_u64(), Some(2));
    assert_eq!(b["status"]["url"].as_str(), Some(cluster.client(1).url()));
    assert_eq!(cluster.client(0).get("/v1/models").await.ok()["data"][0]["id"], "a");
    assert_eq!(cluster.client(1).get("/v1/models").await.ok()["data"][0]["id"], "b");

    let answer = ask(&cluster.client(0), "a").await.expect("an answer");
    let traffic = Traffic::start(cluster.client(0), &BTreeMap::from([("a".to_owned(), answer)]));
    let before = cluster.children();
    cluster.write("a.yaml", &deployment("a", model, "  replicas: 2\n  serving: {maxQueue: 100}\n"));
    cluster.until_ready("Deployment", "a", 2).await;
    traffic.go_on(20).await;
    // Those that were let go end a little later.
    until("three processes run", async || {
        let children = cluster.children();
        if children.len() == 3 { Ok(()) } else { Err(children) }
    })
    .await;
    let b_runs = cluster.children().iter().filter(|pid| before.contains(pid)).count();
    assert_eq!(b_runs, 1, "those of a are others, that of b is the same");
    cluster.write("a.yaml", &deployment("a", model, "  replicas: 1\n  serving: {maxQueue: 100}\n"));
    cluster.until_ready("Deployment", "a", 3).await;
    // Whoever is alone has all the threads, though it had half of them before.
    let cores = std::thread::available_parallelism().expect("a number").to_string();
    until("each has every thread", async || {
        let threads: Vec<_> = cluster.children().into_iter().map(threads_of).collect();
        if threads == [cores.as_str(); 2] { Ok(()) } else { Err(threads) }
    })
    .await;
    traffic.go_on(20).await;
    traffic.finish().await;
    cluster.remove("a.yaml");
    cluster.until_gone("Deployment", "a").await;
    cluster.process().terminate();
    cluster.until_childless().await;
}
