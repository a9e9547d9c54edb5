//! A client's socket as hyper has it: a client that does not read on is let go, one that still sends hears why it was
//! refused, and a head that is no HTTP is refused in words. Must not know a route.
//!
//! hyper bounds the time of a head; nothing in it bounds a client that asks and never reads, and with it a place among
//! the connections. It closes while a refused body still comes, and the system then takes the answer back from a client
//! that has not read it. And what it cannot parse it refuses by itself, with an empty body, before our code sees it.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::error::{ApiError, Problem};
use super::front::REQUEST_ID;
use super::limits::Limits;

/// hyper's own refusals are shorter.
const LONGEST_REFUSAL: usize = 256;

/// So long what a client still sends is thrown away after the last answer, so that it reads that one.
const LINGER: Duration = Duration::from_secs(2);

/// One client's socket.
pub(super) struct Socket<S> {
    inner: S,
    limits: Limits,
    /// Runs while a write waits for the client.
    waits: Option<Pin<Box<Sleep>>>,
    /// What is left to write of our words in the place of hyper's.
    words: Vec<u8>,
    /// The last byte has gone out.
    shut: bool,
    /// Runs while what still comes is thrown away.
    lingers: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    pub(super) fn new(inner: S, limits: Limits) -> Self {
        Self { inner, limits, waits: None, words: Vec::new(), shut: false, lingers: None }
    }

    /// Lets `step` go on; one that waits for longer than the client may take is an error.
    fn patiently<T>(
        &mut self,
        cx: &mut Context<'_>,
        step: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let done = step(Pin::new(&mut self.inner), cx);
        if done.is_ready() {
            self.waits = None;
            return done;
        }
        let patience: Duration = self.limits.write_time;
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(waits.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read on")))
    }

    /// Writes what is left of our own words.
    fn say(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.words.is_empty() {
            let words = std::mem::take(&mut self.words);
            let written = self.patiently(cx, |inner, cx| inner.poll_write(cx, &words));
            let count = if let Poll::Ready(Ok(count)) = &written { *count } else { 0 };
            self.words = words;
            self.words.drain(..count);
            if ready!(written)? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Throws away what still comes, where anything does.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [MaybeUninit::uninit(); 8 << 10];
        loop {
            let mut buffer = ReadBuf::uninit(&mut bytes);
            match Pin::new(&mut self.inner).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    let lingers = self.lingers.get_or_insert_with(|| Box::pin(sleep(LINGER)));
                    if lingers.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    return match &mut self.lingers {
                        Some(lingers) => lingers.as_mut().poll(cx),
                        None => Poll::Ready(()),
                    };
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.say(cx))?;
        if let Some(words) = in_words(bytes, &self.limits) {
            // Taken over whole: what does not go out at once does when it is flushed.
            self.words = words;
            return Poll::Ready(Ok(bytes.len()));
        }
        self.patiently(cx, |inner, cx| inner.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match pieces {
            [one] => self.poll_write(cx, one),
            _ => {
                ready!(self.say(cx))?;
                self.patiently(cx, |inner, cx| inner.poll_write_vectored(cx, pieces))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.say(cx))?;
        self.patiently(cx, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.say(cx))?;
        if !self.shut {
            ready!(self.patiently(cx, AsyncWrite::poll_shutdown))?;
            self.shut = true;
        }
        ready!(self.linger(cx));
        Poll::Ready(Ok(()))
    }
}

/// Our words for a refusal of hyper's own: a short head alone, without the number that every answer of ours has.
fn in_words(bytes: &[u8], limits: &Limits) -> Option<Vec<u8>> {
    let head = str::from_utf8(bytes.get(..LONGEST_REFUSAL.min(bytes.len()))?).ok()?;
    let status = head.strip_prefix("HTTP/1.1 4").filter(|_| head.len() == bytes.len())?;
    if !head.ends_with("\r\n\r\n") || head.contains(REQUEST_ID.as_str()) {
        return None;
    }
    let problem = match status.get(..2)? {
        "31" => Problem::HeadersTooLarge(format!(
            "headers: expected at most {} with at most {} bytes",
            limits.headers, limits.header_bytes
        )),
        "14" => Problem::UriTooLong(limits.uri_bytes),
        _ => Problem::MalformedHead,
    };
    let error = ApiError::from(problem);
    let (body, status) = (error.body().to_string(), error.status);
    let reason = status.canonical_reason().unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        status.as_str(),
        body.len()
    );
    Some([head.into_bytes(), body.into_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const BARE: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

    #[tokio::test]
    async fn a_refusal_without_words_gets_some_and_no_other_answer_does() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut socket = Socket::new(near, Limits::default());
        let said = tokio::spawn(async move {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            String::from_utf8(all).unwrap()
        });
        socket.write_all(BARE).await.unwrap();
        socket.shutdown().await.unwrap();
        drop(socket);
        let said = said.await.unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{said}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{said}");
        assert!(body.contains("\"code\":\"malformed_head\""), "{said}");
        let limits = Limits::default();
        let ours: &[u8] = b"HTTP/1.1 400 Bad Request\r\nx-request-id: 1\r\ncontent-length: 0\r\n\r\n";
        let with_body: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}";
        for other in [ours, with_body, b"HTTP/1.1 200 OK\r\n\r\n", b"{}", b"", &[0xff; 300]] {
            assert_eq!(in_words(other, &limits), None, "{other:?}");
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_on_is_let_go_and_one_that_reads_is_not() {
        let limits = Limits { write_time: Duration::from_millis(20), ..Limits::default() };
        let (near, mut far) = tokio::io::duplex(4);
        let mut socket = Socket::new(near, limits);
        let reads = tokio::spawn(async move {
            let mut bytes = [0; 4000];
            far.read_exact(&mut bytes).await.unwrap();
            far
        });
        socket.write_all(&[1; 4000]).await.unwrap();
        let far = reads.await.unwrap();
        let error = socket.write_all(&[1; 20]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(far);
    }
}
