//! `lorikeet inspect SRC --glimpse`: what an inspector would answer, once, for a machine that has none.

use std::fmt::Display;
use std::io::Read;
use std::time::Duration;

use lorikeet_api::{ErrorCode, Failure, InspectRequest, InspectedSource};
use tokio::time::timeout;

use crate::args::InspectArgs;
use crate::config;
use crate::source::Trust;
use crate::source::asked::Asked;
use crate::source::config::{FetchConfig, Patience};
use crate::source::error::FetchError;
use crate::source::fetch::Fetcher;

/// How long a source may take: as an inspector's unless somebody says otherwise.
const TIME: Duration = Duration::from_secs(10);

/// The source that stands for a request on standard input.
const FROM_INPUT: &str = "-";

/// The longest request on standard input, in bytes: as long as an inspector takes one.
const MAX_REQUEST: usize = 64 << 10;

/// What the source says. Where the source is `-`, `input` has the request.
///
/// # Errors
/// Why it cannot be read, as an inspector would say it.
pub fn glimpse(args: &InspectArgs, input: &mut dyn Read) -> Result<InspectedSource, Failure> {
    let refused = |code, error: &dyn Display| Failure { code, message: error.to_string() };
    let invalid = |error: &dyn Display| refused(ErrorCode::InvalidRequest, error);
    let request = request(args, input).map_err(|error| invalid(&error))?;
    let asked = Asked::parse(&request).map_err(|error| invalid(&error))?;
    let sources = config::sources(&args.sources, None).map_err(|error| invalid(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| refused(ErrorCode::Internal, &error))?;
    let said = runtime.block_on(async {
        let fetcher = Fetcher::new(FetchConfig { patience: Patience::once(TIME), ..sources })?;
        timeout(TIME, fetcher.glimpse(&asked.source, Trust::Admin, asked.credentials.as_ref()))
            .await
            .unwrap_or_else(|_| Err(FetchError::Unavailable(format!("not read within {TIME:?}"))))
    });
    // A mount that hangs is not waited for.
    runtime.shutdown_background();
    said.map(Into::into).map_err(|error: FetchError| refused(error.code(), &error))
}

/// What is asked: by the arguments, or by `input`.
fn request(args: &InspectArgs, input: &mut dyn Read) -> Result<InspectRequest, String> {
    if args.source != FROM_INPUT {
        return Ok(InspectRequest {
            source: args.source.clone(),
            revision: args.revision.clone(),
            credentials: args.secret.as_ref().map(ToString::to_string),
        });
    }
    for (flag, given) in [("--secret", args.secret.is_some()), ("--revision", args.revision.is_some())] {
        if given {
            return Err(format!("{flag}: expected it in the request on standard input, got it as a flag"));
        }
    }
    let mut text = Vec::new();
    let read = input.take(MAX_REQUEST as u64 + 1).read_to_end(&mut text);
    read.map_err(|error| format!("standard input: {error}"))?;
    if text.len() > MAX_REQUEST {
        return Err(format!("standard input: expected at most {MAX_REQUEST} bytes, got more"));
    }
    serde_json::from_slice(&text).map_err(|error| format!("standard input: expected a request: {error}"))
}
