//! Reads of folders that are mounted from elsewhere, which may never answer: so many at a time, each on a thread of its own,
//! and one that hangs takes its own place alone. Must not wait for a place: whoever asks goes on.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::source::error::FetchError;

/// Places for reads of mounted folders.
pub(super) struct Mounts {
    free: Arc<Semaphore>,
    places: usize,
}

impl Mounts {
    pub(super) fn new(places: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(places)), places }
    }

    /// Reads on a thread of its own. Its place is free when `read` has ended, whether somebody still waits for it or not.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
    ) -> Result<T, FetchError> {
        let place = Arc::clone(&self.free).try_acquire_owned().map_err(|_| {
            FetchError::Unavailable(format!(
                "the folders that are mounted do not answer: {} reads of them have not ended",
                self.places
            ))
        })?;
        let reads = tokio::task::spawn_blocking(move || {
            let _place = place;
            read()
        });
        reads.await.map_err(|error| FetchError::io("source", std::io::Error::other(error)))?
    }
}
