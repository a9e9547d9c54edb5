//! How a replica is asked whether it lives and whether it takes requests: by the kubelet of its node, and by
//! [`crate::up`] on one machine.

use std::time::Duration;

/// One question, and what becomes of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probing {
    /// What is asked for.
    pub path: &'static str,
    /// From one time to the next.
    pub period: Duration,
    /// So many in a row that are no good answer tell.
    pub failures: u32,
    /// No answer after so long is none.
    pub timeout: Duration,
}

/// An answer is a few bytes that no engine has to be asked for.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Whether it has loaded its model, which may take an hour: it may be fetched first.
pub const START: Probing =
    Probing { path: "/health", period: Duration::from_secs(10), failures: 360, timeout: TIMEOUT };
/// Whether an inspector has begun: it loads nothing.
pub const BEGUN: Probing =
    Probing { path: "/health", period: Duration::from_secs(1), failures: 60, timeout: TIMEOUT };
/// Whether requests may go to it.
pub const READY: Probing =
    Probing { path: "/ready", period: Duration::from_secs(2), failures: 2, timeout: TIMEOUT };
/// Whether it lives. One that does not is killed and started again.
pub const LIVE: Probing =
    Probing { path: "/health", period: Duration::from_secs(10), failures: 3, timeout: TIMEOUT };

impl Probing {
    /// After so long it has told.
    #[must_use]
    pub const fn patience(&self) -> Duration {
        self.period.saturating_mul(self.failures)
    }
}
