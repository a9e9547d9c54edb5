//! Log lines on standard error, as text or JSON. Never a token, a key or the content of a Secret: whoever logs sees to it.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::args::{LogArgs, LogFormat};

/// Log settings that cannot be.
#[derive(Debug, thiserror::Error)]
#[error(
    "--log-level: expected off, error, warn, info, debug, trace or tracing's directives, got {given:?} ({why})"
)]
pub struct InvalidFilter {
    given: String,
    why: String,
}

/// Starts logging for the rest of the process. A second call changes nothing.
///
/// # Errors
/// [`InvalidFilter`].
pub fn start(args: &LogArgs) -> Result<(), InvalidFilter> {
    let filter = EnvFilter::try_new(&args.log_level)
        .map_err(|error| InvalidFilter { given: args.log_level.clone(), why: error.to_string() })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that logging was started already.
    let _ = match args.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    Ok(())
}
