//! The files of the checkout, as git sees them: what is committed and what is about to be.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::code;

/// One file of the checkout.
pub(crate) struct Source {
    /// From the root, with `/`.
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
    /// Without comments and without what is inside string literals; line numbers stay. Rust and CUDA only.
    pub(crate) code: String,
}

impl Source {
    /// The last part of the path.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// `path:line: what`, for a finding.
    pub(crate) fn at(&self, line: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path, line + 1)
    }
}

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the root").to_path_buf()
}

/// Every file's path, from the root. What git ignores is not there, nor are other checkouts inside this one.
pub(crate) fn paths() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the files of the checkout");
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let mut paths: Vec<String> = String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter(|path| root().join(path).is_file())
        .map(str::to_owned)
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

/// Every file with one of `extensions`.
pub(crate) fn with_extension(extensions: &[&str]) -> Vec<Source> {
    let wanted = |path: &String| path.rsplit_once('.').is_some_and(|(_, end)| extensions.contains(&end));
    paths().into_iter().filter(wanted).map(read).collect()
}

/// Every Rust file.
pub(crate) fn rust() -> Vec<Source> {
    with_extension(&["rs"])
}

/// The file at `path` from the root.
pub(crate) fn read(path: String) -> Source {
    let bytes = std::fs::read(root().join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let text = String::from_utf8(bytes).unwrap_or_else(|_| panic!("{path}: not UTF-8"));
    let code = code::only(&text);
    Source { path, text, code }
}

/// Fails with every finding, one a line.
#[track_caller]
pub(crate) fn none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}\n  {}\n", findings.join("\n  "));
}
