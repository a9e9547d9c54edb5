//! Tasks that each work for one fleet. One that panics is told of as one that ends: its fleet must not be waited for in vain.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::task::{Id, JoinError, JoinSet};

use crate::fleet::FleetKey;

/// Those that run; they end with the value.
pub struct Tasks<T> {
    running: JoinSet<T>,
    began: HashMap<Id, (FleetKey, Instant)>,
}

/// One that ended.
pub struct Finished<T> {
    /// Whom it worked for.
    pub fleet: FleetKey,
    /// How long.
    pub took: Duration,
    /// What came of it; the panic, where it panicked.
    pub result: Result<T, JoinError>,
}

impl<T> Default for Tasks<T> {
    fn default() -> Self {
        Self { running: JoinSet::new(), began: HashMap::new() }
    }
}

impl<T: Send + 'static> Tasks<T> {
    /// Starts `work` for `fleet`.
    pub fn spawn(&mut self, fleet: FleetKey, work: impl Future<Output = T> + Send + 'static) {
        let task = self.running.spawn(work);
        self.began.insert(task.id(), (fleet, Instant::now()));
    }

    /// How many run.
    #[must_use]
    pub fn count(&self) -> usize {
        self.began.len()
    }

    /// The next one that ends; nothing where none runs. Nothing is lost where this is given up.
    pub async fn next(&mut self) -> Option<Finished<T>> {
        let (id, result) = match self.running.join_next_with_id().await? {
            Ok((id, value)) => (id, Ok(value)),
            Err(error) => (error.id(), Err(error)),
        };
        let (fleet, began) = self.began.remove(&id)?;
        Some(Finished { fleet, took: began.elapsed(), result })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_ends_and_its_fleet_and_its_panic_are_named() {
        let fleet = |name: &str| FleetKey { namespace: "ns".to_owned(), name: name.to_owned() };
        let mut tasks = Tasks::default();
        tasks.spawn(fleet("bad"), async { panic!("a fault of ours") });
        let bad = tasks.next().await.unwrap();
        assert_eq!((bad.fleet, tasks.count()), (fleet("bad"), 0));
        let error = bad.result.unwrap_err();
        assert!(error.is_panic() && error.to_string().contains("a fault of ours"), "{error}");
        tasks.spawn(fleet("good"), async { 7 });
        let good = tasks.next().await.unwrap();
        assert_eq!((good.fleet, good.result.unwrap()), (fleet("good"), 7));
        assert!(tasks.next().await.is_none());
    }
}
