//! What is told of a fleet comes though a write failed and whatever else happens, and it is told once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::manifests::{adapter, deployment};
use crate::proxy::Fault;
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
