//! Objects that cannot be read, as those that an older or newer release of the definitions let through: the operator goes on,
//! also after a restart, and takes nothing away that it does not understand.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use lorikeet_crds::ConditionType;
use lorikeet_crds::condition::find;
use serde_json::{Value, json};

use crate::fake::Fake;
use crate::manifests::{adapter, deployment, with};
use crate::stage::Stage;
use crate::until::{PATIENCE, until};
use crate::why::{person, why};

/// From now on anything may stand where a spec has an Adapter's priority and how a Deployment rolls out.
fn loosen_specs(stage: &Stage) {
    for (definition, field) in
        [("adapters", "placement/properties/priority"), ("deployments", "rollout/properties/strategy")]
    {
        let path = format!("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/{field}");
        let value = json!({"x-kubernetes-preserve-unknown-fields": true});
        let patch = json!([{"op": "replace", "path": path, "value": value}]).to_string();
        let name = format!("crd/{definition}.lorikeet.dev");
        stage.kubectl.run(&["patch", &name, "--type=json", "--patch", &patch]);
    }
}

/// Gives `object` (`lora/NAME`, `ldep/NAME`) a spec that cannot be read, once the API server takes it.
async fn spoil_spec(stage: &Stage, object: &str, spec: Value) {
    let patch = json!({"spec": spec}).to_string();
    until(&format!("{object} is spoilt"), PATIENCE, async || {
        let arguments =
            ["patch", object, "--namespace", &stage.namespace, "--type=merge", "--patch", patch.as_str()];
        stage.kubectl.try_run(&arguments).ok()
    })
    .await;
}

/// `object` as the API server has it: our types may not be able to read it.
fn raw(stage: &Stage, object: &str) -> Value {
    let shown = stage.kubectl.run(&["get", object, "--namespace", &stage.namespace, "--output=json"]);
    serde_json::from_str(&shown).expect("JSON")
}

async fn until_said(stage: &Stage, object: &str, message: &str) {
    until(&format!("{object} says: {message}"), PATIENCE, async || {
        let conditions =
            serde_json::from_value::<Vec<Condition>>(raw(stage, object)["status"]["conditions"].take());
        let conditions = conditions.ok()?;
        let ready = find(&conditions, ConditionType::Ready)?;
        (ready.reason == "InvalidSpec" && ready.message.contains(message)).then_some(())
    })
    .await;
}

/// The replica of Deployment `base`.
fn replica_of(stage: &Stage, base: &str) -> std::sync::Arc<Fake> {
    let is_its = |fake: &std::sync::Arc<Fake>| fake.name().starts_with(&format!("{base}-runtime-"));
    stage.kubelet.fakes().into_iter().find(is_its).expect("it runs")
}

/// Many: an object that cannot be read stopped the watch of its kind, and with it everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_cannot_be_read_stops_nobody_and_is_written_anew() {
    let Some(mut stage) = Stage::cluster_wide("malformed").await else { return };
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[
        deployment(&namespace, "base", 1),
        adapter(&namespace, "bad", "base"),
        adapter(&namespace, "sql", "base"),
    ]);
    stage.until_adapter_ready("sql").await;
    stage.until_adapter_ready("bad").await;
    stage.loosen_definitions();
    let is_mended = async || (raw(&stage, "lora/bad")["status"]["rank"] == 8).then_some(());
    stage.spoil("lora/bad", "rank").await;
    stage.kubectl.apply(&[adapter(&namespace, "next", "base")]);
    stage.until_adapter_ready("next").await;
    until("it is written anew", PATIENCE, is_mended).await;
    // Nor where it is in the list that a new operator begins with.
    stage.kill_operator();
    stage.spoil("lora/bad", "rank").await;
    stage.spoil("ldep/base", "readyReplicas").await;
    stage.start_operator().await;
    stage.kubectl.apply(&[adapter(&namespace, "later", "base")]);
    stage.until_adapter_ready("later").await;
    until("both are written anew", PATIENCE, async || {
        let written = [
            &raw(&stage, "lora/bad")["status"]["rank"],
            &raw(&stage, "ldep/base")["status"]["readyReplicas"],
        ]
        .map(Value::as_i64);
        (written == [Some(8), Some(1)]).then_some(())
    })
    .await;
    stage.until_adapter_ready("bad").await;
    stage.until_deployment_ready("base").await;
    let fake = replica_of(&stage, "base");
    assert!(["bad", "sql", "next", "later"].iter().all(|name| fake.serves(name)));
    assert!(fake.heard().iter().all(|heard| heard.removed.is_empty()), "{:?}", fake.heard());
    stage.until_quiet(Duration::from_secs(2)).await;
}

/// What such an object asks for nobody knows; what it stands for is known, and replicas say what that is.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_spec_that_cannot_be_read_stands_for_is_served_on_after_a_restart() {
    let Some(mut stage) = Stage::cluster_wide("unread").await else { return };
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    let odd = with(adapter(&namespace, "odd", "base"), "/spec/servedName", json!("odd-model"));
    stage.kubectl.apply(&[
        deployment(&namespace, "base", 1),
        deployment(&namespace, "other", 1),
        odd,
        adapter(&namespace, "gone", "base"),
        adapter(&namespace, "theirs", "other"),
    ]);
    for name in ["odd", "gone", "theirs"] {
        stage.until_adapter_ready(name).await;
    }
    for name in ["base", "other"] {
        stage.until_whole(name).await;
    }
    let (base, other) = (replica_of(&stage, "base"), replica_of(&stage, "other"));
    let before = other.heard().len();
    stage.kill_operator();
    loosen_specs(&stage);
    for name in ["odd", "gone"] {
        spoil_spec(&stage, &format!("lora/{name}"), json!({"placement": {"priority": "high"}})).await;
    }
    spoil_spec(&stage, "ldep/other", json!({"rollout": {"strategy": 7}})).await;
    stage.start_operator().await;
    stage.kubectl.apply(&[adapter(&namespace, "later", "base")]);
    stage.until_adapter_ready("later").await;
    let unread = "the object cannot be read: spec.placement.priority: ";
    until_said(&stage, "lora/odd", unread).await;
    until_said(&stage, "lora/odd", "its former content is served").await;
    until_said(&stage, "ldep/other", "the object cannot be read: spec.rollout.strategy: ").await;
    // Who asks why is told the same.
    let (person, _) = person(&stage);
    for (name, message) in [("odd", unread), ("theirs", "the object cannot be read: spec.rollout.strategy: ")]
    {
        let (done, said) = why(&person, &[name, "--namespace", &namespace]);
        assert!(done && said.contains(message), "{name}: {said}");
    }
    let told: Vec<_> = base.heard().into_iter().filter(|heard| heard.whole).collect();
    let last = told.last().expect("the first set of the new operator");
    let mut names: Vec<&str> = last.set.iter().map(|one| one.name.as_str()).collect();
    names.retain(|name| *name != "later");
    assert_eq!(names, ["gone", "odd-model"], "{last:?}");
    assert!(base.heard().iter().all(|heard| heard.removed.is_empty()), "{:?}", base.heard());
    assert_eq!(other.heard().len(), before, "{:?}", other.heard());
    // It is deleted as any other: drained, and held until then.
    stage.kubectl.run(&["delete", "lora", "gone", "--namespace", &namespace, "--timeout=60s"]);
    until("it is unloaded", PATIENCE, async || (!base.serves("gone")).then_some(())).await;
    assert!(base.serves("odd-model") && base.serves("later") && other.serves("theirs"));
    // Mended, it is as any other.
    spoil_spec(&stage, "lora/odd", json!({"placement": {"priority": 1}})).await;
    spoil_spec(&stage, "ldep/other", json!({"rollout": {"strategy": "Auto"}})).await;
    stage.until_adapter_ready("odd").await;
    stage.until_whole("other").await;
    let now = [replica_of(&stage, "base"), replica_of(&stage, "other")];
    assert_eq!(now.each_ref().map(|fake| fake.name()), [base.name(), other.name()], "a replica was replaced");
}
