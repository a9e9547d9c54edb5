//! Versions of desired sets: newer each time, and newer than any of an earlier term. Must not know what a term is.

use std::sync::atomic::{AtomicU64, Ordering};

use lorikeet_api::Version;

/// Hands out versions, and remembers the newest epoch of somebody else's that a replica holds.
pub struct Versions {
    epoch: AtomicU64,
    sequence: AtomicU64,
    others: AtomicU64,
}

impl Versions {
    /// None yet. `epoch` grows with each change of the writer.
    #[must_use]
    pub const fn new(epoch: u64) -> Self {
        Self { epoch: AtomicU64::new(epoch), sequence: AtomicU64::new(0), others: AtomicU64::new(0) }
    }

    pub(super) fn next(&self) -> Version {
        let sequence = self.sequence.fetch_add(1, Ordering::SeqCst) + 1;
        Version { epoch: self.epoch.load(Ordering::SeqCst), sequence }
    }

    /// A replica holds `version`. One that is newer than all that were handed out is somebody else's.
    pub(super) fn hear(&self, version: Version) {
        let sequence = self.sequence.load(Ordering::SeqCst);
        let newest = Version { epoch: self.epoch.load(Ordering::SeqCst), sequence };
        if version > newest {
            self.others.fetch_max(version.epoch, Ordering::SeqCst);
        }
    }

    /// The newest epoch under which a replica holds what somebody else wrote, 0 where none does: it takes nothing of an
    /// older one, nor of the same.
    #[must_use]
    pub fn others(&self) -> u64 {
        self.others.load(Ordering::SeqCst)
    }

    /// From now on versions are of `epoch`, if that is newer.
    pub fn raise(&self, epoch: u64) {
        self.epoch.fetch_max(epoch, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_wrote_is_told_from_what_was_handed_out() {
        let versions = Versions::new(7);
        let own = versions.next();
        versions.hear(own);
        versions.hear(Version { epoch: 6, sequence: 100 });
        assert_eq!(versions.others(), 0);
        // Two terms of one number: the other one wrote more.
        versions.hear(Version { epoch: 7, sequence: 2 });
        assert_eq!(versions.others(), 7);
        versions.hear(Version { epoch: 9, sequence: 1 });
        assert_eq!(versions.others(), 9);
        versions.raise(10);
        assert!(versions.next() > Version { epoch: 9, sequence: u64::MAX });
        versions.raise(8);
        assert_eq!(versions.next().epoch, 10);
    }
}
