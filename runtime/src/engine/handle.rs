//! What the rest of the process holds of the engine: a cloneable handle over a channel. Refuses what can be refused
//! before it costs anything.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::engine::client::{Client, Place};
use crate::engine::config::EngineConfig;
use crate::engine::heart::{EngineState, Heart, Heartbeat};
use crate::engine::request::{Failure, Request, RequestId};
use crate::engine::stats::{EngineMetrics, Snapshot};

/// The way to the engine. When the last one is dropped, the engine finishes what it has and ends.
#[derive(Clone)]
pub struct EngineHandle {
    pub(crate) commands: Sender<Command>,
    pub(crate) shared: Arc<Shared>,
}

/// What the engine's thread and its handles both see.
pub(crate) struct Shared {
    pub(crate) config: EngineConfig,
    pub(crate) vocabulary: usize,
    pub(crate) heart: Heart,
    pub(crate) metrics: Arc<EngineMetrics>,
    /// Places taken by waiting requests.
    pub(crate) waiting: Arc<AtomicUsize>,
    /// Becomes true when the thread has ended.
    pub(crate) ended: watch::Sender<bool>,
}

pub(crate) enum Command {
    Submit(Box<Submitted>),
    Cancel(RequestId),
    Refresh,
    Drain { deadline: Instant },
}

/// A request on its way to the scheduler.
pub(crate) struct Submitted {
    pub(crate) request: Request,
    pub(crate) client: Client,
    pub(crate) at: Instant,
}

impl EngineHandle {
    /// Hands a request over. What becomes of it comes as events.
    ///
    /// # Errors
    /// The [`Failure`] that is known at once; then there are no events: the queue is full, the engine drains or has
    /// stopped, the prompt or the adapter can never fit, or the prompt is empty or has an id beyond the vocabulary.
    pub fn submit(&self, request: Request) -> Result<(), Failure> {
        match self.shared.heart.state() {
            EngineState::Serving => {}
            EngineState::Draining => return Err(Failure::Draining),
            EngineState::Stopped | EngineState::Failed => return Err(Failure::EngineStopped),
        }
        self.shared.check(&request)?;
        let place = Place::take(&self.shared.waiting, self.shared.config.max_waiting)?;
        let client = Client::new(request.events.clone(), place);
        let submitted = Submitted { request, client, at: Instant::now() };
        self.commands.send(Command::Submit(Box::new(submitted))).map_err(|_| Failure::EngineStopped)
    }

    /// Ends a request with [`Failure::Cancelled`], if it still runs or waits. Dropping its receiver does the same.
    pub fn cancel(&self, id: RequestId) {
        // An engine that has ended has nothing to cancel.
        let _ = self.commands.send(Command::Cancel(id));
    }

    /// Publishes the gauges anew, when the engine is idle too. For whoever has let go of an adapter's weights: resident
    /// bytes follow.
    pub fn refresh(&self) {
        // An engine that has ended has published its last.
        let _ = self.commands.send(Command::Refresh);
    }

    /// Takes no new work from now on. The future resolves when what there is has ended: by itself, or with
    /// [`Failure::Draining`] at `deadline`. The drain goes on when the future is dropped.
    pub fn drain(&self, deadline: Instant) -> impl Future<Output = ()> + Send + 'static {
        self.shared.heart.start_draining();
        // An engine that has ended is drained.
        let _ = self.commands.send(Command::Drain { deadline });
        self.ended()
    }

    /// Resolves when the engine's thread has ended, for whatever reason: see [`Self::heartbeat`].
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ended = self.shared.ended.subscribe();
        async move {
            // The sender gone is an engine gone.
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    /// The engine's pulse. Takes no lock.
    #[must_use]
    pub fn heartbeat(&self) -> Heartbeat {
        self.shared.heart.read(Instant::now())
    }

    /// Since the last step began, while there is work; zero when idle. Takes no lock.
    #[must_use]
    pub fn heartbeat_age(&self) -> Duration {
        let pulse = self.heartbeat();
        if pulse.busy.is_some() { pulse.age } else { Duration::ZERO }
    }

    /// The gauges now. Takes no engine lock.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.metrics.snapshot()
    }

    /// The figures, counters too.
    #[must_use]
    pub fn metrics(&self) -> &Arc<EngineMetrics> {
        &self.shared.metrics
    }

    /// Its limits.
    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.shared.config
    }

    /// Tokens that one sequence can have, prompt and output.
    #[must_use]
    pub fn context(&self) -> usize {
        self.shared.config.context()
    }

    /// Ids are below this.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.shared.vocabulary
    }
}

impl Shared {
    fn check(&self, request: &Request) -> Result<(), Failure> {
        let (needed, available) = (request.prompt.len() + 1, self.config.context());
        if needed > available {
            return Err(Failure::NeverFits { needed, available });
        }
        if let Some(pin) = &request.adapter {
            let (needed, budget) = (pin.weights().bytes, self.config.resident_bytes);
            if needed > budget {
                return Err(Failure::AdapterTooLarge { needed, budget });
            }
        }
        if request.prompt.is_empty() {
            return Err(Failure::Internal("prompt: expected at least one token".to_owned()));
        }
        match request.prompt.iter().find(|&&id| id as usize >= self.vocabulary) {
            Some(id) => {
                Err(Failure::Internal(format!("prompt: expected ids below {}, got {id}", self.vocabulary)))
            }
            None => Ok(()),
        }
    }
}
