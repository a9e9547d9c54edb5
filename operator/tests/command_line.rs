//! The command as people type it: what it says of itself, and of flags that cannot be. Needs no cluster.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

fn operator(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lorikeet-operator"))
        .args(arguments)
        .env_remove("KUBECONFIG")
        .output()
        .expect("the operator's binary starts")
}

fn refused(arguments: &[&str]) -> String {
    let output = operator(arguments);
    assert!(!output.status.success(), "{arguments:?} was taken");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_subcommand_has_a_manual() {
    for (subcommand, flags) in [
        ("run", ["--kubeconfig", "--watch-namespace", "--lease-seconds", "--listen"].as_slice()),
        ("up", ["--state", "--listen"].as_slice()),
    ] {
        let output = operator(&[subcommand, "--help"]);
        assert!(output.status.success());
        let manual = String::from_utf8_lossy(&output.stdout).into_owned();
        for flag in flags {
            assert!(manual.contains(flag), "{flag} is not in the manual:\n{manual}");
        }
    }
}

#[test]
fn a_flag_that_cannot_be_is_refused_by_its_name() {
    let out_of_bounds = refused(&["run", "--lease-seconds", "1"]);
    assert!(out_of_bounds.contains("--lease-seconds"), "{out_of_bounds}");
    let contradiction = refused(&["run", "--backoff-ms", "5000", "--max-backoff-seconds", "1"]);
    assert!(contradiction.contains("--backoff-ms"), "{contradiction}");
    let nowhere = refused(&["run", "--kubeconfig", "/nonexistent", "--listen", "127.0.0.1:0"]);
    assert!(nowhere.contains("--kubeconfig"), "{nowhere}");
}

#[test]
fn several_kubeconfigs_are_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = server.local_addr().expect("an address");
    let context = "current-context: here\ncontexts: [{name: here, context: {cluster: c, user: u}}]\n";
    let rest = format!(
        "clusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}]\nusers: [{{name: u, user: {{token: the-token}}}}]\n"
    );
    let paths = [("a", context.to_owned()), ("b", rest)].map(|(name, text)| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("apiVersion: v1\nkind: Config\n{text}")).expect("written");
        path
    });
    let run = |paths: &[std::path::PathBuf]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorikeet-operator"));
        command.args(["run", "--listen", "127.0.0.1:0", "--identity", "x"]);
        command.env("KUBECONFIG", std::env::join_paths(paths).expect("paths"));
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let mut child = run(&paths).spawn().expect("the operator's binary starts");
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let (socket, _) = server.accept().expect("a connection");
        let head = BufReader::new(socket).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
        let _ = tell.send(head.collect::<Vec<_>>());
    });
    let asked = told.recv_timeout(Duration::from_secs(60));
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let asked = asked.expect("it asks the cluster that both files name");
    assert!(asked.contains(&"authorization: Bearer the-token".to_owned()), "{asked:?}");

    let gone = [paths[0].clone(), folder.path().join("gone")];
    let output = run(&gone).env("KUBERNETES_SERVICE_HOST", "127.0.0.1").output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("KUBECONFIG: ") && said.contains("/gone"), "{said}");
}

#[test]
fn a_folder_that_is_not_is_said() {
    let nowhere = refused(&["up", "/nonexistent"]);
    assert!(nowhere.contains("/nonexistent: expected a folder of manifests"), "{nowhere}");
    let stateless = refused(&["why", "sql", "--state", "/nonexistent"]);
    assert!(stateless.contains("no `up` keeps its state there"), "{stateless}");
}
