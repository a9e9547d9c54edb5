//! What `up` prints is what `kubectl get` prints of the same objects: each object of its state folder, with its status, is
//! taken by a real API server, and shown by a real kubectl.

use std::path::Path;
use std::process::Command;

use lorikeet_tests::args;
use lorikeet_tests::operator::binary as operator;
use lorikeet_tests::process::{Process, free_address};
use lorikeet_tests::replica::binary as runtime;
use serde_json::{Value, json};

use crate::control_plane::ControlPlane;
use crate::kubectl::Kubectl;
use crate::manifests::{adapter, deployment, with};
use crate::until::{PATIENCE, until};

/// One Deployment; Adapters that are Ready under their own names and under another, and such as never will be.
fn manifests(namespace: &str) -> Vec<Value> {
    let source = |path: &str| json!(format!("file://{}/deploy/loraland/{path}", args::root().display()));
    let of = |name: &str, folder: &str| {
        with(adapter(namespace, name, "base"), "/spec/source", source(&format!("adapters/{folder}")))
    };
    vec![
        with(deployment(namespace, "base", 1), "/spec/model/source", source("base")),
        of("sql", "wikisql"),
        with(of("math", "gsm8k"), "/spec/servedName", json!("acme/arithmetic")),
        of("nowhere", "there-is-none"),
        adapter(namespace, "stray", "no-such-deployment"),
    ]
}

/// The tables of an `up` of `objects`, once it has said that the Deployment answers. The API server has the objects then.
async fn printed(kubectl: &Kubectl, folder: &Path, objects: &[Value]) -> String {
    for (at, object) in objects.iter().enumerate() {
        // JSON is YAML.
        std::fs::write(folder.join(format!("{at}.yaml")), object.to_string()).expect("written");
    }
    let mut command = Command::new(operator());
    command.args(["up", "--log-level=off", "--listen", &free_address().to_string()]);
    command.arg("--state").arg(folder.join("state")).arg("--runtime").arg(runtime()).arg(folder);
    let mut up = Process::start("lorikeet-operator up", &mut command);
    let shown = until("it says where it answers", PATIENCE, async || {
        up.assert_running();
        up.log().split_once("\nbase answers on ").map(|(tables, _)| tables.to_owned())
    })
    .await;
    take(kubectl, &folder.join("state"));
    up.interrupt();
    let well = until("it ends", PATIENCE, async || up.ended()).await;
    assert!(well, "{}", up.log());
    shown
}

/// Brings the objects of a state folder to the API server, spec and status.
fn take(kubectl: &Kubectl, state: &Path) {
    for kind in ["Deployment", "Adapter"] {
        for namespace in std::fs::read_dir(state.join(kind)).expect("objects of that kind").flatten() {
            for file in std::fs::read_dir(namespace.path()).expect("objects").flatten() {
                let text = std::fs::read_to_string(file.path()).expect("an object");
                let mut object: Value = serde_yaml::from_str(&text).expect("an object is YAML");
                let metadata = object["metadata"].as_object_mut().expect("metadata");
                // What the API server alone says.
                for own in ["uid", "resourceVersion", "generation", "creationTimestamp"] {
                    metadata.remove(own).unwrap_or_else(|| panic!("no metadata.{own}: {text}"));
                }
                kubectl.apply(&[object.clone()]);
                let status =
                    ["apply", "--server-side", "--subresource=status", "--force-conflicts", "-f", "-"];
                kubectl.feed(&status, &object.to_string()).expect("a status of the kind");
            }
        }
    }
}

/// Without the ages, which come last: those of the API server are its own.
fn ageless(tables: &str) -> String {
    let mut age = 0;
    let line = |line: &str| {
        age = line.find(" AGE").unwrap_or(age);
        line.get(..age).unwrap_or_default().trim_end().to_owned() + "\n"
    };
    tables.trim().lines().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn up_prints_what_kubectl_get_prints_of_the_same_objects() {
    let Some(plane) = ControlPlane::own("it prints the whole cluster").await else { return };
    let kubectl = plane.kubectl();
    let folder = tempfile::tempdir().expect("a folder");
    let mut objects = manifests("default");
    let shown = printed(&kubectl, folder.path(), &objects).await;
    let expected = kubectl.run(&["get", "ldep,lora"]);
    assert_eq!(ageless(&shown), ageless(&expected));
    assert!(shown.contains("acme/arithmetic   True ") && shown.contains("False "), "{shown}");

    // With a second namespace both name it.
    kubectl.run(&["create", "namespace", "team"]);
    objects.push(adapter("team", "foreign", "base"));
    let shown = printed(&kubectl, folder.path(), &objects).await;
    let expected = kubectl.run(&["get", "ldep,lora", "--all-namespaces"]);
    assert_eq!(ageless(&shown), ageless(&expected));
}
