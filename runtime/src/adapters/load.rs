//! The real loader: fetch, read, verify, check, build. Fetching waits on the network and is bounded by the fetcher;
//! the rest is work, done beside the async workers and bounded here.

use std::num::NonZeroUsize;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use lorikeet_api::ErrorCode;
use tokio::sync::Semaphore;

use crate::adapters::build::{self, AdapterLimits};
use crate::adapters::failure::LoadFailure;
use crate::adapters::files;
use crate::adapters::loader::{Loaded, Loader};
use crate::adapters::wanted::Wanted;
use crate::adapters::weights::AdapterWeights;
use crate::model::modules::{BaseRows, ModelShape};
use crate::source::error::FetchError;
use crate::source::fetch::{DiskFigures, Fetched, Fetcher};

/// Loads adapters of one base model. A clone is the same loader.
#[derive(Clone)]
pub struct AdapterLoader {
    base: Arc<Base>,
    fetcher: Fetcher,
    /// Adapters that are read, built or wait for room, at a time: each may be in memory twice.
    builds: Arc<Semaphore>,
}

struct Base {
    shape: Arc<ModelShape>,
    rows: Arc<dyn BaseRows>,
    limits: AdapterLimits,
}

impl AdapterLoader {
    /// A loader for the base model of `shape` and `rows`; so many builds at a time.
    #[must_use]
    pub fn new(
        fetcher: Fetcher,
        shape: Arc<ModelShape>,
        rows: Arc<dyn BaseRows>,
        limits: AdapterLimits,
        builds: NonZeroUsize,
    ) -> Self {
        let base = Arc::new(Base { shape, rows, limits });
        Self { base, fetcher, builds: Arc::new(Semaphore::new(builds.get())) }
    }

    async fn load(self, wanted: Arc<Wanted>) -> Result<Loaded, LoadFailure> {
        let gone = |error: &dyn std::fmt::Display| LoadFailure::new(ErrorCode::Internal, error);
        let limit = self.base.limits.file.file_bytes;
        let Wanted { source, trust, credentials, digest, .. } = &*wanted;
        let fetched = self.fetcher.adapter(source, *trust, credentials.as_ref(), *digest, limit).await?;
        let permit = self.builds.acquire_owned().await.map_err(|error| gone(&error))?;
        let (revision, from) = (fetched.revision.clone(), fetched.from);
        let work = move || self.base.build(&fetched, &wanted);
        // A panic in it is caught there and comes back as an error.
        let weights = tokio::task::spawn_blocking(work).await.map_err(|error| gone(&error))??;
        Ok(Loaded { weights, revision, from, permit: Some(permit) })
    }
}

impl Loader for AdapterLoader {
    fn load(&self, wanted: Arc<Wanted>) -> BoxFuture<'static, Result<Loaded, LoadFailure>> {
        Self::load(self.clone(), wanted).boxed()
    }

    fn disk(&self) -> DiskFigures {
        self.fetcher.disk()
    }
}

impl Base {
    fn build(&self, fetched: &Fetched, wanted: &Wanted) -> Result<AdapterWeights, LoadFailure> {
        let files = files::read(&fetched.folder, self.limits.file.file_bytes)?;
        if let Some(expected) = wanted.digest.or(fetched.digest) {
            // What is hashed is what is parsed: these very bytes.
            let got = build::digest(&files.config, &files.weights);
            if got != expected {
                return Err(mismatch(fetched, wanted, FetchError::DigestMismatch { expected, got }));
            }
        }
        let mut limits = self.limits;
        if let Some(max_rank) = wanted.max_rank {
            limits.rank = limits.rank.min(max_rank as usize);
        }
        build::build(&files.config, &files.weights, &self.shape, &*self.rows, &limits)
            .map_err(|error| LoadFailure::new(error.code(), error))
    }
}

/// The content is not what it should be. Where the cache's own copy has rotted, it is thrown away and fetched anew.
fn mismatch(fetched: &Fetched, wanted: &Wanted, error: FetchError) -> LoadFailure {
    let rotten = fetched.digest.is_some_and(|digest| wanted.digest.is_none_or(|wanted| wanted == digest));
    if rotten {
        fetched.discard();
        return LoadFailure::new(ErrorCode::Internal, format!("the cached copy is damaged: {error}"));
    }
    error.into()
}

#[cfg(test)]
mod tests;
