//! A replica is ready, and requests go to it, only with the adapters that are pinned: one that is new, one that restarted, one
//! of a rollout. What is not pinned is loaded as soon as it is up.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::ResourceExt as _;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::fake::Fake;
use crate::manifests::{adapter, deployment, with};
use crate::nodes::{is_ready, pods};
use crate::stage::{Stage, is_ready_deployment};
use crate::until::{PATIENCE, SECONDS, until};

/// A load takes so long that an adapter which nobody kept meanwhile is missed.
const LOAD: Duration = Duration::from_millis(500);

/// Deployment `base` of `replicas` with adapters `pinned` and `plain` on all of them, and `one` on one, all known to the registry.
/// The operator runs as users run it.
async fn serving(name: &str, replicas: u32) -> (Stage, Value) {
    let stage = Stage::unhurried(name).await;
    stage.kubelet.next(|script| {
        script.farewell = true;
        script.load = LOAD;
    });
    let namespace = stage.namespace.clone();
    let base = deployment(&namespace, "base", replicas);
    stage.kubectl.apply(&[
        base.clone(),
        with(adapter(&namespace, "pinned", "base"), "/spec/placement/pinned", json!(true)),
        adapter(&namespace, "plain", "base"),
        with(adapter(&namespace, "one", "base"), "/spec/placement/replicas", json!(1)),
    ]);
    for name in ["pinned", "plain", "one"] {
        stage.until_adapter_ready(name).await;
    }
    stage.until_whole("base").await;
    until("the registry knows what is pinned", SECONDS, async || {
        let maps = stage.api::<ConfigMap>().list(&ListParams::default()).await.expect("maps").items;
        let texts: String =
            maps.into_iter().filter_map(|map| map.data).flatten().map(|(_, text)| text).collect();
        (texts.contains(r#""pinned":true"#) && texts.contains("hf://acme/one")).then_some(())
    })
    .await;
    (stage, base)
}

/// Whether the pod of `fake` is ready, and how often its container restarted; nothing before its kubelet said so.
async fn said(stage: &Stage, fake: &Fake) -> Option<(bool, i32)> {
    let pod = stage.get::<Pod>(fake.name()).await?;
    let restarts = pod.status.as_ref()?.container_statuses.as_ref()?.first()?.restart_count;
    Some((is_ready(&pod), restarts))
}

/// Waits until `fake`, which is up and cannot load what is pinned, has all else, and its pod is not ready.
async fn until_up_and_not_ready(stage: &Stage, fake: &Fake, restarts: i32) {
    until("what is not pinned is loaded, and the pod is not ready", SECONDS, async || {
        assert!(!fake.serves("pinned"));
        let told = said(stage, fake).await;
        assert!(told != Some((true, restarts)), "it is ready without what is pinned");
        (fake.serves("plain") && told == Some((false, restarts))).then_some(())
    })
    .await;
    let ready = stage.get::<k8s_openapi::api::apps::v1::Deployment>("base-runtime").await;
    let counted = ready.and_then(|one| one.status).and_then(|status| status.ready_replicas).unwrap_or(0);
    let all = stage.kubelet.fakes().len();
    assert_eq!(usize::try_from(counted), Ok(all - 1), "it counts as ready");
}

/// Its loads come to an end; its pod is ready, with what is pinned.
async fn let_load(stage: &Stage, fake: &Fake, restarts: i32) {
    fake.script(|script| script.stalls.clear());
    until("the pod is ready, with what is pinned", SECONDS, async || {
        (fake.serves("pinned") && said(stage, fake).await == Some((true, restarts))).then_some(())
    })
    .await;
}

/// The replica that was not there before.
fn fresh(now: Vec<Arc<Fake>>, before: &[Arc<Fake>]) -> Arc<Fake> {
    let is_new = |fake: &Arc<Fake>| before.iter().all(|old| old.name() != fake.name());
    now.into_iter().find(is_new).expect("a new one")
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_new_replica_nor_one_that_restarted_is_ready_before_it_has_what_is_pinned() {
    let (stage, _) = serving("pinned", 1).await;
    // Requests go to what is ready alone.
    let service = stage.get::<Service>("base").await.and_then(|service| service.spec).expect("it is there");
    assert_ne!(service.publish_not_ready_addresses, Some(true));
    let old = stage.kubelet.until_running(1).await;
    stage.kubelet.next(|script| script.stalls = vec!["pinned".to_owned()]);
    stage.kubectl.run(&["scale", "ldep/base", "--replicas=2", "--namespace", &stage.namespace]);
    let new = fresh(stage.kubelet.until_running(2).await, &old);
    until_up_and_not_ready(&stage, &new, 0).await;
    let_load(&stage, &new, 0).await;
    stage.until_whole("base").await;
    // The container of the older one restarts.
    old[0].script(|script| script.stalls = vec!["pinned".to_owned()]);
    old[0].restart();
    until_up_and_not_ready(&stage, &old[0], 1).await;
    let_load(&stage, &old[0], 1).await;
    stage.until_whole("base").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_takes_no_old_replica_away_before_a_new_one_is_ready_with_what_is_pinned() {
    let (stage, base) = serving("pinned-roll", 2).await;
    let old = stage.kubelet.until_running(2).await;
    stage.kubelet.next(|script| script.stalls = vec!["pinned".to_owned()]);
    stage.kubectl.apply(&[with(base, "/spec/image", json!("registry.example/lorikeet:2"))]);
    let new = fresh(stage.kubelet.until_running(3).await, &old);
    until_up_and_not_ready(&stage, &new, 0).await;
    for old in &old {
        let pod = stage.get::<Pod>(old.name()).await.expect("it is there");
        assert!(is_ready(&pod) && pod.metadata.deletion_timestamp.is_none(), "it was taken away");
    }
    stage.kubelet.next(|script| script.stalls.clear());
    let_load(&stage, &new, 0).await;
    until("all replicas are new ones", PATIENCE, async || {
        let ready: Vec<String> =
            pods(&stage, "base").await.iter().filter(|pod| is_ready(pod)).map(|pod| pod.name_any()).collect();
        assert!(ready.len() >= 2, "{ready:?} are ready");
        let fakes = stage.kubelet.fakes();
        for fake in fakes.iter().filter(|fake| ready.iter().any(|pod| pod == fake.name())) {
            assert!(fake.serves("pinned"), "{} is ready without what is pinned", fake.name());
        }
        for name in ["plain", "one"] {
            assert!(fakes.iter().any(|fake| fake.serves(name)), "{name} is served by no replica");
        }
        let is_old = |fake: &Arc<Fake>| old.iter().any(|old| old.name() == fake.name());
        let deployment = stage.get::<lorikeet_crds::Deployment>("base").await?;
        (fakes.len() == 2 && !fakes.iter().any(is_old) && is_ready_deployment(&deployment)).then_some(())
    })
    .await;
    let all = stage.kubelet.fakes();
    until("each has what is on all", SECONDS, async || {
        all.iter().all(|fake| fake.serves("plain")).then_some(())
    })
    .await;
    stage.until_whole("base").await;
}
