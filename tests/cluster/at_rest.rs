//! At rest the operator writes nothing: shown from the API server's audit log. And it may do exactly what it does.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment as Workload;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams};
use lorikeet_crds::{Adapter, Deployment};
use serde_json::json;

use crate::account::{self, Scope};
use crate::audit::{Event, Permission};
use crate::fake::Fake;
use crate::manifests::{adapter, deployment, digest, with};
use crate::scene::make_due;
use crate::stage::{Stage, is_ready_adapter};
use crate::until::{PATIENCE, until};

/// Each replica answers that many polls while nothing may be written.
const POLLS: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn at_rest_nothing_is_written_whatever_is_read_again() {
    let mut stage = Stage::new("rest").await;
    // Every look at everything happens several times while the test watches.
    stage.options().flags = vec!["--resync-seconds=5".to_owned()];
    stage.kubelet.next(|script| script.longest_poll = Some(Duration::from_millis(200)));
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    let broken = with(adapter(&namespace, "broken", "nowhere"), "/spec/placement/pinned", json!(true));
    stage.kubectl.apply(&[deployment(&namespace, "base", 3), deployment(&namespace, "other", 1), broken]);
    for name in ["sql", "chat", "math"] {
        stage.kubectl.apply(&[adapter(&namespace, name, "base")]);
    }
    for name in ["sql", "chat", "math"] {
        stage.until_adapter_ready(name).await;
    }
    stage.until_deployment_ready("base").await;
    stage.until_deployment_ready("other").await;
    stage.until_quiet(Duration::from_secs(2)).await;
    let before = stage.writes().len();
    let children = versions(&stage).await;
    let polled: Vec<usize> = stage.kubelet.fakes().iter().map(|fake| fake.polls()).collect();
    assert_eq!(polled.len(), 4);
    until("the replicas were polled on", PATIENCE, async || {
        let fakes = stage.kubelet.fakes();
        fakes.iter().zip(&polled).all(|(fake, before)| fake.polls() >= before + POLLS).then_some(())
    })
    .await;
    let written: Vec<String> = stage.writes().split_off(before).iter().map(ToString::to_string).collect();
    assert!(written.is_empty(), "written at rest:\n{}", written.join("\n"));
    // Nor does the control plane, whose controllers keep the statuses of what the operator made.
    assert_eq!(versions(&stage).await, children);
    // A restart finds everything as it should be.
    stage.kill_operator();
    stage.start_operator().await;
    stage.until_quiet(Duration::from_secs(3)).await;
    let written: Vec<String> = stage.writes().split_off(before).iter().map(ToString::to_string).collect();
    assert!(written.is_empty(), "written by a restart:\n{}", written.join("\n"));
}

/// The version of each child that has a status.
async fn versions(stage: &Stage) -> Vec<(String, Option<String>)> {
    let params = ListParams::default();
    let workloads = stage.api::<Workload>().list(&params).await.expect("a list");
    let budgets = stage.api::<PodDisruptionBudget>().list(&params).await.expect("a list");
    let metadata = workloads.items.into_iter().map(|one| one.metadata);
    let metadata = metadata.chain(budgets.items.into_iter().map(|one| one.metadata));
    metadata.map(|one| (one.name.unwrap_or_default(), one.resource_version)).collect()
}

/// Everything that an operator ever does, so that each of its rights is used.
async fn everything(stage: &mut Stage) {
    let namespace = stage.namespace.clone();
    let base = deployment(&namespace, "base", 2);
    stage.kubectl.apply(&[
        base.clone(),
        adapter(&namespace, "sql", "base"),
        adapter(&namespace, "chat", "base"),
    ]);
    stage.until_adapter_ready("sql").await;
    stage.until_adapter_ready("chat").await;
    stage.until_deployment_ready("base").await;
    stage.kubectl.apply(&[with(adapter(&namespace, "sql", "base"), "/spec/digest", json!(digest('d')))]);
    stage.kubectl.apply(&[with(base, "/spec/replicas", json!(1))]);
    stage.kubelet.until_running(1).await;
    // The Secret is made anew; the replica hears of it when its files are brought up to date.
    stage.api::<Secret>().delete("base-admin", &DeleteParams::default()).await.expect("it is there");
    let back = until("the Secret is back", PATIENCE, async || token(stage).await).await;
    stage.kubelet.until_mounted("base-admin", &back).await;
    stage.until_deployment_ready("base").await;
    stage.until_adapter_ready("sql").await;
    renewed(stage).await;
    stage.kubectl.run(&["delete", "lora", "--all", "--namespace", &namespace, "--timeout=30s"]);
    until("no registry is left", PATIENCE, async || {
        let left = stage.api::<ConfigMap>().list(&ListParams::default()).await.expect("a list");
        left.items
            .iter()
            .all(|one| !one.metadata.name.as_deref().unwrap_or_default().contains("-registry-"))
            .then_some(())
    })
    .await;
    stage.kubectl.run(&["delete", "ldep", "base", "--namespace", &namespace, "--timeout=30s"]);
    stage.until_gone::<Deployment>("base").await;
    // A rollout on GPUs: whether there is room for a new replica is for the nodes to say.
    let gpus =
        with(deployment(&namespace, "gpus", 1), "/spec/nodePool/accelerator", json!("nvidia-a100-80gb"));
    stage.kubectl.apply(std::slice::from_ref(&gpus));
    stage.until_deployment_ready("gpus").await;
    stage.kubectl.apply(&[with(gpus, "/spec/image", json!("registry.example/lorikeet:next"))]);
    stage.until_deployment_ready("gpus").await;
    unreadable(stage).await;
    // A new leader, which finds the Lease released.
    let operator = stage.operator();
    operator.process().signal("TERM");
    until("the operator stops", PATIENCE, async || stage.operator().process().ended()).await;
    stage.start_operator().await;
    stage.kubectl.apply(&[adapter(&namespace, "late", "nowhere")]);
    stage.until_adapter("late", "observed", |adapter: &Adapter| adapter.status.is_some()).await;
    // An operator of other rights, which outlived its Adapters, left its finalizer behind.
    let left = json!(["lorikeet.dev/drain"]);
    stage.kubectl.apply(&[with(adapter(&namespace, "left", "nowhere"), "/metadata/finalizers", left)]);
    stage.until_adapter("left", "observed", |adapter: &Adapter| adapter.status.is_some()).await;
    stage.kubectl.run(&["delete", "lora", "left", "--namespace", &namespace, "--timeout=30s"]);
    stage.kill_operator();
    stage.start_operator().await;
}

/// The token of the admin Secret.
async fn token(stage: &Stage) -> Option<Vec<u8>> {
    stage.get::<Secret>("base-admin").await?.data?.remove("token").map(|token| token.0)
}

/// The Secret is due: it is renewed. Its replica stays, answers all the while and is told of changes, both before and
/// after the kubelet brings its files up to date.
async fn renewed(stage: &Stage) {
    let replica = stage.kubelet.until_running(1).await.remove(0);
    replica.script(|script| {
        script.longest_poll = Some(Duration::from_millis(100));
        script.closes = true;
    });
    stage.until_adapter_ready("sql").await;
    stage.until_quiet(Duration::from_secs(2)).await;
    stage.kubelet.hold_mounts(true);
    let (before, written) = (token(stage).await, stage.writes().len());
    let strangers = replica.strangers();
    make_due(stage).await;
    let now = until("the Secret is renewed", PATIENCE, async || {
        token(stage).await.filter(|now| Some(now) != before.as_ref())
    })
    .await;
    untroubled(stage, &replica, written, &["update secrets"]).await;
    let written = swapped(stage, &replica, 'e').await;
    assert_eq!(replica.strangers(), strangers, "the new token was sent to who has the former certificate");
    stage.kubelet.hold_mounts(false);
    stage.kubelet.until_mounted("base-admin", &now).await;
    untroubled(stage, &replica, written, &[]).await;
    swapped(stage, &replica, 'f').await;
}

/// `replica`, the only one, answers many polls, and after the first `written` writes there are none but `expected`: no
/// status says that it did not answer, no pod is replaced.
async fn untroubled(stage: &Stage, replica: &Fake, written: usize, expected: &[&str]) {
    let polled = replica.polls();
    until("it answers on", PATIENCE, async || (replica.polls() >= polled + POLLS).then_some(())).await;
    stage.until_quiet(Duration::from_secs(2)).await;
    for write in stage.writes().split_off(written) {
        let is_expected = write
            .permissions()
            .iter()
            .any(|(_, resource, verb)| expected.contains(&format!("{verb} {resource}").as_str()));
        assert!(is_expected, "written: {write}");
    }
    let now = stage.kubelet.fakes();
    assert!(now.len() == 1 && now[0].name() == replica.name(), "the replica was replaced");
}

/// Adapter `sql` has another content, which `replica` loads. How many writes there are then.
async fn swapped(stage: &Stage, replica: &Fake, content: char) -> usize {
    let wanted = Some(digest(content));
    let sql = adapter(&stage.namespace, "sql", "base");
    stage.kubectl.apply(&[with(sql, "/spec/digest", json!(wanted))]);
    let is_ready = |adapter: &Adapter| {
        is_ready_adapter(adapter) && adapter.status.as_ref().is_some_and(|status| status.digest == wanted)
    };
    stage.until_adapter("sql", "another content, Ready", is_ready).await;
    assert!(replica.report().adapters.iter().any(|one| one.name == "sql" && one.digest == wanted));
    stage.until_quiet(Duration::from_secs(2)).await
}

/// Objects that cannot be read: they are read by name, to be told so.
async fn unreadable(stage: &Stage) {
    stage.kubectl.apply(&[adapter(&stage.namespace, "unreadable", "nowhere")]);
    stage.until_adapter("unreadable", "observed", |adapter| adapter.status.is_some()).await;
    stage.loosen_definitions();
    stage.spoil("lora/unreadable", "rank").await;
    stage.spoil("ldep/gpus", "readyReplicas").await;
    let asked = ["adapters", "deployments"]
        .map(|plural| ("lorikeet.dev".to_owned(), plural.to_owned(), "get".to_owned()));
    until("both are read by name", PATIENCE, async || {
        let used: BTreeSet<Permission> = stage.audit.requests().iter().flat_map(Event::permissions).collect();
        asked.iter().all(|right| used.contains(right)).then_some(())
    })
    .await;
}

async fn rights_are_exactly_what_is_used(mut stage: Stage, scope: Scope) {
    stage.start_operator().await;
    everything(&mut stage).await;
    let events = stage.audit.requests();
    let refused: BTreeSet<String> =
        events.iter().filter(|event| event.code() == 403).map(ToString::to_string).collect();
    assert!(refused.is_empty(), "not allowed, and asked for: {refused:#?}");
    let asked = events.iter().filter(|event| !event.object_ref.resource.is_empty());
    let used: BTreeSet<Permission> = asked.flat_map(Event::permissions).collect();
    let documents = account::documents(scope, &stage.system, &stage.namespace);
    let unused: BTreeSet<Permission> =
        account::allowed(&documents).into_iter().filter(|right| !used.contains(right)).collect();
    assert!(unused.is_empty(), "allowed, and never asked for: {unused:#?}");
    let forbidden = used.iter().filter(|(_, resource, verb)| {
        resource == "pods/exec" || resource == "secrets" && (verb == "list" || verb == "watch")
    });
    assert_eq!(forbidden.count(), 0, "{used:?}");
    // A Secret is read by its name, and only its own: those of users are mounted, never read.
    let foreign = events.iter().filter(|event| event.object_ref.resource == "secrets");
    let foreign: Vec<_> =
        foreign.filter(|event| event.verb == "get" && !event.object_ref.name.ends_with("-admin")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_one_namespace_a_role_allows_exactly_what_is_done() {
    rights_are_exactly_what_is_used(Stage::new("rights").await, Scope::Namespaced).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_whole_cluster_the_cluster_role_allows_exactly_what_is_done() {
    let Some(stage) = Stage::cluster_wide("rights-wide").await else { return };
    rights_are_exactly_what_is_used(stage, Scope::Cluster).await;
}
