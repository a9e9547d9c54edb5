//! The seam between the store and what brings weights into memory. Tests stand a scripted loader behind it.

use std::sync::Arc;

use futures::future::BoxFuture;
use lorikeet_api::Tier;
use tokio::sync::OwnedSemaphorePermit;

use crate::adapters::failure::LoadFailure;
use crate::adapters::wanted::Wanted;
use crate::adapters::weights::AdapterWeights;
use crate::source::fetch::DiskFigures;

/// Brings weights into memory: fetched, verified, checked against the base model. Never on an async worker's time.
pub trait Loader: Send + Sync + 'static {
    /// Loads what is wanted. Every call reads anew: a caller that wants one load for many makes one call.
    fn load(&self, wanted: Arc<Wanted>) -> BoxFuture<'static, Result<Loaded, LoadFailure>>;

    /// The tier below: what of it this process has used.
    fn disk(&self) -> DiskFigures {
        DiskFigures::default()
    }
}

/// Weights that are ready to be held.
pub struct Loaded {
    /// The weights.
    pub weights: AdapterWeights,
    /// The revision that the source resolved to.
    pub revision: Option<String>,
    /// The tier that they came from.
    pub from: Tier,
    /// Bounds how many loaded weights wait for room: dropped when they have it.
    pub permit: Option<OwnedSemaphorePermit>,
}
