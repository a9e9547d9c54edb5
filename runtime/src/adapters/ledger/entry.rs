//! One name: the variant that it serves, the one that comes up beside it, and who runs on it. Pure values.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use super::demand::Demand;
use super::tenures::Tenures;
use crate::adapters::failure::LoadFailure;
use crate::adapters::host::HostTier;
use crate::adapters::pin::Generation;
use crate::adapters::wanted::{Desire, Wanted};

/// A name of the ledger.
pub(crate) struct Entry {
    /// What new requests take.
    pub(crate) serving: Variant,
    /// What takes its place once it is in memory.
    pub(crate) next: Option<Variant>,
    /// What the command line says of the name: it comes back when no desired set names it.
    pub(super) command_line: Option<Desire>,
    /// The desired set names it.
    pub(super) desired: bool,
    /// No longer wanted: running requests finish in time, new ones are refused.
    pub(crate) draining: bool,
    /// The report that its last change is in.
    pub(super) changed: u64,
    /// How many requests it is asked for at a time.
    pub(super) demand: Demand,
    /// Requests that hold any of its generations.
    pub(crate) tenures: Tenures,
    /// Requests that wait for a load.
    pub(crate) waiting: Arc<AtomicUsize>,
}

/// A content under a name.
pub(crate) struct Variant {
    pub(crate) desire: Desire,
    /// What the last load found.
    pub(crate) facts: Option<Arc<Facts>>,
    pub(crate) load: Load,
}

/// What a load found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Facts {
    pub(crate) generation: Generation,
    pub(crate) revision: Option<String>,
    pub(crate) rank: u32,
    pub(crate) bytes: u64,
    pub(crate) target_modules: Arc<[String]>,
    pub(crate) base_model: Arc<str>,
}

/// What becomes of loading it.
pub(crate) enum Load {
    /// Nothing: it is there, or nobody asked.
    Idle,
    /// Somebody loads it, after so many tries that failed.
    Running { tries: u32 },
    /// The last one failed.
    Failed {
        failure: LoadFailure,
        /// In a row.
        tries: u32,
        /// The next try; `None` when only a change can help.
        until: Option<Instant>,
    },
}

impl Variant {
    pub(crate) fn generation(&self) -> Option<Generation> {
        self.facts.as_ref().map(|facts| facts.generation)
    }

    /// What loads of it find, where that is known before.
    pub(super) fn promised(&self) -> Option<Generation> {
        self.desire.wanted.as_ref().ok()?.digest.map(Generation::of)
    }

    pub(crate) fn is_held(&self, host: &HostTier) -> bool {
        self.generation().is_some_and(|generation| host.contains(generation))
    }

    /// Its content was refused: only a change of it can help.
    pub(super) fn is_refused(&self) -> bool {
        matches!(&self.load, Load::Failed { failure, .. } if !failure.is_transient())
    }

    pub(super) fn wants(&self, wanted: &Wanted) -> bool {
        self.desire.wanted.as_ref().is_ok_and(|own| **own == *wanted)
    }

    /// What to load now, or the moment when there will be something.
    pub(super) fn due(&self, now: Instant) -> Result<Option<&Arc<Wanted>>, Instant> {
        match &self.load {
            Load::Idle => Ok(self.desire.wanted.as_ref().ok()),
            Load::Running { .. } | Load::Failed { until: None, .. } => Ok(None),
            Load::Failed { until: Some(until), .. } if now < *until => Err(*until),
            Load::Failed { .. } => Ok(self.desire.wanted.as_ref().ok()),
        }
    }
}

impl Entry {
    pub(super) fn new(serving: Variant, tenures: Tenures) -> Self {
        Self {
            serving,
            next: None,
            command_line: None,
            desired: false,
            draining: false,
            changed: 0,
            demand: Demand::default(),
            tenures,
            waiting: Arc::default(),
        }
    }

    /// The variants that should be in memory and are not.
    pub(super) fn wanted_ahead<'a>(&'a self, host: &'a HostTier) -> impl Iterator<Item = &'a Variant> {
        let serving = Some(&self.serving).filter(|_| self.serving.desire.placement.is_ahead());
        let all = serving.filter(|serving| !serving.is_held(host)).into_iter().chain(&self.next);
        all.filter(|_| !self.draining)
    }

    pub(super) fn variants_mut(&mut self) -> impl Iterator<Item = &mut Variant> {
        std::iter::once(&mut self.serving).chain(&mut self.next)
    }
}
