//! The operator on a cluster: watch -> queue -> one fleet at a time: observe, decide, write. What decides is elsewhere.

pub mod config;

use crate::cluster::config::Config;

/// Why a run ended.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The process has no async runtime.
    #[error("no threads: {0}")]
    Threads(#[from] std::io::Error),
}

/// Runs until SIGTERM.
///
/// # Errors
/// [`ClusterError`].
pub fn run(config: Config) -> Result<(), ClusterError> {
    tracing::info!(identity = config.lease.identity, "starting");
    Ok(())
}
