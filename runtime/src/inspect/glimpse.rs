//! `lorikeet inspect SRC --glimpse`: what an inspector would answer, once, for a machine that has none.

use std::fmt::Display;
use std::time::Duration;

use lorikeet_api::{ErrorCode, Failure, InspectedSource};
use tokio::time::timeout;

use crate::args::InspectArgs;
use crate::config;
use crate::source::config::{FetchConfig, Patience};
use crate::source::error::FetchError;
use crate::source::fetch::Fetcher;
use crate::source::{Source, Trust};

/// How long a source may take: as an inspector's unless somebody says otherwise.
const TIME: Duration = Duration::from_secs(10);

/// What the source says.
///
/// # Errors
/// Why it cannot be read, as an inspector would say it.
pub fn glimpse(args: &InspectArgs) -> Result<InspectedSource, Failure> {
    let refused = |code, error: &dyn Display| Failure { code, message: error.to_string() };
    let source = Source::parse(&args.source, args.revision.as_deref())
        .map_err(|error| refused(ErrorCode::InvalidRequest, &error))?;
    let sources =
        config::sources(&args.sources, None).map_err(|error| refused(ErrorCode::InvalidRequest, &error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| refused(ErrorCode::Internal, &error))?;
    let said = runtime.block_on(async {
        let fetcher = Fetcher::new(FetchConfig { patience: Patience::once(TIME), ..sources })?;
        timeout(TIME, fetcher.glimpse(&source, Trust::Admin, args.secret.as_ref()))
            .await
            .unwrap_or_else(|_| Err(FetchError::Unavailable(format!("not read within {TIME:?}"))))
    });
    // A mount that hangs is not waited for.
    runtime.shutdown_background();
    said.map(Into::into).map_err(|error: FetchError| refused(error.code(), &error))
}
