//! Every manifest of ours that a user may apply, as `kubectl apply --server-side --dry-run=server` sees it.

use std::path::{Path, PathBuf};

use lorikeet_tests::args;

use crate::account::yaml;
use crate::control_plane::ControlPlane;
use crate::stage::Stage;

/// The YAML files below `folder`.
fn manifests(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            manifests(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            into.push(path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_is_taken_by_the_api_server() {
    let kubectl = ControlPlane::shared().await.kubectl();
    let mut files = Vec::new();
    manifests(&args::root().join("deploy"), &mut files);
    files.sort();
    let mut findings = Vec::new();
    let mut count = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a manifest");
        let mut documents = yaml(&text);
        documents.retain(|document| document["apiVersion"] == "lorikeet.dev/v1alpha1");
        count += documents.len();
        for mut document in documents {
            // Where a sample's namespace does not exist, a dry run has nowhere to look.
            document["metadata"]["namespace"] = "default".into();
            let applied = kubectl
                .feed(&["apply", "--server-side", "--dry-run=server", "-f", "-"], &document.to_string());
            if let Err(error) = applied {
                findings.push(format!("{}: {error}", file.display()));
            }
        }
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    assert!(count >= 2, "there are no samples");
}

/// LoRA Land in miniature, by the command that its README says: the base and all 25 become Ready.
#[tokio::test(flavor = "multi_thread")]
async fn loraland_is_applied_by_kustomize_and_all_of_it_becomes_ready() {
    let stage = Stage::with_operator("loraland").await;
    let folder = args::root().join("deploy/loraland").to_string_lossy().into_owned();
    let namespace = ["--namespace", &stage.namespace];
    stage
        .kubectl
        .run(&[&["apply", "--server-side", "--dry-run=server", "-k", &folder], &namespace[..]].concat());
    stage.kubectl.run(&[&["apply", "-k", &folder], &namespace[..]].concat());
    let wait = ["wait", "--for=condition=Ready", "--timeout=120s", "--all", "ldep,lora"];
    let said = stage.kubectl.run(&[&wait, &namespace[..]].concat());
    assert_eq!(said.lines().filter(|line| line.ends_with("condition met")).count(), 26, "{said}");
    let fake = stage.kubelet.fakes().remove(0);
    assert!(fake.serves("wikisql") && fake.serves("winogrande"));
    let held = fake.report().adapters.into_iter().find(|one| one.name == "wikisql").map(|one| one.source);
    assert_eq!(held.as_deref(), Some("/models/loraland/adapters/wikisql"), "where the claim is mounted");
}

/// kubectl checks fields strictly: a field that does not exist is an error, not silence.
#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_field_is_refused() {
    let kubectl = ControlPlane::shared().await.kubectl();
    let misspelt = crate::manifests::with(
        crate::manifests::adapter("default", "typo", "base"),
        "/spec/placment",
        serde_json::json!({"pinned": true}),
    );
    let said = kubectl
        .feed(&["apply", "--dry-run=server", "-f", "-"], &misspelt.to_string())
        .expect_err("a typing error");
    assert!(said.contains("unknown field \"spec.placment\""), "{said}");
}
