//! The faults of this field's other operators, each as a test that it is not ours.

use std::time::Duration;

use lorikeet_crds::adapter::LISTED;
use lorikeet_crds::condition::find;
use lorikeet_crds::{Adapter, ConditionType, Deployment, Reason};
use serde_json::json;

use crate::audit::Event;
use crate::manifests::{adapter, deployment, digest, with};
use crate::scene::serving;
use crate::stage::{Stage, is_ready_adapter};
use crate::until::{PATIENCE, SECONDS, until};

/// KubeAI: a label on the pod said "loaded", so a container that restarted inside it stayed empty.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_restarts_in_its_pod_gets_its_adapters_again() {
    let stage = Stage::unhurried("restart").await;
    serving(&stage, 2, &["sql"]).await;
    let fakes = stage.kubelet.fakes();
    for _ in 0..3 {
        let heard = fakes[0].heard().len();
        fakes[0].restart();
        until("the restarted replica is told, and serves", SECONDS, async || {
            (fakes[0].heard().len() > heard && fakes[0].serves("sql")).then_some(())
        })
        .await;
    }
    assert_eq!(
        fakes[1].heard().iter().filter(|heard| heard.whole).count(),
        1,
        "the other was sent everything again"
    );
    until("its status says so", SECONDS, async || {
        stage.get::<Adapter>("sql").await.filter(is_ready_adapter).map(drop)
    })
    .await;
}

/// Nobody repairs this: an adapter that was unloaded over the admin face by hand.
#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_that_a_replica_lost_is_loaded_again() {
    let stage = Stage::unhurried("unloaded").await;
    serving(&stage, 1, &["sql", "chat"]).await;
    let fake = stage.kubelet.fakes().remove(0);
    // All that it has, then one of it.
    for lost in [["sql", "chat"].as_slice(), &["sql"]] {
        let heard = fake.heard().len();
        lost.iter().for_each(|name| fake.lose(name));
        until("it is loaded again, and its status says so", SECONDS, async || {
            let is_served = fake.heard().len() > heard && fake.serves("sql") && fake.serves("chat");
            stage.get::<Adapter>("sql").await.filter(|sql| is_served && is_ready_adapter(sql)).map(drop)
        })
        .await;
    }
}

/// production-stack: one pod that hung held up its only worker, for every adapter.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_hangs_delays_no_other() {
    let stage = Stage::with_operator("hung").await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[
        deployment(&namespace, "base", 3),
        deployment(&namespace, "other", 1),
        adapter(&namespace, "sql", "base"),
        adapter(&namespace, "chat", "base"),
    ]);
    stage.until_whole("base").await;
    stage.until_deployment_ready("other").await;
    stage.until_quiet(Duration::from_secs(1)).await;
    let before = stage.writes().len();
    let fakes: Vec<_> =
        stage.kubelet.fakes().into_iter().filter(|fake| fake.name().starts_with("base-")).collect();
    fakes[0].script(|script| script.hung = true);
    let mine: Vec<_> = (0..5).map(|at| adapter(&namespace, &format!("more-{at}"), "base")).collect();
    stage.kubectl.apply(&mine);
    stage.kubectl.apply(&[adapter(&namespace, "theirs", "other")]);
    stage.until_adapter_ready("theirs").await;
    until("the replicas that answer have all", PATIENCE, async || {
        let all = fakes[1..].iter().all(|fake| (0..5).all(|at| fake.serves(&format!("more-{at}"))));
        all.then_some(())
    })
    .await;
    let said = stage
        .until_adapter("more-0", "the status names the one that hangs", |adapter| {
            let places = adapter.status.clone().unwrap_or_default().placements;
            places.iter().any(|place| place.pod == fakes[0].name() && place.state == "Unreachable")
        })
        .await;
    assert_eq!(said.status.unwrap_or_default().replicas.ready, 2);
    until("the Deployment says why", PATIENCE, async || {
        let status = stage.get::<Deployment>("base").await?.status?;
        let ready = find(&status.conditions, ConditionType::Ready)?;
        ready.message.contains(&format!("{}: it does not answer in time", fakes[0].name())).then_some(())
    })
    .await;
    fakes[0].script(|script| script.hung = false);
    stage.until_adapter_ready("more-4").await;
    stage.until_whole("base").await;
    stage.until_quiet(Duration::from_secs(1)).await;
    // The silence and its end, once each.
    for name in ["sql", "chat"] {
        let is_its = |write: &Event| {
            let object = &write.object_ref;
            object.resource == "adapters" && object.subresource == "status" && object.name == name
        };
        let writes: Vec<_> = stage.writes().split_off(before).into_iter().filter(is_its).collect();
        assert!((1..=2).contains(&writes.len()), "status of {name}: {} writes", writes.len());
    }
}

/// More of them than may be written to at once.
#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_replicas_that_hang_delay_no_other() {
    let stage = Stage::with_operator("hanging").await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[
        deployment(&namespace, "base", 64),
        deployment(&namespace, "other", 1),
        adapter(&namespace, "sql", "base"),
    ]);
    stage.until_whole("base").await;
    stage.until_deployment_ready("other").await;
    let fakes = stage.kubelet.fakes();
    let other = fakes.iter().find(|fake| fake.name().starts_with("other-")).expect("it is ready");
    let hung = fakes.iter().filter(|fake| fake.name().starts_with("base-"));
    hung.for_each(|fake| fake.script(|script| script.hung = true));
    stage.kubectl.apply(&[adapter(&namespace, "more", "base")]);
    let began = std::time::Instant::now();
    for name in ["one", "two", "three"] {
        stage.kubectl.apply(&[adapter(&namespace, name, "other")]);
        until("the one that answers has it", PATIENCE, async || other.serves(name).then_some(())).await;
    }
    // Each waited for the time limit of a write to one that hangs, when those took all turns.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// More than any node pool of one Deployment is likely to have.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_replicas_of_one_deployment_all_get_an_adapter() {
    const REPLICAS: u32 = 200;
    let stage = Stage::with_operator("many").await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[deployment(&namespace, "base", REPLICAS), adapter(&namespace, "sql", "base")]);
    let fakes = stage.kubelet.until_running(REPLICAS as usize).await;
    let ready = stage
        .until_adapter("sql", "Ready on all", |adapter| {
            let count = adapter.status.clone().unwrap_or_default().replicas;
            is_ready_adapter(adapter) && (count.desired, count.ready) == (REPLICAS, REPLICAS)
        })
        .await;
    assert_eq!(ready.status.unwrap_or_default().placements.len(), LISTED);
    assert!(fakes.iter().all(|fake| fake.serves("sql")));
    let whole = stage.until_whole("base").await.status.unwrap_or_default();
    assert_eq!(whole.ready_replicas, REPLICAS as i32);
}

/// AIBrix: a changed source was never loaded, since the name was there already.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_source_is_loaded_under_the_same_name() {
    let stage = Stage::with_operator("source").await;
    let namespace = stage.namespace.clone();
    let sql = adapter(&namespace, "sql", "base");
    stage.kubectl.apply(&[deployment(&namespace, "base", 2), sql.clone()]);
    let first = stage.until_adapter_ready("sql").await.status.unwrap_or_default().digest;
    stage.kubectl.apply(&[with(sql, "/spec/source", json!("hf://acme/sql-second"))]);
    stage
        .until_adapter("sql", "another digest", |adapter| {
            let digest = adapter.status.clone().unwrap_or_default().digest;
            digest.is_some() && digest != first
        })
        .await;
    stage.until_adapter_ready("sql").await;
}

/// AIBrix: "Running" was said of adapters that no pod held.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_ready_that_no_replica_reports() {
    let stage = Stage::new("unproven").await;
    let namespace = stage.namespace.clone();
    stage.kubelet.next(|script| {
        script.base_loads = true;
        script.load = Duration::from_secs(3600);
    });
    let mut stage = stage;
    stage.start_operator().await;
    stage.kubectl.apply(&[deployment(&namespace, "base", 2), adapter(&namespace, "sql", "base")]);
    stage.until_adapter_says("sql", Reason::Loading).await;
    let base = stage.get::<Deployment>("base").await.and_then(|base| base.status).unwrap_or_default();
    assert_eq!(base.ready_replicas, 0, "{base:?}");
    assert_eq!(
        stage.get::<Adapter>("sql").await.and_then(|one| one.status).unwrap_or_default().replicas.ready,
        0
    );
}

/// Names of children that two Deployments would share: `base` has a Service `base-replicas`.
#[tokio::test(flavor = "multi_thread")]
async fn two_deployments_whose_children_would_share_a_name_do_not_fight() {
    let stage = Stage::with_operator("clash").await;
    let namespace = stage.namespace.clone();
    serving(&stage, 1, &["sql"]).await;
    stage.kubectl.apply(&[deployment(&namespace, "base-replicas", 1)]);
    let in_the_way = format!("Service {namespace}/base-replicas is there and not ours");
    until("the second says what is in its way", PATIENCE, async || {
        let conditions = stage.get::<Deployment>("base-replicas").await?.status?.conditions;
        let ready = find(&conditions, ConditionType::Ready)?;
        (ready.reason == "NotCarriedOut" && ready.message.contains(&in_the_way)).then_some(())
    })
    .await;
    stage.until_quiet(Duration::from_secs(3)).await;
    let service =
        stage.get::<k8s_openapi::api::core::v1::Service>("base-replicas").await.expect("the first one's");
    let spec = service.spec.unwrap_or_default();
    assert_eq!(spec.cluster_ip.as_deref(), Some("None"), "the second took the first one's Service");
    stage.until_adapter_ready("sql").await;
}

/// The registry beside the pods holds what is desired, for a replica that starts while the operator is away.
#[tokio::test(flavor = "multi_thread")]
async fn the_registry_beside_the_pods_holds_every_accepted_adapter() {
    let stage = Stage::with_operator("registry").await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[deployment(&namespace, "base", 1)]);
    for at in 0..20 {
        let one = with(adapter(&namespace, &format!("a-{at}"), "base"), "/spec/digest", json!(digest('9')));
        stage.kubectl.apply(&[one]);
    }
    let held = async || {
        let maps = stage
            .api::<k8s_openapi::api::core::v1::ConfigMap>()
            .list(&Default::default())
            .await
            .expect("maps");
        let texts = maps
            .items
            .into_iter()
            .filter_map(|map| map.data)
            .flat_map(std::collections::BTreeMap::into_values);
        let sets = texts.filter_map(|text| serde_json::from_str::<lorikeet_api::DesiredSet>(&text).ok());
        let mut names: Vec<String> = sets.flat_map(|set| set.adapters).map(|one| one.name).collect();
        names.sort();
        names
    };
    until("twenty are in it", PATIENCE, async || (held().await.len() == 20).then_some(())).await;
    stage.kubectl.run(&["delete", "lora", "a-3", "--namespace", &namespace, "--timeout=60s"]);
    until("one is out of it", PATIENCE, async || {
        let names = held().await;
        (names.len() == 19 && !names.contains(&"a-3".to_owned())).then_some(())
    })
    .await;
}

/// A replica that takes no desired set, as one of another release: its Adapters' statuses say so, and the log once.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_takes_no_desired_set_is_told_of() {
    let mut stage = Stage::with_operator("rejects").await;
    let namespace = stage.namespace.clone();
    let said = "adapters[0].credentials: unknown field";
    stage.kubectl.apply(&[deployment(&namespace, "base", 1), adapter(&namespace, "held", "base")]);
    stage.until_adapter_ready("held").await;
    let fake = stage.kubelet.until_running(1).await.remove(0);
    fake.script(|script| script.rejects = Some((400, said)));
    stage.kubectl.apply(&[adapter(&namespace, "sql", "base")]);
    let told = stage
        .until_adapter("sql", "what the replica said", |adapter| {
            let status = adapter.status.clone().unwrap_or_default();
            find(&status.conditions, ConditionType::Ready).is_some_and(|ready| ready.message.contains(said))
        })
        .await;
    let status = told.status.unwrap_or_default();
    let place = status.placements.first().expect("the replica is listed");
    assert_eq!((place.pod.as_str(), place.state.as_str()), (fake.name(), "Refused"));
    assert!(place.error.as_ref().is_some_and(|error| error.contains(said)), "{place:?}");
    let held = stage.get::<Adapter>("held").await.expect("it is there");
    assert!(is_ready_adapter(&held), "what it holds already is held");
    // Some more attempts, all alike.
    stage.until_quiet(Duration::from_secs(2)).await;
    let log = stage.operator().process().log();
    assert_eq!(log.matches("desired set not taken").count(), 1, "{log}");
    fake.script(|script| script.rejects = None);
    stage.until_adapter_ready("sql").await;
}

/// A model may take half an hour to load: that is no fault of the replica, and nobody is told that it does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_loads_its_model_is_not_said_to_be_unreachable() {
    let mut stage = Stage::new("loads").await;
    stage.kubelet.next(|script| script.says_it_loads = true);
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[deployment(&namespace, "base", 1), adapter(&namespace, "sql", "base")]);
    let fake = stage.kubelet.until_running(1).await.remove(0);
    stage.until_adapter_says("sql", Reason::NoReplicas).await;
    stage.until_quiet(Duration::from_secs(3)).await;
    let sql = stage.get::<Adapter>("sql").await.and_then(|adapter| adapter.status).unwrap_or_default();
    assert!(sql.placements.is_empty(), "{:?}", sql.placements);
    let base = stage.get::<Deployment>("base").await.and_then(|one| one.status).unwrap_or_default();
    let ready = find(&base.conditions, ConditionType::Ready).expect("it is said");
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "ReplicasNotReady"));
    fake.script(|script| script.says_it_loads = false);
    stage.until_adapter_ready("sql").await;
    stage.until_deployment_ready("base").await;
}
