//! Log lines on standard error, as text or JSON. Never a token, a key or the content of a Secret: whoever logs sees to it.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

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
    let filter = filter(&args.log_level)?;
    // Where a line cannot be written, as to a terminal that is closed, neither can that it cannot: trying to say so on
    // standard error would end the process.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    // An error means that logging was started already.
    let _ = match args.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    Ok(())
}

/// What `given` lets through.
fn filter(given: &str) -> Result<EnvFilter, InvalidFilter> {
    let refused = |why: String| InvalidFilter { given: given.to_owned(), why };
    // tracing would take it for a module, and nothing be logged.
    let is_word = |part: &&str| !part.contains(['=', '[']) && part.parse::<LevelFilter>().is_err();
    if let Some(word) = given.split(',').map(str::trim).find(is_word) {
        return Err(refused(format!("{word:?} is no level; of a module: {word}=debug")));
    }
    EnvFilter::try_new(given).map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for good in ["info", "off", "warn,hyper=debug", "lorikeet_x::y=trace,info", "[span]=info"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["banana", "info,banana", "a=b=c", "hyper=loud"] {
            let said = filter(bad).unwrap_err().to_string();
            assert!(said.starts_with("--log-level: expected off, error,") && said.contains(bad), "{said}");
        }
    }
}
