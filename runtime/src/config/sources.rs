//! Where sources may lead: from flags and environment to what the fetcher takes.

use std::path::PathBuf;

use reqwest::Url;

use super::{ConfigError, invalid};
use crate::args::{CacheArgs, SourceArgs};
use crate::source::address::HostPolicy;
use crate::source::config::{FetchConfig, HubConfig, S3Config, Secret};

/// Checks what was typed. Without a cache nothing can be fetched, only looked into.
///
/// # Errors
/// [`ConfigError`] names the flag.
pub fn sources(args: &SourceArgs, cache: Option<&CacheArgs>) -> Result<FetchConfig, ConfigError> {
    let endpoint = |flag, text: &str| match text.parse::<Url>() {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(text.to_owned()),
        _ => Err(invalid(flag, "an http or https URL", text)),
    };
    let secret = |text: &Option<String>| text.as_ref().filter(|text| !text.is_empty()).map(Secret::new);
    if args.s3_access_key_id.is_some() != args.s3_secret_access_key.is_some() {
        return Err(invalid(
            "--s3-access-key-id",
            "together with --s3-secret-access-key",
            "one without the other",
        ));
    }
    let usual = FetchConfig::default();
    Ok(FetchConfig {
        source_roots: args.source_roots.clone(),
        hosts: HostPolicy { allow: args.allow_source_hosts.clone() },
        cache_dir: cache.map(cache_dir).unwrap_or_default(),
        cache_bytes: cache.map_or(usual.cache_bytes, |cache| cache.cache_bytes.0),
        credentials: args.credentials.clone(),
        hub: HubConfig {
            endpoint: endpoint("--hf-endpoint", &args.hf_endpoint)?,
            token: secret(&args.hf_token),
        },
        s3: S3Config {
            endpoint: args.s3_endpoint.as_deref().map(|url| endpoint("--s3-endpoint", url)).transpose()?,
            region: args.s3_region.clone(),
            access_key_id: args.s3_access_key_id.clone(),
            secret_access_key: secret(&args.s3_secret_access_key),
            session_token: secret(&args.s3_session_token),
        },
        ..usual
    })
}

/// Empty where nobody says where: then nothing can be fetched.
fn cache_dir(args: &CacheArgs) -> PathBuf {
    let user = args.xdg_cache_home.clone().or_else(|| args.home.as_ref().map(|home| home.join(".cache")));
    let own = || user.map(|user| user.join("lorikeet"));
    args.cache_dir.clone().or_else(own).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn of(flags: &[&str]) -> Result<FetchConfig, ConfigError> {
        let typed = ["lorikeet", "inspect", "/x", "--hf-endpoint", "https://hub"];
        let Command::Inspect(args) = Cli::try_parse_from(typed.iter().chain(flags)).unwrap().command else {
            panic!("inspect was typed");
        };
        sources(&args.sources, Some(&args.cache))
    }

    #[test]
    fn flags_become_what_the_fetcher_takes() {
        let config =
            of(&["--cache-dir", "/c", "--allow-source-host", "10.0.0.0/8", "--s3-endpoint", "http://s3:9"]);
        let config = config.unwrap();
        assert_eq!((config.cache_dir, config.hub.endpoint), (PathBuf::from("/c"), "https://hub".to_owned()));
        assert_eq!((config.hosts.allow.len(), config.s3.endpoint.as_deref()), (1, Some("http://s3:9")));
    }

    #[test]
    fn what_is_no_endpoint_is_refused_by_its_flag() {
        let error = of(&["--s3-endpoint", "s3.local"]).unwrap_err().to_string();
        assert!(error.contains("--s3-endpoint") && error.contains("s3.local"), "{error}");
        assert!(Cli::try_parse_from(["lorikeet", "inspect", "/x", "--allow-source-host", "a b"]).is_err());
    }
}
