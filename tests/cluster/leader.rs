//! Two operators: one leads, the other is ready to. Never both.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment as Workload;
use lorikeet_crds::Adapter;
use serde_json::json;

use crate::audit::Event;
use crate::manifests::{adapter, deployment, digest, with};
use crate::proxy::{Call, Fault};
use crate::second::{LEASE_SECONDS, Second};
use crate::stage::Stage;
use crate::until::{PATIENCE, until};

async fn two(name: &str, lease_seconds: u32) -> (Stage, Second) {
    let mut stage = Stage::new(name).await;
    stage.options().lease_seconds = lease_seconds;
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[deployment(&namespace, "base", 2), adapter(&namespace, "sql", "base")]);
    stage.until_adapter_ready("sql").await;
    let second = Second::start(&mut stage).await;
    (stage, second)
}

async fn until_swapped(stage: &Stage, to: &str) {
    let swapped = |adapter: &Adapter| {
        adapter.status.as_ref().is_some_and(|status| status.digest.as_deref() == Some(to))
    };
    stage.until_adapter("sql", "swapped", swapped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_ready_writes_nothing_and_takes_over_when_the_leader_dies() {
    let (mut stage, second) = two("follower", LEASE_SECONDS).await;
    let namespace = stage.namespace.clone();
    let sql = |digit| with(adapter(&namespace, "sql", "base"), "/spec/digest", json!(digest(digit)));
    stage.kubectl.apply(&[sql('1')]);
    until_swapped(&stage, &digest('1')).await;
    assert_eq!(second.proxy.writes(), 0, "a follower wrote: {:?}", second.proxy.calls());
    stage.kill_operator();
    stage.kubectl.apply(&[sql('2')]);
    until_swapped(&stage, &digest('2')).await;
    assert!(second.proxy.writes() > 0);
    assert!(stage.kubelet.fakes().iter().all(|fake| fake.serves("sql")));
}

/// The Lease would last for longer than the test waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_hands_over_before_its_lease_ends() {
    let (mut stage, second) = two("handover", 2 * PATIENCE.as_secs() as u32).await;
    stage.operator().process().signal("TERM");
    let ended = until("the leader stops", PATIENCE, async || stage.operator().process().ended()).await;
    assert!(ended, "it did not stop well");
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[with(adapter(&namespace, "sql", "base"), "/spec/digest", json!(digest('3')))]);
    until_swapped(&stage, &digest('3')).await;
    assert!(second.proxy.writes() > 0);
}

/// As on a connection that is gone without a word.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_hangs_costs_no_term() {
    let mut stage = Stage::with_operator("renewing").await;
    // Ready is who has seen the cluster, leader or not.
    until("it leads", PATIENCE, async || {
        stage.operator().process().log().contains(" leading ").then_some(())
    })
    .await;
    let renewals = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&renewals);
    stage.proxy.judge(move |call| {
        let is_renewal = call.is_lease() && call.method != "GET";
        if is_renewal && count.fetch_add(1, Ordering::Relaxed) == 0 { Fault::Hang } else { Fault::None }
    });
    until("it is renewed again and again", PATIENCE, async || {
        stage.operator().process().assert_running();
        (renewals.load(Ordering::Relaxed) > 4).then_some(())
    })
    .await;
    let log = stage.operator().process().log();
    assert_eq!(log.matches("the Lease was not renewed; trying again").count(), 1, "{log}");
}

/// The leader is stopped for longer than its Lease lasts and then goes on: it has to find that it leads no more before
/// it writes anything, and replicas take nothing from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_slept_through_its_term_writes_nothing_more() {
    let (mut stage, second) = two("sleeper", LEASE_SECONDS).await;
    let namespace = stage.namespace.clone();
    stage.operator().process().signal("STOP");
    stage.kubectl.apply(&[with(adapter(&namespace, "sql", "base"), "/spec/digest", json!(digest('4')))]);
    until_swapped(&stage, &digest('4')).await;
    let (before, versions) = (stage.proxy.writes(), newest(&stage));
    stage.operator().process().signal("CONT");
    let ended = until("the sleeper ends", PATIENCE, async || stage.operator().process().ended()).await;
    assert!(!ended, "one that lost its Lease must not pass for one that was stopped");
    assert_eq!(stage.proxy.writes(), before, "it wrote after its term: {:?}", stage.proxy.calls().last());
    assert_eq!(newest(&stage), versions, "a replica took a set of a deposed leader");
    let mut second = second;
    second.operator.process().assert_running();
    stage.until_quiet(Duration::from_secs(1)).await;
}

/// A child that a leader was writing as its term ended arrives once another leads: it changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_former_leader_wrote_and_arrives_late_changes_nothing() {
    let (mut stage, second) = two("late", LEASE_SECONDS).await;
    let namespace = stage.namespace.clone();
    stage.until_whole("base").await;
    let is_of_workload = |call: &Call| call.method == "PATCH" && call.path.ends_with("/base-runtime");
    let is_late = move |call: &Call| is_of_workload(call) && call.path.contains("/apps/v1/");
    stage.proxy.judge(move |call| if is_late(call) { Fault::Hold } else { Fault::None });
    stage.kubectl.apply(&[deployment(&namespace, "base", 1)]);
    until("it is on its way", PATIENCE, async || (stage.proxy.held() > 0).then_some(())).await;
    stage.kill_operator();
    stage.kubectl.apply(&[deployment(&namespace, "base", 3)]);
    stage.kubelet.until_running(3).await;
    stage.until_whole("base").await;
    // What it says of that comes after it.
    stage.until_quiet(Duration::from_secs(1)).await;
    let generation =
        async || stage.get::<Workload>("base-runtime").await.and_then(|one| one.metadata.generation);
    let before = (generation().await, second.proxy.writes());
    stage.proxy.deliver();
    until("it arrives", PATIENCE, async || {
        let late = |event: &Event| event.uri.contains("/base-runtime") && event.code() == 409;
        stage.writes().iter().any(late).then_some(())
    })
    .await;
    stage.until_quiet(Duration::from_secs(1)).await;
    assert_eq!((generation().await, second.proxy.writes()), before);
}

/// The newest version that each replica holds.
fn newest(stage: &Stage) -> Vec<Option<lorikeet_api::Version>> {
    stage.kubelet.fakes().iter().map(|fake| fake.report().version).collect()
}
