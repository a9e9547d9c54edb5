//! Faults of an adapter's rank, base model, size and configuration are refused before any replica hears of it: the operator
//! reads the configuration at the source. A hub of the test serves it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

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
use crate::stage::Stage;
use crate::until::{PATIENCE, until};

/// The header of a safetensors file.
const HEADER: u64 = 64;

/// `adapter_config.json` and bytes of weights of each repository of `acme`, by its name.
type Repositories = Arc<Mutex<BTreeMap<String, (Value, u64)>>>;

/// A hub on loopback; it ends with its value.
struct Hub {
    url: String,
    repositories: Repositories,
    _task: AbortOnDropHandle<()>,
}

impl Hub {
    async fn start() -> Self {
        let repositories = Repositories::default();
        let router = Router::new()
            .route("/acme/{name}/resolve/main/{file}", get(file))
            .with_state(Arc::clone(&repositories));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound address"));
        let task = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
        Self { url, repositories, _task: AbortOnDropHandle::new(task) }
    }

    /// Repository `name` has `config`, and weights of `bytes`.
    fn has(&self, name: &str, config: Value, bytes: u64) {
        let mut all = self.repositories.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(name.to_owned(), (config, bytes));
    }
}

async fn file(State(all): State<Repositories>, Path((name, file)): Path<(String, String)>) -> Response {
    let found = all.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
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
    stage.kubectl.run(&["scale", "ldep/base", "--replicas=3", "--namespace", &stage.namespace]);
    let fakes = stage.kubelet.until_running(3).await;
    until("the new replica serves it too", PATIENCE, async || {
        fakes.iter().all(|fake| fake.serves("sql")).then_some(())
    })
    .await;
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
