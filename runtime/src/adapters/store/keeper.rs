//! The store's background tasks. One frees what nobody holds any more, tells who waits for room, and begins the loads
//! that no request asks for; it is asleep when there is nothing to do. The other looks now and then whether the demand of
//! an adapter is another.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::{Shared, flight};
use crate::adapters::ledger::Ahead;

/// Between two looks at the demand of adapters.
const LOOK: Duration = Duration::from_secs(2);

/// Tells a demand that is another, until the store is gone.
pub(super) async fn watch_demand(store: Weak<Shared>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(shared) = store.upgrade() else { return };
        let calm = shared.config.demand_calm;
        shared.with(|state| state.ledger.watch_demand(Instant::now(), calm));
    }
}

/// Runs until the store is gone.
pub(super) async fn keep(store: Weak<Shared>, bell: Arc<Notify>) {
    loop {
        let next = match store.upgrade() {
            Some(shared) => tend(&shared),
            None => return,
        };
        match next {
            Some(next) => {
                // The next retry being due is the other way to be woken.
                let _ = tokio::time::timeout_at(next.into(), bell.notified()).await;
            }
            None => bell.notified().await,
        }
    }
}

/// Does what there is to do; the moment when there is more.
fn tend(shared: &Arc<Shared>) -> Option<Instant> {
    let now = Instant::now();
    let freed = shared.with(|state| state.ledger.settle());
    drop(freed);
    shared.room.notify_waiters();
    shared.with(|state| {
        let names = std::mem::take(&mut state.ahead);
        let Ahead { loads, next } = state.ledger.ahead(names.iter(), now);
        let mut free = shared.config.ahead.saturating_sub(state.flights.len());
        for (name, wanted) in &loads {
            if free == 0 {
                break;
            }
            // Its end rings the bell.
            drop(flight::join(shared, state, wanted, Some(name)));
            free -= 1;
        }
        // What is left is looked at again when a load ends or a retry is due.
        let rest = state.ledger.ahead(names.iter(), now).loads;
        let waits = next.map(|_| names.iter().cloned()).into_iter().flatten();
        let left: Vec<_> = rest.into_iter().map(|(name, _)| name).chain(waits).collect();
        state.ahead.extend(left);
        next
    })
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.bell.notify_one();
    }
}
