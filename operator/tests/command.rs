//! The program itself: it starts, and says what is wrong with a command line.

use std::process::Command;

fn operator(arguments: &[&str]) -> (bool, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_lorikeet-operator")).args(arguments).output().unwrap();
    let text = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn the_manual_is_there_and_a_folder_that_is_not_is_said() {
    let (fine, text) = operator(&["up", "--help"]);
    assert!(fine && text.contains("--state"), "{text}");
    let (fine, text) = operator(&["up", "/nowhere"]);
    assert!(!fine && text.contains("/nowhere: expected a folder of manifests"), "{text}");
    let (fine, text) = operator(&["why", "sql", "--state", "/nowhere"]);
    assert!(!fine && text.contains("no `up` keeps its state there"), "{text}");
}
