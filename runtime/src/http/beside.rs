//! Work that a caller's own text makes long (a megabyte to tokenize, a long chat to render): beside the threads that answer,
//! a few at a time, so that neither other requests nor the engine's threads wait for it. Must not know what the work is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::error::{ApiError, Problem};

/// Work over more bytes goes beside the threads that answer: tokenizing so many takes about a millisecond.
const INLINE: usize = 8 << 10;

/// Long work at a time. The rest waits, first come, first served; who leaves while waiting costs nothing.
const PLACES: usize = 2;

/// The places beside.
#[derive(Clone, Debug)]
pub struct Beside(Arc<Semaphore>);

impl Default for Beside {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PLACES)))
    }
}

impl Beside {
    /// Runs `work` over so many bytes of a caller's text. A panic in it fails this request alone.
    ///
    /// # Errors
    /// [`Problem::Internal`] when it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let done = if bytes <= INLINE {
            catch_unwind(AssertUnwindSafe(work)).map_err(|_| "panicked".to_owned())
        } else {
            // Never closed: an error would be ours.
            let place = Arc::clone(&self.0).acquire_owned().await.map_err(|_| Problem::Internal)?;
            // The place is the work's: it stays taken when the caller leaves before the end.
            let held = move || {
                let _place = place;
                work()
            };
            tokio::task::spawn_blocking(held).await.map_err(|error| error.to_string())
        };
        done.map_err(|error| {
            tracing::error!(error, "the tokenizer or the template failed");
            Problem::Internal.into()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn long_work_waits_for_a_place_and_short_work_does_not() {
        let beside = Beside::default();
        let begun = Arc::new(AtomicUsize::new(0));
        let mut gates = Vec::new();
        let mut long = Vec::new();
        for _ in 0..3 * PLACES {
            let (gate, opened) = mpsc::channel::<()>();
            gates.push(gate);
            let (beside, begun) = (beside.clone(), Arc::clone(&begun));
            let work = move || {
                begun.fetch_add(1, Ordering::SeqCst);
                let _ = opened.recv();
            };
            long.push(tokio::spawn(async move { beside.run(INLINE + 1, work).await }));
        }
        while begun.load(Ordering::SeqCst) < PLACES {
            tokio::task::yield_now().await;
        }
        assert_eq!(beside.run(INLINE, || 7).await.ok(), Some(7));
        assert_eq!((begun.load(Ordering::SeqCst), beside.0.available_permits()), (PLACES, 0));
        // Whoever leaves while waiting does not begin; who leaves later does not give the place away before its end.
        long.iter().for_each(tokio::task::JoinHandle::abort);
        for waiting in long {
            assert!(waiting.await.is_err());
        }
        assert_eq!((begun.load(Ordering::SeqCst), beside.0.available_permits()), (PLACES, 0));
        drop(gates);
        assert!(beside.run(INLINE + 1, || ()).await.is_ok());
        assert_eq!(begun.load(Ordering::SeqCst), PLACES);
    }

    #[tokio::test]
    async fn a_panic_fails_its_own_request() {
        for bytes in [1, INLINE + 1] {
            let failed = Beside::default().run(bytes, || panic!("on purpose")).await;
            assert_eq!(failed.map(|(): ()| 0).unwrap_err().code, "internal_error");
        }
    }
}
