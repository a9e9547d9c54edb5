//! The inspector as a program beside others: TLS and a token, little memory, a prompt end; and the same asked once.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use lorikeet_api::{INSPECT_PATH, InspectedSource, MAX_CONFIG_BYTES};
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

/// The greatest resident memory that process `id` ever had, in bytes.
fn peak(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024
}

/// A server of the worst that sources may say: configurations of `letter`s, and listings and errors without an end.
async fn worst() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    let answer = async |uri: axum::http::Uri| {
        let config = |letter: u8| Body::from(vec![letter; MAX_CONFIG_BYTES + 1]);
        let endless = || {
            let piece = bytes::Bytes::from(vec![b'x'; 1 << 16]);
            Body::from_stream(futures::stream::repeat_with(move || Ok::<_, Infallible>(piece.clone())))
        };
        let (status, body) = match uri.path() {
            path if path.ends_with("/adapter_model.safetensors") => (200, Body::from(vec![0; 5000])),
            path if path.ends_with("/escapes/adapter_config.json") => (200, config(1)),
            path if path.ends_with("/replaced/adapter_config.json") => (200, config(0xff)),
            path if path.ends_with("/adapter_config.json") => (404, endless()),
            _ => (200, endless()),
        };
        let answer =
            Response::builder().status(status).header("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT");
        answer.body(body).expect("an answer")
    };
    let served = axum::serve(listener, axum::Router::new().fallback(answer));
    tokio::spawn(async move { served.await });
    format!("http://{address}")
}

#[tokio::test]
async fn whatever_sources_say_to_many_at_once_it_stays_in_its_memory() {
    let server = worst().await;
    let flags = ["--allow-source-host", "127.0.0.1", "--hf-endpoint", &server, "--s3-endpoint", &server];
    let mut inspector = Inspector::start(&flags).await;
    for (source, status) in [
        (format!("{server}/escapes"), 200),
        (format!("{server}/replaced"), 200),
        ("hf://acme/sql/escapes".to_owned(), 200),
        ("s3://loras/escapes".to_owned(), 200),
        (format!("{server}/gone"), 422),
        ("hf://acme/sql".to_owned(), 422),
        ("s3://loras/gone".to_owned(), 422),
    ] {
        let body = json!({"source": source});
        let answers = futures::future::join_all((0..16).map(|_| inspector.ask(&body))).await;
        for answer in answers {
            let shown = &answer.text[..answer.text.len().min(200)];
            assert_eq!(answer.status, status, "{source}: {shown}");
            if status == 200 {
                let said: InspectedSource = serde_json::from_value(answer.json()).expect("its answer");
                assert_eq!(said.config.chars().count(), MAX_CONFIG_BYTES + 1, "{source}");
            }
        }
        let peak = peak(inspector.process().id());
        assert!(peak < MEMORY, "{source}: {peak} bytes");
    }
    ends_well(inspector.process()).await;
}
