//! What goes back to the client: a replica's answer as it comes, or words of our own. A stream of events whose replica ends
//! goes out in whole events, and its last one says what happened.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use serde_json::{Value, json};

/// What nobody but the proxy can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nobody takes requests.
    NoReplica,
    /// The replica that was asked is no more.
    Ended,
}

impl Fault {
    /// OpenAI's error object, and beside it LoRAX's class.
    pub(super) fn body(self) -> Value {
        let (code, message) = match self {
            Self::NoReplica => ("no_replica_ready", "No replica is ready."),
            Self::Ended => ("replica_ended", "The replica ended before its answer was whole. Try again."),
        };
        let error = json!({"message": message, "type": "server_error", "param": null, "code": code});
        json!({"error": error, "error_type": "generation"})
    }
}

/// The body of an answer.
pub(super) enum Answer {
    /// Words of our own, once.
    Whole(Option<Bytes>),
    /// A replica's.
    Relayed(Box<Relayed>),
}

/// A body from a replica, and what is given back with it.
pub(super) struct Relayed {
    body: Incoming,
    events: Option<Events>,
    _held: Box<dyn Send>,
}

/// A stream of events on its way.
struct Events {
    /// What has come of an event that is not whole.
    rest: Vec<u8>,
    /// It ends with `[DONE]`.
    done: bool,
    over: bool,
}

impl Answer {
    pub(super) fn whole(words: Bytes) -> Self {
        Self::Whole(Some(words))
    }

    /// `events`: it is a stream of events, and whether that ends with `[DONE]`. `held` lives as long as the answer.
    pub(super) fn relayed(body: Incoming, held: impl Send + 'static, events: Option<bool>) -> Self {
        let events = events.map(|done| Events { rest: Vec::new(), done, over: false });
        Self::Relayed(Box::new(Relayed { body, events, _held: Box::new(held) }))
    }
}

impl Events {
    /// The whole events that are there with `piece`.
    fn take(&mut self, piece: &[u8]) -> Bytes {
        self.rest.extend_from_slice(piece);
        let end = self.rest.windows(2).rposition(|pair| pair == b"\n\n").map_or(0, |at| at + 2);
        self.rest.drain(..end).collect()
    }

    /// The last words of a stream that broke; what was not whole is dropped.
    fn broken(&mut self) -> Bytes {
        self.over = true;
        let done = if self.done { "data: [DONE]\n\n" } else { "" };
        format!("data: {}\n\n{done}", Fault::Ended.body()).into()
    }

    /// What is left at a good end.
    fn ended(&mut self) -> Option<Bytes> {
        self.over = true;
        Some(std::mem::take(&mut self.rest)).filter(|rest| !rest.is_empty()).map(Bytes::from)
    }
}

type Next = Poll<Option<Result<Frame<Bytes>, hyper::Error>>>;

impl Relayed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Next {
        let Some(events) = &mut self.events else { return Pin::new(&mut self.body).poll_frame(cx) };
        loop {
            if events.over {
                return Poll::Ready(None);
            }
            let out = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame.into_data().map(|piece| events.take(&piece)).unwrap_or_default(),
                Some(Err(_)) => events.broken(),
                None => events.ended().unwrap_or_default(),
            };
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Next {
        match &mut *self {
            Self::Whole(words) => Poll::Ready(words.take().map(|words| Ok(Frame::data(words)))),
            Self::Relayed(relayed) => relayed.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(words) => words.is_none(),
            Self::Relayed(relayed) => relayed.events.is_none() && relayed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(words) => SizeHint::with_exact(words.as_ref().map_or(0, |words| words.len() as u64)),
            Self::Relayed(relayed) if relayed.events.is_none() => relayed.body.size_hint(),
            Self::Relayed(_) => SizeHint::default(),
        }
    }
}
