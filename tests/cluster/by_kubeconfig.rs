//! The suite on a control plane that `KUBECONFIG` names: a few scenarios of it in a process of their own, on the control plane of
//! this one. They pass there, one that needs its own says so, and nothing is left.

use std::process::{Command, Stdio};

use crate::control_plane::ControlPlane;
use crate::ground::PROCESS;
use crate::kubelet::NODE;
use crate::manifests::deployment;

/// One leaves Adapters with finalizers and roles of the whole cluster to who cleans up, one asks what the audit log would say, one
/// needs no operator.
const TAKEN: [&str; 3] = [
    "lifecycle::a_deleted_adapter_drains_and_one_that_never_drains_is_let_go_in_time",
    "at_rest::in_one_namespace_a_role_allows_exactly_what_is_done",
    "schema::what_identifies_an_object_cannot_be_changed",
];
const SKIPPED: &str = "gpus::a_replica_without_a_node_is_named_as_what_is_waited_for";

#[tokio::test(flavor = "multi_thread")]
async fn on_a_given_control_plane_scenarios_pass_or_say_what_they_need_and_nothing_is_left() {
    let plane = ControlPlane::shared().await;
    let mut command = Command::new(std::env::current_exe().expect("a test knows its own program"));
    command.args(["--exact", "--test-threads=2"]).args(TAKEN).arg(SKIPPED);
    command.env("KUBECONFIG", plane.admin()).stdin(Stdio::null());
    let suite = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let id = suite.id();
    let ended = tokio::task::spawn_blocking(|| suite.wait_with_output()).await.expect("it is awaited");
    let ended = ended.expect("it has ended");
    let [said, told] = [ended.stdout, ended.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(ended.status.success(), "{said}\n{told}");
    for name in TAKEN.iter().chain([&SKIPPED]) {
        assert!(said.contains(&format!("test {name} ... ok")), "{name}: {said}");
    }
    let skipped: Vec<&str> = told.lines().filter(|line| line.starts_with("skipped: ")).collect();
    let expected = format!(
        "skipped: {SKIPPED} needs a control plane of its own: kube-scheduler chooses among nodes that it makes"
    );
    assert_eq!(skipped, [expected], "{told}");

    let kubectl = plane.kubectl();
    let kinds = "namespaces,clusterroles,clusterrolebindings";
    let left = kubectl.run(&["get", kinds, "--output=name", "--selector", &format!("{PROCESS}={id}")]);
    assert_eq!(left, "");
    // On one that is given to this run too, the node is its own.
    if plane.run().is_none() {
        let node = kubectl.run(&["get", "nodes", "--output=name", "--ignore-not-found", NODE]);
        assert_eq!(node, "");
    }
}

/// Its definitions are somebody else's: they stay as they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_given_control_plane_that_somebody_else_uses_is_refused_and_left_as_it_is() {
    let Some(plane) = ControlPlane::own("it is given as somebody else's").await else { return };
    let kubectl = plane.kubectl();
    kubectl.apply(&[deployment("default", "base", 1)]);
    let versions = "--output=jsonpath={.items[*].metadata.resourceVersion}";
    let definitions = || kubectl.run(&["get", "crd", versions]);
    let before = definitions();
    let mut command = Command::new(std::env::current_exe().expect("a test knows its own program"));
    command.args(["--exact", TAKEN[2]]).env("KUBECONFIG", plane.admin()).stdin(Stdio::null());
    let ended = tokio::task::spawn_blocking(move || command.output()).await.expect("it is awaited");
    let ended = ended.expect("it has ended");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(!ended.status.success() && said.contains("as Deployment default/base:"), "{said}");
    assert_eq!(definitions(), before);
    let left = kubectl.run(&["get", "namespaces", "--output=name", "--selector", PROCESS]);
    assert_eq!(left, "");
}
