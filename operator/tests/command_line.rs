//! The command as people type it: what it says of itself, and of flags that cannot be. Needs no cluster.

use std::process::{Command, Output};

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
fn a_folder_that_is_not_is_said() {
    let nowhere = refused(&["up", "/nonexistent"]);
    assert!(nowhere.contains("/nonexistent: expected a folder of manifests"), "{nowhere}");
    let stateless = refused(&["why", "sql", "--state", "/nonexistent"]);
    assert!(stateless.contains("no `up` keeps its state there"), "{stateless}");
}
