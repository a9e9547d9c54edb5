//! What is sent to replicas: to many at once, and to no more than may be, whether they answer or hang.

use std::time::Duration;

use crate::manifests::{adapter, deployment};
use crate::stage::Stage;
use crate::until::{PATIENCE, until};

const REPLICAS: usize = 8;
/// Writes that may be under way.
const CONCURRENT: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn no_more_replicas_are_written_to_at_once_than_may_be_and_one_that_hangs_delays_no_other() {
    let mut stage = Stage::new("fan-out").await;
    stage.options().flags = vec![format!("--concurrent-replica-writes={CONCURRENT}")];
    // Each takes its time: without a bound all of them would be at it together.
    stage.kubelet.next(|script| script.delay = Duration::from_millis(100));
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    let base = deployment(&namespace, "base", u32::try_from(REPLICAS).expect("a few"));
    stage.kubectl.apply(&[base, adapter(&namespace, "sql", "base")]);
    let fakes = stage.kubelet.until_running(REPLICAS).await;
    stage.until_deployment_ready("base").await;
    stage.until_adapter_ready("sql").await;
    stage.kubectl.apply(&[adapter(&namespace, "chat", "base")]);
    stage.until_adapter_ready("chat").await;
    assert!(fakes.iter().all(|fake| fake.serves("sql") && fake.serves("chat")));
    let writes = fakes[0].behaviour().writes;
    // Those that are late, as on a machine that stands still, have as many places of their own.
    let is_bounded = || (CONCURRENT..=2 * CONCURRENT).contains(&writes.most());
    assert!(is_bounded(), "{} at once", writes.most());

    fakes[0].script(|script| script.hung = true);
    stage.kubectl.apply(&[adapter(&namespace, "more", "base")]);
    until("the others have it", PATIENCE, async || {
        fakes[1..].iter().all(|fake| fake.serves("more")).then_some(())
    })
    .await;
    assert!(!fakes[0].serves("more"));
    assert!(is_bounded(), "{} at once", writes.most());
    fakes[0].script(|script| script.hung = false);
    stage.until_adapter_ready("more").await;
}
