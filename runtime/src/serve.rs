//! One replica's life: build -> serve -> drain. Order and waiting only; each step is another file's.

mod base;
mod loading;
mod named;
mod plan;
mod registry;

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lorikeet_api::BaseModel;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::adapters::build::AdapterLimits;
use crate::adapters::load::AdapterLoader;
use crate::adapters::store::{AdapterStore, StoreConfig};
use crate::args::ServeArgs;
use crate::config::{Config, ConfigError};
use crate::engine::heart::EngineState;
use crate::engine::{Engine, StartError};
use crate::generate::Generator;
use crate::http::listen;
use crate::http::models::ModelCard;
use crate::http::routes::{admin_router, public_router};
use crate::http::server::{self, Face};
use crate::http::{App, Beside, unix_time};
use crate::metrics::Metrics;
use crate::model::Model;
use crate::progress::Bars;
use crate::shutdown;
use crate::source::config::FetchConfig;
use crate::source::error::FetchError;
use crate::source::fetch::Fetcher;
use crate::telemetry::{self, InvalidFilter};

use self::loading::Loading;

/// After the last sequence has ended, answers that are still on their way get so long.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// Why a replica did not serve, or stopped serving.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Log(#[from] InvalidFilter),
    #[error("--{face} {address}: {source}")]
    Bind { face: &'static str, address: std::net::SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Base(#[from] base::BaseError),
    #[error(transparent)]
    Sources(#[from] FetchError),
    #[error(transparent)]
    Engine(#[from] StartError),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Adapters(#[from] named::NamedError),
    #[error("{0}")]
    System(#[from] std::io::Error),
    #[error("the engine has given up; its last error is in the log")]
    EngineFailed,
}

/// Serves until a signal, then drains.
///
/// # Errors
/// [`ServeError`]: before anything is served, or when the engine gives up.
pub fn run(args: ServeArgs) -> Result<(), ServeError> {
    telemetry::start(&args.log)?;
    let config = Config::check(args)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), ServeError> {
    // Bound first: an address that is taken is said at once and not after a long load.
    let public = bind("listen", config.public.listen).await?;
    let admin = match &config.admin {
        Some(admin) => Some(bind("admin-listen", admin.listen).await?),
        None => None,
    };
    let named = named::find(&config.adapters)?;
    let (loading, admin) = match admin.zip(config.admin.as_ref()) {
        Some((listener, face)) => {
            let (loading, listener) = Loading::begin(listener, face, &config)?;
            (Some(loading), Some(listener))
        }
        None => (None, None),
    };
    let signal = shutdown::asked(config.until_stdin_closes)?;
    tokio::pin!(signal);
    let (app, store) = tokio::select! {
        built = build(&config, named) => built?,
        name = &mut signal => {
            tracing::info!(reason = name, "stopped while loading");
            return Ok(());
        }
    };
    if let Some(loading) = loading {
        loading.end().await;
    }
    let (stop, faces) = open(&config, public, admin, &app);
    let [stop_public, stop_admin] = stop;
    tracing::info!(address = %config.public.listen, model = app.card.name, adapters = store.names().len(), "serving");
    let engine = app.generator.engine().clone();
    tokio::select! {
        name = &mut signal => tracing::info!(reason = name, drain = ?config.drain, "draining"),
        () = engine.ended() => return Err(ServeError::EngineFailed),
    }
    drain(&config, &app, &store, &stop_public).await;
    stop_admin.send_replace(true);
    let ended = futures::future::join_all(faces);
    if tokio::time::timeout(LAST_BYTES, ended).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
    match engine.heartbeat().state {
        EngineState::Failed => Err(ServeError::EngineFailed),
        EngineState::Serving | EngineState::Draining | EngineState::Stopped => Ok(()),
    }
}

async fn bind(face: &'static str, address: std::net::SocketAddr) -> Result<TcpListener, ServeError> {
    listen::bind(address).await.map_err(|source| ServeError::Bind { face, address, source })
}

async fn build(
    config: &Config,
    named: Vec<(String, String)>,
) -> Result<(Arc<App>, AdapterStore), ServeError> {
    let bars = Bars::new();
    let fetcher = Fetcher::new(FetchConfig { progress: Some(bars.downloads()), ..config.sources.clone() })?;
    let base = base::load(&config.model, &config.capacity, &fetcher, &bars).await?;
    let metrics = Arc::new(Metrics::new(&config.model.name, base.engine.context())?);
    let report = BaseModel {
        name: config.model.name.clone(),
        digest: Some(base.digest.to_string()),
        revision: base.revision.clone(),
        ready: false,
    };
    let loader = adapter_loader(config, &base.model, fetcher);
    let budget = StoreConfig {
        host_budget: config.adapters.host_bytes,
        pinned_wait: config.adapters.pinned_wait,
        demand_calm: config.adapters.demand_calm,
        max_adapters: config.adapters.max_count,
        drain: config.drain,
        ..StoreConfig::default()
    };
    let store = AdapterStore::new(budget, report, Arc::new(loader));
    store.watch_engine(metrics.engine(), config.capacity.resident_bytes);
    let engine = Engine::start(Box::new(base.model), base.engine, metrics.engine())?;
    named::register(named, &store);
    if let Some(folder) = &config.adapters.registry {
        registry::preset(folder, &store);
    }
    store.set_base_ready(true);
    let card = ModelCard {
        name: config.model.name.clone(),
        created: unix_time(),
        digest: Some(base.digest.to_string()),
        dtype: base.dtype,
    };
    let app = App {
        generator: Generator::new(engine, base.text.tokenizer),
        adapters: Box::new(store.clone()),
        template: base.text.template.map(base::render),
        beside: Beside::default(),
        defaults: base.text.defaults,
        card,
        metrics,
        limits: config.limits.clone(),
        admin_limits: config.admin_limits(),
        stuck_after: config.stuck_after,
        draining: AtomicBool::new(false),
    };
    Ok((Arc::new(app), store))
}

fn adapter_loader(config: &Config, model: &Model, fetcher: Fetcher) -> AdapterLoader {
    let limits = AdapterLimits::new(config.adapters.max_rank as usize, config.adapters.max_bytes);
    AdapterLoader::new(fetcher, model.shape(), model.weights(), limits, config.model.threads)
}

fn open(
    config: &Config,
    public: TcpListener,
    admin: Option<TcpListener>,
    app: &Arc<App>,
) -> ([watch::Sender<bool>; 2], Vec<JoinHandle<()>>) {
    let (stop, stopped) = watch::channel(false);
    let (stop_admin, admin_stopped) = watch::channel(false);
    tokio::spawn(config.public.keys.clone().watch());
    let router = public_router(Arc::clone(app), &config.public.keys, config.public.metrics_need_key);
    let face =
        Face { listener: public, router, tls: None, limits: config.limits.clone(), linger: server::LINGER };
    let mut faces = vec![tokio::spawn(server::serve(face, stopped))];
    if let (Some(listener), Some(admin)) = (admin, &config.admin) {
        server::follow(&admin.keys, admin.tls.as_ref());
        let router = admin_router(Arc::clone(app), &admin.keys);
        // It stops last: whoever still asks it is answered, and nobody new comes.
        let (tls, linger) = (admin.tls.clone(), Duration::ZERO);
        let face = Face { listener, router, tls, limits: config.admin_limits(), linger };
        faces.push(tokio::spawn(server::serve(face, admin_stopped)));
    }
    ([stop, stop_admin], faces)
}

/// Readiness goes first, and connections end with the request that they have. Then new work is refused, and what runs
/// ends or is ended. A second signal ends it at once.
async fn drain(config: &Config, app: &App, store: &AdapterStore, stop: &watch::Sender<bool>) {
    let deadline = Instant::now() + config.drain;
    app.draining.store(true, Ordering::Relaxed);
    store.set_draining();
    stop.send_replace(true);
    let again = shutdown::requested();
    let again = async {
        match again {
            Ok(signal) => drop(signal.await),
            Err(_) => pending().await,
        }
    };
    let drained = async {
        tokio::time::sleep(server::LINGER.min(config.drain)).await;
        app.generator.engine().drain(deadline).await;
    };
    tokio::select! {
        () = drained => tracing::info!("drained"),
        () = again => tracing::warn!("a second signal: not drained to the end"),
    }
}
