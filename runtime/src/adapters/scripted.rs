//! For tests: weights that are only bytes, and a loader that does what it is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use lorikeet_api::{BaseModel, ErrorCode, Tier};
use tokio::sync::Semaphore;

use crate::adapters::failure::LoadFailure;
use crate::adapters::loader::{Loaded, Loader};
use crate::adapters::pin::Generation;
use crate::adapters::wanted::Wanted;
use crate::adapters::weights::AdapterWeights;
use crate::digest::Digest;

/// The generation of a scripted content.
pub(crate) fn generation(content: &str) -> Generation {
    Generation::of(Digest::of(content.as_bytes()))
}

/// Weights of a scripted content.
pub(crate) fn weights(content: &str, bytes: u64) -> AdapterWeights {
    AdapterWeights {
        generation: generation(content),
        rank: 8,
        bytes,
        target_modules: vec!["q_proj".to_owned()],
        base_model: "acme/base".into(),
        layers: Vec::new(),
        embedding: None,
        head: None,
    }
}

/// The base model of scripted replicas.
pub(crate) fn base() -> BaseModel {
    BaseModel { name: "base".to_owned(), digest: None, revision: None, ready: true }
}

/// Loads what it was told is at a path.
#[derive(Default)]
pub(crate) struct Scripted {
    places: Mutex<HashMap<String, Place>>,
    loads: Mutex<Vec<String>>,
    /// When there: every load takes a permit of it first.
    gate: Option<Arc<Semaphore>>,
}

#[derive(Clone)]
enum Place {
    Weights(String, u64),
    Failure(ErrorCode),
    Panic,
}

impl Scripted {
    /// Loads wait until the gate is given permits.
    pub(crate) fn gated() -> (Arc<Self>, Arc<Semaphore>) {
        let gate = Arc::new(Semaphore::new(0));
        (Arc::new(Self { gate: Some(Arc::clone(&gate)), ..Self::default() }), gate)
    }

    /// At `path` is `content` now.
    pub(crate) fn put(&self, path: &str, content: &str, bytes: u64) {
        self.at(path, Place::Weights(content.to_owned(), bytes));
    }

    /// At `path` is something that fails to load.
    pub(crate) fn fail(&self, path: &str, code: ErrorCode) {
        self.at(path, Place::Failure(code));
    }

    /// Loading from `path` panics.
    pub(crate) fn panic(&self, path: &str) {
        self.at(path, Place::Panic);
    }

    /// The paths that were loaded from, in order.
    pub(crate) fn loads(&self) -> Vec<String> {
        self.loads.lock().unwrap().clone()
    }

    fn at(&self, path: &str, place: Place) {
        self.places.lock().unwrap().insert(path.to_owned(), place);
    }

    fn load_now(&self, wanted: &Wanted) -> Result<Loaded, LoadFailure> {
        let path = wanted.source.to_string();
        self.loads.lock().unwrap().push(path.clone());
        let place = self.places.lock().unwrap().get(&path).cloned();
        match place {
            Some(Place::Weights(content, bytes)) => {
                let weights = weights(&content, bytes);
                Ok(Loaded { weights, revision: None, from: Tier::Disk, permit: None })
            }
            Some(Place::Failure(code)) => Err(LoadFailure::new(code, "scripted")),
            Some(Place::Panic) => panic!("scripted"),
            None => Err(LoadFailure::new(ErrorCode::SourceUnavailable, "nothing there")),
        }
    }
}

/// The loader is shared with the test that scripts it.
impl Loader for Arc<Scripted> {
    fn load(&self, wanted: Arc<Wanted>) -> BoxFuture<'static, Result<Loaded, LoadFailure>> {
        let script = Arc::clone(self);
        async move {
            if let Some(gate) = script.gate.clone() {
                gate.acquire_owned().await.unwrap().forget();
            }
            script.load_now(&wanted)
        }
        .boxed()
    }
}
