//! The engine: schedule -> run -> sample -> commit, one sentence, one thread.
//!
//! * [`request`], [`handle`]: what a face asks and hears
//! * [`forward`], [`batch`]: the seam to the model
//! * [`thread`]: commands in, events out; [`step`]: one step
//! * [`scheduler`]: what runs next, over [`sequence`], [`waiting`], [`blocks`], [`prefix`], [`fairness`], [`residency`]
//! * [`sampler`]: which token
//! * [`config`], [`heart`], [`stats`]: limits, pulse, figures

pub mod batch;
pub mod blocks;
#[cfg(test)]
mod chaos;
mod client;
pub mod config;
pub mod fairness;
#[cfg(test)]
mod fixtures;
pub mod forward;
pub mod handle;
pub mod heart;
pub mod prefix;
mod report;
pub mod request;
pub mod residency;
pub mod sampler;
pub mod scheduler;
#[cfg(test)]
mod scripted;
pub mod sequence;
#[cfg(test)]
mod speed;
pub mod stats;
mod step;
mod thread;
pub mod waiting;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use config::{EngineConfig, InvalidConfig};
use forward::Forward;
use handle::{EngineHandle, Shared};
use heart::Heart;
use stats::EngineMetrics;
use tokio::sync::watch;

/// The engine of a replica.
pub struct Engine;

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A limit cannot be.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// The system gave no thread.
    #[error("engine thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl Engine {
    /// Starts the one thread that owns `forward`. It ends when it is drained, or when every handle is gone and its work
    /// is done.
    ///
    /// # Errors
    /// [`StartError`] when a limit cannot be or there is no thread to be had.
    pub fn start(
        forward: Box<dyn Forward>,
        config: EngineConfig,
        metrics: Arc<EngineMetrics>,
    ) -> Result<EngineHandle, StartError> {
        config.check()?;
        metrics.blocks.store(config.blocks, Ordering::Relaxed);
        let shared = Arc::new(Shared {
            vocabulary: forward.vocabulary(),
            heart: Heart::new(Instant::now()),
            metrics,
            waiting: Arc::new(AtomicUsize::new(0)),
            ended: watch::Sender::new(false),
            config,
        });
        let (commands, received) = mpsc::channel();
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || thread::run(forward, &received, &of_thread))?;
        Ok(EngineHandle { commands, shared })
    }
}

#[cfg(test)]
mod tests;
