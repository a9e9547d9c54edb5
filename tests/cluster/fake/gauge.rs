//! How many of something are under way at once, over all who share the gauge.

use std::sync::{Arc, Mutex};

use crate::fake::lock;

/// The gauge. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauge(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    now: usize,
    most: usize,
}

/// One of them, until it is dropped.
pub(crate) struct UnderWay(Gauge);

impl Gauge {
    /// One more begins.
    pub(crate) fn begin(&self) -> UnderWay {
        let mut counts = lock(&self.0);
        counts.now += 1;
        counts.most = counts.most.max(counts.now);
        UnderWay(self.clone())
    }

    /// The most that were under way at once until now.
    pub(crate) fn most(&self) -> usize {
        lock(&self.0).most
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.0.0).now -= 1;
    }
}
