//! Faults of adapters that the operator may not read itself, as a Secret opens them or they lie where the replicas alone can go,
//! are refused before any replica hears of them too: the inspector beside a replica reads them.

use std::time::Duration;

use lorikeet_api::ErrorCode;
use lorikeet_crds::condition::find;
use lorikeet_crds::{ConditionType, Reason};
use lorikeet_tests::golden::Suite;
use serde_json::{Value, json};

use crate::fake::{Shelf, config};
use crate::kubelet::Kubelet;
use crate::manifests::{adapter, deployment, with};
use crate::stage::Stage;
use crate::told::warnings;
use crate::until::{PATIENCE, until};

/// A stage whose inspectors find what is on the shelf; `base` is applied with so many replicas.
async fn with_inspectors(name: &str, replicas: u32) -> (Stage, Shelf) {
    let shelf = Shelf::default();
    let mut stage = Stage::new(name).await;
    stage.kubelet.next(|script| script.shelf = shelf.clone());
    stage.start_operator().await;
    let base = deployment(&stage.namespace, "base", replicas);
    stage.kubectl.apply(&[with(base, "/spec/adapters/gpuMemory", json!("8Mi"))]);
    (stage, shelf)
}

/// Adapter `name` at `source`, which `secret` opens.
fn at(stage: &Stage, name: &str, source: &str, secret: Option<&str>) -> Value {
    let adapter = with(adapter(&stage.namespace, name, "base"), "/spec/source", json!(source));
    match secret {
        Some(secret) => with(adapter, "/spec/secretRef/name", json!(secret)),
        None => adapter,
    }
}

fn assert_unheard(stage: &Stage, names: &[&str]) {
    for fake in stage.kubelet.fakes() {
        for name in names {
            assert!(fake.first_heard(name).is_none(), "{name}: replica {} heard of it", fake.name());
        }
    }
}

/// Name, source, Secret, how replicas read it, what is there, and why it is refused.
type Fault = (&'static str, &'static str, Option<&'static str>, &'static str, Value, u64, Reason);

fn faults() -> [Fault; 4] {
    [
        (
            "rank",
            "s3://bucket/rank",
            None,
            "s3://bucket/rank",
            config(256, "acme/base"),
            100,
            Reason::RankExceeded,
        ),
        (
            "other-base",
            "hf://acme/other",
            Some("hf"),
            "hf://acme/other",
            config(8, "acme/other"),
            100,
            Reason::BaseModelMismatch,
        ),
        (
            "huge",
            "pvc://loras/huge",
            None,
            "/models/loras/huge",
            config(8, "acme/base"),
            9 << 20,
            Reason::BudgetExceeded,
        ),
        (
            "none",
            "https://host/x",
            Some("hf"),
            "https://host/x",
            config(0, "acme/base"),
            100,
            Reason::InvalidConfig,
        ),
    ]
}

/// Who asks names the Secret and never has what is in it.
fn assert_secrets_are_named_alone(stage: &Stage) {
    let asked: Vec<_> = stage.kubelet.fakes().iter().flat_map(|fake| fake.inspected()).collect();
    let of =
        |source: &str| asked.iter().find(|one| one.source == source).and_then(|one| one.credentials.clone());
    assert_eq!(of("s3://bucket/good"), Some("s3".to_owned()));
    assert_eq!(of("/models/loras/good"), None);
    let read = stage.audit.requests();
    let users = |name: &str| ["hf", "s3"].contains(&name);
    let secrets = read.iter().filter(|event| event.object_ref.resource == "secrets");
    let count = secrets.filter(|event| users(&event.object_ref.name)).count();
    assert_eq!(count, 0, "users' Secrets are mounted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_secret_opens_or_a_pod_alone_reaches_is_refused_before_a_replica_hears_of_it() {
    let (stage, shelf) = with_inspectors("inspected", 2).await;
    stage.until_deployment_ready("base").await;
    let faults = faults();
    let good = [
        ("good-s3", "s3://bucket/good", Some("s3"), "s3://bucket/good"),
        ("good-claim", "pvc://loras/good", None, "/models/loras/good"),
    ];
    for (name, source, secret, read, config, bytes, _) in &faults {
        shelf.has(read, config, *bytes);
        stage.kubectl.apply(&[at(&stage, name, source, *secret)]);
    }
    for (name, source, secret, read) in good {
        shelf.has(read, &config(8, "acme/base"), 100);
        stage.kubectl.apply(&[at(&stage, name, source, secret)]);
    }
    shelf.lacks("s3://bucket/closed", ErrorCode::SourceUnauthorized, "the source refuses the Secret s3");
    stage.kubectl.apply(&[at(&stage, "closed", "s3://bucket/closed", Some("s3"))]);
    for (name, ..) in good {
        stage.until_adapter_ready(name).await;
    }
    for (name, .., reason) in &faults {
        stage.until_adapter_says(name, *reason).await;
    }
    let closed = stage.until_adapter_says("closed", Reason::SourceUnauthorized).await;
    let conditions = closed.status.unwrap_or_default().conditions;
    let accepted = find(&conditions, ConditionType::Accepted).expect("it is judged");
    assert_eq!(accepted.status, "False");
    assert!(
        accepted.message.starts_with("the source refuses the Secret s3; it is tried again"),
        "{accepted:?}"
    );
    assert_unheard(&stage, &["rank", "other-base", "huge", "none", "closed"]);
    assert_secrets_are_named_alone(&stage);
    // It is tried again by itself.
    shelf.has("s3://bucket/closed", &config(8, "acme/base"), 100);
    stage.until_adapter_ready("closed").await;
}

/// Nothing is left to replicas to judge because nobody is there who reads it.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_read_yet_is_not_accepted_and_is_read_when_a_pod_is_there() {
    let (stage, shelf) = with_inspectors("inspected-later", 0).await;
    shelf.has("s3://bucket/rank", &config(256, "acme/base"), 100);
    shelf.has("s3://bucket/good", &config(8, "acme/base"), 100);
    stage
        .kubectl
        .apply(&[at(&stage, "rank", "s3://bucket/rank", None), at(&stage, "good", "s3://bucket/good", None)]);
    for name in ["rank", "good"] {
        stage
            .until_adapter(name, "waits for a pod", |adapter| {
                let status = adapter.status.clone().unwrap_or_default();
                let accepted = find(&status.conditions, ConditionType::Accepted);
                accepted.is_some_and(|one| {
                    one.status == "Unknown"
                        && one.message.ends_with("is read as soon as there is a replica's pod that runs")
                })
            })
            .await;
    }
    stage.kubectl.run(&["scale", "ldep/base", "--replicas=2", "--namespace", &stage.namespace]);
    stage.until_adapter_ready("good").await;
    stage.until_adapter_says("rank", Reason::RankExceeded).await;
    assert_unheard(&stage, &["rank"]);
}

/// What could not be read, and why, is said once, whoever leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_stays_unread_is_told_once_though_the_operator_restarts() {
    let (mut stage, shelf) = with_inspectors("inspected-still", 1).await;
    stage.until_deployment_ready("base").await;
    let source = "s3://bucket/closed";
    shelf.lacks(source, ErrorCode::SourceUnauthorized, "the source refuses the Secret s3");
    stage.kubectl.apply(&[at(&stage, "closed", source, Some("s3"))]);
    stage.until_adapter_says("closed", Reason::SourceUnauthorized).await;
    // Its Secret was new to the pods: they were replaced.
    stage.kubelet.until_running(1).await;
    stage.until_deployment_ready("base").await;
    stage.until_quiet(Duration::from_secs(2)).await;
    let (before, said) = (stage.writes().len(), warnings(&stage).await);
    assert_eq!(said.len(), 1, "{said:?}");
    stage.kill_operator();
    let inspector = stage.kubelet.until_running(1).await.remove(0);
    let asked = inspector.inspected().len();
    stage.start_operator().await;
    // The first is the new leader's own, the next ones follow from it alone.
    until("it is tried again and again", PATIENCE, async || {
        (inspector.inspected().len() >= asked + 3).then_some(())
    })
    .await;
    let written: Vec<String> = stage.writes().split_off(before).iter().map(ToString::to_string).collect();
    assert!(written.is_empty(), "{written:?}");
    assert_eq!(warnings(&stage).await, said);
    assert_unheard(&stage, &["closed"]);
}

/// The real inspector reads for the operator, and the real replica never heard of what is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_inspector_reads_what_a_real_replica_never_hears_of() {
    let mut stage = Stage::new("inspected-real").await;
    let namespace = stage.namespace.clone();
    stage.kubelet = Kubelet::real(stage.client.clone(), &namespace);
    stage.options().flags = vec!["--probe-seconds=30".to_owned()];
    stage.start_operator().await;
    let suite = Suite::load();
    let model = suite.model("llama_gqa").folder.canonicalize().expect("a model");
    let source = |path: &str| format!("file://{}", model.join(path).display());
    let base = with(deployment(&namespace, "base", 1), "/spec/model/source", json!(source("")));
    let base = with(base, "/spec/adapters/maxRank", json!(16));
    let any =
        |name: &str, path: &str| with(at(&stage, name, &source(path), None), "/spec/baseModel", json!("Any"));
    stage.kubectl.apply(&[
        base,
        any("good", "adapters/qv_r8"),
        any("great", "adapters/attn_r64"),
        any("nowhere", "adapters/nowhere"),
    ]);
    stage.until_adapter_ready("good").await;
    stage.until_adapter_says("great", Reason::RankExceeded).await;
    stage.until_adapter_says("nowhere", Reason::SourceUnavailable).await;
    let face = stage.kubelet.faces().remove(0);
    let known = face.get("/v1/models").await.ok();
    let known: Vec<&str> =
        known["data"].as_array().into_iter().flatten().filter_map(|one| one["id"].as_str()).collect();
    assert_eq!(known, ["base", "good"], "it knows what it was told of, and nothing else");
}
