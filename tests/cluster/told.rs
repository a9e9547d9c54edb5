//! What is told of a fleet comes though a write failed and whatever else happens, and it is told once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use lorikeet_crds::{Deployment, Reason};

use crate::manifests::{adapter, deployment, strangers_service};
use crate::proxy::Fault;
use crate::scene::serving;
use crate::stage::Stage;
use crate::until::{PATIENCE, until};

/// Something happens while a status that was not written waits for its next attempt: that look says nothing, and nobody
/// comes by again before the next resync.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_whose_write_failed_comes_though_something_happens_before_it_is_tried_again() {
    let mut stage = Stage::new("held").await;
    // Whatever is done by the clock comes too late.
    stage.options().flags = ["--secret-seconds=600", "--resync-seconds=600", "--backoff-ms=2000"]
        .iter()
        .chain(&["--max-backoff-seconds=4"])
        .map(|flag| (*flag).to_owned())
        .collect();
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[deployment(&namespace, "base", 1), adapter(&namespace, "sql", "base")]);
    stage.until_adapter_ready("sql").await;
    stage.until_whole("base").await;
    stage.until_quiet(Duration::from_secs(1)).await;
    let refused = Arc::new(AtomicBool::new(false));
    let once = Arc::clone(&refused);
    stage.proxy.judge(move |call| {
        let is_status = call.is_write() && call.path.ends_with("/adapters/chat/status");
        if is_status && !once.swap(true, Ordering::Relaxed) {
            Fault::Refuse(409, "Conflict")
        } else {
            Fault::None
        }
    });
    stage.kubectl.apply(&[adapter(&namespace, "chat", "base")]);
    until("a write is refused", PATIENCE, async || refused.load(Ordering::Relaxed).then_some(())).await;
    let marks = ["label", "lora", "sql", "team=nlp", "--namespace", &namespace];
    stage.kubectl.run(&marks);
    let soon = Duration::from_secs(15);
    until("the status comes", soon, async || stage.get("chat").await.filter(crate::stage::is_ready_adapter))
        .await;
}

/// One tenant's rule against statuses is that tenant's alone: the pause before it is tried again is no other's. Nothing but
/// the log can tell of it, and does, once.
#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_whose_status_is_refused_holds_no_other_up_and_is_logged_once() {
    let mut stage = Stage::new("untold").await;
    stage.options().flags = vec!["--backoff-ms=40000".to_owned(), "--max-backoff-seconds=60".to_owned()];
    let tried = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tried);
    stage.proxy.judge(move |call| match call.is_write() && call.path.ends_with("/adapters/stuck/status") {
        true => {
            count.fetch_add(1, Ordering::Relaxed);
            Fault::Refuse(422, "Invalid")
        }
        false => Fault::None,
    });
    stage.start_operator().await;
    serving(&stage, 1, &["sql"]).await;
    stage.until_whole("base").await;
    stage.kubectl.apply(&[adapter(&stage.namespace, "stuck", "base")]);
    let attempts = async |least: usize| {
        let is_tried = async || (tried.load(Ordering::Relaxed) >= least).then_some(());
        until(&format!("it is tried {least} times"), PATIENCE, is_tried).await;
    };
    attempts(1).await;
    for name in ["late", "later"] {
        stage.kubectl.apply(&[adapter(&stage.namespace, name, "base")]);
        // Less than the shortest pause after an error.
        until(&format!("{name} is Ready"), Duration::from_secs(25), async || {
            stage.get(name).await.filter(crate::stage::is_ready_adapter)
        })
        .await;
    }
    // However often others are told of: by the pause, and by nothing else.
    assert_eq!(tried.load(Ordering::Relaxed), 1);
    attempts(2).await;
    stage.proxy.heal();
    stage.until_adapter_ready("stuck").await;
    let log = std::fs::read_to_string(&stage.options().log).expect("a log");
    let told: Vec<&str> =
        log.lines().filter(|line| line.contains("stuck") && line.contains("may not be written")).collect();
    assert!(told.len() == 1 && told[0].contains("WARN"), "{told:?}");
}

/// The warnings of `namespace`: what is concerned, why, and how often it was said.
pub(crate) async fn warnings(stage: &Stage) -> Vec<(String, String, i32)> {
    let all = stage.api::<Event>().list(&ListParams::default()).await.expect("Events").items;
    let is_ours = |event: &Event| {
        let by = event.reporting_controller.as_deref();
        event.type_.as_deref() == Some("Warning") && by == Some(lorikeet_crds::FIELD_MANAGER)
    };
    let mut told: Vec<_> = all
        .into_iter()
        .filter(is_ours)
        .map(|event| {
            let on = event.regarding.unwrap_or_default().name.unwrap_or_default();
            (on, event.reason.unwrap_or_default(), event.series.map_or(1, |series| series.count))
        })
        .collect();
    told.sort();
    told
}

/// Once for the failure, not once for its kind and once for the status; and a new process does not begin anew.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_carried_out_is_said_once_whoever_meets_it() {
    let mut stage = Stage::with_operator("once").await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[strangers_service(&namespace, "base")]);
    stage.kubectl.apply(&[deployment(&namespace, "base", 1)]);
    let said = until("its status says so", PATIENCE, async || {
        let status = stage.get::<Deployment>("base").await?.status?;
        status.conditions.into_iter().find(|one| one.reason == Reason::NotCarriedOut.as_str())
    })
    .await;
    assert!(said.message.contains("Service") && said.message.contains("not ours"), "{}", said.message);
    let once = [("base".to_owned(), "NotCarriedOut".to_owned(), 1)];
    until("an Event says so", PATIENCE, async || (!warnings(&stage).await.is_empty()).then_some(())).await;
    stage.until_quiet(Duration::from_secs(3)).await;
    assert_eq!(warnings(&stage).await, once);
    let before = stage.writes().len();
    stage.kill_operator();
    stage.start_operator().await;
    stage.until_quiet(Duration::from_secs(3)).await;
    assert_eq!(warnings(&stage).await, once, "after a restart");
    let written: Vec<_> = stage.writes().split_off(before).iter().map(ToString::to_string).collect();
    assert!(written.is_empty(), "{written:?}");
}

/// It is one Adapter's: its Deployment, which others share, is Ready.
#[tokio::test(flavor = "multi_thread")]
async fn a_finalizer_that_may_not_be_written_is_said_of_its_adapter() {
    let Some(mut stage) = Stage::cluster_wide("unheld").await else { return };
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    stage.proxy.judge(|call| match call.method == "PATCH" && call.path.ends_with("/adapters/sql") {
        true => Fault::Refuse(422, "Invalid"),
        false => Fault::None,
    });
    stage.kubectl.apply(&[deployment(&namespace, "base", 1), adapter(&namespace, "sql", "base")]);
    stage.until_adapter_says("sql", Reason::NotCarriedOut).await;
    stage.until_deployment_ready("base").await;
    stage.until_quiet(Duration::from_secs(3)).await;
    assert_eq!(warnings(&stage).await, [("sql".to_owned(), "NotCarriedOut".to_owned(), 1)]);
    stage.proxy.heal();
    stage.until_adapter_ready("sql").await;
}
