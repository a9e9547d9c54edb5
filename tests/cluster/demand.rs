//! `placement.replicas: Auto`: kept on as many replicas as the demand that they report asks for, and no write for what
//! changes nothing. The demand is scripted; how a replica measures it, and how long it must be calm, is `tests/up`'s.

use std::sync::Arc;
use std::time::Duration;

use lorikeet_crds::Adapter;
use serde_json::json;

use crate::fake::Fake;
use crate::manifests::{adapter, deployment, with};
use crate::stage::Stage;
use crate::until::{PATIENCE, until};

/// Waits until `auto` is kept on `count` of the replicas, as its status and they themselves say.
async fn until_kept_on(stage: &Stage, count: usize) {
    let wanted = u32::try_from(count).expect("a few");
    let is_kept = |adapter: &Adapter| {
        let replicas = adapter.status.clone().unwrap_or_default().replicas;
        (replicas.desired, replicas.ready) == (wanted, wanted)
    };
    stage.until_adapter("auto", &format!("kept on {count}"), is_kept).await;
    until(&format!("{count} have it"), PATIENCE, async || {
        let fakes = stage.kubelet.fakes();
        (fakes.iter().filter(|fake| fake.serves("auto")).count() == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auto_adapter_gains_replicas_with_its_demand_and_loses_them_when_that_is_over() {
    let stage = Stage::with_operator("demand").await;
    let namespace = stage.namespace.clone();
    let auto = with(adapter(&namespace, "auto", "base"), "/spec/placement/replicas", json!("Auto"));
    stage.kubectl.apply(&[deployment(&namespace, "base", 3), adapter(&namespace, "other", "base"), auto]);
    let fakes = stage.kubelet.until_running(3).await;
    stage.until_adapter_ready("other").await;
    until_kept_on(&stage, 1).await;
    until("every replica knows it", PATIENCE, async || {
        let knows = |fake: &Arc<Fake>| fake.report().adapters.iter().any(|one| one.name == "auto");
        fakes.iter().all(knows).then_some(())
    })
    .await;
    // Six at a time on each of two are more than one serves, wherever it is kept.
    fakes[0].asked("auto", 6);
    fakes[1].asked("auto", 6);
    until_kept_on(&stage, 2).await;
    stage.until_adapter_ready("auto").await;
    let first: Vec<String> = pods_with_it(&stage);
    stage.until_quiet(Duration::from_secs(1)).await;
    let (written, heard) = (stage.writes().len(), heard(&stage));
    // Sixteen in all: two serve them still, and nobody is told anything.
    fakes[1].asked("auto", 10);
    stage.until_quiet(Duration::from_secs(2)).await;
    assert_eq!(stage.writes().len(), written, "a demand that changes nothing was written of");
    assert_eq!(self::heard(&stage), heard, "or told to a replica");
    fakes[2].asked("auto", 1);
    until_kept_on(&stage, 3).await;
    for fake in &fakes {
        fake.asked("auto", 0);
    }
    until_kept_on(&stage, 1).await;
    let last = pods_with_it(&stage);
    assert!(first.contains(&last[0]), "it was moved: from {first:?} to {last:?}");
    assert!(fakes.iter().all(|fake| fake.serves("other")), "the other one stays where it is");
    stage.until_adapter_ready("auto").await;
}

fn pods_with_it(stage: &Stage) -> Vec<String> {
    let fakes = stage.kubelet.fakes();
    fakes.iter().filter(|fake| fake.serves("auto")).map(|fake| fake.name().to_owned()).collect()
}

/// How many writes each replica heard.
fn heard(stage: &Stage) -> Vec<usize> {
    stage.kubelet.fakes().iter().map(|fake| fake.heard().len()).collect()
}
