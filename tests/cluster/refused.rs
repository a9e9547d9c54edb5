//! Faults of an adapter's rank, base model, size and configuration are refused before any replica hears of it: the operator
//! reads the configuration at the source. A hub of the test serves it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use lorikeet_crds::condition::find;
use lorikeet_crds::{Adapter, ConditionType, Reason};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use crate::manifests::{adapter, deployment, digest, with};
use crate::scene::grown;
use crate::stage::Stage;
use crate::told::warnings;
use crate::until::{PATIENCE, until};

/// The header of a safetensors file.
const HEADER: u64 = 64;

/// So many polls of a replica are a while in which an operator that wrote would have written.
const POLLS: usize = 40;

/// What a hub has, and how it answers.
#[derive(Clone, Default)]
struct Shelf {
    /// `adapter_config.json` and bytes of weights of each repository of `acme`, by its name.
    repositories: Arc<Mutex<BTreeMap<String, (Value, u64)>>>,
    is_away: Arc<AtomicBool>,
    asked_in_vain: Arc<AtomicUsize>,
}

/// A hub on loopback; it ends with its value.
struct Hub {
    url: String,
    shelf: Shelf,
    _task: AbortOnDropHandle<()>,
}

impl Hub {
    async fn start() -> Self {
        let shelf = Shelf::default();
        let router =
            Router::new().route("/acme/{name}/resolve/main/{file}", get(file)).with_state(shelf.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound address"));
        let task = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
        Self { url, shelf, _task: AbortOnDropHandle::new(task) }
    }

    /// Repository `name` has `config`, and weights of `bytes`.
    fn has(&self, name: &str, config: Value, bytes: u64) {
        let mut all = self.shelf.repositories.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(name.to_owned(), (config, bytes));
    }
}

async fn file(State(shelf): State<Shelf>, Path((name, file)): Path<(String, String)>) -> Response {
    if shelf.is_away.load(Ordering::Relaxed) {
        shelf.asked_in_vain.fetch_add(1, Ordering::Relaxed);
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let found = shelf.repositories.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
    match (found, file.as_str()) {
        (Some((config, _)), "adapter_config.json") => config.to_string().into_response(),
        (Some((_, bytes)), "adapter_model.safetensors") => {
            let range = format!("bytes 0-7/{}", 8 + HEADER + bytes);
            let start = HEADER.to_le_bytes().to_vec();
            (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, range)], start).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn config(rank: u32, base: &str) -> Value {
    json!({"peft_type": "LORA", "r": rank, "base_model_name_or_path": base, "target_modules": ["q_proj"]})
}

/// A stage whose operator reads at a hub of the test; `base` is Ready.
async fn with_hub(name: &str) -> (Stage, Hub) {
    let hub = Hub::start().await;
    let mut stage = Stage::new(name).await;
    // The hub alone is read: what it does not say nobody else does.
    stage.kubelet.next(|script| script.inspector_away = true);
    stage.options().flags = vec!["--probe-seconds=60".to_owned(), format!("--hf-endpoint={}", hub.url)];
    stage.start_operator().await;
    let base = with(deployment(&stage.namespace, "base", 2), "/spec/adapters/gpuMemory", json!("8Mi"));
    stage.kubectl.apply(&[base]);
    stage.until_deployment_ready("base").await;
    (stage, hub)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_refused_before_a_replica_hears_of_it() {
    let (stage, hub) = with_hub("refused-early").await;
    let faults = [
        ("rank", config(256, "acme/base"), 100, Reason::RankExceeded),
        ("other-base", config(8, "acme/other"), 100, Reason::BaseModelMismatch),
        ("huge", config(8, "acme/base"), 9 << 20, Reason::BudgetExceeded),
        ("no-rank", config(0, "acme/base"), 100, Reason::InvalidConfig),
    ];
    hub.has("good", config(8, "acme/base"), 100);
    for (name, config, bytes, _) in &faults {
        hub.has(name, config.clone(), *bytes);
        stage.kubectl.apply(&[adapter(&stage.namespace, name, "base")]);
    }
    stage.kubectl.apply(&[adapter(&stage.namespace, "good", "base")]);
    stage.until_adapter_ready("good").await;
    for (name, _, _, reason) in &faults {
        let refused = stage.until_adapter_says(name, *reason).await;
        assert!(
            refused.metadata.finalizers.unwrap_or_default().is_empty(),
            "{name}: nothing is to be drained"
        );
        let conditions = refused.status.unwrap_or_default().conditions;
        for (condition, truth) in [(ConditionType::Accepted, "False"), (ConditionType::Stalled, "True")] {
            let is = find(&conditions, condition).map(|one| one.status.as_str());
            assert_eq!(is, Some(truth), "{name} {condition:?}: {conditions:?}");
        }
        for fake in stage.kubelet.fakes() {
            assert!(fake.first_heard(name).is_none(), "{name}: a replica heard of it");
        }
    }
    // What would change it does.
    hub.has("corrected", config(8, "acme/base"), 100);
    stage.kubectl.apply(&[
        with(adapter(&stage.namespace, "other-base", "base"), "/spec/baseModel", json!("Any")),
        with(adapter(&stage.namespace, "rank", "base"), "/spec/source", json!("hf://acme/corrected")),
    ]);
    stage.until_adapter_ready("other-base").await;
    stage.until_adapter_ready("rank").await;
}

/// What was refused stays so: nobody has read anything else of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_stands_though_the_operator_restarts_while_the_hub_is_away() {
    let (mut stage, hub) = with_hub("hub-away").await;
    hub.has("rank", config(256, "acme/base"), 100);
    hub.has("other-base", config(8, "acme/other"), 100);
    let refused = [("rank", Reason::RankExceeded), ("other-base", Reason::BaseModelMismatch)];
    for (name, reason) in refused {
        stage.kubectl.apply(&[adapter(&stage.namespace, name, "base")]);
        stage.until_adapter_says(name, reason).await;
    }
    stage.until_quiet(Duration::from_secs(2)).await;
    let (before, said) = (stage.writes().len(), warnings(&stage).await);
    assert_eq!(said.len(), refused.len(), "{said:?}");
    stage.kill_operator();
    hub.shelf.is_away.store(true, Ordering::Relaxed);
    let fakes = stage.kubelet.fakes();
    let often = Some(Duration::from_millis(200));
    fakes.iter().for_each(|fake| fake.script(|script| script.longest_poll = often));
    stage.start_operator().await;
    until("the hub is asked in vain", PATIENCE, async || {
        (hub.shelf.asked_in_vain.load(Ordering::Relaxed) > 0).then_some(())
    })
    .await;
    let polled: Vec<usize> = fakes.iter().map(|fake| fake.polls()).collect();
    until("a while passes", PATIENCE, async || {
        fakes.iter().zip(&polled).all(|(fake, before)| fake.polls() >= before + POLLS).then_some(())
    })
    .await;
    let written: Vec<String> = stage.writes().split_off(before).iter().map(ToString::to_string).collect();
    assert!(written.is_empty(), "{written:?}");
    assert_eq!(warnings(&stage).await, said);
    for (name, _) in refused {
        assert!(fakes.iter().all(|fake| fake.first_heard(name).is_none()), "a replica heard of {name}");
    }
}

/// An edit that is refused takes nothing away, on replicas that hold the former content and on those that start later.
#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_is_refused_leaves_what_was_served() {
    let (stage, hub) = with_hub("refused-edit").await;
    hub.has("sql", config(8, "acme/base"), 100);
    hub.has("too-great", config(512, "acme/base"), 100);
    let sql = adapter(&stage.namespace, "sql", "base");
    stage.kubectl.apply(std::slice::from_ref(&sql));
    let before = stage.until_adapter_ready("sql").await.status.unwrap_or_default();
    stage.kubectl.apply(&[with(sql.clone(), "/spec/source", json!("hf://acme/too-great"))]);
    let refused = stage.until_adapter_says("sql", Reason::RankExceeded).await.status.unwrap_or_default();
    assert_eq!(refused.digest, before.digest, "the status speaks of what is served");
    let fakes = grown(&stage, 3, "sql").await;
    for fake in &fakes {
        let sources: Vec<String> =
            fake.heard().into_iter().flat_map(|heard| heard.set).map(|one| one.source).collect();
        assert!(sources.iter().all(|source| !source.contains("too-great")), "{sources:?}");
    }
    stage.kubectl.apply(&[with(sql, "/spec/digest", json!(digest('6')))]);
    let is_swapped =
        |adapter: &Adapter| adapter.status.as_ref().is_some_and(|status| status.digest == Some(digest('6')));
    stage.until_adapter("sql", "the corrected one", is_swapped).await;
    stage.until_adapter_ready("sql").await;
}

/// What is known of what is loaded is held against a Deployment that asks for less: no replica that starts hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_longer_fits_its_deployment_no_replica_that_starts_hears_of() {
    let (stage, hub) = with_hub("fits-no-more").await;
    hub.has("sql", config(8, "acme/base"), 100);
    stage.kubectl.apply(&[adapter(&stage.namespace, "sql", "base")]);
    stage.until_adapter_ready("sql").await;
    let names = |fakes: &[Arc<crate::fake::Fake>]| -> Vec<String> {
        fakes.iter().map(|fake| fake.name().to_owned()).collect()
    };
    let before = names(&stage.kubelet.fakes());
    let base = with(deployment(&stage.namespace, "base", 3), "/spec/adapters/gpuMemory", json!("8Mi"));
    stage.kubectl.apply(&[with(base.clone(), "/spec/adapters/maxRank", json!(4))]);
    stage.until_adapter_says("sql", Reason::RankExceeded).await;
    let fakes = until("replicas that started since, and nobody has it", PATIENCE, async || {
        let fakes = stage.kubelet.fakes();
        let is_new = names(&fakes).iter().any(|name| !before.contains(name));
        (fakes.len() >= 3 && is_new && fakes.iter().all(|fake| !fake.serves("sql"))).then_some(fakes)
    })
    .await;
    stage.until_quiet(Duration::from_secs(2)).await;
    for fake in fakes.iter().filter(|fake| !before.iter().any(|name| name == fake.name())) {
        assert!(fake.first_heard("sql").is_none(), "{} heard of it", fake.name());
    }
    stage.kubectl.apply(&[base]);
    stage.until_adapter_ready("sql").await;
}

/// No replica compares names: that it is loaded says nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_of_another_model_that_is_loaded_is_refused_where_its_name_counts_and_serves_on() {
    let (stage, hub) = with_hub("any-no-more").await;
    hub.has("sql-on-other", config(8, "acme/other"), 100);
    let sql = adapter(&stage.namespace, "sql-on-other", "base");
    stage.kubectl.apply(&[with(sql.clone(), "/spec/baseModel", json!("Any"))]);
    stage.until_adapter_ready("sql-on-other").await;
    hub.shelf.is_away.store(true, Ordering::Relaxed);
    stage.kubectl.apply(&[sql]);
    let refused = stage.until_adapter_says("sql-on-other", Reason::BaseModelMismatch).await;
    assert!(refused.status.is_some_and(|status| status.digest.is_some()), "what it serves is told");
    stage.until_quiet(Duration::from_secs(2)).await;
    assert!(stage.kubelet.fakes().iter().all(|fake| fake.serves("sql-on-other")));
}
