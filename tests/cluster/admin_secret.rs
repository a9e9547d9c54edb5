//! What opens the replicas goes, or is made anew: a fleet is decided all the same, and nothing moves.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, Patch, PatchParams};
use lorikeet_crds::{Adapter, Deployment};
use serde_json::{Value, json};

use crate::manifests::{adapter, deployment, with};
use crate::scene::make_due;
use crate::stage::Stage;
use crate::until::{PATIENCE, until};

/// Deletes Adapter `name`, which bears the finalizer, and waits until it is gone.
async fn let_go(stage: &Stage, name: &str) {
    let adapter = stage.get::<Adapter>(name).await.expect("it is there");
    assert_eq!(adapter.metadata.finalizers.unwrap_or_default(), ["lorikeet.dev/drain"]);
    let object = format!("lora/{name}");
    stage.kubectl.run(&["delete", &object, "--namespace", &stage.namespace, "--timeout=30s"]);
}

/// Waits until the Deployment counts `total` Adapters and is Ready for `reason`.
async fn until_counted(stage: &Stage, total: u32, reason: &str) {
    until(&format!("base counts {total} Adapters and says {reason}"), PATIENCE, async || {
        let status = stage.get::<Deployment>("base").await?.status?;
        let says = status.conditions.iter().any(|one| one.type_ == "Ready" && one.reason == reason);
        (says && status.adapters.total == total).then_some(())
    })
    .await;
}

/// How often the operator has read a Secret.
fn reads(stage: &Stage) -> usize {
    let requests = stage.audit.requests();
    requests.iter().filter(|one| one.verb == "get" && one.object_ref.resource == "secrets").count()
}

async fn lose(stage: &Stage) {
    stage.api::<Secret>().delete("base-admin", &DeleteParams::default()).await.expect("it is there");
}

/// A paused Deployment's Secret is not made again. The replicas answer to what it said still; an operator that never knew
/// that says so, and lets go all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_fleet_without_its_secret_is_decided_on() {
    let mut stage = Stage::wide("paused-closed").await;
    stage.kubelet.next(|script| script.longest_poll = Some(Duration::from_millis(200)));
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    let base = deployment(&namespace, "base", 1);
    let adapters = ["sql", "chat", "math"].map(|name| adapter(&namespace, name, "base"));
    stage.kubectl.apply(&adapters);
    stage.kubectl.apply(std::slice::from_ref(&base));
    stage.until_whole("base").await;
    stage.kubectl.apply(&[with(with(base.clone(), "/spec/paused", json!(true)), "/spec/replicas", json!(2))]);
    until_counted(&stage, 3, "Paused").await;
    lose(&stage).await;
    let_go(&stage, "sql").await;
    until_counted(&stage, 2, "Paused").await;
    let replica = stage.kubelet.until_running(1).await.remove(0);
    let polled = replica.polls();
    until("it is asked on", PATIENCE, async || (replica.polls() > polled + 3).then_some(())).await;
    stage.kill_operator();
    stage.start_operator().await;
    let says = |adapter: &Adapter| {
        serde_json::to_string(&adapter.status).is_ok_and(|status| status.contains("no admin Secret"))
    };
    stage.until_adapter("math", "told that nothing opens the replica", says).await;
    let_go(&stage, "chat").await;
    until_counted(&stage, 1, "Paused").await;
    let read = reads(&stage);
    stage.until_quiet(Duration::from_secs(3)).await;
    let read = reads(&stage) - read;
    assert!(read < 15, "the Secret was read {read} times within a few seconds");
    stage.kubectl.apply(&[with(base, "/spec/paused", json!(false))]);
    stage.until_whole("base").await;
}

/// Somebody's finalizer holds the Deployment. The collector has taken the Secret; a pod of a dead node stays, with its
/// address: that keeps no Adapter.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_in_the_foreground_keeps_no_adapter() {
    let mut stage = Stage::wide("foreground").await;
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&["sql", "chat"].map(|name| adapter(&namespace, name, "base")));
    let waits = json!(["test.lorikeet.dev/waits"]);
    stage.kubectl.apply(&[with(deployment(&namespace, "base", 1), "/metadata/finalizers", waits)]);
    stage.until_whole("base").await;
    let pod = stage.kubelet.until_running(1).await.remove(0).name().to_owned();
    let held = |by: Value| Patch::Merge(json!({"metadata": {"finalizers": by}}));
    let (pods, params) = (stage.api::<Pod>(), PatchParams::default());
    pods.patch(&pod, &params, &held(json!(["test.lorikeet.dev/dead-node"]))).await.expect("a pod");
    let deletion = ["delete", "ldep/base", "--cascade=foreground", "--wait=false", "--namespace", &namespace];
    stage.kubectl.run(&deletion);
    stage.until_gone::<Secret>("base-admin").await;
    let_go(&stage, "sql").await;
    stage.kill_operator();
    stage.start_operator().await;
    let_go(&stage, "chat").await;
    assert!(stage.get::<Pod>(&pod).await.is_some() && stage.get::<Deployment>("base").await.is_some());
    pods.patch(&pod, &params, &held(Value::Null)).await.expect("a pod");
    stage.api::<Deployment>().patch("base", &params, &held(Value::Null)).await.expect("it is there");
    stage.until_gone::<Deployment>("base").await;
}

/// Replicas are slow to answer, and each Adapter is on one of them: a renewed Secret makes nobody forget that.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_moves_nothing_and_sends_nothing_again() {
    let mut stage = Stage::new("renewal").await;
    stage.kubelet.next(|script| {
        script.delay = Duration::from_millis(1500);
        script.longest_poll = Some(Duration::from_millis(500));
    });
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    let placed = |at| {
        let one = adapter(&namespace, &format!("one-{at}"), "base");
        with(one, "/spec/placement/replicas", json!(1))
    };
    stage.kubectl.apply(&(0..8).map(placed).collect::<Vec<_>>());
    stage.kubectl.apply(&[deployment(&namespace, "base", 4)]);
    stage.until_whole("base").await;
    stage.until_quiet(Duration::from_secs(4)).await;
    let written = stage.writes().len();
    let fakes = stage.kubelet.fakes();
    let heard: Vec<usize> = fakes.iter().map(|fake| fake.heard().len()).collect();
    let before = make_due(&stage).await.data;
    until("the Secret is renewed", PATIENCE, async || {
        (stage.get::<Secret>("base-admin").await?.data != before).then_some(())
    })
    .await;
    let polled: Vec<usize> = fakes.iter().map(|fake| fake.polls()).collect();
    until("the replicas answer on", PATIENCE, async || {
        fakes.iter().zip(&polled).all(|(fake, before)| fake.polls() > before + 2).then_some(())
    })
    .await;
    stage.until_quiet(Duration::from_secs(4)).await;
    let written: Vec<String> = stage.writes().split_off(written).iter().map(ToString::to_string).collect();
    assert!(written.len() == 1 && written[0].contains("/secrets/base-admin"), "{}", written.join("\n"));
    let now: Vec<usize> = fakes.iter().map(|fake| fake.heard().len()).collect();
    assert_eq!(now, heard, "replicas were written to");
}
