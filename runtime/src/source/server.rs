//! For tests: an HTTP server on the loopback that does what it is told, and well-behaved files with ranges and tags.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
}

/// What goes back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The length that is claimed, where it is not the body's.
    pub(crate) claims: Option<u64>,
    /// Then it says no more, without closing.
    pub(crate) stalls: bool,
    /// Then the body again and again: in chunks, or up to a length that is claimed and never reached.
    pub(crate) endless: bool,
}

type Handler = dyn Fn(&Asked) -> Answer + Send + Sync;

/// A running server. It stops when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn text(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    /// A redirect.
    pub(crate) fn to(location: impl ToString) -> Self {
        Self::status(302).with("Location", location)
    }

    /// `content` under `tag`, in part where a part is asked for.
    pub(crate) fn file(asked: &Asked, content: &[u8], tag: &str) -> Self {
        let tag = format!("\"{tag}\"");
        let goes_on = asked.headers.get("if-range").is_none_or(|wanted| *wanted == tag);
        let range = asked.headers.get("range").filter(|_| goes_on);
        let bounds = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let from = bounds.and_then(|(from, _)| from.parse::<usize>().ok());
        let last = bounds.and_then(|(_, last)| last.parse::<usize>().ok());
        match from {
            Some(from) if from < content.len() => {
                let last = last.unwrap_or(usize::MAX).min(content.len() - 1);
                let range = format!("bytes {from}-{last}/{}", content.len());
                let part = Self { status: 206, body: content[from..=last].to_vec(), ..Self::default() };
                part.with("Content-Range", range).with("ETag", tag)
            }
            _ => Self::text(content).with("ETag", tag),
        }
    }

    /// Only so many bytes of the body come, then the connection breaks.
    pub(crate) fn cut(mut self, after: usize) -> Self {
        self.claims = Some(self.body.len() as u64);
        self.body.truncate(after);
        self
    }
}

impl Server {
    pub(crate) async fn start(handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (handler, seen): (Arc<Handler>, _) = (Arc::new(handler), Arc::clone(&asked));
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        let sent = Arc::<AtomicUsize>::default();
        let went = Arc::clone(&sent);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (handler, seen) = (Arc::clone(&handler), Arc::clone(&seen));
                connections.spawn(answer(stream, handler, seen, Arc::clone(&went)));
            }
        });
        Self { address, asked, connections, sent, task }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How often somebody connected, whatever was said then.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Bytes of bodies that went out.
    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The paths that were asked with GET.
    pub(crate) fn got(&self) -> Vec<String> {
        self.asked().into_iter().filter(|asked| asked.method == "GET").map(|asked| asked.path).collect()
    }
}

async fn answer(
    mut stream: TcpStream,
    handler: Arc<Handler>,
    seen: Arc<Mutex<Vec<Asked>>>,
    sent: Arc<AtomicUsize>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap().split(' ');
    let (method, path) = (first.next().unwrap().to_owned(), first.next().unwrap().to_owned());
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let asked = Asked { method, path, headers };
    let answer = handler(&asked);
    let is_head = asked.method == "HEAD";
    seen.lock().unwrap().push(asked);
    let mut text = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
    let chunked = answer.endless && answer.claims.is_none();
    if chunked {
        text += "Transfer-Encoding: chunked\r\n";
    } else {
        text += &format!("Content-Length: {}\r\n", answer.claims.unwrap_or(answer.body.len() as u64));
    }
    answer.headers.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
    let mut bytes = (text + "\r\n").into_bytes();
    if answer.endless && !is_head {
        let chunk = match chunked {
            true => [format!("{:x}\r\n", answer.body.len()).as_bytes(), &answer.body, b"\r\n"].concat(),
            false => answer.body,
        };
        let _ = stream.write_all(&bytes).await;
        while stream.write_all(&chunk).await.is_ok() {
            sent.fetch_add(chunk.len(), Ordering::SeqCst);
        }
        return;
    }
    if !is_head {
        sent.fetch_add(answer.body.len(), Ordering::SeqCst);
        bytes.extend(&answer.body);
    }
    let _ = stream.write_all(&bytes).await;
    let _ = stream.flush().await;
    if answer.stalls && !is_head {
        std::future::pending::<()>().await;
    }
    let _ = stream.shutdown().await;
}
