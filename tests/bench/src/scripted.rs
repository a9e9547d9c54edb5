//! A small server with a script, and whole runs against it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::args::Args;
use crate::client::Server;
use crate::drive::{run, warm_up};
use crate::progress::Progress;
use crate::report::Report;
use crate::scenario::Scenario;

/// Reads requests of one connection and answers each with `answer(path, body)`.
async fn talk(mut stream: TcpStream, answer: impl Fn(&str, &str) -> String) {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            let mut piece = [0; 4096];
            match stream.read(&mut piece).await {
                Ok(length) if length > 0 => read.extend_from_slice(&piece[..length]),
                _ => return,
            }
        };
        let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        while read.len() < end + length {
            let mut piece = [0; 4096];
            let got = stream.read(&mut piece).await.unwrap();
            read.extend_from_slice(&piece[..got]);
        }
        let path = head.split(' ').nth(1).unwrap_or_default();
        let body = String::from_utf8_lossy(&read[end..end + length]).into_owned();
        if stream.write_all(answer(path, &body).as_bytes()).await.is_err() {
            return;
        }
        read.drain(..end + length);
    }
}

/// A server on a free port that answers every connection by `answer`.
async fn server(answer: impl Fn(&str, &str) -> String + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move { talk(stream, |path, body| answer(path, body)).await });
        }
    });
    url
}

fn events(data: &[&str]) -> String {
    let body: String = data.iter().map(|data| format!("data: {data}\n\n")).collect();
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {length}\r\n\r\n{body}")
}

fn completion() -> String {
    let token = r#"{"choices":[{"text":" x","finish_reason":null}]}"#;
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#;
    events(&[token, token, r#"{"choices":[{"text":" y","finish_reason":"length"}]}"#, usage, "[DONE]"])
}

async fn measure(flags: &[&str], url: &str) -> Result<Report, String> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args = Args::parse_from([&["lorikeet-bench", "--url", url], flags].concat());
    let mut scenario = Scenario::of(args).map_err(|error| error.to_string())?;
    let server = Server::of(&scenario).map_err(|error| error.to_string())?;
    if scenario.discover {
        scenario.traffic.adapters = server.adapters().await.map_err(|error| error.to_string())?;
    }
    warm_up(&scenario, &server).await?;
    let run = run(&scenario, &server, &Progress::of(&scenario)).await;
    Ok(Report::of(&scenario, &run))
}

#[tokio::test]
async fn a_closed_loop_sends_what_was_asked_and_counts_what_came() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let url = server(move |_, body| {
        assert!(body.contains("\"ignore_eos\":true"), "{body}");
        counter.fetch_add(1, Ordering::Relaxed);
        completion()
    });
    let report =
        measure(&["--users", "4", "--requests", "40", "--adapters", "a,b,-"], &url.await).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 40 + 3, "each adapter is warmed up once");
    assert_eq!(report.total.requests, 40);
    assert_eq!((report.total.prompt_tokens, report.total.output_tokens), (280, 120));
    assert_eq!(report.adapters.keys().collect::<Vec<_>>(), ["a", "b", "base"]);
    assert_eq!(report.total.inter_token_ms.unwrap().count, 80);
}

#[tokio::test]
async fn an_open_loop_sends_all_its_requests() {
    let url = server(|_, _| completion()).await;
    let report = measure(&["--rate", "2000", "--requests", "50"], &url).await.unwrap();
    assert_eq!((report.total.requests, report.rate), (50, Some(2000.0)));
}

#[tokio::test]
async fn failures_are_counted_by_their_kind() {
    let number = AtomicUsize::new(0);
    let url = server(move |_, _| match number.fetch_add(1, Ordering::Relaxed) % 4 {
        0 => completion(),
        1 => "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n".to_owned(),
        2 => events(&[r#"{"choices":[{"text":"x","finish_reason":null}]}"#]),
        _ => events(&[r#"{"error":{"message":"draining"}}"#]),
    });
    let report = measure(&["--requests", "8", "--warm-up", "0"], &url.await).await.unwrap();
    assert_eq!(report.total.requests, 2);
    let errors: Vec<_> = report.total.errors.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
    assert_eq!(errors, [("status 429", 2), ("stream: draining", 2), ("stream: ended without an end", 2)]);
}

#[tokio::test]
async fn adapters_are_found_by_asking() {
    let url = server(|path, _| match path {
        "/v1/models" => {
            let body = r#"{"data":[{"id":"base"},{"id":"sql"},{"id":"poems"}]}"#;
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        }
        _ => completion(),
    });
    let report = measure(&["--requests", "20", "--adapters", "all"], &url.await).await.unwrap();
    assert_eq!(report.adapters.keys().collect::<Vec<_>>(), ["poems", "sql"]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_in_the_warm_up() {
    let error = measure(&["--requests", "1"], "http://127.0.0.1:9").await.unwrap_err();
    assert_eq!(error, "warm-up of base: connect");
}
