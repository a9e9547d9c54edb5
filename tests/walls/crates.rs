//! Who may use whom. Read from `cargo metadata`, so that no spelling of a dependency gets around it.

use std::process::Command;

use serde_json::Value;

use crate::sources::{none, root};

/// What a crate may use of the workspace, and what it must not use at all. `tests/*` comes after.
const WALLS: &[(&str, &[&str], &[&str])] = &[
    ("lorikeet-crds", &[], &[]),
    ("lorikeet-api", &[], &["tokio", "axum", "reqwest", "hyper"]),
    ("lorikeet-kernels", &[], &["tokio", "axum", "serde_json", "kube", "k8s-openapi"]),
    (
        "lorikeet-runtime",
        &["lorikeet-api", "lorikeet-kernels"],
        &["kube", "kube-runtime", "k8s-openapi", "cudarc"],
    ),
    ("lorikeet-operator", &["lorikeet-crds", "lorikeet-api"], &["cudarc", "candle-core", "tokenizers"]),
];

/// What the judges may use: they have only kubectl-level and HTTP-level hands.
const JUDGES_MAY_USE: &[&str] = &["lorikeet-crds", "lorikeet-api", "lorikeet-tests"];

/// `(crate, its dependency, where the dependency comes from)`; what tests alone use counts too.
fn dependencies() -> Vec<(String, String, String)> {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo answers");
    assert!(metadata.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("cargo metadata is JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            found.push((text(&package["name"]), text(&dependency["name"]), text(&dependency["source"])));
        }
    }
    found
}

#[test]
fn every_crate_uses_only_what_its_wall_lets_through() {
    let mut findings = Vec::new();
    for (name, uses, _) in dependencies() {
        let wall = WALLS.iter().find(|(of, ..)| *of == name);
        let (may, must_not) =
            wall.map_or((JUDGES_MAY_USE, [].as_slice()), |(_, may, must_not)| (*may, *must_not));
        if uses.starts_with("lorikeet-") && !may.contains(&uses.as_str()) || must_not.contains(&uses.as_str())
        {
            findings.push(format!("{name} uses {uses}"));
        }
    }
    none("a dependency goes through a wall (README, The map):", &findings);
}

#[test]
fn no_crate_comes_from_a_git_repository() {
    let from_git = dependencies().into_iter().filter(|(_, _, source)| source.starts_with("git+"));
    none(
        "only the registry and this workspace:",
        &from_git.map(|(of, uses, _)| format!("{of}: {uses}")).collect::<Vec<_>>(),
    );
}

#[test]
fn the_words_of_the_admin_face_need_serde_alone() {
    let others =
        dependencies().into_iter().filter(|(of, uses, _)| of == "lorikeet-api" && !uses.starts_with("serde"));
    none("runtime/api is serde only:", &others.map(|(_, uses, _)| uses).collect::<Vec<_>>());
}
