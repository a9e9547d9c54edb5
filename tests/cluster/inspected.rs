//! Faults of adapters that the operator may not read itself, as a Secret opens them or they lie where the replicas alone can go,
//! are refused before any replica hears of them too: the inspector beside a replica reads them.

use std::collections::BTreeMap;
use std::time::Duration;

use lorikeet_api::ErrorCode;
use lorikeet_crds::condition::find;
use lorikeet_crds::{ConditionType, Reason};
use lorikeet_tests::golden::Suite;
use serde_json::{Value, json};

use crate::fake::{Fake, Shelf, config};
use crate::kubelet::Kubelet;
use crate::manifests::{adapter, deployment, with};
use crate::scene::grown;
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

/// Some of so many sources begin at each of three inspectors, and replicas have room for all of them.
const SOURCES: usize = 8;

/// Adapters at sources of the shelf's own making become Ready, though the inspector beside `dead` reads none of them.
async fn assert_read_beside_others(stage: &Stage, prefix: &str, dead: &Fake) {
    let names: Vec<String> = (0..SOURCES).map(|number| format!("{prefix}-{number}")).collect();
    let adapters: Vec<Value> =
        names.iter().map(|name| at(stage, name, &format!("s3://bucket/{name}"), None)).collect();
    stage.kubectl.apply(&adapters);
    for name in &names {
        stage.until_adapter_ready(name).await;
    }
    let others = stage.kubelet.fakes().into_iter().filter(|fake| fake.name() != dead.name());
    let read: Vec<String> = others.flat_map(|fake| fake.inspected()).map(|one| one.source).collect();
    let is_read = |name: &&String| read.contains(&format!("s3://bucket/{name}"));
    assert_eq!(names.iter().filter(is_read).count(), SOURCES, "{read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_inspector_that_is_away_does_not_read_another_reads() {
    let (stage, _) = with_inspectors("inspected-away", 0).await;
    stage.kubelet.next(|script| script.inspector_away = true);
    stage.kubectl.run(&["scale", "ldep/base", "--replicas=1", "--namespace", &stage.namespace]);
    let dead = stage.kubelet.until_running(1).await.remove(0);
    stage.kubelet.next(|script| script.inspector_away = false);
    stage.kubectl.run(&["scale", "ldep/base", "--replicas=3", "--namespace", &stage.namespace]);
    stage.kubelet.until_running(3).await;
    stage.until_deployment_ready("base").await;
    assert_read_beside_others(&stage, "away", &dead).await;
    assert!(dead.inspected().is_empty());
}

/// What reads the Secret's files has to be mounted, so pods are replaced; it comes while they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_comes_under_the_rollout_for_it_opens_its_source_and_nothing_is_lost() {
    let (stage, shelf) = with_inspectors("inspected-late-secret", 2).await;
    stage.kubectl.apply(&[at(&stage, "good", "s3://bucket/good", None)]);
    stage.until_adapter_ready("good").await;
    stage.until_whole("base").await;
    let former = stage.kubelet.until_running(2).await;
    let source = "s3://bucket/closed";
    shelf.lacks(source, ErrorCode::SourceUnauthorized, "there is no Secret s3");
    // The rollout stands at its first pod.
    stage.kubelet.next(|script| script.base_loads = true);
    stage.kubectl.apply(&[at(&stage, "closed", source, Some("s3"))]);
    stage.until_adapter_says("closed", Reason::SourceUnauthorized).await;
    let is_former = |fake: &Fake| former.iter().any(|one| one.name() == fake.name());
    for fake in stage.kubelet.fakes() {
        let has_read = fake.inspected().iter().any(|one| one.source == source);
        assert_eq!(has_read, !is_former(&fake), "only a pod that has the Secret mounted can read it");
    }
    assert_unheard(&stage, &["closed"]);
    shelf.has(source, &config(8, "acme/base"), 100);
    stage
        .until_adapter("closed", "is accepted", |adapter| {
            let status = adapter.status.clone().unwrap_or_default();
            find(&status.conditions, ConditionType::Accepted).is_some_and(|one| one.status == "True")
        })
        .await;
    stage.kubelet.next(|script| script.base_loads = false);
    stage.kubelet.fakes().iter().for_each(|fake| fake.script(|script| script.base_loads = false));
    stage.until_whole("base").await;
    for name in ["good", "closed"] {
        stage.until_adapter_ready(name).await;
    }
    let fakes = stage.kubelet.until_running(2).await;
    assert!(fakes.iter().all(|fake| !is_former(fake) && fake.serves("good") && fake.serves("closed")));
    former.iter().chain(&fakes).for_each(|fake| fake.assert_kept(&["good"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_an_inspector_finds_unfit_leaves_what_was_served() {
    let (stage, shelf) = with_inspectors("inspected-edit", 2).await;
    stage.kubectl.apply(&[at(&stage, "sql", "s3://bucket/sql", None)]);
    let before = stage.until_adapter_ready("sql").await.status.unwrap_or_default();
    shelf.has("s3://bucket/too-great", &config(512, "acme/base"), 100);
    stage.kubectl.apply(&[at(&stage, "sql", "s3://bucket/too-great", None)]);
    let refused = stage.until_adapter_says("sql", Reason::RankExceeded).await.status.unwrap_or_default();
    assert_eq!(refused.digest, before.digest, "the status speaks of what is served");
    let fakes = grown(&stage, 3, "sql").await;
    for fake in &fakes {
        let heard: Vec<String> =
            fake.heard().into_iter().flat_map(|heard| heard.set).map(|one| one.source).collect();
        assert!(heard.iter().all(|source| source == "s3://bucket/sql"), "{heard:?}");
        fake.assert_kept(&["sql"]);
    }
    stage.kubectl.apply(&[at(&stage, "sql", "s3://bucket/corrected", None)]);
    stage
        .until_adapter("sql", "the corrected one", |adapter| {
            adapter.status.as_ref().is_some_and(|status| status.digest != before.digest)
        })
        .await;
    stage.until_adapter_ready("sql").await;
}

/// Two attempts after the first ones are up to a minute away, as each comes twice as late as the one before.
const TWO_ATTEMPTS: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_sources_that_stay_unread_are_tried_again_and_nothing_is_written() {
    let (stage, shelf) = with_inspectors("inspected-hundred", 2).await;
    stage.until_whole("base").await;
    let names: Vec<String> = (0..100).map(|number| format!("gone-{number}")).collect();
    let source = |name: &str| format!("s3://bucket/{name}");
    for name in &names {
        shelf.lacks(&source(name), ErrorCode::SourceUnavailable, &format!("{}: not found", source(name)));
    }
    stage.kubectl.apply(&names.iter().map(|name| at(&stage, name, &source(name), None)).collect::<Vec<_>>());
    for name in &names {
        stage.until_adapter_says(name, Reason::SourceUnavailable).await;
    }
    stage.until_quiet(Duration::from_secs(2)).await;
    let (before, said) = (stage.writes().len(), warnings(&stage).await);
    assert_eq!(said.len(), names.len(), "{said:?}");
    let asked = || {
        let mut counts = BTreeMap::<String, usize>::new();
        let asked = stage.kubelet.fakes().into_iter().flat_map(|fake| fake.inspected());
        asked.for_each(|one| *counts.entry(one.source).or_default() += 1);
        counts
    };
    let first = asked();
    until("each is tried again twice", TWO_ATTEMPTS, async || {
        let now = asked();
        first.iter().all(|(source, count)| now[source] >= count + 2).then_some(())
    })
    .await;
    stage.until_quiet(Duration::from_secs(2)).await;
    assert_eq!(first.len(), names.len());
    let written: Vec<String> = stage.writes().split_off(before).iter().map(ToString::to_string).collect();
    assert!(written.is_empty(), "{written:?}");
    assert_eq!(warnings(&stage).await, said);
    assert_unheard(&stage, &names.iter().map(String::as_str).collect::<Vec<_>>());
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

/// It takes the connection and says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_inspector_that_hangs_does_not_read_another_reads() {
    let (stage, _) = with_inspectors("inspected-hung", 3).await;
    stage.until_deployment_ready("base").await;
    let dead = stage.kubelet.until_running(3).await.remove(0);
    dead.script(|script| script.inspector_hung = true);
    assert_read_beside_others(&stage, "hung", &dead).await;
    assert!(!dead.inspected().is_empty(), "no source of these begins at it");
}
