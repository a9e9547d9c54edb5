//! Every Rust file is compiled: reachable from a target by `mod` lines. A test that nobody compiles proves nothing.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::code;
use crate::sources::{none, paths, root};

/// The files that cargo compiles first: libraries, binaries, tests, benches, build scripts.
fn target_roots() -> Vec<String> {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo answers");
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages").iter();
    let targets = packages.flat_map(|package| package["targets"].as_array().expect("targets"));
    let inside = |path: &str| Some(path.strip_prefix(root().to_str()?)?.trim_start_matches('/').to_owned());
    targets.filter_map(|target| inside(target["src_path"].as_str()?)).collect()
}

/// The names of `mod NAME;` lines.
fn declared(text: &str) -> Vec<String> {
    let code = code::only(text);
    let name = |line: &str| {
        let (before, after) = line.split_once("mod ")?;
        let visible = before.trim().is_empty() || before.trim_start().starts_with("pub");
        let name = after.trim().strip_suffix(';')?;
        (visible && name.chars().all(|c| c.is_alphanumeric() || c == '_')).then(|| name.to_owned())
    };
    code.lines().filter_map(|line| name(line.rsplit(']').next()?)).collect()
}

/// The folder that the modules of `path` lie in: its own for a target's root, else the one beside it.
fn folder_of(path: &str, is_root: bool) -> String {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    if is_root { folder.to_owned() } else { path.trim_end_matches(".rs").to_owned() }
}

#[test]
fn every_rust_file_is_compiled() {
    let all: BTreeSet<String> = paths().into_iter().filter(|path| path.ends_with(".rs")).collect();
    let mut reached = BTreeSet::new();
    let mut open: Vec<(String, bool)> = target_roots().into_iter().map(|path| (path, true)).collect();
    while let Some((path, is_root)) = open.pop() {
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
        let folder = folder_of(&path, is_root);
        open.extend(declared(&text).into_iter().map(|name| (format!("{folder}/{name}.rs"), false)));
        reached.insert(path);
    }
    let lost: Vec<String> = all.difference(&reached).cloned().collect();
    none("no `mod` line leads here:", &lost);
}
