//! Waiting for what is there or not: as the other suites wait, for as long as a scenario says.

use std::time::Duration;

use lorikeet_tests::until::within;

/// Anything that the operator does takes less, on the slowest machine that runs the suites.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a look found that found nothing.
#[derive(Debug)]
struct NotYet;

/// Waits until `look` finds something, and returns it. Fails the test after `patience`; a look that hangs is given up then.
#[track_caller]
pub(crate) fn until<T, F: AsyncFnMut() -> Option<T>>(
    what: &str,
    patience: Duration,
    mut look: F,
) -> impl Future<Output = T> + use<T, F> {
    within(patience, what, async move || look().await.ok_or(NotYet))
}
