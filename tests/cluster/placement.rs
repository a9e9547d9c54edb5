//! On k of N replicas: kept there and nowhere else, moved only where it must, and the most important ones where there is not
//! room for all.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::api::{DeleteParams, ListParams};
use lorikeet_api::AdapterState;
use lorikeet_crds::{Adapter, Reason};
use serde_json::json;

use crate::fake::Fake;
use crate::manifests::{adapter, deployment, with};
use crate::stage::Stage;
use crate::until::{PATIENCE, until};

/// Adapters that are kept on one replica each: enough that one replica does not get all by chance.
const PLACED: usize = 24;

fn name(at: usize) -> String {
    format!("one-{at}")
}

/// Which pods keep each adapter: of every placed one, as the replicas have it.
fn kept(stage: &Stage) -> BTreeMap<String, Vec<String>> {
    let fakes = stage.kubelet.fakes();
    let on = |name: &str| {
        let of = |fake: &std::sync::Arc<Fake>| fake.serves(name).then(|| fake.name().to_owned());
        fakes.iter().filter_map(of).collect()
    };
    (0..PLACED).map(|at| (name(at), on(&name(at)))).collect()
}

/// Waits until each is kept on one replica, and every replica knows of all.
async fn until_kept_once(stage: &Stage) -> BTreeMap<String, Vec<String>> {
    until("each is kept on one replica", PATIENCE, async || {
        let registered = stage.kubelet.fakes().iter().all(|fake| fake.report().adapters.len() == PLACED);
        Some(kept(stage)).filter(|kept| registered && kept.values().all(|pods| pods.len() == 1))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_for_one_replica_is_kept_on_one_and_moves_only_when_it_must() {
    let stage = Stage::with_operator("placement").await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[deployment(&namespace, "base", 3)]);
    stage.kubelet.until_running(3).await;
    let one = |at| with(adapter(&namespace, &name(at), "base"), "/spec/placement/replicas", json!(1));
    stage.kubectl.apply(&(0..PLACED).map(one).collect::<Vec<_>>());
    for at in 0..PLACED {
        let status = stage.until_adapter_ready(&name(at)).await.status.unwrap_or_default();
        assert_eq!((status.replicas.desired, status.replicas.ready), (1, 1));
    }
    let before = until_kept_once(&stage).await;
    let used: std::collections::BTreeSet<_> = before.values().flatten().collect();
    assert!(used.len() > 1, "all on one of three replicas: {before:?}");
    // The pod that keeps the first one goes: its share moves, the others' stay.
    let gone = before[&name(0)][0].clone();
    stage.kubectl.run(&["delete", "pod", &gone, "--namespace", &namespace, "--wait=false"]);
    until("another pod runs in its place", PATIENCE, async || {
        let fakes = stage.kubelet.fakes();
        (fakes.len() == 3 && fakes.iter().all(|fake| fake.name() != gone)).then_some(())
    })
    .await;
    let after = until_kept_once(&stage).await;
    let fresh = |pod: &String| before.values().flatten().all(|known| known != pod);
    for (name, pods) in &before {
        // A new replica takes its own share, and nothing moves between those that stayed.
        assert!(
            pods[0] == gone || after[name] == *pods || fresh(&after[name][0]),
            "{name}: {pods:?} to {:?}",
            after[name]
        );
    }
}

/// A replica that joins is asked for two at a time of what others serve, and no adapter is nowhere meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_joins_takes_its_share_over_bit_by_bit() {
    let mut stage = Stage::new("moves").await;
    stage.options().flags = vec!["--concurrent-moves=2".to_owned()];
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    let base = deployment(&namespace, "base", 1);
    stage.kubectl.apply(std::slice::from_ref(&base));
    let one = |at| with(adapter(&namespace, &name(at), "base"), "/spec/placement/replicas", json!(1));
    stage.kubectl.apply(&(0..PLACED).map(one).collect::<Vec<_>>());
    let before = until_kept_once(&stage).await;
    for at in 0..PLACED {
        stage.until_adapter_ready(&name(at)).await;
    }
    stage.kubelet.next(|script| script.load = Duration::from_millis(300));
    stage.kubectl.apply(&[with(base, "/spec/replicas", json!(2))]);
    let fakes = stage.kubelet.until_running(2).await;
    // What moves is looked for where it comes from first.
    let is_first = |fake: &&std::sync::Arc<Fake>| before[&name(0)].contains(&fake.name().to_owned());
    let (first, second): (Vec<_>, Vec<_>) = fakes.iter().partition(is_first);
    let (first, second) = (first[0], second[0]);
    let mut most = 0;
    until("it has its share", PATIENCE, async || {
        let loads = second.report().adapters.iter().filter(|one| one.state == AdapterState::Loading).count();
        assert!(loads <= 2, "{loads} move at a time");
        most = most.max(loads);
        let nowhere = (0..PLACED).find(|at| !first.serves(&name(*at)) && !second.serves(&name(*at)));
        assert_eq!(nowhere, None, "it is served by no replica");
        let (left, right) =
            [first, second].map(|fake| (0..PLACED).filter(|at| fake.serves(&name(*at))).count()).into();
        (left + right == PLACED && right > 2 && loads == 0).then_some(())
    })
    .await;
    assert_eq!(most, 2);
    for at in 0..PLACED {
        stage.until_adapter_ready(&name(at)).await;
    }
}

/// Each takes 1 MiB; there is room for three.
#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_not_room_for_all_the_pinned_and_the_important_ones_stay() {
    let stage = Stage::with_operator("room").await;
    let namespace = stage.namespace.clone();
    let base = with(deployment(&namespace, "base", 1), "/spec/adapters/gpuMemory", json!("3Mi"));
    stage.kubectl.apply(std::slice::from_ref(&base));
    stage.until_deployment_ready("base").await;
    let ranked = |name: &str, priority: i32| {
        with(adapter(&namespace, name, "base"), "/spec/placement/priority", json!(priority))
    };
    stage.kubectl.apply(&[ranked("a-low", 1), ranked("b-mid", 2), ranked("c-high", 3)]);
    for name in ["a-low", "b-mid", "c-high"] {
        stage.until_adapter_ready(name).await;
    }
    let pinned = with(adapter(&namespace, "d-pinned", "base"), "/spec/placement/pinned", json!(true));
    stage.kubectl.apply(&[pinned]);
    stage.until_adapter_ready("d-pinned").await;
    stage.until_adapter_says("a-low", Reason::InsufficientMemory).await;
    for name in ["b-mid", "c-high"] {
        stage.until_adapter_ready(name).await;
    }
    stage.kubectl.apply(&[ranked("a-low", 9)]);
    stage.until_adapter_ready("a-low").await;
    stage.until_adapter_says("b-mid", Reason::InsufficientMemory).await;
    // The replica has forgotten what `b-mid` takes. That does not make it fit.
    stage.until_quiet(Duration::from_secs(3)).await;
    stage.kubectl.apply(&[with(base, "/spec/adapters/gpuMemory", json!("8Mi"))]);
    stage.until_adapter_ready("b-mid").await;
    let all = stage.api::<Adapter>().list(&ListParams::default()).await.expect("a list");
    assert_eq!(all.items.len(), 4);
    stage.api::<Adapter>().delete("d-pinned", &DeleteParams::default()).await.expect("it is there");
    stage.until_gone::<Adapter>("d-pinned").await;
}
