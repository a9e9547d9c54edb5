//! `lorikeet inspect SRC --glimpse`: what an inspector would answer, once, for a machine that has none.

use std::time::Duration;

use lorikeet_api::InspectedSource;
use tokio::time::timeout;

use crate::args::InspectArgs;
use crate::config;
use crate::source::config::{FetchConfig, Patience};
use crate::source::error::FetchError;
use crate::source::fetch::Fetcher;
use crate::source::{Source, Trust};

/// How long a source may take: as an inspector's unless somebody says otherwise.
const TIME: Duration = Duration::from_secs(10);

/// What the source says, as one line of JSON.
///
/// # Errors
/// Why it cannot be read, as an inspector would say it.
pub fn glimpse(args: &InspectArgs) -> Result<String, String> {
    let source = Source::parse(&args.source, args.revision.as_deref()).map_err(|error| error.to_string())?;
    let sources = config::sources(&args.sources, None).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let said = runtime.block_on(async {
        let fetcher = Fetcher::new(FetchConfig { patience: Patience::once(TIME), ..sources })?;
        timeout(TIME, fetcher.glimpse(&source, Trust::Admin, args.secret.as_ref()))
            .await
            .unwrap_or_else(|_| Err(FetchError::Unavailable(format!("not read within {TIME:?}"))))
    });
    // A mount that hangs is not waited for.
    runtime.shutdown_background();
    let said: InspectedSource = said.map_err(|error| error.to_string())?.into();
    serde_json::to_string(&said).map_err(|error| error.to_string())
}
