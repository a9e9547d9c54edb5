//! Somebody else changes or deletes a child: it becomes what it was, and what others own in it stays theirs.

use kube::ResourceExt;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use lorikeet_crds::condition::find;
use lorikeet_crds::{ConditionType, Deployment};
use serde_json::{Value, json};

use crate::control_plane::base64;
use crate::end_state::{Kind, api, neutral};
use crate::manifests::{adapter, deployment, strangers_service, with};
use crate::scene::serving;
use crate::stage::Stage;
use crate::until::{PATIENCE, until};

const WORKLOAD: Kind = ("apps", "v1", "Deployment", "deployments");
const SERVICE: Kind = ("", "v1", "Service", "services");
const ACCOUNT: Kind = ("", "v1", "ServiceAccount", "serviceaccounts");
const CONFIG_MAP: Kind = ("", "v1", "ConfigMap", "configmaps");
const SECRET: Kind = ("", "v1", "Secret", "secrets");
const DISRUPTION: Kind = ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets");
const NETWORK: Kind = ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies");

/// A merge patch of a child's own fields, for each.
fn edits(registry: &str) -> Vec<(Kind, String, Value)> {
    let label = |value: Value| json!({"metadata": {"labels": {"lorikeet.dev/deployment": value}}});
    let key = format!("{}.json", registry.rsplit('-').next().unwrap_or_default());
    let edits = [
        (WORKLOAD, "base-runtime", json!({"spec": {"replicas": 0}})),
        (
            WORKLOAD,
            "base-runtime",
            json!({"spec": {"template": {"spec": {"automountServiceAccountToken": true}}}}),
        ),
        (SERVICE, "base", json!({"spec": {"selector": {"lorikeet.dev/deployment": "other"}}})),
        (SERVICE, "base-replicas", json!({"spec": {"publishNotReadyAddresses": false}})),
        (ACCOUNT, "base-runtime", json!({"automountServiceAccountToken": true})),
        (DISRUPTION, "base-runtime", json!({"spec": {"maxUnavailable": 2}})),
        (NETWORK, "base-runtime", json!({"spec": {"ingress": []}})),
        (CONFIG_MAP, registry, json!({"data": {key.as_str(): "{}"}})),
        (SERVICE, "base", label(Value::Null)),
        (NETWORK, "base-runtime", label(json!("other"))),
        (SERVICE, "base-replicas", json!({"metadata": {"ownerReferences": null}})),
        (WORKLOAD, "base-runtime", json!({"metadata": {"ownerReferences": null}})),
        (SECRET, "base-admin", json!({"metadata": {"ownerReferences": null}})),
        (SECRET, "base-admin", label(Value::Null)),
    ];
    edits.into_iter().map(|(kind, name, patch)| (kind, name.to_owned(), patch)).collect()
}

async fn read(stage: &Stage, kind: Kind, name: &str) -> Option<DynamicObject> {
    api(&stage.client, kind, &stage.namespace).get_opt(name).await.expect("the API server answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_child_that_is_changed_or_deleted_becomes_what_it_was() {
    let stage = Stage::with_operator("drift").await;
    let namespace = stage.namespace.clone();
    serving(&stage, 1, &["sql"]).await;
    let maps = api(&stage.client, CONFIG_MAP, &namespace).list(&Default::default()).await.expect("a list");
    let registry = maps.items.iter().map(ResourceExt::name_any).find(|name| name.contains("-registry-"));
    let registry = registry.expect("a registry");
    for (kind, name, patch) in edits(&registry) {
        let before = neutral(kind, &read(&stage, kind, &name).await.expect("a child"), &namespace);
        let change = api(&stage.client, kind, &namespace);
        change.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await.expect("a change");
        until(&format!("{} {name} is repaired after {patch}", kind.2), PATIENCE, async || {
            let now = read(&stage, kind, &name).await?;
            (neutral(kind, &now, &namespace) == before).then_some(())
        })
        .await;
    }
    for (kind, name) in [
        (WORKLOAD, "base-runtime"),
        (SERVICE, "base"),
        (SERVICE, "base-replicas"),
        (ACCOUNT, "base-runtime"),
        (DISRUPTION, "base-runtime"),
        (NETWORK, "base-runtime"),
        (CONFIG_MAP, registry.as_str()),
        (SECRET, "base-admin"),
    ] {
        deleted_and_made_again(&stage, kind, name).await;
    }
    stage.until_deployment_ready("base").await;
    stage.until_adapter_ready("sql").await;
}

/// Child `name` is deleted; it comes again as it was.
async fn deleted_and_made_again(stage: &Stage, kind: Kind, name: &str) {
    let old = read(stage, kind, name).await.expect("a child");
    let before = neutral(kind, &old, &stage.namespace);
    let gone = api(&stage.client, kind, &stage.namespace).delete(name, &DeleteParams::default()).await;
    gone.expect("it is deleted");
    until(&format!("{} {name} is made again", kind.2), PATIENCE, async || {
        let now = read(stage, kind, name).await.filter(|now| now.uid() != old.uid())?;
        (neutral(kind, &now, &stage.namespace) == before).then_some(())
    })
    .await;
}

/// What a spec asks for that is refused nobody carries out; but the replicas serve on, and requests have to find them.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_around_the_pods_of_a_refused_deployment_is_kept() {
    let stage = Stage::with_operator("refused-drift").await;
    let namespace = stage.namespace.clone();
    let base = deployment(&namespace, "base", 1);
    stage.kubectl.apply(&[base.clone(), adapter(&namespace, "sql", "base")]);
    stage.until_adapter_ready("sql").await;
    stage.until_deployment_ready("base").await;
    let replica = stage.kubelet.until_running(1).await.remove(0);
    let workload = read(&stage, WORKLOAD, "base-runtime").await.expect("it runs").metadata;
    let asked = with(base, "/spec/adapters/gpuMemory", json!("plenty"));
    stage.kubectl.apply(&[with(asked, "/spec/replicas", json!(3))]);
    until_base_says(&stage, "InvalidSpec", "adapters.gpuMemory").await;
    for (kind, name) in [
        (SERVICE, "base"),
        (SERVICE, "base-replicas"),
        (ACCOUNT, "base-runtime"),
        (DISRUPTION, "base-runtime"),
        (NETWORK, "base-runtime"),
    ] {
        deleted_and_made_again(&stage, kind, name).await;
    }
    stage.until_quiet(std::time::Duration::from_secs(2)).await;
    let now = read(&stage, WORKLOAD, "base-runtime").await.expect("it runs").metadata;
    assert_eq!((now.uid, now.generation), (workload.uid, workload.generation), "the pods' own is as it was");
    let fakes = stage.kubelet.fakes();
    assert!(fakes.len() == 1 && fakes[0].name() == replica.name() && replica.serves("sql"));
    assert!(replica.heard().iter().all(|heard| heard.removed.is_empty()), "{:?}", replica.heard());
}

/// Waits until Deployment `base` is stalled for `reason`, and its message names `what`.
async fn until_base_says(stage: &Stage, reason: &str, what: &str) {
    until(&format!("base says {reason}: {what}"), PATIENCE, async || {
        let base = stage.get::<Deployment>("base").await?;
        let status = base.status.filter(|status| status.observed_generation == base.metadata.generation)?;
        let stalled = find(&status.conditions, ConditionType::Stalled)?;
        (stalled.status == "True" && stalled.reason == reason && stalled.message.contains(what)).then_some(())
    })
    .await;
}

/// Somebody edits what opens the replicas: it is made anew, and they answer again as soon as they have that.
#[tokio::test(flavor = "multi_thread")]
async fn an_admin_secret_that_is_damaged_is_made_anew_and_the_replicas_stay() {
    let stage = Stage::with_operator("damage").await;
    let namespace = stage.namespace.clone();
    serving(&stage, 1, &[]).await;
    let replica = stage.kubelet.until_running(1).await.remove(0);
    let damages = [
        ("token", json!(base64("edited"))),
        ("ca.crt", json!(base64("no certificate"))),
        ("tls.key", Value::Null),
        ("former-ca.crt", json!(base64("somebody's own"))),
        ("digest", Value::Null),
    ];
    for (key, value) in damages {
        let data =
            async || read(&stage, SECRET, "base-admin").await.map(|secret| secret.data["data"].clone());
        let before = data().await.expect("it is there");
        let change = json!({"data": {key: value}});
        let secrets = api(&stage.client, SECRET, &namespace);
        secrets.patch("base-admin", &PatchParams::default(), &Patch::Merge(&change)).await.expect("a change");
        let token = until(&format!("the Secret is made anew after {change}"), PATIENCE, async || {
            let now = data().await?;
            let is_new = ["ca.crt", "tls.crt", "tls.key", "token"].iter().all(|part| {
                now[part].is_string() && now[part] != before[part] && now[part] != change["data"][part]
            });
            serde_json::from_value::<k8s_openapi::ByteString>(now["token"].clone()).ok().filter(|_| is_new)
        })
        .await;
        stage.kubelet.until_mounted("base-admin", &token.0).await;
        let name = format!("after-{}", key.replace('.', "-"));
        stage.kubectl.apply(&[adapter(&namespace, &name, "base")]);
        stage.until_adapter_ready(&name).await;
    }
    let now = stage.kubelet.fakes();
    assert!(now.len() == 1 && now[0].name() == replica.name(), "the replica was replaced");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_own_in_a_child_stays_theirs() {
    let stage = Stage::with_operator("shared").await;
    let namespace = stage.namespace.clone();
    serving(&stage, 1, &["sql"]).await;
    stage.until_quiet(std::time::Duration::from_secs(2)).await;
    let before = stage.writes().len();
    // An annotation of the workload is for its controller to act on, as Kubernetes has it; a label is not.
    let label = json!({"metadata": {"labels": {"team.example/tier": "gold"}}});
    let both = json!({"metadata": {"annotations": {"team.example/owner": "nlp"}, "labels": {"team.example/tier": "gold"}}});
    for (kind, name, mark) in
        [(WORKLOAD, "base-runtime", &label), (SERVICE, "base", &both), (NETWORK, "base-runtime", &both)]
    {
        let change = api(&stage.client, kind, &namespace);
        change.patch(name, &PatchParams::default(), &Patch::Merge(mark)).await.expect("a change");
    }
    stage.until_quiet(std::time::Duration::from_secs(2)).await;
    for (kind, name) in [(WORKLOAD, "base-runtime"), (SERVICE, "base"), (NETWORK, "base-runtime")] {
        let child = read(&stage, kind, name).await.expect("a child");
        let owner = child.annotations().get("team.example/owner").map(String::as_str);
        assert_eq!(owner, (kind != WORKLOAD).then_some("nlp"), "{name}");
        assert_eq!(child.labels().get("team.example/tier").map(String::as_str), Some("gold"), "{name}");
    }
    let written: Vec<String> = stage.writes().split_off(before).iter().map(ToString::to_string).collect();
    assert!(written.is_empty(), "for marks that are none of ours: {written:#?}");
}

/// A name that a child would take is a stranger's: it is not touched, and the status says who is in the way.
#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_object_under_a_childs_name_is_not_taken_over() {
    let stage = Stage::with_operator("stranger").await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[strangers_service(&namespace, "base")]);
    stage.kubectl.apply(&[deployment(&namespace, "base", 1)]);
    until_base_says(&stage, "NotCarriedOut", &format!("Service {namespace}/base is there and not ours"))
        .await;
    stage.until_quiet(std::time::Duration::from_secs(2)).await;
    let now = read(&stage, SERVICE, "base").await.expect("the stranger's");
    assert_eq!(now.data["spec"]["selector"], json!({"app": "shop"}));
    assert!(now.owner_references().is_empty());
}
