//! The inspector's command line as checked.

use std::time::Duration;

use super::{AdminFace, ConfigError, admin, range, sources};
use crate::args::InspectorArgs;
use crate::source::config::{FetchConfig, Patience};

/// Places for reads of folders, for one source that is read at a time: as many may hang before folders are refused.
const FOLDERS: usize = 2;

/// What an inspector answers, where, within which bounds.
pub struct InspectorConfig {
    /// Its one face.
    pub face: AdminFace,
    /// Where sources may lead.
    pub sources: FetchConfig,
    /// Sources that are read at a time.
    pub concurrent: usize,
    /// How long one may take.
    pub time: Duration,
    /// It stops when standard input ends, too.
    pub until_stdin_closes: bool,
}

impl InspectorConfig {
    /// Checks what was typed.
    ///
    /// # Errors
    /// The first [`ConfigError`]: it names the flag, what was expected and what came.
    pub fn check(args: &InspectorArgs) -> Result<Self, ConfigError> {
        let seconds = usize::try_from(args.inspect_seconds).unwrap_or(usize::MAX);
        let time = Duration::from_secs(range("--inspect-seconds", seconds, 1, 60)? as u64);
        let sources = sources(&args.sources, None)?;
        let concurrent = range("--concurrent", args.concurrent, 1, 64)?;
        Ok(Self {
            face: admin::face(args.admin_listen, &args.admin)?,
            // Whoever asks asks again: a source that does not answer is not waited for twice.
            sources: FetchConfig { patience: Patience::once(time), folders: FOLDERS * concurrent, ..sources },
            concurrent,
            time,
            until_stdin_closes: args.until_stdin_closes,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn check(flags: &str) -> Result<InspectorConfig, String> {
        let typed = ["lorikeet", "inspector"].into_iter().chain(flags.split_whitespace());
        match Cli::try_parse_from(typed).map_err(|error| error.to_string())?.command {
            Command::Inspector(args) => InspectorConfig::check(&args).map_err(|error| error.to_string()),
            Command::Serve(_) | Command::Inspect(_) => Err("not inspector".into()),
        }
    }

    #[test]
    fn it_has_a_face_and_no_cache() {
        let config =
            check("--admin-listen 127.0.0.1:0 --admin-insecure --source-root /a --source-root /b").unwrap();
        assert_eq!((config.concurrent, config.time), (4, Duration::from_secs(10)));
        assert_eq!(config.sources.patience.tries, 1);
        assert!(config.sources.cache_dir.as_os_str().is_empty() && config.sources.source_roots.len() == 2);
    }

    #[test]
    fn what_cannot_be_names_its_flag() {
        let open = "--admin-listen 127.0.0.1:0 --admin-insecure";
        for (flags, message) in [
            ("--admin-insecure", "--admin-listen <HOST:PORT>"),
            ("--admin-listen 127.0.0.1:0", "needs --admin-token-file"),
            ("--admin-listen 0.0.0.0:0 --admin-insecure", "for loopback addresses alone"),
            (&format!("{open} --concurrent 0"), "--concurrent: expected 1 to 64, got 0"),
            (&format!("{open} --concurrent 65"), "--concurrent: expected 1 to 64, got 65"),
            (&format!("{open} --inspect-seconds 0"), "--inspect-seconds: expected 1 to 60, got 0"),
            (&format!("{open} --inspect-seconds 61"), "--inspect-seconds: expected 1 to 60, got 61"),
            (&format!("{open} --hf-endpoint hub"), "--hf-endpoint: expected an http or https URL, got hub"),
            (&format!("{open} --cache-dir /x"), "unexpected argument '--cache-dir'"),
        ] {
            let error = check(flags).err().unwrap();
            assert!(error.contains(message), "{flags}: {error}");
        }
    }
}
