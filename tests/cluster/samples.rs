//! Every manifest of ours that a user may apply, as `kubectl apply --server-side --dry-run=server` sees it.

use std::path::{Path, PathBuf};

use lorikeet_tests::args;

use crate::account::yaml;
use crate::control_plane::ControlPlane;

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
