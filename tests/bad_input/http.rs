//! Bodies and heads that are none of the contract: each is answered with the exact status and message, and the server goes on.

use std::time::Duration;

use lorikeet_tests::args::root;
use lorikeet_tests::client::{Answer, Client};
use lorikeet_tests::golden::Suite;
use lorikeet_tests::replica::Replica;
use lorikeet_tests::say::say;
use reqwest::Method;
use serde_json::{Value, json};
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

/// A head with its body, and the status and message that it is answered with.
type Head = (&'static str, Vec<u8>, u16, &'static str);

const JSON: &str = "content-type: application/json\r\n";

fn media_types() -> Vec<Head> {
    let typed = |headers: &str| post(&format!("{headers}content-length: 2\r\n"), "{}");
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    let gzip = format!("{JSON}content-encoding: gzip\r\n");
    vec![
        ("no content type", typed(""), 415, "content-type: expected application/json, got none"),
        (
            "another content type",
            typed("content-type: text/plain\r\n"),
            415,
            "content-type: expected application/json, got text/plain",
        ),
        (
            "a form",
            typed(form),
            415,
            "content-type: expected application/json, got application/x-www-form-urlencoded",
        ),
        ("an unknown coding", typed(&gzip), 415, "content-encoding: expected none, got gzip"),
    ]
}

fn too_large() -> Vec<Head> {
    let json = JSON;
    let big = 5 << 20;
    let many: String = (0..150).map(|number| format!("x-{number}: 1\r\n")).collect();
    let header =
        |bytes: usize| post(&format!("{json}x-long: {}\r\ncontent-length: 2\r\n", "x".repeat(bytes)), "{}");
    let target = format!("GET /{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "x".repeat(9000));
    let chunk = format!("{big:x}\r\n{}", "a".repeat(big));
    let body = "body: expected at most 4194304 bytes";
    vec![
        ("a body declared too large", post(&format!("{json}content-length: {big}\r\n"), ""), 413, body),
        ("a chunk too large", post(&format!("{json}transfer-encoding: chunked\r\n"), &chunk), 413, body),
        ("a header too large", header(40_000), 431, "headers: expected at most 32768 bytes, got 40089"),
        ("a huge header", header(1 << 20), 431, "headers: expected at most 100 with at most 32768 bytes"),
        (
            "too many headers",
            post(&format!("{json}{many}content-length: 2\r\n"), "{}"),
            431,
            "headers: expected at most 100, got 154",
        ),
        ("a target too long", target.into_bytes(), 414, "target: expected at most 8192 bytes"),
    ]
}

fn malformed() -> Vec<Head> {
    let json = JSON;
    let head = "head: expected a request line and headers as HTTP/1.1 has them";
    let with = |headers: &str, body: &str| post(&format!("{json}{headers}"), body);
    vec![
        ("no HTTP", b"hello\r\n\r\n".to_vec(), 400, head),
        ("no target", b"GET\r\n\r\n".to_vec(), 400, head),
        ("a header without a colon", with("what is this\r\n", ""), 400, head),
        ("a zero byte in a header", with("x-zero: a\0b\r\n", ""), 400, head),
        ("two lengths", with("content-length: 2\r\ncontent-length: 3\r\n", "{}"), 400, head),
        ("a negative length", with("content-length: -2\r\n", "{}"), 400, head),
        ("a body that stops", with("content-length: 20\r\n", "{"), 408, "body: expected within 2 s"),
        (
            "a chunk that is none",
            with("transfer-encoding: chunked\r\n", "zz\r\n{}\r\n0\r\n\r\n"),
            400,
            "body: ended before it was whole",
        ),
        (
            "not UTF-8",
            [with("content-length: 2\r\n", ""), vec![0xff, 0xfe]].concat(),
            400,
            "body: not JSON: expected value at line 1 column 1",
        ),
        (
            "a wrong method",
            b"DELETE /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(),
            405,
            "This path has no method DELETE",
        ),
    ]
}

#[tokio::test]
async fn every_bad_head_has_its_status_and_its_message() {
    let replica = start().await;
    let mut findings = Vec::new();
    for (what, bytes, status, message) in [media_types(), too_large(), malformed()].concat() {
        let answer = raw(&replica, &bytes).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        let error = &body["error"];
        let whole = ["type", "code"].iter().all(|field| error[field].is_string());
        if !head.starts_with(&format!("HTTP/1.1 {status} ")) || error["message"] != message || !whole {
            findings.push(format!("{what}: expected {status} {message}\n{answer}"));
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
