//! Nodes are drained as who runs a cluster drains them: `kubectl drain` cordons a node and has its pods evicted, which the
//! PodDisruptionBudget holds back while the other replicas could not bear it, and never for ever.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use lorikeet_crds::Deployment;
use serde_json::json;

use crate::manifests::{adapter, deployment, with};
use crate::nodes::{is_ready, node, node_of, nodes_of, pods};
use crate::stage::{Stage, is_whole};
use crate::tethered::Tethered;
use crate::until::{PATIENCE, SECONDS, until};

/// A load takes so long that an adapter which nobody kept meanwhile is missed.
const LOAD: Duration = Duration::from_millis(500);

/// Kept on every replica; of the pinned one a replica is ready only with it.
const EVERYWHERE: [&str; 3] = ["pinned", "sql", "chat"];
/// Kept on one replica each.
const ALONE: [&str; 4] = ["one-0", "one-1", "one-2", "one-3"];

/// What kubectl says of a pod whose eviction is refused.
const HELD_BACK: &str = "would violate the pod's disruption budget";

/// Drains `node`, as an administrator would.
fn drain(stage: &Stage, node: &str) -> Tethered {
    let flags = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s"];
    let log = stage.plane.folder().join(format!("drain-{node}.log"));
    stage.kubectl.start(&[["drain", node].as_slice(), &flags].concat(), log)
}

/// Whether the drain is over. It may not fail.
fn is_over(drain: &mut Tethered) -> bool {
    drain.ended().inspect(|well| assert!(well, "the node was not drained: {}", drain.log())).is_some()
}

/// What must hold at every moment: each adapter is served by a replica that runs, and those that are everywhere by one that is
/// ready and stays, so that requests go to it.
async fn assert_served(stage: &Stage) {
    let staying = pods(stage, "base").await;
    let staying: Vec<String> = staying.iter().filter(|pod| is_ready(pod)).map(|pod| pod.name_any()).collect();
    let fakes = stage.kubelet.fakes();
    for name in ALONE {
        assert!(fakes.iter().any(|fake| fake.serves(name)), "{name} is served by no replica");
    }
    for name in EVERYWHERE {
        let serves =
            fakes.iter().any(|fake| staying.iter().any(|pod| pod == fake.name()) && fake.serves(name));
        assert!(serves, "{name} is served by no replica that is ready and stays, of {staying:?}");
    }
}

/// Waits until all is as it should be again, on replicas of which none is on one of `gone`.
async fn until_whole_without(stage: &Stage, gone: &[&str]) {
    until("all is as it was, on other nodes", PATIENCE, async || {
        assert_served(stage).await;
        stage.get::<Deployment>("base").await.filter(is_whole)?;
        let pods = pods(stage, "base").await;
        let fakes = stage.kubelet.fakes();
        let elsewhere = pods.iter().filter_map(node_of).all(|node| !gone.contains(&node));
        let everywhere = fakes.iter().all(|fake| EVERYWHERE.iter().all(|name| fake.serves(name)));
        (elsewhere && everywhere && fakes.len() == 3 && pods.len() == 3).then_some(())
    })
    .await;
    for name in ALONE {
        let adapter = stage.until_adapter_ready(name).await;
        let replicas = adapter.status.unwrap_or_default().replicas;
        assert_eq!((replicas.desired, replicas.ready), (1, 1), "{name}");
    }
}

/// The name of the pod on `node`.
async fn pod_on(stage: &Stage, node: &str) -> Option<String> {
    let pods = pods(stage, "base").await;
    pods.iter().find(|pod| node_of(pod) == Some(node)).map(|pod| pod.name_any())
}

/// Waits until the drain is over; all is served meanwhile.
async fn until_drained(stage: &Stage, drain: &mut Tethered) {
    until("the node is drained", PATIENCE, async || {
        assert_served(stage).await;
        is_over(drain).then_some(())
    })
    .await;
}

/// Three replicas on as many of five nodes, with all adapters; the nodes that bear one.
async fn serving_on_nodes(stage: &mut Stage) -> Vec<String> {
    for name in ["node-a", "node-b", "node-c", "node-d", "node-e"] {
        node(stage, name, &[]).await;
    }
    stage.kubelet.next(|script| {
        script.farewell = true;
        script.load = LOAD;
    });
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    let mut all = vec![deployment(&namespace, "base", 3)];
    all.extend(EVERYWHERE.map(|name| {
        with(adapter(&namespace, name, "base"), "/spec/placement/pinned", json!(name == "pinned"))
    }));
    let alone = |name| with(adapter(&namespace, name, "base"), "/spec/placement/replicas", json!(1));
    all.extend(ALONE.map(alone));
    stage.kubectl.apply(&all);
    for name in ALONE.iter().chain(&EVERYWHERE) {
        stage.until_adapter_ready(name).await;
    }
    stage.until_whole("base").await;
    let nodes: Vec<String> = nodes_of(stage, "base").await.into_iter().collect();
    assert_eq!(nodes.len(), 3, "one replica on each: {nodes:?}");
    nodes
}

#[tokio::test(flavor = "multi_thread")]
async fn drained_nodes_give_up_one_replica_at_a_time_and_every_adapter_is_served_all_the_while() {
    let Some(mut stage) = Stage::scheduled("drain").await else { return };
    let bearing = serving_on_nodes(&mut stage).await;
    // The node whose replica alone keeps an adapter.
    let fakes = stage.kubelet.fakes();
    let holder = fakes.iter().find(|fake| fake.serves(ALONE[0])).expect("one keeps it").name();
    let pod = stage.get::<Pod>(holder).await.expect("it runs");
    let first = node_of(&pod).expect("it has a node");
    until_drained(&stage, &mut drain(&stage, first)).await;
    until_whole_without(&stage, &[first]).await;
    let alone = stage.until_adapter_ready(ALONE[0]).await.status.unwrap_or_default();
    let places = &alone.placements;
    assert!(places.iter().all(|place| place.pod != holder), "{places:?}");
    stage.kubectl.run(&["uncordon", first]);

    // The two others that bore a replica from the start, at once.
    let both: Vec<&str> = bearing.iter().map(String::as_str).filter(|node| *node != first).collect();
    let [one, other] = both[..] else { panic!("{first} is none of {bearing:?}") };
    stage.kubelet.next(|script| script.base_loads = true);
    let mut drains = [one, other].map(|node| drain(&stage, node));
    let held = until("one of the two is held back", PATIENCE, async || {
        assert_served(&stage).await;
        drains.iter().position(|drain| drain.log().contains(HELD_BACK))
    })
    .await;
    let kept = pod_on(&stage, both[held]).await.expect("it was evicted beside the other");
    until_drained(&stage, &mut drains[1 - held]).await;
    // What replaces the one that went is not ready: the next may not go.
    let fresh = until("what replaces it is up", SECONDS, async || {
        assert_served(&stage).await;
        stage.kubelet.fakes().into_iter().find(|fake| !fake.is_ready())
    })
    .await;
    assert_eq!(pod_on(&stage, both[held]).await, Some(kept), "it went before the other was replaced");
    assert_eq!(drains[held].ended(), None);
    stage.kubelet.next(|script| script.base_loads = false);
    fresh.script(|script| script.base_loads = false);
    until_drained(&stage, &mut drains[held]).await;
    until_whole_without(&stage, &both).await;
}

/// A budget that keeps one replica of one would keep its node for ever; and so would one that counts on replicas which serve
/// nobody.
#[tokio::test(flavor = "multi_thread")]
async fn neither_an_only_replica_nor_those_that_serve_nobody_hold_a_drain_up() {
    let Some(mut stage) = Stage::scheduled("drain-one").await else { return };
    node(&stage, "node-a", &[]).await;
    stage.kubelet.next(|script| script.farewell = true);
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[deployment(&namespace, "base", 1), adapter(&namespace, "sql", "base")]);
    stage.until_adapter_ready("sql").await;
    stage.until_whole("base").await;
    stage.kubelet.next(|script| script.base_loads = true);
    stage.kubectl.apply(&[deployment(&namespace, "never", 2)]);
    stage.kubelet.until_running(3).await;
    stage.kubelet.next(|script| script.base_loads = false);
    node(&stage, "node-b", &[]).await;
    let mut drained = drain(&stage, "node-a");
    until("the node is drained", PATIENCE, async || is_over(&mut drained).then_some(())).await;
    for name in ["base", "never"] {
        until(&format!("{name} is on the other node"), SECONDS, async || {
            let pods = pods(&stage, name).await;
            (!pods.is_empty() && pods.iter().all(|pod| node_of(pod) == Some("node-b"))).then_some(())
        })
        .await;
    }
    stage.until_whole("base").await;
    let mut fakes = stage.kubelet.fakes().into_iter().filter(|fake| fake.name().starts_with("base-"));
    assert!(fakes.all(|fake| fake.serves("sql")));
}
