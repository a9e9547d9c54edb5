//! Bodies and heads that are none of the contract: each is answered with the exact status and message, and the server goes on.

use std::time::Duration;

use lorikeet_tests::args::root;
use lorikeet_tests::client::{Answer, Client};
use lorikeet_tests::golden::Suite;
use lorikeet_tests::replica::Replica;
use lorikeet_tests::say::say;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One block of `bodies.txt`.
struct Case {
    path: String,
    body: String,
    /// `STATUS MESSAGE`.
    expected: String,
}

fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(root().join("tests/bad_input/bodies.txt")).expect("the bodies");
    let lines: Vec<&str> = text.lines().skip_while(|line| line.starts_with('#')).collect();
    let mut cases = Vec::new();
    let mut lines = lines.into_iter();
    while let Some(line) = lines.next() {
        if line.starts_with('/') {
            let (path, body) = (line.to_owned(), lines.next().expect("a body").to_owned());
            cases.push(Case { path, body, expected: lines.next().expect("what is expected").to_owned() });
        }
    }
    cases
}

async fn start() -> Replica {
    let suite = Suite::load();
    let model = suite.model("llama_gqa");
    let adapter = format!("qv_r8={}", model.folder.join("adapters/qv_r8").display());
    let flags =
        ["--served-name", "base", "--adapter", &adapter, "--body-timeout", "2", "--header-timeout", "2"];
    Replica::start(&model.folder, &flags).await
}

async fn send(replica: &Replica, path: &str, body: &str) -> Answer {
    let request = replica.public.request(Method::POST, path).header("content-type", "application/json");
    Client::send(request.body(body.to_owned())).await.expect("an answer")
}

#[tokio::test]
async fn every_bad_body_has_its_status_and_its_message() {
    let replica = start().await;
    let cases = cases();
    assert!(cases.len() >= 60, "{} bodies", cases.len());
    let mut findings = Vec::new();
    for case in &cases {
        let answer = send(&replica, &case.path, &case.body).await;
        let refused = answer.status != 200 && answer.json()["error"]["type"].is_string();
        let got =
            if refused { format!("{} {}", answer.status, answer.message()) } else { answer.text.clone() };
        if got != case.expected {
            findings.push(format!("{}\n{}\n{got}\n", case.path, case.body));
        }
    }
    let good = json!({"model": "base", "prompt": "a", "max_tokens": 1});
    let _ = replica.public.post("/v1/completions", &good).await.ok();
    if !findings.is_empty() {
        say(&findings.join("\n"));
    }
    assert!(findings.is_empty(), "{} of {} bodies were answered otherwise", findings.len(), cases.len());
}

/// Sends raw bytes and reads what comes until the server closes or is silent.
async fn raw(replica: &Replica, bytes: &[u8]) -> String {
    let address = replica.public.url().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection stays open: {}", String::from_utf8_lossy(&answer));
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(headers: &str, body: &str) -> Vec<u8> {
    format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n{body}")
        .into_bytes()
}

#[tokio::test]
async fn every_bad_head_has_its_status() {
    let replica = start().await;
    let json = "content-type: application/json\r\n";
    let long = "x".repeat(40_000);
    let many: String = (0..150).map(|number| format!("x-{number}: 1\r\n")).collect();
    let big = 5 << 20;
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("no content type", post("content-length: 2\r\n", "{}"), 415),
        ("another content type", post("content-type: text/plain\r\ncontent-length: 2\r\n", "{}"), 415),
        (
            "a form",
            post("content-type: application/x-www-form-urlencoded\r\ncontent-length: 3\r\n", "a=b"),
            415,
        ),
        ("a body declared too large", post(&format!("{json}content-length: {big}\r\n"), ""), 413),
        (
            "a chunked body too large",
            post(
                &format!("{json}transfer-encoding: chunked\r\n"),
                &format!("{big:x}\r\n{}", "a".repeat(big)),
            ),
            413,
        ),
        ("a header too large", post(&format!("{json}x-long: {long}\r\ncontent-length: 2\r\n"), "{}"), 431),
        ("too many headers", post(&format!("{json}{many}content-length: 2\r\n"), "{}"), 431),
        (
            "a target too long",
            format!("GET /{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "x".repeat(9000))
                .into_bytes(),
            414,
        ),
        ("a body that stops", post(&format!("{json}content-length: 20\r\n"), "{"), 408),
        (
            "a wrong method",
            b"DELETE /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(),
            405,
        ),
        ("no HTTP", b"hello\r\n\r\n".to_vec(), 400),
        ("two lengths", post(&format!("{json}content-length: 2\r\ncontent-length: 3\r\n"), "{}"), 400),
        ("a negative length", post(&format!("{json}content-length: -2\r\n"), "{}"), 400),
        ("not UTF-8", [post(&format!("{json}content-length: 2\r\n"), ""), vec![0xff, 0xfe]].concat(), 400),
        (
            "an unknown coding",
            post(&format!("{json}content-encoding: gzip\r\ncontent-length: 2\r\n"), "{}"),
            415,
        ),
    ];
    let mut findings = Vec::new();
    for (what, bytes, expected) in cases {
        let answer = raw(&replica, &bytes).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        if status != expected.to_string() {
            findings.push(format!("{what}: expected {expected}, got {:?}", answer.lines().next()));
        }
    }
    let good = json!({"model": "base", "prompt": "a", "max_tokens": 1});
    let _ = replica.public.post("/v1/completions", &good).await.ok();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[tokio::test]
async fn a_client_that_never_ends_its_head_is_let_go() {
    let replica = start().await;
    let answer = raw(&replica, b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
}
