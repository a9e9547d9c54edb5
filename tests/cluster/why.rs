//! `lorikeet-operator why` on a cluster: with a person's own rights, from what the operator wrote.

use std::process::Command;

use lorikeet_api::{ErrorCode, Failure};
use serde_json::json;

use crate::manifests::{adapter, deployment, digest, with};
use crate::operator::binary;
use crate::stage::Stage;

fn why(stage: &Stage, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(binary())
        .arg("why")
        .args(arguments)
        .arg("--kubeconfig")
        .arg(stage.plane.folder().join("admin"))
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
    let of = |name: &str| why(&stage, &[name, "--namespace", &namespace]);
    assert!(of("sql").1.contains("The operator has not looked at"), "{:?}", of("sql"));
    stage.start_operator().await;
    for name in ["sql", "placed"] {
        stage.until_adapter_ready(name).await;
    }
    stage.until_deployment_ready("base").await;
    let of = |name: &str| why(&stage, &[name, "--namespace", &namespace]);
    for name in ["sql", "acme/sql", &format!("{namespace}/sql")] {
        let (done, said) = of(name);
        assert!(done && said.contains("As the operator saw the replicas when it last wrote"), "{said}");
        assert_eq!(said.matches(": holds it: it is placed here").count(), 2, "{said}");
    }
    let said = of("placed").1;
    assert_eq!(said.matches(": holds it: ").count(), 1, "{said}");
    assert_eq!(said.matches("it is placed on 1 of the replicas").count(), 1, "{said}");
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
