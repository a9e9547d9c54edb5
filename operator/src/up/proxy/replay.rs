//! A request's body as it comes from the client, and again from the start for another replica. Kept up to a bound: a longer
//! one passes through once.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

/// Bytes of a body that are kept.
const KEPT: usize = 16 << 20;

/// A body that can be sent again while it is kept.
pub(super) struct Recorded(Arc<Mutex<Record>>);

struct Record {
    incoming: Incoming,
    size: SizeHint,
    pieces: Vec<Bytes>,
    bytes: usize,
    /// Too long to be kept: nothing is.
    over: bool,
    ended: bool,
}

/// One sending of it. The one before is over.
pub(super) struct Replay {
    record: Arc<Mutex<Record>>,
    next: usize,
}

impl Recorded {
    pub(super) fn new(incoming: Incoming) -> Self {
        let (size, ended) = (incoming.size_hint(), incoming.is_end_stream());
        let record = Record { incoming, size, pieces: Vec::new(), bytes: 0, over: false, ended };
        Self(Arc::new(Mutex::new(record)))
    }

    /// Whether it can be sent again.
    pub(super) fn is_kept(&self) -> bool {
        !lock(&self.0).over
    }

    pub(super) fn replay(&self) -> Replay {
        Replay { record: Arc::clone(&self.0), next: 0 }
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Record {
    fn keep(&mut self, piece: &Bytes) {
        self.bytes += piece.len();
        if self.bytes > KEPT {
            self.over = true;
            self.pieces = Vec::new();
        } else if !self.over {
            self.pieces.push(piece.clone());
        }
    }
}

impl Body for Replay {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let shared = Arc::clone(&self.record);
        let mut record = lock(&shared);
        if let Some(piece) = record.pieces.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        while !record.ended {
            let frame = ready!(Pin::new(&mut record.incoming).poll_frame(cx));
            record.ended = frame.is_none();
            match frame {
                None => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                // Trailers of a request mean nothing to a replica.
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        record.keep(&piece);
                        self.next += 1;
                        return Poll::Ready(Some(Ok(Frame::data(piece))));
                    }
                }
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        let record = lock(&self.record);
        record.ended && self.next >= record.pieces.len()
    }

    fn size_hint(&self) -> SizeHint {
        if self.next == 0 { lock(&self.record).size } else { SizeHint::default() }
    }
}
