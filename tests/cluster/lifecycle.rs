//! The life of a Deployment and its Adapters: applied, ready, swapped, in conflict, refused, drained, deleted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment as Workload;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodSpec, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::{Resource, ResourceExt as _};
use lorikeet_api::{AdapterState, ErrorCode, Failure};
use lorikeet_crds::condition::find;
use lorikeet_crds::{Adapter, ConditionType, Deployment, Reason};
use serde_json::json;

use crate::fake::Fake;
use crate::manifests::{adapter, deployment, digest, with};
use crate::stage::{OF_ADAPTER, OF_DEPLOYMENT, Stage, assert_conditions};
use crate::until::{PATIENCE, SECONDS, until};

/// So much later than it should something may happen here, where all suites share two cores.
const LATE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_becomes_ready_and_the_status_says_what_the_replicas_report() {
    let mut stage = Stage::new("applied").await;
    let revision = "0123456789abcdef0123456789abcdef01234567";
    stage.kubelet.next(|script| script.revision = Some(revision));
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[
        deployment(&namespace, "base", 2),
        adapter(&namespace, "sql", "base"),
        with(adapter(&namespace, "chat", "base"), "/spec/digest", json!(digest('c'))),
    ]);
    for object in ["ldep/base", "lora/sql", "lora/chat"] {
        let wait = ["wait", "--for=condition=Ready", "--timeout=60s", "--namespace", &namespace, object];
        stage.kubectl.run(&wait);
    }
    let status = stage.until_adapter_ready("chat").await.status.unwrap_or_default();
    assert_eq!((status.replicas.desired, status.replicas.ready), (2, 2));
    assert_eq!((status.digest, status.rank, status.bytes), (Some(digest('c')), Some(8), Some(1 << 20)));
    assert_eq!(status.target_modules, ["q_proj", "v_proj"]);
    assert_eq!(status.revision.as_deref(), Some(revision), "what the source resolved to");
    let mut pods: Vec<String> = status.placements.iter().map(|place| place.pod.clone()).collect();
    pods.sort();
    let running: Vec<String> = stage.kubelet.fakes().iter().map(|fake| fake.name().to_owned()).collect();
    assert_eq!(pods, running, "a placement for each pod");
    assert!(
        status
            .placements
            .iter()
            .all(|place| place.state == "Ready" && place.tier.as_deref() == Some("Resident"))
    );
    let deployment = stage.until_whole("base").await;
    let status = deployment.status.clone().unwrap_or_default();
    assert_eq!((status.replicas, status.ready_replicas), (2, 2));
    assert_eq!((status.adapters.total, status.adapters.ready, status.adapters.failed), (2, 2, 0));
    let model = status.model.unwrap_or_default();
    assert_eq!(model.digest, Some(format!("sha256:{}", "b".repeat(64))));
    assert_eq!(model.revision.as_deref(), Some(revision));
    assert_eq!(status.selector.as_deref(), Some("lorikeet.dev/deployment=base"));
    for condition in ["Accepted", "ModelLoaded", "AdaptersReady", "Available"] {
        let found = status.conditions.iter().find(|one| one.type_ == condition);
        assert!(found.is_some_and(|one| one.status == "True"), "{condition}: {:?}", status.conditions);
    }
    let columns = |kind: &str, name: &str| {
        let row = stage.kubectl.run(&["get", kind, name, "--namespace", &namespace, "--no-headers"]);
        let mut columns: Vec<String> = row.split_whitespace().map(str::to_owned).collect();
        let age = columns.pop().expect("a row");
        assert!(age.starts_with(|first: char| first.is_ascii_digit()), "{row}");
        columns
    };
    let url = format!("http://base.{namespace}.svc:8080");
    assert_eq!(columns("ldep", "base"), ["base", "True", "AsDesired", "2", "2", "2", "base", &url]);
    assert_eq!(columns("lora", "chat"), ["chat", "base", "chat", "True", "AsDesired", "2", "2", "8"]);
}

/// Every child is there, owned by the Deployment, and nothing is mounted or allowed that is not needed.
#[tokio::test(flavor = "multi_thread")]
async fn every_child_is_made_owned_and_labelled() {
    let stage = Stage::with_operator("children").await;
    let namespace = stage.namespace.clone();
    let base = with(deployment(&namespace, "base", 1), "/spec/rollout/drainSeconds", json!(60));
    stage.kubectl.apply(&[base, adapter(&namespace, "sql", "base")]);
    let owner = stage.until_deployment_ready("base").await;
    stage.until_adapter_ready("sql").await;
    let mut children: BTreeMap<String, ObjectMeta> = BTreeMap::new();
    collect::<Workload>(&stage, &mut children).await;
    collect::<Service>(&stage, &mut children).await;
    collect::<PodDisruptionBudget>(&stage, &mut children).await;
    collect::<ServiceAccount>(&stage, &mut children).await;
    collect::<NetworkPolicy>(&stage, &mut children).await;
    collect::<Secret>(&stage, &mut children).await;
    collect::<ConfigMap>(&stage, &mut children).await;
    for name in [
        "Deployment base-runtime",
        "Service base",
        "Service base-replicas",
        "PodDisruptionBudget base-runtime",
        "ServiceAccount base-runtime",
        "NetworkPolicy base-runtime",
        "Secret base-admin",
    ] {
        let metadata = children.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", children.keys()));
        let owners = metadata.owner_references.clone().unwrap_or_default();
        let is_owned = owners
            .iter()
            .any(|one| Some(&one.uid) == owner.metadata.uid.as_ref() && one.controller == Some(true));
        assert!(is_owned, "{name}: {owners:?}");
        let labels = metadata.labels.clone().unwrap_or_default();
        assert_eq!(labels.get("lorikeet.dev/deployment").map(String::as_str), Some("base"), "{name}");
    }
    assert!(
        children.keys().any(|name| name.starts_with("ConfigMap base-registry-")),
        "{:?}",
        children.keys()
    );
    let account = stage.get::<ServiceAccount>("base-runtime").await.expect("it was listed");
    assert_eq!(account.automount_service_account_token, Some(false));
    let network = stage.get::<NetworkPolicy>("base-runtime").await.and_then(|policy| policy.spec);
    assert_walled(&stage, &network.expect("it was listed"));
    // The namespace takes only pods that pass `restricted`: that there are pods shows that ours do.
    let pods = stage.api::<Pod>().list(&ListParams::default()).await.expect("pods");
    assert_eq!(pods.items.len(), 1);
    let workload = stage.get::<Workload>("base-runtime").await.and_then(|workload| workload.spec);
    assert_drains_and_spreads(&workload.and_then(|spec| spec.template.spec).expect("it was listed"));
}

/// Requests come in from anywhere, and to the admin face and the inspector the operator alone; nothing goes out to a node's credentials.
fn assert_walled(stage: &Stage, network: &NetworkPolicySpec) {
    assert_eq!(network.policy_types, Some(vec!["Ingress".to_owned(), "Egress".to_owned()]));
    let selector = json!({"matchLabels": {"lorikeet.dev/deployment": "base"}});
    let operator = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": stage.system}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "lorikeet-operator"}},
    });
    let of = |port: u16| json!({"port": port, "protocol": "TCP"});
    let ingress = json!([{"ports": [of(8080)]}, {"ports": [of(8081), of(8082)], "from": [operator]}]);
    assert_eq!(serde_json::to_value(&network.ingress).expect("JSON"), ingress);
    // Everywhere but where a node's own credentials are.
    let egress = json!([
        {"ports": [{"port": 53, "protocol": "UDP"}, of(53)]},
        {"ports": [{"protocol": "TCP"}], "to": [
            {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16", "168.63.129.16/32"]}},
            {"ipBlock": {"cidr": "::/0", "except": ["fe80::/10", "fd00:ec2::254/128"]}},
            {"namespaceSelector": {}},
        ]},
    ]);
    assert_eq!(serde_json::to_value(&network.egress).expect("JSON"), egress);
    assert_eq!(serde_json::to_value(&network.pod_selector).expect("JSON"), selector);
}

/// Of a Deployment whose drain takes 60 seconds.
fn assert_drains_and_spreads(pod: &PodSpec) {
    let container = pod.containers.first().expect("the runtime");
    let arguments = container.args.clone().unwrap_or_default();
    assert!(arguments.iter().any(|one| one == "--drain-seconds=60"), "{arguments:?}");
    let before = container.lifecycle.as_ref().and_then(|one| one.pre_stop.as_ref()?.sleep.as_ref());
    let (grace, before) = (pod.termination_grace_period_seconds, before.map_or(0, |sleep| sleep.seconds));
    assert!(before > 0 && grace > Some(before + 60), "{grace:?} seconds, of which {before} before the drain");
    let spreads = pod.topology_spread_constraints.iter().flatten();
    let keys: Vec<&str> = spreads.map(|one| one.topology_key.as_str()).collect();
    assert_eq!(keys, ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]);
}

async fn collect<K>(stage: &Stage, into: &mut BTreeMap<String, ObjectMeta>)
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    for object in stage.api::<K>().list(&ListParams::default()).await.expect("a list") {
        into.insert(format!("{} {}", K::kind(&()), object.name_any()), object.meta().clone());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_never_writes_what_the_user_wrote() {
    let stage = Stage::with_operator("spec").await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[deployment(&namespace, "base", 1), adapter(&namespace, "sql", "base")]);
    let adapter = stage.until_adapter_ready("sql").await;
    let deployment = stage.until_deployment_ready("base").await;
    for metadata in [&adapter.metadata, &deployment.metadata] {
        assert_eq!(metadata.generation, Some(1), "a spec was written");
        assert!(metadata.annotations.as_ref().is_none_or(BTreeMap::is_empty), "{:?}", metadata.annotations);
        for entry in metadata.managed_fields.iter().flatten() {
            if entry.manager.as_deref() != Some("kubectl") {
                let fields = serde_json::to_string(&entry.fields_v1).expect("JSON");
                assert!(!fields.contains("f:spec") && !fields.contains("f:labels"), "{entry:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_digest_is_swapped_by_one_line_and_nothing_else_is_sent() {
    let stage = Stage::with_operator("swap").await;
    let namespace = stage.namespace.clone();
    let sql = with(adapter(&namespace, "sql", "base"), "/spec/digest", json!(digest('a')));
    stage.kubectl.apply(&[
        deployment(&namespace, "base", 2),
        sql.clone(),
        adapter(&namespace, "chat", "base"),
    ]);
    stage.until_adapter_ready("chat").await;
    stage.until_adapter_ready("sql").await;
    stage.until_deployment_ready("base").await;
    let before: Vec<usize> = stage.kubelet.fakes().iter().map(|fake| fake.heard().len()).collect();
    stage.kubectl.apply(&[with(sql, "/spec/digest", json!(digest('b')))]);
    let swapped = stage.until_adapter("sql", "swapped", |adapter| {
        adapter.status.as_ref().is_some_and(|status| status.digest == Some(digest('b')))
    });
    swapped.await;
    stage.until_adapter_ready("sql").await;
    for (fake, before) in stage.kubelet.fakes().iter().zip(before) {
        let heard = fake.heard().split_off(before);
        let sets: Vec<_> = heard.iter().flat_map(|heard| &heard.set).map(|one| one.name.as_str()).collect();
        assert_eq!(sets, ["sql"], "{heard:?}");
        assert!(heard.iter().all(|heard| !heard.whole && heard.removed.is_empty()), "{heard:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_adapter_drains_and_one_that_never_drains_is_let_go_in_time() {
    // Here it outlives them, and holds them until they have drained.
    let mut stage = Stage::wide("delete").await;
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    let drain = Duration::from_secs(8);
    let base = deployment(&namespace, "base", 2);
    stage.kubectl.apply(&[with(base, "/spec/rollout/drainSeconds", json!(drain.as_secs()))]);
    stage.kubectl.apply(&["quick", "stuck", "stays"].map(|name| adapter(&namespace, name, "base")));
    for name in ["quick", "stuck", "stays"] {
        stage.until_adapter_ready(name).await;
    }
    let fakes = stage.kubelet.fakes();
    fakes[0].script(|script| script.clings.push("stuck".to_owned()));
    fakes[1].script(|script| script.load = Duration::from_secs(1));
    let started = Instant::now();
    stage.kubectl.run(&["delete", "lora", "quick", "stuck", "--namespace", &namespace, "--wait=false"]);
    let drains = stage.until_adapter_says("stuck", Reason::Draining).await;
    let said = drains.status.unwrap_or_default().conditions;
    assert_conditions(&said, OF_ADAPTER, drains.metadata.generation);
    stage.until_gone::<Adapter>("quick").await;
    let holds = |fake: &Fake, name: &str| fake.report().adapters.into_iter().find(|one| one.name == name);
    assert!(fakes.iter().all(|fake| holds(fake, "quick").is_none()), "it was let go before it was drained");
    // A time of deletion is whole seconds: the one that it was, or the one before.
    let earliest = drain - Duration::from_secs(1);
    let held = stage.get::<Adapter>("stuck").await;
    if started.elapsed() < earliest {
        let held = held.expect("it was let go while it drains");
        assert_eq!(held.finalizers(), ["lorikeet.dev/drain"]);
    }
    stage.until_gone::<Adapter>("stuck").await;
    let took = started.elapsed();
    assert!(took >= earliest, "let go after {took:?}, while it drained");
    assert!(took < drain + LATE, "let go after {took:?} only");
    let draining = holds(&fakes[0], "stuck").map(|one| one.state);
    assert_eq!(draining, Some(AdapterState::Draining), "it was asked to drain");
    assert!(fakes.iter().all(|fake| fake.serves("stays")));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_adapters_with_one_name_the_older_is_served_until_it_is_gone() {
    let stage = Stage::with_operator("conflict").await;
    let namespace = stage.namespace.clone();
    let named = |name: &str| with(adapter(&namespace, name, "base"), "/spec/servedName", json!("sql"));
    stage.kubectl.apply(&[deployment(&namespace, "base", 1), named("z-older")]);
    let older = stage.until_adapter_ready("z-older").await;
    // Times of creation are whole seconds.
    until("a second has passed", PATIENCE, async || {
        let age = older
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| jiff::Timestamp::now().duration_since(time.0));
        age.is_some_and(|age| age.as_secs_f64() > 1.0).then_some(())
    })
    .await;
    stage.kubectl.apply(&[
        named("a-newer"),
        with(adapter(&namespace, "like-the-base", "base"), "/spec/servedName", json!("base")),
    ]);
    for name in ["a-newer", "like-the-base"] {
        let refused = stage.until_adapter_says(name, Reason::NameConflict).await;
        let conditions = refused.status.unwrap_or_default().conditions;
        assert!(
            find(&conditions, ConditionType::Stalled).is_some_and(|one| one.status == "True"),
            "{conditions:?}"
        );
    }
    let fake = stage.kubelet.fakes().remove(0);
    let source = |fake: &crate::fake::Fake| {
        fake.report().adapters.into_iter().map(|one| one.source).collect::<Vec<_>>()
    };
    assert_eq!(source(&fake), ["hf://acme/z-older"], "the newer was never sent");
    stage.kubectl.run(&["delete", "lora", "z-older", "--namespace", &namespace, "--wait=false"]);
    stage.until_adapter_ready("a-newer").await;
    assert_eq!(source(&fake), ["hf://acme/a-newer"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_without_its_deployment_says_so_and_comes_and_goes_with_it() {
    let stage = Stage::with_operator("missing").await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[adapter(&namespace, "sql", "base")]);
    let first = stage.until_adapter_says("sql", Reason::DeploymentNotFound).await;
    let said = first.status.unwrap_or_default().conditions;
    assert_conditions(&said, OF_ADAPTER, first.metadata.generation);
    stage.kubectl.apply(&[deployment(&namespace, "base", 1)]);
    stage.until_adapter_ready("sql").await;
    stage.kubectl.run(&["delete", "ldep", "base", "--namespace", &namespace, "--timeout=60s"]);
    stage.until_adapter_says("sql", Reason::DeploymentNotFound).await;
    // Owned by it: the cluster's garbage collector takes them.
    stage.until_gone::<Workload>("base-runtime").await;
    stage.kubelet.until_running(0).await;
    stage.kubectl.run(&["delete", "lora", "sql", "--namespace", &namespace, "--timeout=30s"]);
    stage.until_gone::<Deployment>("base").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_becomes_invalid_keeps_serving_what_it_served() {
    let stage = Stage::with_operator("invalid").await;
    let namespace = stage.namespace.clone();
    let good = deployment(&namespace, "base", 1);
    let bad = with(good.clone(), "/spec/adapters/gpuMemory", json!("plenty"));
    let says = async |reason: Reason| {
        until(&format!("base says {}", reason.as_str()), PATIENCE, async || {
            let found = stage.get::<Deployment>("base").await?;
            let status = found.status.unwrap_or_default();
            let is_new = status.observed_generation == found.metadata.generation;
            find(&status.conditions, ConditionType::Ready)
                .filter(|ready| is_new && ready.reason == reason.as_str())
                .map(drop)
        })
        .await;
    };
    stage.kubectl.apply(&[bad.clone(), adapter(&namespace, "sql", "base")]);
    says(Reason::InvalidSpec).await;
    let first = stage.get::<Deployment>("base").await.expect("it is there");
    let said = first.status.unwrap_or_default().conditions;
    assert_conditions(&said, OF_DEPLOYMENT, first.metadata.generation);
    stage.kubectl.apply(&[with(good.clone(), "/spec/adapters/gpuMemory", json!("4Gi"))]);
    stage.until_deployment_ready("base").await;
    stage.until_adapter_ready("sql").await;
    let serving = stage.kubelet.fakes();
    stage.kubectl.apply(&[bad]);
    says(Reason::InvalidSpec).await;
    let still = stage.kubelet.fakes();
    assert_eq!(still.len(), 1);
    assert_eq!(still[0].name(), serving[0].name(), "the replica was replaced");
    assert!(still[0].serves("sql"), "the adapter was taken away");
    stage.kubectl.apply(&[with(good, "/spec/adapters/gpuMemory", json!("4Gi"))]);
    stage.until_deployment_ready("base").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replicas_refusal_becomes_the_reason_and_a_corrected_source_heals_it() {
    let stage = Stage::new("refused").await;
    let namespace = stage.namespace.clone();
    let faults = [
        ("rank", ErrorCode::RankExceeded, Reason::RankExceeded),
        ("other-base", ErrorCode::BaseModelMismatch, Reason::BaseModelMismatch),
        ("huge", ErrorCode::BudgetExceeded, Reason::BudgetExceeded),
        ("tampered", ErrorCode::DigestMismatch, Reason::DigestMismatch),
        ("broken", ErrorCode::InvalidWeights, Reason::InvalidWeights),
        ("away", ErrorCode::SourceUnavailable, Reason::SourceUnavailable),
    ];
    let refuses = faults.iter().map(|(name, code, _)| {
        ((*name).to_owned(), Failure { code: *code, message: format!("made by a test: {name}") })
    });
    let refuses: Vec<_> = refuses.collect();
    stage.kubelet.next(|script| script.refuses = refuses);
    let mut stage = stage;
    stage.start_operator().await;
    stage.kubectl.apply(&[deployment(&namespace, "base", 2), adapter(&namespace, "good", "base")]);
    let adapters: Vec<_> = faults.iter().map(|(name, ..)| adapter(&namespace, name, "base")).collect();
    stage.kubectl.apply(&adapters);
    for (name, _, reason) in faults {
        let refused = stage.until_adapter_says(name, reason).await;
        let text = serde_json::to_string(&refused.status).expect("JSON");
        assert!(text.contains(&format!("made by a test: {name}")), "{text}");
    }
    stage.until_adapter_ready("good").await;
    stage.kubelet.fakes().iter().for_each(|fake| fake.script(|script| script.refuses.clear()));
    let corrected = with(adapters[0].clone(), "/spec/source", json!("hf://acme/corrected"));
    stage.kubectl.apply(&[corrected]);
    stage.until_adapter_ready("rank").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_follows_the_user_and_a_new_replica_gets_its_adapters() {
    let stage = Stage::unhurried("scale").await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[deployment(&namespace, "base", 1), adapter(&namespace, "sql", "base")]);
    stage.until_adapter_ready("sql").await;
    stage.kubectl.run(&["scale", "ldep/base", "--replicas=3", "--namespace", &namespace]);
    let fakes = stage.kubelet.until_running(3).await;
    until("the new ones have it, and its status says so", SECONDS, async || {
        let status = stage.get::<Adapter>("sql").await?.status?;
        (status.replicas.ready == 3 && fakes.iter().all(|fake| fake.serves("sql"))).then_some(())
    })
    .await;
    stage.kubectl.run(&["scale", "ldep/base", "--replicas=0", "--namespace", &namespace]);
    stage.kubelet.until_running(0).await;
    stage.until_adapter_says("sql", Reason::NoReplicas).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_server_refuses_is_told_with_its_text_and_mended_by_an_edit() {
    let stage = Stage::with_operator("refused-child").await;
    let base = deployment(&stage.namespace, "base", 1);
    let selector = json!({"disk": "not a label"});
    stage.kubectl.apply(&[with(base.clone(), "/spec/nodePool/nodeSelector", selector)]);
    until("base is stalled by it", PATIENCE, async || {
        let conditions = stage.get::<Deployment>("base").await?.status?.conditions;
        let stalled = find(&conditions, ConditionType::Stalled)?;
        let says = stalled.status == "True" && stalled.message.contains("not a label");
        says.then_some(())
    })
    .await;
    stage.kubectl.apply(&[base]);
    stage.kubectl.run(&[
        "patch",
        "ldep/base",
        "--namespace",
        &stage.namespace,
        "--type=merge",
        "--patch",
        r#"{"spec":{"nodePool":{"nodeSelector":null}}}"#,
    ]);
    stage.until_deployment_ready("base").await;
}
