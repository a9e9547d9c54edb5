//! Over real sockets: what only a connection can do wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::super::App;
use super::super::server::{Face, LINGER, serve};
use super::*;

/// A public face that listens.
pub(super) struct Listening {
    pub(super) address: SocketAddr,
    pub(super) app: Arc<App>,
    pub(super) gate: scripted::Gate,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<()>,
}

impl Listening {
    pub(super) async fn start(limits: Limits) -> Self {
        Self::with(limits, |app| public_router(app, &Keys::open(), false)).await
    }

    async fn with(limits: Limits, router: impl FnOnce(Arc<App>) -> Router) -> Self {
        let (app, gate) = scripted::app(limits.clone(), |_| {});
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = router(Arc::clone(&app));
        let (stop, stopped) = watch::channel(false);
        let served =
            tokio::spawn(serve(Face { listener, router, tls: None, limits, linger: LINGER }, stopped));
        Self { address, app, gate, stop, served }
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and reads until the other side closes.
    pub(super) async fn exchange(&self, bytes: &[u8]) -> String {
        let mut socket = self.connect().await;
        // The answer may come before all is sent.
        let _ = socket.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn page(&self) -> String {
        self.app.metrics.page(self.app.generator.engine().config(), &crate::metrics::TierFigures::default())
    }

    /// Waits until nothing runs and nothing waits.
    async fn until_idle(&self) {
        scripted::until(|| {
            let engine = self.app.generator.engine();
            let now = engine.snapshot();
            engine.heartbeat().busy.is_none() && now.running + now.waiting == 0 && now.kv_usage == 0.0
        })
        .await;
    }
}

pub(super) fn request(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

fn endless(stream: bool) -> String {
    let body =
        json!({"model": "base", "prompt": [5], "max_tokens": 60, "stream": stream, "ignore_eos": true});
    request("/v1/completions", &body.to_string())
}

fn quick() -> Limits {
    Limits {
        head_time: Duration::from_millis(50),
        body_time: Duration::from_millis(50),
        header_bytes: 2048,
        headers: 20,
        uri_bytes: 512,
        body_bytes: 4096,
        ..Limits::default()
    }
}

#[tokio::test]
async fn a_head_that_does_not_end_is_cut_off() {
    let face = Listening::start(quick()).await;
    let mut socket = face.connect().await;
    socket.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ").await.unwrap();
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest).await;
    assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
}

#[tokio::test]
async fn half_a_body_is_answered_408_and_a_broken_one_ends() {
    let face = Listening::start(quick()).await;
    let mut socket = face.connect().await;
    socket.write_all(&endless(false).as_bytes()[..120]).await.unwrap();
    let whole = endless(false);
    let half = whole.len() - 5;
    let mut socket = face.connect().await;
    socket.write_all(&whole.as_bytes()[..half]).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("\"code\":\"request_timeout\""));
}

#[tokio::test]
async fn heads_beyond_the_limits_are_refused_with_their_own_status() {
    let face = Listening::start(quick()).await;
    let many: String = (0..30).map(|number| format!("x-{number}: 1\r\n")).collect();
    for (head, status) in [
        (format!("GET /{} HTTP/1.1\r\n", "a".repeat(600)), "414"),
        (format!("GET /health HTTP/1.1\r\nx-large: {}\r\n", "a".repeat(3000)), "431"),
        (format!("GET /health HTTP/1.1\r\nx-large: {}\r\n", "a".repeat(300_000)), "431"),
        (format!("GET /health HTTP/1.1\r\n{many}"), "431"),
        (format!("GET /health HTTP/1.1\r\n{many}{}", many.replace("x-", "y-")), "431"),
        ("GARBAGE\r\n".to_owned(), "400"),
        ("POST /v1/completions HTTP/1.1\r\ncontent-length: x\r\n".to_owned(), "400"),
        ("POST /v1/completions HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n".to_owned(), "400"),
    ] {
        let answer = face.exchange(format!("{head}host: x\r\nconnection: close\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head:.40}: {answer:.300}");
    }
}

#[tokio::test]
async fn a_client_hears_that_its_body_is_too_large_though_it_sends_all_of_it() {
    let face = Listening::start(quick()).await;
    let mut socket = face.connect().await;
    socket.write_all(request("/v1/completions", &"a".repeat(8 << 20)).as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("body_too_large"), "{answer}");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_let_go() {
    let limits = Limits { write_time: Duration::from_millis(50), ..Limits::default() };
    let face = Listening::start(limits).await;
    let mut socket = face.connect().await;
    // Far more answers than the buffers of both sides hold, and none is read.
    let asked = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(4096);
    while socket.write_all(asked.as_bytes()).await.is_ok() {}
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_sequences_with_it() {
    for stream in [false, true] {
        let face = Listening::start(Limits::default()).await;
        face.gate.close();
        let mut socket = face.connect().await;
        socket.write_all(endless(stream).as_bytes()).await.unwrap();
        face.gate.reached().await;
        drop(socket);
        // Its sequence is given up while the step is still under way.
        let aborted = "lorikeet_adapter_requests_total{adapter=\"base\",outcome=\"aborted\"} 1";
        scripted::until(|| face.page().contains(aborted)).await;
        face.gate.open();
        face.until_idle().await;
        assert!(face.page().contains("lorikeet_adapter_requests_running{adapter=\"base\"} 0"));
    }
}

#[tokio::test]
async fn a_client_that_pipelines_and_leaves_is_ended_by_the_deadline() {
    let limits = Limits { request_time: Duration::from_millis(50), ..Limits::default() };
    let face = Listening::start(limits).await;
    face.gate.close();
    let mut socket = face.connect().await;
    let twice = endless(false).replace("connection: close\r\n", "").repeat(2);
    socket.write_all(twice.as_bytes()).await.unwrap();
    face.gate.reached().await;
    drop(socket);
    face.gate.open();
    face.until_idle().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so_and_places_come_back() {
    let face = Listening::start(Limits { connections: 1, ..Limits::default() }).await;
    let mut first = face.connect().await;
    first.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut byte = [0; 1];
    first.read_exact(&mut byte).await.unwrap();
    assert!(face.exchange(b"").await.starts_with("HTTP/1.1 503 "));
    drop(first);
    loop {
        let answer = face.exchange(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        if answer.starts_with("HTTP/1.1 200 ") {
            break;
        }
    }
}

#[tokio::test]
async fn stopping_lets_a_request_end_and_then_ends() {
    let face = Listening::start(Limits::default()).await;
    face.gate.close();
    let mut socket = face.connect().await;
    socket.write_all(endless(false).as_bytes()).await.unwrap();
    face.gate.reached().await;
    face.stop.send_replace(true);
    face.gate.open();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    face.served.await.unwrap();
    assert!(TcpStream::connect(face.address).await.is_err());
}

#[tokio::test]
async fn stopping_answers_who_waits_for_news_and_closes_who_asks_nothing() {
    let face = Listening::with(Limits::default(), |app| admin_router(app, &Keys::open())).await;
    let asks = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let (mut idle, mut polls) = (face.connect().await, face.connect().await);
    idle.write_all(asks("/health").as_bytes()).await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    // The poll begins with the second half of this: its first answer says that it is about to be read.
    let path = "/admin/v1/adapters?instance=i&after=1&wait_seconds=50";
    polls.write_all(format!("{}{}", asks("/health"), asks(path)).as_bytes()).await.unwrap();
    polls.read_exact(&mut first).await.unwrap();
    face.stop.send_replace(true);
    let (mut idle_rest, mut polled) = (Vec::new(), String::new());
    idle.read_to_end(&mut idle_rest).await.unwrap();
    polls.read_to_string(&mut polled).await.unwrap();
    let hang = Duration::from_secs(20);
    assert!(tokio::time::timeout(hang, face.served).await.is_ok(), "50 s are not waited for");
    assert_eq!(first, *b"HTTP/1.1 200");
}
