//! The adapters of a replica, as its other rooms hold them: a cloneable handle over the ledger and the loads under way.
//!
//! Everything is decided in the ledger, under a lock that is held for moments: nothing is read, hashed or freed under
//! it, and no thread of the engine takes it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use lorikeet_api::{
    Accepted, AdapterReport, BaseModel, DesiredAdapter, DesiredChange, DesiredSet, ErrorCode, ReportedSet,
};
use tokio::sync::{Notify, watch};

use crate::adapters::failure::LoadFailure;
use crate::adapters::ledger::{Asked, Ledger, NotServed};
use crate::adapters::loader::Loader;
use crate::adapters::pin::Pin;
use crate::adapters::wanted::{Desire, Placement};
use crate::engine::stats::EngineMetrics;
use crate::source::Trust;

mod figures;
mod flight;
mod keeper;

pub use figures::{LoadFigures, StoreFigures};
use flight::Flights;

/// What a store may use.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Bytes of adapters in host memory.
    pub host_budget: u64,
    /// Names that may be registered.
    pub max_adapters: usize,
    /// Loads that nobody waits for, at a time.
    pub ahead: usize,
    /// How long requests may still take on weights that their name has left: it was removed, or swapped.
    pub drain: Duration,
    /// How long loaded weights wait for room.
    pub room_wait: Duration,
    /// How long a start waits for pinned adapters.
    pub pinned_wait: Duration,
    /// A demand is lower when it has stayed so for this long.
    pub demand_calm: Duration,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            host_budget: 4 << 30,
            max_adapters: 100_000,
            ahead: 2,
            drain: Duration::from_secs(30),
            room_wait: Duration::from_secs(30),
            pinned_wait: Duration::from_mins(5),
            demand_calm: Duration::from_mins(1),
        }
    }
}

/// The adapters of a replica. A clone is the same store.
#[derive(Clone)]
pub struct AdapterStore {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    config: StoreConfig,
    instance: String,
    loader: Arc<dyn Loader>,
    state: Mutex<State>,
    /// Rung by pins that go and by whatever leaves work for the keeper.
    bell: Arc<Notify>,
    /// Rung when there may be room.
    room: Notify,
    /// The number of the newest report.
    reports: watch::Sender<u64>,
    engine: OnceLock<(Arc<EngineMetrics>, u64)>,
    figures: figures::Counters,
    started: Instant,
    /// The pinned adapters of the start were waited for.
    opened: AtomicBool,
}

pub(super) struct State {
    ledger: Ledger,
    flights: Flights,
    base: BaseModel,
    draining: bool,
    /// Names whose loads the keeper has yet to look at.
    ahead: std::collections::BTreeSet<Arc<str>>,
}

/// Why a name gives no weights.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// No such name, or it drains.
    #[error("no adapter has that name")]
    Unknown,
    /// Its content or source was refused: it stays so until somebody changes it.
    #[error("{message}")]
    Refused {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
    },
    /// Its source does not answer, or there is no room, for now.
    #[error("{message}")]
    Unavailable {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
        /// When to ask again.
        retry_after: Duration,
    },
}

/// Why a change is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// For programs: `NameConflict` when the name is taken, `UnknownAdapter` when there is none.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

impl From<LoadFailure> for StoreError {
    fn from(failure: LoadFailure) -> Self {
        Self { code: failure.code, message: failure.message }
    }
}

impl AdapterStore {
    /// An empty store beside `base`. Its keeper runs on the current runtime and ends with the last handle.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(config: StoreConfig, base: BaseModel, loader: Arc<dyn Loader>) -> Self {
        let bell = Arc::new(Notify::new());
        let ledger = Ledger::new(
            base.name.clone(),
            config.host_budget,
            config.max_adapters,
            config.drain,
            Arc::clone(&bell),
        );
        let state =
            State { ledger, flights: Flights::default(), base, draining: false, ahead: Default::default() };
        let shared = Arc::new(Shared {
            config,
            instance: new_instance(),
            loader,
            state: Mutex::new(state),
            bell,
            room: Notify::new(),
            reports: watch::channel(0).0,
            engine: OnceLock::new(),
            figures: figures::Counters::default(),
            started: Instant::now(),
            opened: AtomicBool::new(false),
        });
        tokio::spawn(keeper::watch_demand(Arc::downgrade(&shared)));
        tokio::spawn(keeper::keep(Arc::downgrade(&shared), Arc::clone(&shared.bell)));
        Self { shared }
    }

    /// Reports tell from now on what the engine says of its residents, of which `budget` bytes may be.
    pub fn watch_engine(&self, engine: Arc<EngineMetrics>, budget: u64) {
        // A second engine does not come: the first one stays.
        let _ = self.shared.engine.set((engine, budget));
    }

    /// Whether requests may ask for `name`.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.shared.with(|state| state.ledger.knows(name))
    }

    /// The names that requests may ask for, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.shared.with(|state| state.ledger.names().map(ToString::to_string).collect())
    }

    /// Of these names, those whose content was not refused, in order.
    #[must_use]
    pub fn servable(&self) -> Vec<String> {
        self.shared.with(|state| state.ledger.servable().map(ToString::to_string).collect())
    }

    /// The weights of `name`, held, where they are in memory already.
    #[must_use]
    pub fn try_pin(&self, name: &str) -> Option<Pin> {
        self.shared.with(|state| state.ledger.ask_held(name))
    }

    /// The weights of `name`, held. Loads them where they are not in memory: one load, however many ask. It goes on
    /// when the caller stops waiting.
    ///
    /// # Errors
    /// [`PinError`] when there is no such name or its last load failed.
    pub async fn pin(&self, name: &str) -> Result<Pin, PinError> {
        let mut waiting = None;
        loop {
            let now = Instant::now();
            let asked = self.shared.with(|state| match state.ledger.ask(name, now)? {
                Asked::Held(pin) => Ok((Some(pin), None)),
                Asked::Cold(wanted) => {
                    let count = state.ledger.entry(name).map(|entry| Arc::clone(&entry.waiting));
                    let flight = flight::join(&self.shared, state, &wanted, Some(name));
                    Ok((None, Some((flight, count))))
                }
            });
            match asked.map_err(|error| PinError::of(error, now))? {
                (Some(pin), _) => return Ok(pin),
                (None, Some((mut flight, count))) => {
                    if waiting.is_none() {
                        self.shared.figures.missed();
                    }
                    waiting = waiting.or(count.map(Waiting::new));
                    // The flight's own pin keeps the weights until this name has asked again.
                    let landed = flight.ended().await;
                    let Some(pin) = self.after_landing(name, landed)? else { continue };
                    return Ok(pin);
                }
                (None, None) => return Err(PinError::Unknown),
            }
        }
    }

    /// After a flight for `name`: its pin, or its failure even where the next try is due already.
    fn after_landing(&self, name: &str, landed: flight::Landed) -> Result<Option<Pin>, PinError> {
        match landed {
            Ok(held) => {
                let pin = self.try_pin(name);
                drop(held);
                Ok(pin)
            }
            Err(failure) if self.knows(name) => {
                Err(PinError::of(NotServed::Failed(failure, None), Instant::now()))
            }
            Err(_) => Err(PinError::Unknown),
        }
    }

    /// Names an adapter on behalf of the command line: its source may be any. It is loaded ahead of requests.
    ///
    /// # Errors
    /// When the name is taken, or none. A source that cannot be read is no error here: it is reported.
    pub fn register(&self, name: &str, source: &str) -> Result<(), StoreError> {
        let placement = Placement { resident: true, ..Placement::default() };
        let desire = Desire::of_source(source, Trust::CommandLine, placement);
        let named = self.shared.with(|state| state.ledger.register(name, desire, Instant::now()))?;
        self.shared.look_at([named]);
        Ok(())
    }

    /// Desires an adapter before the first desired set, which takes its place.
    ///
    /// # Errors
    /// When the name is taken, or none.
    pub fn preset(&self, adapter: &DesiredAdapter) -> Result<(), StoreError> {
        let named = self.shared.with(|state| state.ledger.preset(adapter, Instant::now()))?;
        self.shared.look_at([named]);
        Ok(())
    }

    /// Takes a desired set over. What it names is brought up in the background.
    ///
    /// # Errors
    /// When its version is older than the one held or a name is none, twice there, or the base model's.
    pub fn apply(&self, set: DesiredSet) -> Result<Accepted, StoreError> {
        let (changed, accepted) = self.shared.with(|state| {
            let changed = state.ledger.apply(&set, Instant::now())?;
            Ok::<_, LoadFailure>((changed, self.shared.accepted(state)))
        })?;
        self.shared.look_at(changed);
        Ok(accepted)
    }

    /// Takes a change of the desired set over.
    ///
    /// # Errors
    /// As [`Self::apply`], and when its base is not the version held.
    pub fn change(&self, change: DesiredChange) -> Result<Accepted, StoreError> {
        let (changed, accepted) = self.shared.with(|state| {
            let changed = state.ledger.change(&change, Instant::now())?;
            Ok::<_, LoadFailure>((changed, self.shared.accepted(state)))
        })?;
        self.shared.look_at(changed);
        Ok(accepted)
    }

    /// Nobody may ask for `name` any more; it is forgotten when its requests have ended, which they do in time.
    ///
    /// # Errors
    /// When there is no such name.
    pub fn remove(&self, name: &str) -> Result<Accepted, StoreError> {
        let removed = self
            .shared
            .with(|state| state.ledger.remove(name, Instant::now()).then(|| self.shared.accepted(state)));
        self.shared.bell.notify_one();
        removed.ok_or_else(|| {
            let shown: String = name.chars().take(80).collect();
            LoadFailure::new(ErrorCode::UnknownAdapter, format!("name: no adapter has the name {shown:?}"))
                .into()
        })
    }

    /// Loads `source` and serves it as `name` once it is in memory; nothing changes when it is refused. With `in_place`
    /// the name may exist: requests that run finish on what it meant, and have a drain's time for that.
    ///
    /// # Errors
    /// `NameConflict` when the name exists and not `in_place`; why the load failed otherwise.
    pub async fn load(&self, name: &str, source: &str, in_place: bool) -> Result<(), StoreError> {
        let desire = Desire::of_source(source, Trust::Admin, Placement::default());
        let wanted = desire.wanted.clone()?;
        self.shared.with(|state| state.ledger.check_load(name, in_place))?;
        loop {
            // A load that began before this call may have read what was there before: only a new one will do.
            let joined = self.shared.with(|state| match state.flights.under_way(&wanted) {
                Some(flight) => (flight, false),
                None => (flight::adopt(&self.shared, state, &wanted, (name, desire.clone())), true),
            });
            let (mut flight, is_ours) = joined;
            let landed = flight.ended().await;
            if is_ours {
                return landed.map(drop).map_err(StoreError::from);
            }
        }
    }

    /// As [`Self::remove`].
    ///
    /// # Errors
    /// When there is no such name.
    pub async fn unload(&self, name: &str) -> Result<(), StoreError> {
        self.remove(name).map(drop)
    }

    /// Whether requests may come: once every adapter that is pinned at the start is in memory, was refused for good, or was
    /// waited for long enough. It stays so: one that is pinned later must not take a replica back that serves.
    #[must_use]
    pub fn ready(&self) -> bool {
        if self.shared.opened.load(Ordering::Relaxed) {
            return true;
        }
        let unsettled: Vec<Arc<str>> = self.shared.with(|state| state.ledger.unsettled().cloned().collect());
        let is_late = self.shared.started.elapsed() >= self.shared.config.pinned_wait;
        let opens = unsettled.is_empty() || is_late;
        if opens && !self.shared.opened.swap(true, Ordering::Relaxed) && !unsettled.is_empty() {
            let names = unsettled.join(", ");
            tracing::warn!(names, "ready without these pinned adapters: they were waited for long enough");
        }
        opens
    }

    /// What is to be said of `name`, draining or not.
    #[must_use]
    pub fn adapter(&self, name: &str) -> Option<AdapterReport> {
        self.shared.describe(name)
    }

    /// Everything that there is to say.
    #[must_use]
    pub fn report(&self) -> ReportedSet {
        self.shared.report(None)
    }

    /// What changed after report `after` of this process, once something did or `wait` is over. Complete when
    /// `instance` is another process's or `after` is too long ago.
    pub async fn report_after(&self, instance: &str, after: u64, wait: Duration) -> ReportedSet {
        if instance != self.shared.instance || after > self.shared.with(|state| state.ledger.report_number())
        {
            return self.shared.report(None);
        }
        let mut reports = self.shared.reports.subscribe();
        // The time being over is no failure: the report then says that nothing changed.
        let _ = tokio::time::timeout(wait, reports.wait_for(|number| *number > after)).await;
        self.shared.report(Some(after))
    }

    /// Numbers for the metrics page.
    #[must_use]
    pub fn figures(&self) -> StoreFigures {
        self.shared.figures()
    }

    /// The base model is loaded and serving, or not.
    pub fn set_base_ready(&self, ready: bool) {
        self.shared.with(|state| {
            state.base.ready = ready;
            state.ledger.note();
        });
    }

    /// The replica drains: reports say so.
    pub fn set_draining(&self) {
        self.shared.with(|state| {
            state.draining = true;
            state.ledger.note();
        });
    }
}

impl Shared {
    /// The state, for a moment. Reports that it changed are published after.
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(&mut state);
        let number = state.ledger.report_number();
        drop(state);
        self.reports.send_if_modified(|held| *held < number && std::mem::replace(held, number) != number);
        done
    }

    fn accepted(&self, state: &State) -> Accepted {
        Accepted { instance: self.instance.clone(), version: state.ledger.version().unwrap_or_default() }
    }

    /// The keeper looks at what these names need.
    fn look_at(&self, names: impl IntoIterator<Item = Arc<str>>) {
        self.with(|state| state.ahead.extend(names));
        self.bell.notify_one();
    }
}

impl PinError {
    fn of(error: NotServed, now: Instant) -> Self {
        let NotServed::Failed(failure, until) = error else { return Self::Unknown };
        let LoadFailure { code, message } = failure.clone();
        if failure.is_transient() {
            let pause = until.map_or(Duration::from_secs(1), |until| until.saturating_duration_since(now));
            return Self::Unavailable { code, message, retry_after: pause.max(Duration::from_secs(1)) };
        }
        Self::Refused { code, message }
    }
}

/// Counts a request that waits for a load while it lives.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for AdapterStore {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "AdapterStore({})", self.shared.instance)
    }
}

/// A name that no other process has.
fn new_instance() -> String {
    use std::hash::{BuildHasher as _, Hasher as _};
    // The seeds of std's hash maps are the operating system's random numbers.
    let word = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", word(), word() ^ u64::from(std::process::id()))
}

#[cfg(test)]
mod tests;
