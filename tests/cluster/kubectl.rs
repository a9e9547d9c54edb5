//! kubectl, as a user runs it.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lorikeet_tests::args;
use serde_json::{Value, json};

use crate::tethered::Tethered;

/// SIGKILL's number.
const KILL: i32 = 9;
/// It is killed after that: longer than any scenario has it wait for something.
const LIMIT: Duration = Duration::from_secs(150);

/// kubectl with the credentials of one user.
#[derive(Clone)]
pub(crate) struct Kubectl {
    kubeconfig: PathBuf,
    limit: Duration,
}

impl Kubectl {
    /// With the credentials of `kubeconfig`.
    pub(crate) fn of(kubeconfig: PathBuf) -> Self {
        Self { kubeconfig, limit: LIMIT }
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
        let mut command = Command::new("timeout");
        command.arg("--signal=KILL").arg(self.limit.as_secs_f64().to_string()).arg(program());
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("kubectl: {error}"))?;
        // It may end without reading all of it.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().map_err(|error| format!("kubectl: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let killed = format!("killed after {:?}", self.limit);
            Err(if output.status.signal() == Some(KILL) { killed + &said } else { said })
        }
    }

    /// Starts it beside the test; what it prints goes to the file `log`.
    pub(crate) fn start(&self, arguments: &[&str], log: PathBuf) -> Tethered {
        let mut all = vec!["--kubeconfig".to_owned(), self.kubeconfig.display().to_string()];
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        Tethered::start(&program(), &all, &[], log).shown()
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

/// What `KUBECONFIG` says, one file or several, as one that refers to no other: its current context alone, with secrets.
pub(crate) fn flattened(kubeconfig: &Path) -> Result<String, String> {
    let mut command = Command::new(program());
    command.env("KUBECONFIG", kubeconfig).args(["config", "view", "--raw", "--flatten", "--minify"]);
    let output = command.output().map_err(|error| format!("kubectl: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// That of KUBEBUILDER_ASSETS, where `tests/setup.sh` builds it for another release; else the one that it built because the
/// machine has none; else the machine's.
fn program() -> PathBuf {
    found(args::kubebuilder_assets().as_deref(), &args::root().join(".cache/k8s/bin"))
}

fn found(assets: Option<&Path>, built: &Path) -> PathBuf {
    let places = assets.into_iter().chain([built]).map(|folder| folder.join("kubectl"));
    places.into_iter().find(|path| path.exists()).unwrap_or_else(|| "kubectl".into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_given_one_comes_before_a_built_one_and_that_before_the_machines() {
        let (assets, built) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let found = || found(Some(assets.path()), built.path());
        assert_eq!(found(), Path::new("kubectl"));
        for folder in [&built, &assets] {
            let program = folder.path().join("kubectl");
            std::fs::write(&program, "").expect("written");
            assert_eq!(found(), program);
        }
    }

    #[test]
    fn one_that_hangs_is_killed() {
        // Whoever connects waits for ever.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = format!("--server=http://{}", listener.local_addr().expect("an address"));
        let kubectl = Kubectl { kubeconfig: "/dev/null".into(), limit: Duration::from_secs(2) };
        let said = kubectl.try_run(&["get", "--raw", "/readyz", &server]).expect_err("nobody answers");
        assert!(said.starts_with("killed after 2s"), "{said}");
    }
}
