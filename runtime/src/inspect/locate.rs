//! What is to be inspected, brought here: a path as it is, the rest through the fetcher that serving uses.

use std::path::PathBuf;

use crate::args::InspectArgs;
use crate::config;
use crate::progress::Bars;
use crate::source::config::FetchConfig;
use crate::source::error::FetchError;
use crate::source::fetch::{Fetched, Fetcher};
use crate::source::{Source, Trust};

/// What is to be inspected. Cached files stay while this lives.
#[derive(Debug)]
pub struct Located {
    source: Fetched,
    model: Option<Fetched>,
}

impl Located {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.source.path()
    }

    /// Where the base model is that it is checked against.
    #[must_use]
    pub fn model(&self) -> Option<PathBuf> {
        self.model.as_ref().map(Fetched::path)
    }
}

/// Brings what is to be inspected here.
///
/// # Errors
/// Why it cannot be had, as serving would say it.
pub fn locate(args: &InspectArgs) -> Result<Located, String> {
    let sources = config::sources(&args.sources, Some(&args.cache)).map_err(|error| error.to_string())?;
    let progress = Some(Bars::new().downloads());
    let fetcher = Fetcher::new(FetchConfig { progress, ..sources }).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let source = either(&fetcher, &args.source).await?;
        let model = match &args.model {
            Some(text) => Some(model(&fetcher, text).await.map_err(|error| format!("--model: {error}"))?),
            None => None,
        };
        Ok(Located { source, model })
    })
}

/// The files say whether they are an adapter: a model has no `adapter_config.json`.
async fn either(fetcher: &Fetcher, text: &str) -> Result<Fetched, String> {
    let source = Source::parse(text, None).map_err(|error| error.to_string())?;
    if source.is_local() {
        return model(fetcher, text).await;
    }
    match fetcher.adapter(&source, Trust::CommandLine, None, None, u64::MAX).await {
        Err(FetchError::NotFound(_)) => model(fetcher, text).await,
        fetched => fetched.map_err(|error| error.to_string()),
    }
}

async fn model(fetcher: &Fetcher, text: &str) -> Result<Fetched, String> {
    let source = Source::parse(text, None).map_err(|error| error.to_string())?;
    fetcher.model(&source, None, None).await.map_err(|error| error.to_string())
}
