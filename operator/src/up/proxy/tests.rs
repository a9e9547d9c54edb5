//! The port before replicas that are written down: what each says to every connection, byte for byte.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const NAMED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n";
/// Two events, and the beginning of a third.
const CUT: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n\
    17\r\ndata: {\"a\":1}\n\ndata: {\"\r\n7\r\na\":2}\n\nd\r\n";

/// Whatever is waited for takes less.
const PATIENCE: Duration = Duration::from_secs(60);

/// What comes, in time.
async fn in_time<T>(coming: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, coming).await.expect("in time")
}

/// Reads a request's head and as much of a body as it declares, and answers each with `answer`; then closes.
async fn replica(answer: String) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut asked = Vec::new();
                while !String::from_utf8_lossy(&asked).contains("\r\n\r\n")
                    || asked.len()
                        < asked.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4 + body_of(&asked)
                {
                    if socket.read_buf(&mut asked).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let _ = socket.write_all(answer.as_bytes()).await;
            });
        }
    });
    (address, AbortOnDropHandle::new(task))
}

fn body_of(asked: &[u8]) -> usize {
    let text = String::from_utf8_lossy(asked).to_lowercase();
    text.split("content-length: ").nth(1).map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap())
}

async fn named(name: &str) -> (SocketAddr, AbortOnDropHandle<()>) {
    replica(format!("{NAMED}{name}")).await
}

async fn proxy() -> (SocketAddr, Proxy) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap(), Proxy::start(listener, Connections::new(100)))
}

/// Everything that is answered.
async fn ask(port: SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(port).await.unwrap();
    let request =
        format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    in_time(socket.read_to_string(&mut answer)).await.unwrap();
    answer
}

async fn name_of(port: SocketAddr) -> char {
    ask(port, "/").await.chars().last().unwrap()
}

#[tokio::test]
async fn requests_are_spread_over_those_that_are_ready() {
    let ((a, _a), (b, _b), (port, proxy)) = (named("a").await, named("b").await, proxy().await);
    proxy.set(&[a, b]);
    let mut names = Vec::new();
    for _ in 0..6 {
        names.push(name_of(port).await);
    }
    assert_eq!(names.iter().filter(|name| **name == 'a').count(), 3, "{names:?}");
    proxy.set(&[b]);
    assert_eq!(name_of(port).await, 'b');
}

#[tokio::test]
async fn one_that_is_gone_is_passed_over_and_a_request_waits_for_one() {
    let ((a, _a), (port, proxy)) = (named("a").await, proxy().await);
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let waiting = tokio::spawn(name_of(port));
    proxy.set(&[gone]);
    proxy.set(&[gone, a]);
    assert_eq!(in_time(waiting).await.unwrap(), 'a');
}

#[tokio::test]
async fn a_request_whose_replica_ends_unanswered_is_asked_of_another_and_else_told_so() {
    let ((dies, _dies), (a, _a), (port, proxy)) =
        (replica(String::new()).await, named("a").await, proxy().await);
    proxy.set(&[dies, a]);
    for _ in 0..4 {
        assert_eq!(name_of(port).await, 'a');
    }
    proxy.set(&[dies]);
    let told = ask(port, "/v1/completions").await;
    assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("retry-after: 1\r\n"), "{told}");
    let body: serde_json::Value = serde_json::from_str(told.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["error"]["code"], "replica_ended");
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_event_that_says_so() {
    let ((cut, _cut), (port, proxy)) = (replica(CUT.to_owned()).await, proxy().await);
    proxy.set(&[cut]);
    for (path, done) in [("/v1/completions", true), ("/generate_stream", false)] {
        let answer = ask(port, path).await;
        assert!(answer.ends_with("0\r\n\r\n"), "a whole answer: {answer}");
        let events: Vec<&str> = answer.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(events[..2], ["{\"a\":1}", "{\"a\":2}"], "{answer}");
        assert!(events[2].contains("\"code\":\"replica_ended\""), "{answer}");
        assert_eq!(events.get(3) == Some(&"[DONE]"), done, "{answer}");
    }
    let (short, _short) = replica("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_owned()).await;
    proxy.set(&[short]);
    let answer = ask(port, "/").await;
    assert!(answer.ends_with("\r\n\r\nhalf"), "it cannot be mended, and is not made to look whole: {answer}");
}

#[tokio::test]
async fn a_port_that_is_given_up_closes_idle_connections() {
    let ((a, _a), (port, proxy)) = (named("a").await, proxy().await);
    proxy.set(&[a]);
    let mut socket = TcpStream::connect(port).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\na") {
        assert_ne!(in_time(socket.read_buf(&mut answer)).await.unwrap(), 0, "{answer:?}");
    }
    drop(proxy);
    assert_eq!(in_time(socket.read(&mut [0])).await.unwrap(), 0, "closed, and nothing more is said");
    assert!(TcpStream::connect(port).await.is_err());
}

#[tokio::test]
async fn one_connection_more_than_there_may_be_is_told_so_and_the_next_has_its_place() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, connections) = (listener.local_addr().unwrap(), Connections::new(1));
    let (proxy, (a, _a)) = (Proxy::start(listener, connections.clone()), named("a").await);
    proxy.set(&[a]);
    let mut first = TcpStream::connect(port).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_ne!(in_time(first.read(&mut [0; 100])).await.unwrap(), 0, "it is in");
    let (mut second, mut told) = (TcpStream::connect(port).await.unwrap(), String::new());
    in_time(second.read_to_string(&mut told)).await.unwrap();
    assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("retry-after: 1\r\n"), "{told}");
    let (head, body) = told.split_once("\r\n\r\n").unwrap();
    assert!(head.ends_with(&format!("content-length: {}", body.len())), "{told}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["error"]["code"], "too_many_connections");
    drop(first);
    in_time(connections.ended()).await;
    assert_eq!(name_of(port).await, 'a');
}
