//! The engine's end of one request: its events, and its place in the queue. Whatever happens, it ends with exactly one
//! last event.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::engine::request::{Event, Failure, FinishReason};

/// Where the events of one request go. Dropped before its last event was sent, it sends [`Failure::EngineStopped`].
#[derive(Debug)]
pub(crate) struct Client {
    events: mpsc::UnboundedSender<Event>,
    ended: bool,
    place: Option<Place>,
}

impl Client {
    pub(crate) fn new(events: mpsc::UnboundedSender<Event>, place: Place) -> Self {
        Self { events, ended: false, place: Some(place) }
    }

    /// Whether nobody listens any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.events.is_closed()
    }

    /// It runs for the first time: its place in the queue is free.
    pub(crate) fn start(&mut self, cached_tokens: usize) {
        drop(self.place.take());
        self.send(Event::Started { cached_tokens: u32::try_from(cached_tokens).unwrap_or(u32::MAX) });
    }

    /// One more event.
    pub(crate) fn send(&self, event: Event) {
        // A receiver that is gone is found at the next step.
        let _ = self.events.send(event);
    }

    pub(crate) fn finish(mut self, reason: FinishReason) {
        self.ended = true;
        self.send(Event::Finished(reason));
    }

    pub(crate) fn fail(mut self, failure: Failure) {
        self.ended = true;
        self.send(Event::Failed(failure));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if !self.ended {
            self.send(Event::Failed(Failure::EngineStopped));
        }
    }
}

/// A place among the requests that wait: in the channel or in the scheduler. Given back by `Drop`.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Place {
    /// Takes a place, where fewer than `limit` are taken.
    pub(crate) fn take(taken: &Arc<AtomicUsize>, limit: usize) -> Result<Self, Failure> {
        taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
                (waiting < limit).then_some(waiting + 1)
            })
            .map_err(|waiting| Failure::QueueFull { waiting, limit })?;
        Ok(Self(Arc::clone(taken)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> (Client, mpsc::UnboundedReceiver<Event>, Arc<AtomicUsize>) {
        let taken = Arc::new(AtomicUsize::new(0));
        let (events, received) = mpsc::unbounded_channel();
        let place = Place::take(&taken, 1).unwrap();
        (Client::new(events, place), received, taken)
    }

    #[test]
    fn a_dropped_client_hears_that_the_engine_has_stopped() {
        let (client, mut events, taken) = client();
        drop(client);
        assert_eq!(events.try_recv(), Ok(Event::Failed(Failure::EngineStopped)));
        assert_eq!(taken.load(Ordering::Relaxed), 0, "its place is free");
    }

    #[test]
    fn a_finished_client_hears_nothing_after_that() {
        let (client, mut events, _) = client();
        client.finish(FinishReason::Length);
        assert_eq!(events.try_recv(), Ok(Event::Finished(FinishReason::Length)));
        assert!(events.try_recv().is_err());
    }

    #[test]
    fn a_place_is_refused_with_the_numbers_when_all_are_taken() {
        let (mut client, _events, taken) = client();
        assert_eq!(Place::take(&taken, 1).unwrap_err(), Failure::QueueFull { waiting: 1, limit: 1 });
        client.start(0);
        assert!(Place::take(&taken, 1).is_ok(), "a request that runs waits no more");
    }
}
