//! Waiting: for a condition, with a deadline, never for a time.

use std::time::{Duration, Instant};

/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(25);

/// Anything that the operator does takes less, on the slowest machine that runs the suites.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `look` finds something, and returns it. Fails the test after `patience`.
#[track_caller]
pub(crate) fn until<T, F: AsyncFnMut() -> Option<T>>(
    what: &str,
    patience: Duration,
    mut look: F,
) -> impl Future<Output = T> + use<T, F> {
    let place = std::panic::Location::caller();
    let what = what.to_owned();
    async move {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(Instant::now() < deadline, "{place}: never within {patience:?}: {what}");
            tokio::time::sleep(LOOK).await;
        }
    }
}
