//! `lorikeet-operator why` on a cluster: with the rights of a person who may look at one namespace, from what the operator
//! wrote.

use std::path::{Path, PathBuf};
use std::process::Command;

use lorikeet_api::{ErrorCode, Failure};
use serde_json::json;

use crate::manifests::{adapter, deployment, digest, with};
use crate::scene::serving;
use crate::stage::Stage;
use lorikeet_tests::operator::binary;

/// Somebody who may look at the objects of the scenario's namespace, and at nothing else: the kubeconfig, and its token.
pub(crate) fn person(stage: &Stage) -> (PathBuf, String) {
    let namespace = &stage.namespace;
    let metadata = json!({"name": "person", "namespace": namespace});
    let rules = json!([
        {"apiGroups": ["lorikeet.dev"], "resources": ["adapters", "deployments"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    ]);
    let rbac = "rbac.authorization.k8s.io";
    stage.kubectl.apply(&[
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
        json!({"apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": metadata, "rules": rules}),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "person"},
            "subjects": [{"kind": "ServiceAccount", "name": "person", "namespace": namespace}],
        }),
    ]);
    let token = stage.kubectl.run(&["create", "token", "person", "--namespace", namespace]);
    let token = token.trim().to_owned();
    (stage.plane.kubeconfig(&format!("{namespace}-person"), &stage.proxy.url(), &token), token)
}

/// Whether it answered, and what it said.
pub(crate) fn why(kubeconfig: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(binary())
        .arg("why")
        .args(arguments)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .output()
        .expect("it starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn why_tells_of_each_pod_what_the_operator_saw() {
    let mut stage = Stage::new("why").await;
    let namespace = stage.namespace.clone();
    let placed = with(adapter(&namespace, "placed", "base"), "/spec/placement/replicas", json!(1));
    let sql = with(adapter(&namespace, "sql", "base"), "/spec/servedName", json!("acme/sql"));
    stage.kubectl.apply(&[deployment(&namespace, "base", 2), sql.clone(), placed]);
    let (person, token) = person(&stage);
    let of = |name: &str| why(&person, &[name, "--namespace", &namespace]);
    assert!(of("sql").1.contains("The operator has not looked at"), "{:?}", of("sql"));
    stage.start_operator().await;
    for name in ["sql", "placed"] {
        stage.until_adapter_ready(name).await;
    }
    stage.until_deployment_ready("base").await;
    for name in ["sql", "acme/sql", &format!("{namespace}/sql")] {
        let (done, said) = of(name);
        assert!(done && said.contains("As the operator saw the replicas when it last wrote"), "{said}");
        assert_eq!(said.matches(": holds it: it is placed here").count(), 2, "{said}");
    }
    let said = of("placed").1;
    assert_eq!(said.matches(": holds it: ").count(), 1, "{said}");
    assert_eq!(said.matches("it is placed on 1 of the replicas").count(), 1, "{said}");
    // All Adapters of the cluster are asked for first; that is refused, and the namespace's own are enough.
    let user = format!("system:serviceaccount:{namespace}:person");
    let asked = stage.plane.audit(user, &token).requests();
    let of_all = asked.iter().filter(|one| one.uri.starts_with("/apis/lorikeet.dev/v1alpha1/adapters"));
    let answers: Vec<u16> = of_all.map(crate::audit::Event::code).collect();
    assert!(!answers.is_empty() && answers.iter().all(|code| *code == 403), "{answers:?}");
    let (done, said) = of("plaaced");
    assert!(!done && said.contains("did you mean placed?"), "{said}");
    for fake in stage.kubelet.fakes() {
        let torn = Failure { code: ErrorCode::InvalidWeights, message: "torn".to_owned() };
        fake.script(|script| script.refuses.push(("acme/sql".to_owned(), torn)));
    }
    stage.kubectl.apply(&[with(sql, "/spec/digest", json!(digest('9')))]);
    stage.until_adapter_says("sql", lorikeet_crds::Reason::InvalidWeights).await;
    let said = of("sql").1;
    assert!(said.contains("serves the former version") && said.contains("the new one: torn"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn why_tells_where_an_adapter_is_that_is_being_deleted() {
    // The operator outlives Adapters, and holds them until they have drained.
    let mut stage = Stage::wide("why-leaving").await;
    stage.start_operator().await;
    serving(&stage, 2, &["sql"]).await;
    let (person, _) = person(&stage);
    let fakes = stage.kubelet.until_running(2).await;
    fakes[0].script(|script| script.clings.push("sql".to_owned()));
    stage.kubectl.run(&["delete", "lora", "sql", "--namespace", &stage.namespace, "--wait=false"]);
    stage.until_adapter_says("sql", lorikeet_crds::Reason::Draining).await;
    let (done, said) = why(&person, &["sql", "--namespace", &stage.namespace]);
    let told = format!("{}: holds it: it is being deleted since ", fakes[0].name());
    assert!(done && said.contains(&told) && said.contains("(rollout.drainSeconds)"), "{said}");
}
