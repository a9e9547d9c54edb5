//! The operator is killed after its i-th write, for every i of a scenario: the end is that of a run without a fault.

use std::panic::AssertUnwindSafe;

use futures::{FutureExt as _, StreamExt as _, stream};
use lorikeet_crds::Adapter;
use lorikeet_tests::say::say;
use serde_json::json;

use crate::end_state::{EndState, differences, end_state};
use crate::manifests::{adapter, deployment, digest, with};
use crate::proxy::Fault;
use crate::stage::{Stage, is_ready_adapter, is_whole};
use crate::until::{PATIENCE, until};

/// Sweeps that run side by side: they wait more than they work.
const LANES: usize = 4;

/// Starts the operator anew where it was struck down.
async fn revive(stage: &mut Stage) {
    if stage.proxy.is_struck() {
        stage.kill_operator();
        stage.proxy.heal();
        stage.start_operator().await;
    }
}

/// Waits until `condition` holds, with the operator revived whenever it is struck.
async fn until_true(stage: &mut Stage, what: &str, condition: impl AsyncFn(&Stage) -> bool) {
    until(what, PATIENCE, async || {
        revive(stage).await;
        condition(stage).await.then_some(())
    })
    .await;
}

async fn ready(stage: &Stage, name: &str) -> bool {
    stage.get::<Adapter>(name).await.is_some_and(|adapter| is_ready_adapter(&adapter))
}

/// Create, swap, scale, delete; then everything as it is at rest.
async fn scenario(stage: &mut Stage) -> EndState {
    let namespace = stage.namespace.clone();
    let base = deployment(&namespace, "base", 1);
    let sql = adapter(&namespace, "sql", "base");
    stage.kubectl.apply(&[base.clone(), sql.clone(), adapter(&namespace, "chat", "base")]);
    until_true(stage, "both are Ready", async |stage| {
        ready(stage, "sql").await && ready(stage, "chat").await
    })
    .await;
    stage
        .kubectl
        .apply(&[with(sql, "/spec/digest", json!(digest('e'))), with(base, "/spec/replicas", json!(2))]);
    stage.kubectl.run(&["delete", "lora", "chat", "--namespace", &namespace, "--wait=false"]);
    until_true(stage, "the change is carried out", async |stage| {
        let swapped = stage.get::<Adapter>("sql").await.is_some_and(|adapter| {
            let status = adapter.status.clone().unwrap_or_default();
            is_ready_adapter(&adapter) && status.digest == Some(digest('e')) && status.replicas.ready == 2
        });
        swapped && stage.get::<Adapter>("chat").await.is_none()
    })
    .await;
    until_true(stage, "the Deployment is Ready", async |stage| {
        let base = stage.get::<lorikeet_crds::Deployment>("base").await;
        base.is_some_and(|base| {
            is_whole(&base)
                && base.status.is_some_and(|status| status.adapters.total == 1 && status.ready_replicas == 2)
        })
    })
    .await;
    // The last write may be the one that strikes, and comes after what was waited for.
    let mut last = None;
    until("the end state stays", PATIENCE, async || {
        revive(stage).await;
        stage.until_quiet(std::time::Duration::from_millis(400)).await;
        let now = end_state(&stage.client, &stage.namespace, &stage.kubelet).await;
        let same = last.as_ref() == Some(&now) && !stage.proxy.is_struck();
        last = Some(now);
        same.then_some(())
    })
    .await;
    last.unwrap_or_default()
}

/// The scenario with the operator killed after write `at`, counted from 1. Nothing when it never came to that write.
async fn struck_at(at: usize) -> Option<EndState> {
    let mut stage = Stage::new("sweep").await;
    let mut count = 0;
    stage.proxy.judge(move |call| {
        count += usize::from(call.is_write());
        if call.is_write() && count == at { Fault::Strike } else { Fault::None }
    });
    let identity = format!("operator-{at}");
    stage.options().identity = identity;
    stage.start_operator().await;
    let before = stage.proxy.calls().len();
    let end = scenario(&mut stage).await;
    let struck = stage.proxy.writes() >= at && before < stage.proxy.calls().len();
    struck.then_some(end)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_any_write_it_ends_where_an_undisturbed_operator_ends() {
    let mut stage = Stage::with_operator("undisturbed").await;
    let expected = scenario(&mut stage).await;
    let writes = stage.writes().len();
    drop(stage);
    say(&format!("crash sweep: {writes} writes"));
    let mut findings = Vec::new();
    let runs =
        (1..=writes).map(|at| async move { (at, AssertUnwindSafe(struck_at(at)).catch_unwind().await) });
    let mut runs = std::pin::pin!(stream::iter(runs).buffer_unordered(LANES));
    while let Some((at, end)) = runs.next().await {
        let found = match end {
            Ok(None) => continue,
            Ok(Some(end)) => differences(&expected, &end),
            Err(_) => vec!["it never got there; its panic is above".to_owned()],
        };
        findings.extend(found.into_iter().map(|found| format!("killed after write {at}: {found}")));
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}
