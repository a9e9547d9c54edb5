//! Adapters of other namespaces: only where the Deployment allows them, from the moment it does until it does not.

use kube::Api;
use lorikeet_crds::condition::find;
use lorikeet_crds::{Adapter, ConditionType, Reason};
use serde_json::{Value, json};

use crate::manifests::{adapter, deployment, with};
use crate::stage::{Stage, is_ready_adapter};
use crate::until::{PATIENCE, until};

async fn until_says(stage: &Stage, namespace: &str, name: &str, reason: Option<Reason>) {
    let api: Api<Adapter> = Api::namespaced(stage.client.clone(), namespace);
    let what = format!("{namespace}/{name}: {}", reason.map_or("Ready", Reason::as_str));
    until(&what, PATIENCE, async || {
        let found = api.get_opt(name).await.expect("the API server answers")?;
        let Some(reason) = reason else { return is_ready_adapter(&found).then_some(()) };
        let status = found.status.unwrap_or_default();
        find(&status.conditions, ConditionType::Ready)
            .filter(|ready| ready.reason == reason.as_str())
            .map(drop)
    })
    .await;
}

fn of(namespace: &str, name: &str, target: &str) -> Value {
    with(adapter(namespace, name, "base"), "/spec/deploymentRef/namespace", json!(target))
}

fn allowed(base: &Value, allowed: Value) -> Value {
    with(base.clone(), "/spec/adapters/allowedNamespaces", allowed)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_namespaces_adapter_is_served_only_where_it_is_allowed() {
    let Some(mut stage) = Stage::cluster_wide("tenants").await else { return };
    stage.start_operator().await;
    let home = stage.namespace.clone();
    let team = |name: &str, label: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": label}}});
    stage.kubectl.apply(&[team("tenant-nlp", "nlp"), team("tenant-cv", "cv")]);
    let base = deployment(&home, "base", 1);
    stage.kubectl.apply(&[base.clone(), adapter(&home, "own", "base")]);
    stage.kubectl.apply(&[of("tenant-nlp", "sql", &home), of("tenant-cv", "ocr", &home)]);
    until_says(&stage, &home, "own", None).await;
    for (namespace, name) in [("tenant-nlp", "sql"), ("tenant-cv", "ocr")] {
        until_says(&stage, namespace, name, Some(Reason::NamespaceNotAllowed)).await;
    }
    let fake = stage.kubelet.fakes().remove(0);
    assert!(fake.first_heard("sql").is_none() && fake.first_heard("ocr").is_none(), "a replica heard of it");
    let selector = json!({"from": "Selector", "selector": {"matchLabels": {"team": "nlp"}}});
    stage.kubectl.apply(&[allowed(&base, selector)]);
    until_says(&stage, "tenant-nlp", "sql", None).await;
    until_says(&stage, "tenant-cv", "ocr", Some(Reason::NamespaceNotAllowed)).await;
    assert!(fake.serves("sql") && fake.first_heard("ocr").is_none());
    // The namespace's label is what decides, also later.
    stage.kubectl.apply(&[team("tenant-cv", "nlp")]);
    until_says(&stage, "tenant-cv", "ocr", None).await;
    stage.kubectl.apply(&[team("tenant-nlp", "sales")]);
    until_says(&stage, "tenant-nlp", "sql", Some(Reason::NamespaceNotAllowed)).await;
    until("it is taken away", PATIENCE, async || (!fake.serves("sql")).then_some(())).await;
    stage.kubectl.apply(&[allowed(&base, json!({"from": "All"}))]);
    until_says(&stage, "tenant-nlp", "sql", None).await;
    stage.kubectl.apply(&[allowed(&base, json!({"from": "Same"}))]);
    for (namespace, name) in [("tenant-nlp", "sql"), ("tenant-cv", "ocr")] {
        until_says(&stage, namespace, name, Some(Reason::NamespaceNotAllowed)).await;
    }
    until("both are taken away", PATIENCE, async || {
        (!fake.serves("sql") && !fake.serves("ocr")).then_some(())
    })
    .await;
    assert!(fake.serves("own"));
    // Refused ones hold up nothing.
    stage.kubectl.run(&["delete", "namespace", "tenant-nlp", "tenant-cv", "--timeout=60s"]);
}

/// production-stack listed pods of all namespaces by one label, and loaded adapters into strangers' pods.
#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_goes_to_the_deployment_of_its_own_namespace_alone() {
    let Some(mut stage) = Stage::cluster_wide("same-name").await else { return };
    stage.start_operator().await;
    let (home, away) = (stage.namespace.clone(), format!("{}-away", stage.namespace));
    stage.kubectl.apply(&[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": away}})]);
    let elsewhere = crate::kubelet::Kubelet::start(stage.client.clone(), &away, Default::default());
    stage.kubectl.apply(&[deployment(&home, "base", 1), deployment(&away, "base", 1)]);
    stage.kubectl.apply(&[adapter(&home, "here", "base"), adapter(&away, "there", "base")]);
    until_says(&stage, &home, "here", None).await;
    until_says(&stage, &away, "there", None).await;
    let (ours, theirs) = (stage.kubelet.fakes().remove(0), elsewhere.fakes().remove(0));
    assert!(ours.serves("here") && ours.first_heard("there").is_none());
    assert!(theirs.serves("there") && theirs.first_heard("here").is_none());
}

/// Its rights go with the namespace, in whatever order it is emptied: nothing may wait for an operator that cannot act.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_an_operator_watches_alone_goes_at_once_though_its_replicas_hang() {
    let stage = Stage::with_operator("goes").await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[deployment(&namespace, "base", 2), adapter(&namespace, "sql", "base")]);
    stage.until_adapter_ready("sql").await;
    let held = stage.get::<Adapter>("sql").await.expect("it is there").metadata.finalizers;
    assert_eq!(held.unwrap_or_default(), Vec::<String>::new());
    stage.kubelet.fakes().iter().for_each(|fake| fake.script(|script| script.hung = true));
    let role = ["delete", "rolebinding", "--all", "--namespace", &namespace];
    stage.kubectl.run(&role);
    stage.kubectl.run(&["delete", "namespace", &namespace, "--timeout=30s"]);
}

/// The operator's own pods are in its own namespace: with it they go.
#[tokio::test(flavor = "multi_thread")]
async fn in_its_own_namespace_the_operator_holds_nothing_and_takes_away_what_held() {
    let Some(mut stage) = Stage::cluster_wide("own").await else { return };
    stage.start_operator().await;
    let (home, own) = (stage.namespace.clone(), stage.system.clone());
    let _own = crate::kubelet::Kubelet::start(stage.client.clone(), &own, Default::default());
    let left = with(adapter(&own, "left", "base"), "/metadata/finalizers", json!(["lorikeet.dev/drain"]));
    stage.kubectl.apply(&[deployment(&home, "base", 1), deployment(&own, "base", 1)]);
    stage.kubectl.apply(&[adapter(&home, "held", "base"), left]);
    until_says(&stage, &home, "held", None).await;
    until_says(&stage, &own, "left", None).await;
    let finalizers = async |namespace: &str, name: &str| {
        let api: Api<Adapter> = Api::namespaced(stage.client.clone(), namespace);
        api.get(name).await.expect("it is there").metadata.finalizers.unwrap_or_default()
    };
    assert_eq!(finalizers(&home, "held").await, ["lorikeet.dev/drain"]);
    until("the one of its own namespace is free", PATIENCE, async || {
        finalizers(&own, "left").await.is_empty().then_some(())
    })
    .await;
}
