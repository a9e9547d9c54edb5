//! The inspector as a program beside others: TLS and a token, little memory, a prompt end; and the same asked once.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lorikeet_api::{INSPECT_PATH, InspectedSource};
use lorikeet_tests::golden::Suite;
use lorikeet_tests::inspector::{Inspector, glimpse, glimpse_quietly, said_by};
use lorikeet_tests::process::{Process, free_address};
use lorikeet_tests::replica::binary;
use lorikeet_tests::until::{until, within};
use reqwest::StatusCode;
use serde_json::json;

use crate::faces::{certify, client, until_answers};

/// A container beside others has so little.
const MEMORY: u64 = 64 << 20;

/// A folder of adapters, and a good one in it.
fn adapters() -> (PathBuf, String) {
    let suite = Suite::load();
    let model = suite.model("llama_gqa");
    let name = &model.adapters.iter().find(|one| one.expect == "ok").expect("a good adapter").name;
    (model.adapters_folder().expect("the model has adapters").to_path_buf(), name.clone())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

async fn ends_well(process: &mut Process) {
    process.terminate();
    let ended = async || process.ended().ok_or("it runs");
    assert!(within(Duration::from_secs(10), "it ends", ended).await, "it ends well");
}

#[tokio::test]
async fn it_speaks_tls_to_its_token_and_tells_everybody_that_it_lives() {
    let (root, name) = adapters();
    let folder = tempfile::tempdir().expect("a folder");
    let authority = certify(folder.path());
    std::fs::write(folder.path().join("token"), "first\n").expect("written");
    let (address, path) = (free_address(), |name: &str| folder.path().join(name));
    let mut command = Command::new(binary());
    command.args(["inspector", "--admin-listen", &address.to_string()]).arg("--source-root").arg(&root);
    command.arg("--admin-tls-cert").arg(path("tls.crt")).arg("--admin-tls-key").arg(path("tls.key"));
    command.arg("--admin-token-file").arg(path("token"));
    let mut process = Process::start("lorikeet inspector", &mut command);

    let url = |path: &str| format!("https://replica-0.example:{}{path}", address.port());
    let first = client(&authority, address);
    until_answers(&first, &url("/health"), "nothing", StatusCode::OK).await;
    let ask = async |client: &reqwest::Client, token: &str| {
        let request = client.post(url(INSPECT_PATH)).bearer_auth(token).json(&json!({"source": name}));
        request.send().await
    };
    assert_eq!(ask(&first, "other").await.expect("an answer").status(), StatusCode::UNAUTHORIZED);
    let said: InspectedSource =
        ask(&first, "first").await.expect("an answer").json().await.expect("its answer");
    assert_eq!(said, said_by(&root.join(&name)));

    let second = client(&certify(folder.path()), address);
    std::fs::write(path("token"), "second\n").expect("written");
    until("it has the new certificate and token", async || match ask(&second, "second").await {
        Ok(answer) if answer.status() == StatusCode::OK => Ok(()),
        other => Err(other),
    })
    .await;
    ends_well(&mut process).await;
}

#[tokio::test]
async fn it_reads_below_its_roots_in_little_memory_and_ends_at_once() {
    let (root, name) = adapters();
    let mut inspector = Inspector::start(&["--source-root", text(&root), "--concurrent", "2"]).await;
    for _ in 0..50 {
        let said = inspector.ask(&json!({"source": root.join(&name)})).await.ok();
        assert_eq!(
            serde_json::from_value::<InspectedSource>(said).expect("its answer"),
            said_by(&root.join(&name))
        );
    }
    let outside = inspector.ask(&json!({"source": "/etc"})).await;
    assert_eq!(outside.status, 422, "{}", outside.text);
    assert!(outside.message().contains("--source-root"), "{}", outside.text);
    let resident = inspector.process().resident_bytes();
    assert!(resident < MEMORY, "{resident} bytes");
    ends_well(inspector.process()).await;
}

#[test]
fn asked_once_it_prints_a_line_or_refuses() {
    let (root, name) = adapters();
    let source = root.join(&name);
    assert_eq!(glimpse(text(&source), &["--source-root", text(&root)]), Ok(said_by(&source)));
    for (flags, why) in [
        (&[][..], "no --source-root is configured"),
        (&["--source-root", "/proc"], "not below a --source-root"),
    ] {
        let refusal = glimpse(text(&source), flags).expect_err("it is refused");
        assert!(refusal.contains(why), "{refusal}");
    }
}

#[test]
fn asked_once_by_its_standard_input_it_says_the_same_and_refuses_what_is_no_request() {
    let (root, name) = adapters();
    let source = root.join(&name);
    let flags = ["--source-root", text(&root)];
    let request = json!({"source": source}).to_string();
    assert_eq!(glimpse_quietly(&request, &flags), Ok(said_by(&source)));
    let long = json!({"source": "a".repeat(64 << 10)}).to_string();
    let there = json!({"source": source, "credentials": "team"}).to_string();
    for (request, further, why) in [
        ("", &[][..], "standard input: expected a request"),
        ("{\"source\": \"a\", \"secret\": \"x\"}", &[], "unknown field `secret`"),
        (&long, &[], "standard input: expected at most 65536 bytes"),
        ("{\"source\": \"ftp://x\"}", &[], "source: the scheme \"ftp\""),
        ("{\"source\": \"a\", \"credentials\": \"..\"}", &[], "credentials: expected the name of a Secret"),
        ("{\"source\": \"a\"}", &["--revision", "v1"], "--revision: expected it in the request"),
        ("{\"source\": \"gone\"}", &[], "gone: no such folder"),
    ] {
        let refusal = glimpse_quietly(request, &[&flags[..], further].concat()).expect_err("it is refused");
        assert!(refusal.contains(why), "{refusal}");
    }
    // A folder of this machine needs no Secret.
    assert_eq!(glimpse_quietly(&there, &flags), Ok(said_by(&source)));
}
