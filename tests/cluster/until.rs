//! Waiting for what is there or not: as the other suites wait, for as long as a scenario says.

use std::time::Duration;

use lorikeet_tests::until::within;

/// Anything that the operator does takes less, on the slowest machine that runs the suites.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What users are told happens "within seconds" takes no longer: that a replica which restarted, is new or lost something has
/// its adapters again. The operator begins at once; nearly all of this is the machine, whose two cores run all suites and the
/// control plane. It is less than any pause of the operator that such a thing must not wait for: a resync (300 s), a
/// registry or an admin Secret that is read again (30 s), a long poll (20 s).
pub(crate) const SECONDS: Duration = Duration::from_secs(10);

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
