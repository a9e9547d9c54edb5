//! Waiting: for a condition, with a deadline, never for a time. The only place of these suites that sleeps.
//!
//! Must not know what is waited for.

use std::fmt::Debug;
use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// Whatever is waited for takes less, on the slowest machine that runs the suites.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(25);

/// Waits until `look` finds something, and returns it. What it sees instead is told when it never does.
///
/// # Panics
/// After [`PATIENCE`], with what was waited for and what was seen last.
#[track_caller]
pub fn until<T, Seen, Look>(what: &str, look: Look) -> impl Future<Output = T> + use<T, Seen, Look>
where
    Seen: Debug,
    Look: AsyncFnMut() -> Result<T, Seen>,
{
    within(PATIENCE, what, look)
}

/// As [`until`], for as long as `patience`: a look that does not end is given up with it.
///
/// # Panics
/// After `patience`, with what was waited for and what was seen last.
#[track_caller]
pub fn within<T, Seen, Look>(
    patience: Duration,
    what: &str,
    mut look: Look,
) -> impl Future<Output = T> + use<T, Seen, Look>
where
    Seen: Debug,
    Look: AsyncFnMut() -> Result<T, Seen>,
{
    let (place, what) = (Location::caller(), what.to_owned());
    async move {
        let deadline = Instant::now() + patience;
        let mut seen = None;
        loop {
            match timeout_at(deadline, look()).await {
                Ok(Ok(found)) => return found,
                Ok(Err(other)) => seen = Some(other),
                Err(_) => {}
            }
            assert!(
                Instant::now() < deadline,
                "{place}: never within {patience:?}: {what}; seen last: {}",
                seen.map_or_else(|| "nothing, the look itself hung".to_owned(), |seen| format!("{seen:?}"))
            );
            sleep(LOOK).await;
        }
    }
}
