//! kubectl, as a user runs it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lorikeet_tests::args;
use serde_json::{Value, json};

/// kubectl with the credentials of one user.
#[derive(Clone)]
pub(crate) struct Kubectl {
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// With the credentials of `kubeconfig`.
    pub(crate) fn of(kubeconfig: PathBuf) -> Self {
        Self { kubeconfig }
    }

    /// Runs it; its output, or what it said instead.
    pub(crate) fn try_run(&self, arguments: &[&str]) -> Result<String, String> {
        self.feed(arguments, "")
    }

    /// Runs it, and fails the test when it fails.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        self.try_run(arguments).unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
    }

    /// Runs it with `input` at its standard input.
    pub(crate) fn feed(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = Command::new(program());
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("kubectl: {error}"))?;
        // It may end without reading all of it.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().map_err(|error| format!("kubectl: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// `kubectl apply --server-side` of `objects`.
    #[track_caller]
    pub(crate) fn apply(&self, objects: &[Value]) {
        self.try_apply(objects).unwrap_or_else(|error| panic!("kubectl apply: {error}"));
    }

    /// As [`Self::apply`]; what it said when it was refused.
    pub(crate) fn try_apply(&self, objects: &[Value]) -> Result<String, String> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.feed(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &list.to_string())
    }
}

/// The machine's, else that of `tests/setup.sh k8s`.
fn program() -> PathBuf {
    let built = args::root().join(".cache/k8s/bin/kubectl");
    if built.exists() { built } else { Path::new("kubectl").to_path_buf() }
}
