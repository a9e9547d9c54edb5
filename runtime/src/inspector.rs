//! `lorikeet inspector`: a face that tells what adapters' sources say of themselves, without fetching their weights. Reads what
//! a replica may read, by the same rules and Secrets; must not open a model, an engine or a cache.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::args::InspectorArgs;
use crate::config::{ConfigError, InspectorConfig};
use crate::http::inspect::Inspector;
use crate::http::limits::Limits;
use crate::http::listen;
use crate::http::routes::inspector_router;
use crate::http::server::{self, Face};
use crate::shutdown;
use crate::source::error::FetchError;
use crate::source::fetch::Fetcher;
use crate::telemetry::{self, InvalidFilter};

/// Bytes of a request's body.
const BODY: usize = 64 << 10;

/// Connections at a time: whoever asks is one program, and a few probes.
const CONNECTIONS: usize = 128;

/// Threads for what blocks, beyond those of folders: the resolving of names. A mount that hangs keeps its thread.
const BLOCKING: usize = 64;

/// From the stop: requests under way may still take so long. Whoever asked asks another time.
const LAST: Duration = Duration::from_secs(1);

/// Why an inspector did not answer.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum InspectorError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Log(#[from] InvalidFilter),
    #[error("--admin-listen {address}: {source}")]
    Bind { address: std::net::SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Sources(#[from] FetchError),
    #[error("{0}")]
    System(#[from] std::io::Error),
}

/// Answers until a signal.
///
/// # Errors
/// [`InspectorError`], before anything is answered.
pub fn run(args: &InspectorArgs) -> Result<(), InspectorError> {
    telemetry::start(&args.log)?;
    let config = InspectorConfig::check(args)?;
    // One thread: it waits for others nearly all of its time, and lives beside them in little memory.
    let threads = BLOCKING + config.sources.folders;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(threads).build()?;
    let answered = runtime.block_on(answer(config));
    // A mount that hangs is not waited for.
    runtime.shutdown_background();
    answered
}

async fn answer(config: InspectorConfig) -> Result<(), InspectorError> {
    let address = config.face.listen;
    let listener = listen::bind(address).await.map_err(|source| InspectorError::Bind { address, source })?;
    let signal = shutdown::asked(config.until_stdin_closes)?;
    // Whoever does not read the answer keeps others from theirs.
    let write_time = config.time;
    let limits = Limits { body_bytes: BODY, connections: CONNECTIONS, write_time, ..Limits::default() };
    let fetcher = Fetcher::new(config.sources)?;
    let inspector = Inspector::new(fetcher, config.concurrent, config.time, limits.clone());
    let router = inspector_router(Arc::new(inspector), &config.face.keys);
    server::follow(&config.face.keys, config.face.tls.as_ref());
    let (stop, stopped) = watch::channel(false);
    let face = Face { listener, router, tls: config.face.tls, limits, linger: Duration::ZERO };
    let served = tokio::spawn(server::serve(face, stopped));
    tracing::info!(%address, "inspecting");
    let reason = signal.await;
    stop.send_replace(true);
    let ended = tokio::time::timeout(LAST, served).await.is_ok();
    tracing::info!(reason, whole = ended, "stopped");
    Ok(())
}
