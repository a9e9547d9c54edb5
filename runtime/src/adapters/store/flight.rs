//! Loads under way: one for each content, however many names and requests wait for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use lorikeet_api::{ErrorCode, Tier};
use tokio::sync::watch;
use tokio::time::timeout_at;

use super::{Shared, State};
use crate::adapters::failure::LoadFailure;
use crate::adapters::ledger::{Arrival, Interested, Landing};
use crate::adapters::loader::Loaded;
use crate::adapters::pin::Pin;
use crate::adapters::wanted::{Desire, Wanted};

/// How a load ended: in memory, and held for those who waited; or not.
pub(super) type Landed = Result<Pin, LoadFailure>;

/// The loads under way.
#[derive(Default)]
pub(super) struct Flights {
    under_way: HashMap<Arc<Wanted>, Flying>,
}

struct Flying {
    who: Interested,
    end: watch::Receiver<Option<Landed>>,
}

/// A place in the queue for a load.
pub(super) struct Flight {
    end: watch::Receiver<Option<Landed>>,
}

impl Flight {
    /// Waits for the load's end.
    pub(super) async fn ended(&mut self) -> Landed {
        let ended = self.end.wait_for(Option::is_some).await;
        let gone = || LoadFailure::new(ErrorCode::Internal, "internal: the load was abandoned");
        ended.ok().and_then(|end| (*end).clone()).unwrap_or_else(|| Err(gone()))
    }
}

impl Flights {
    /// The load of `wanted` that is under way.
    pub(super) fn under_way(&self, wanted: &Wanted) -> Option<Flight> {
        self.under_way.get(wanted).map(|flying| Flight { end: flying.end.clone() })
    }

    /// Loads under way.
    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }
}

/// Joins the load of `wanted` for `name`, and begins it where there is none.
pub(super) fn join(
    shared: &Arc<Shared>,
    state: &mut State,
    wanted: &Arc<Wanted>,
    name: Option<&str>,
) -> Flight {
    let flying = begin(shared, state, wanted);
    let end = flying.end.clone();
    if let Some(name) = name
        && !flying.who.names.iter().any(|known| &**known == name)
    {
        flying.who.names.push(Arc::from(name));
        state.ledger.begins(name, wanted);
    }
    Flight { end }
}

/// Begins the load of `wanted`, for a name that comes to mean it when it is in memory.
pub(super) fn adopt(
    shared: &Arc<Shared>,
    state: &mut State,
    wanted: &Arc<Wanted>,
    (name, desire): (&str, Desire),
) -> Flight {
    let flying = begin(shared, state, wanted);
    flying.who.adopting.push((name.to_owned(), desire));
    Flight { end: flying.end.clone() }
}

fn begin<'a>(shared: &Arc<Shared>, state: &'a mut State, wanted: &Arc<Wanted>) -> &'a mut Flying {
    state.flights.under_way.entry(Arc::clone(wanted)).or_insert_with(|| {
        let (sender, end) = watch::channel(None);
        tokio::spawn(fly(Arc::clone(shared), Arc::clone(wanted), sender));
        Flying { who: Interested::default(), end }
    })
}

async fn fly(shared: Arc<Shared>, wanted: Arc<Wanted>, sender: watch::Sender<Option<Landed>>) {
    let started = Instant::now();
    let loading = std::panic::AssertUnwindSafe(shared.loader.load(Arc::clone(&wanted))).catch_unwind();
    let panicked = |_| Err(LoadFailure::new(ErrorCode::Internal, "internal: the loader panicked"));
    let landed = match loading.await.unwrap_or_else(panicked) {
        Ok(loaded) => land(&shared, &wanted, loaded, started).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = &landed {
        shared.figures.failed(failure.code);
        shared.with(|state| {
            let who = state.flights.under_way.remove(&wanted).map(|flying| flying.who).unwrap_or_default();
            state.ledger.fails(&wanted, &who.names, failure, Instant::now());
            state.ahead.extend(who.names);
        });
        tracing::warn!(source = %wanted.source, code = failure.code.as_str(), "adapter not loaded: {}", failure.message);
    }
    sender.send_replace(Some(landed));
    shared.bell.notify_one();
}

/// Brings loaded weights into the host tier, as soon as there is room.
async fn land(shared: &Arc<Shared>, wanted: &Arc<Wanted>, loaded: Loaded, started: Instant) -> Landed {
    let (took, from) = (started.elapsed(), loaded.from);
    let deadline = Instant::now() + shared.config.room_wait;
    let bytes = loaded.weights.bytes;
    let mut arrival = Arrival { weights: loaded.weights, revision: loaded.revision, took };
    loop {
        let mut rung = std::pin::pin!(shared.room.notified());
        rung.as_mut().enable();
        let landing = shared.with(|state| {
            let who =
                state.flights.under_way.get(wanted).map(|flying| flying.who.clone()).unwrap_or_default();
            let landing = state.ledger.lands(wanted, &who, arrival, Instant::now());
            if let Landing::Landed(..) = &landing {
                state.flights.under_way.remove(wanted);
            }
            landing
        });
        arrival = match landing {
            Landing::Landed(pin, left) => {
                drop(left);
                shared.figures.loaded(from, took);
                log(wanted, &pin, from, took);
                return Ok(pin);
            }
            Landing::Refused(failure) => return Err(failure),
            Landing::Wait(arrival) => arrival,
        };
        if timeout_at(deadline.into(), rung).await.is_err() {
            return Err(shared.with(|state| state.ledger.finds_no_room(bytes)));
        }
    }
}

fn log(wanted: &Wanted, pin: &Pin, from: Tier, took: std::time::Duration) {
    let weights = pin.weights();
    tracing::info!(
        source = %wanted.source,
        generation = ?weights.generation,
        rank = weights.rank,
        bytes = weights.bytes,
        from = from.as_str(),
        millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "adapter loaded"
    );
}
