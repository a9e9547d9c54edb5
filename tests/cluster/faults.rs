//! The API server errs: one request in three fails, views are stale, events get lost, versions expire, others write too.
//! The operator neither ends, nor writes without bound, and gets there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use lorikeet_crds::Adapter;
use lorikeet_tests::args;
use lorikeet_tests::made::Random;
use lorikeet_tests::say::say;
use serde_json::json;

use crate::end_state::{differences, end_state};
use crate::manifests::{adapter, deployment, digest, with};
use crate::proxy::{EventFault, Fault};
use crate::scene::{change_unseen, serving, until_carried_out};
use crate::stage::Stage;
use crate::until::{PATIENCE, until};

/// So long the writes of a storm are counted.
const STORM: Duration = Duration::from_secs(6);

/// Three Adapters on two replicas, one of them swapped, one deleted. All bear the finalizer.
async fn scenario(stage: &Stage) {
    let namespace = stage.namespace.clone();
    let sql = adapter(&namespace, "sql", "base");
    stage.kubectl.apply(&[deployment(&namespace, "base", 2), sql.clone()]);
    stage.kubectl.apply(&[adapter(&namespace, "chat", "base"), adapter(&namespace, "math", "base")]);
    for name in ["sql", "chat", "math"] {
        stage.until_adapter_ready(name).await;
    }
    stage.kubectl.apply(&[with(sql, "/spec/digest", json!(digest('f')))]);
    stage.kubectl.run(&["delete", "lora", "math", "--namespace", &namespace, "--wait=false"]);
    stage
        .until_adapter("sql", "swapped", |adapter| {
            adapter.status.as_ref().is_some_and(|status| status.digest == Some(digest('f')))
        })
        .await;
    stage.until_gone::<Adapter>("math").await;
    stage.until_adapter_ready("sql").await;
    stage.until_whole("base").await;
}

/// `name`'s end is that of the same scenario without faults, and its operator still runs.
async fn ends_as_without_faults(mut stage: Stage, name: &str) {
    stage.operator().process().assert_running();
    stage.until_quiet(Duration::from_secs(2)).await;
    let got = end_state(&stage.client, &stage.namespace, &stage.kubelet).await;
    let mut calm = Stage::wide(&format!("{name}-calm")).await;
    calm.start_operator().await;
    scenario(&calm).await;
    calm.until_quiet(Duration::from_secs(2)).await;
    let expected = end_state(&calm.client, &calm.namespace, &calm.kubelet).await;
    let findings = differences(&expected, &got);
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    assert_invariants(&stage, 2 * calm.proxy.writes(), &["sql", "chat"]);
}

/// No replica was ever told to give up one of `kept`, and the operator tried no more than `most` writes, carried out or not.
fn assert_invariants(stage: &Stage, most: usize, kept: &[&str]) {
    stage.kubelet.fakes().iter().for_each(|fake| fake.assert_kept(kept));
    let writes = stage.proxy.writes();
    say(&format!("{}: {writes} writes, {most} are allowed", stage.namespace));
    assert!(writes <= most, "{writes} writes, {most} are allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_three_requests_in_ten_failing_it_ends_as_without_faults() {
    let seed = args::seed(5);
    say(&format!("random API errors: LORIKEET_SEED={seed}"));
    let mut stage = Stage::wide("errors").await;
    let mut random = Random(seed);
    let mut tries: BTreeMap<String, usize> = BTreeMap::new();
    stage.proxy.judge(move |call| {
        if call.is_of_finalizer() {
            // Each that is put on or taken off fails at first: there are too few of them to leave that to chance.
            let tries = tries.entry(call.path.clone()).or_default();
            *tries += 1;
            return if *tries % 2 == 1 { Fault::Refuse(500, "InternalError") } else { Fault::None };
        }
        if call.is_lease() {
            return Fault::None;
        }
        if random.below(10) >= 3 {
            return if random.below(20) == 0 {
                Fault::Delay(Duration::from_millis(300))
            } else {
                Fault::None
            };
        }
        match random.below(6) {
            0 => Fault::Refuse(409, "Conflict"),
            1 => Fault::Refuse(429, "TooManyRequests"),
            2 => Fault::Refuse(500, "InternalError"),
            3 => Fault::Refuse(503, "ServiceUnavailable"),
            4 => Fault::CutBefore,
            _ => Fault::CutAfter,
        }
    });
    stage.start_operator().await;
    scenario(&stage).await;
    let calls = stage.proxy.calls();
    let tried =
        |name| calls.iter().filter(|call| call.is_of_finalizer() && call.path.ends_with(name)).count();
    assert!(tried("/sql") >= 2, "put on, and not at first");
    assert!(tried("/math") >= 4, "put on and taken off, and neither at first");
    stage.proxy.heal();
    ends_as_without_faults(stage, "errors").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_expire_are_listed_anew_and_nothing_is_lost() {
    let mut stage = Stage::wide("gone").await;
    stage.start_operator().await;
    let gone = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&gone);
    let mut random = Random(args::seed(7));
    // One event in five is replaced by 410 Gone, twenty times: more often than any compaction does.
    stage.proxy.judge_events(move |_, event| {
        let is_one =
            event["type"] != "BOOKMARK" && random.below(5) == 0 && count.load(Ordering::Relaxed) < 20;
        if is_one {
            count.fetch_add(1, Ordering::Relaxed);
            EventFault::Gone
        } else {
            EventFault::None
        }
    });
    scenario(&stage).await;
    let gone = gone.load(Ordering::Relaxed);
    assert!(gone > 0, "no watch expired");
    let lists = stage
        .proxy
        .calls()
        .iter()
        .filter(|call| call.method == "GET" && !call.is_watch() && !call.is_lease())
        .count();
    say(&format!("410 in the place of events: {gone} watches expired, {lists} reads"));
    assert!(lists < 60 + 10 * gone, "{lists} reads after {gone} expiries: a hot loop");
    ends_as_without_faults(stage, "gone").await;
}

/// etcd is compacted while the operator's watches are cut: the API server itself says that what they go on from is gone.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_compaction_everything_is_listed_anew_and_nothing_is_lost() {
    let Some(mut stage) = Stage::cluster_wide("compacted").await else { return };
    // It goes on through the API server's restart, however long that takes.
    stage.options().lease_seconds = 120;
    stage.start_operator().await;
    serving(&stage, 2, &["sql", "chat"]).await;
    stage.until_quiet(Duration::from_secs(1)).await;
    stage.proxy.down();
    change_unseen(&stage).await;
    let plane = Arc::get_mut(&mut stage.plane).expect("a control plane of its own");
    plane.compact().await;
    stage.proxy.heal();
    let expired = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&expired);
    stage.proxy.judge_events(move |_, event| {
        if event["type"] == "ERROR" && event["object"]["code"] == 410 {
            count.fetch_add(1, Ordering::Relaxed);
        }
        EventFault::None
    });
    until_carried_out(&stage, PATIENCE).await;
    stage.operator().process().assert_running();
    let expired = expired.load(Ordering::Relaxed);
    say(&format!("etcd compacted: {expired} watches were too old for the API server"));
    assert!(expired > 0, "no watch was too old: nothing was shown");
    assert_invariants(&stage, 100, &["sql"]);
}

/// Unobserved states (Sieve): an object is deleted and made again while its events are lost; the watch is cut after.
#[tokio::test(flavor = "multi_thread")]
async fn lost_events_are_made_up_for_when_the_watch_is_taken_up_again() {
    let stage = Stage::with_operator("lost").await;
    serving(&stage, 1, &["sql", "chat"]).await;
    stage.proxy.judge_events(|call, _| {
        if call.path.ends_with("/adapters") || call.path.ends_with("/services") {
            EventFault::Drop
        } else {
            EventFault::None
        }
    });
    change_unseen(&stage).await;
    stage.until_quiet(Duration::from_secs(1)).await;
    stage.proxy.heal();
    stage.proxy.sever();
    // No finalizer holds `chat` up here: that it is gone is found by the next list.
    until_carried_out(&stage, PATIENCE).await;
    assert_invariants(&stage, 100, &["sql"]);
}

/// A stale view (Sieve): after a restart the operator sees an Adapter that was deleted and made again since, with
/// another source. It must not touch the new one by what it knows of the old.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_view_after_a_restart_harms_no_object_that_it_does_not_know() {
    let mut stage = Stage::with_operator("stale").await;
    let namespace = stage.namespace.clone();
    let base = deployment(&namespace, "base", 1);
    let sql = adapter(&namespace, "sql", "base");
    serving(&stage, 1, &["sql"]).await;
    let token = stage.token.clone();
    stage.proxy.freeze(&token).await;
    stage.kill_operator();
    stage.kubectl.run(&["delete", "lora", "sql", "--namespace", &namespace, "--wait=false"]);
    stage.until_gone::<Adapter>("sql").await;
    stage.kubectl.apply(&[with(sql, "/spec/source", json!("hf://acme/second-life"))]);
    let second = stage.get::<Adapter>("sql").await.expect("it was applied");
    stage.start_operator().await;
    stage.until_quiet(Duration::from_secs(1)).await;
    let now = stage.get::<Adapter>("sql").await.expect("the new object was deleted by one who knew the old");
    assert_eq!(now.metadata.uid, second.metadata.uid);
    let digests = now.status.and_then(|status| status.digest);
    assert!(digests.is_none(), "the new object bears the old one's status: {digests:?}");
    stage.proxy.thaw();
    let ready = stage.until_adapter_ready("sql").await;
    assert_eq!(ready.metadata.uid, second.metadata.uid);
    assert!(
        stage.kubelet.fakes()[0].report().adapters.iter().all(|one| one.source == "hf://acme/second-life")
    );
    stage.kubectl.apply(&[with(base, "/spec/replicas", json!(2))]);
    stage.kubelet.until_running(2).await;
}

/// A second writer changes a field of ours again and again: ours wins in the end, and the fight costs no more writes
/// than the other makes.
#[tokio::test(flavor = "multi_thread")]
async fn a_fight_over_a_field_costs_one_write_for_each_of_the_others() {
    let stage = Stage::with_operator("fight").await;
    serving(&stage, 1, &[]).await;
    stage.until_quiet(Duration::from_secs(1)).await;
    let before = stage.writes().len();
    let services = stage.api::<Service>();
    let theirs = json!({"spec": {"selector": {"lorikeet.dev/deployment": "theirs"}}});
    let mut fights = 0;
    for _ in 0..20 {
        services.patch("base", &PatchParams::default(), &Patch::Merge(&theirs)).await.expect("a change");
        fights += 1;
        until("ours is back", PATIENCE, async || {
            let selector = stage.get::<Service>("base").await?.spec?.selector?;
            (selector.get("lorikeet.dev/deployment").map(String::as_str) == Some("base")).then_some(())
        })
        .await;
    }
    stage.until_quiet(Duration::from_secs(1)).await;
    let written = stage.writes().len() - before;
    assert!(written <= fights, "{written} writes for {fights} of the other");
}

/// Every write of a status meets a conflict: it is tried again ever more slowly, and nothing else waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_conflicts_costs_few_writes_and_ends_with_the_storm() {
    let stage = Stage::with_operator("storm").await;
    let namespace = stage.namespace.clone();
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    stage.proxy.judge(move |call| {
        if call.is_write() && call.path.ends_with("/status") {
            count.fetch_add(1, Ordering::Relaxed);
            Fault::Refuse(409, "Conflict")
        } else {
            Fault::None
        }
    });
    stage.kubectl.apply(&[deployment(&namespace, "base", 2), adapter(&namespace, "sql", "base")]);
    // Statuses cannot be written: the work is done all the same.
    until("the adapter is loaded", PATIENCE, async || {
        let fakes = stage.kubelet.fakes();
        (fakes.len() == 2 && fakes.iter().all(|fake| fake.serves("sql"))).then_some(())
    })
    .await;
    // The pauses between attempts are 50 ms, doubled each time, at most two seconds: see `Operator::start`. The seventh is
    // the first of the longest, and each attempt is two writes: the Deployment's status and the Adapter's.
    until("the pauses are at their longest", PATIENCE, async || {
        (refused.load(Ordering::Relaxed) > 2 * 7).then_some(())
    })
    .await;
    let (before, began) = (stage.proxy.writes(), Instant::now());
    until("some seconds of it", PATIENCE, async || (began.elapsed() >= STORM).then_some(())).await;
    let written = stage.proxy.writes() - before;
    // A pause is shortened by a quarter at most. One attempt may have been under way, and one may come at the very end.
    let attempts = began.elapsed().as_secs_f64() / (0.75 * 2.0) + 2.0;
    say(&format!("a storm of conflicts: {written} writes in {STORM:?}, {:.0} are allowed", 2.0 * attempts));
    assert!(written >= 2, "it does not try any more");
    assert!(written as f64 <= 2.0 * attempts, "{written} writes in {STORM:?}");
    stage.proxy.heal();
    stage.until_adapter_ready("sql").await;
    stage.until_deployment_ready("base").await;
}
