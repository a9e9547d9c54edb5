//! The store's one background task: frees what nobody holds any more, tells who waits for room, and begins the loads
//! that no request asks for. Asleep when there is nothing to do.

use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::sync::Notify;

use super::{Shared, flight};
use crate::adapters::ledger::Ahead;

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
