//! The command line as checked: what is true before a file is loaded or a port is bound. Opens nothing but keys and
//! certificates; reads no environment.

mod admin;
mod inspector;
pub mod size;
mod sources;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::adapters::name;
use crate::args::{CapacityArgs, KvType, LimitArgs, Quantize, ServeArgs};
use crate::digest::Digest;
use crate::http::auth::{KeyFileError, Keys};
use crate::http::limits::Limits;
use crate::http::tls::TlsError;
use crate::source::config::FetchConfig;
use crate::source::credentials::SecretName;
use crate::source::{InvalidSource, Source};

pub use admin::AdminFace;
pub use inspector::InspectorConfig;
pub use sources::sources;

/// What a replica serves, where, within which bounds.
pub struct Config {
    /// The base model.
    pub model: BaseConfig,
    /// Its adapters.
    pub adapters: AdapterConfig,
    /// Where files from elsewhere come from.
    pub sources: FetchConfig,
    /// Memory, queue and batch.
    pub capacity: Capacity,
    /// The public face.
    pub public: PublicFace,
    /// The admin face, where there is one.
    pub admin: Option<AdminFace>,
    /// What a caller may ask for.
    pub limits: Limits,
    /// Bytes of a body on the admin face.
    pub admin_body_bytes: usize,
    /// A busy engine that begins no step for so long is stuck.
    pub stuck_after: Duration,
    /// How long requests may still take when it stops, or when their adapter's name has left what they run on.
    pub drain: Duration,
    /// It stops when standard input ends, too.
    pub until_stdin_closes: bool,
}

/// The base model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseConfig {
    /// Where its files are.
    pub source: Source,
    /// The Secret that opens the source.
    pub credentials: Option<SecretName>,
    /// What their content must be.
    pub digest: Option<Digest>,
    /// The name that requests use.
    pub name: String,
    /// Quantized while loading.
    pub quantize: Option<Quantize>,
    /// Tokens of a sequence at most; `None` for what the model was trained for.
    pub max_length: Option<usize>,
    /// Threads that compute.
    pub threads: NonZeroUsize,
}

/// The adapters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterConfig {
    /// Those of the command line: name and source.
    pub named: Vec<(String, String)>,
    /// A folder of adapters.
    pub directory: Option<PathBuf>,
    /// A folder of files that name adapters until the first desired set comes.
    pub registry: Option<PathBuf>,
    /// Greatest rank.
    pub max_rank: u32,
    /// Greatest weights file.
    pub max_bytes: u64,
    /// Names that may be registered.
    pub max_count: usize,
    /// Bytes in host memory.
    pub host_bytes: u64,
    /// How long a start waits for pinned ones.
    pub pinned_wait: Duration,
    /// A demand that is reported is lower when it has stayed so for this long.
    pub demand_calm: Duration,
}

/// Memory, queue and batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes of the KV cache; `None` to be computed from the model.
    pub kv_bytes: Option<u64>,
    /// How keys and values are kept.
    pub kv_type: KvType,
    /// Bytes of resident adapters.
    pub resident_bytes: u64,
    /// Sequences that run.
    pub max_sequences: usize,
    /// Requests that wait.
    pub max_queue: usize,
    /// Tokens of a step.
    pub max_step_tokens: usize,
    /// Equal prefixes share their keys and values.
    pub prefix_cache: bool,
}

/// The public face.
pub struct PublicFace {
    /// Where.
    pub listen: SocketAddr,
    /// Who may ask.
    pub keys: Keys,
    /// On `/metrics` too.
    pub metrics_need_key: bool,
}

/// A command line that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value outside its range.
    #[error("{flag}: expected {expected}, got {got}")]
    Invalid {
        /// The flag.
        flag: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// A face that everybody could open.
    #[error("--admin-listen {listen}: {why}")]
    OpenAdmin {
        /// Where it would listen.
        listen: SocketAddr,
        /// What to do.
        why: &'static str,
    },
    /// A key file.
    #[error("--{flag}: {source}")]
    Keys {
        /// The flag.
        flag: &'static str,
        /// Why.
        source: KeyFileError,
    },
    /// A certificate or key.
    #[error("--admin-tls-cert, --admin-tls-key: {0}")]
    Tls(#[from] TlsError),
    /// A model's source or revision.
    #[error("--model, --model-revision: {0}")]
    Model(#[from] InvalidSource),
}

impl Config {
    /// Checks what was typed.
    ///
    /// # Errors
    /// The first [`ConfigError`]: it names the flag, what was expected and what came.
    pub fn check(args: ServeArgs) -> Result<Self, ConfigError> {
        let admin = admin::optional(args.admin_listen, &args.admin)?;
        let keys = match &args.api_keys_file {
            None => Keys::open(),
            Some(path) => {
                let flag = "api-keys-file";
                Keys::from_file(path).map_err(|source| ConfigError::Keys { flag, source })?
            }
        };
        let name = args.served_name.clone().unwrap_or_else(|| last_part(&args.model).to_owned());
        let named = args.adapters.iter().map(|text| named(text, &name)).collect::<Result<Vec<_>, _>>()?;
        let mut names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(invalid("--adapter", "each name once", pair[0]));
        }
        Ok(Self {
            model: BaseConfig {
                source: Source::parse(&args.model, args.model_revision.as_deref())?,
                credentials: args.model_credentials,
                digest: args.model_digest,
                name: check_name("--served-name", &name)?,
                quantize: args.quantize,
                max_length: at_least("--max-model-length", args.max_model_length, 2)?,
                threads: args.threads.unwrap_or_else(cores),
            },
            sources: sources(&args.sources, Some(&args.cache))?,
            adapters: AdapterConfig {
                named,
                directory: args.adapters_dir,
                registry: args.registry,
                max_rank: range("--max-rank", args.max_rank as usize, 1, 65_536).map(|_| args.max_rank)?,
                max_bytes: args.max_adapter_bytes.0,
                max_count: range("--max-adapters", args.max_adapters, 0, 1 << 24)?,
                host_bytes: args.capacity.host_memory.0,
                pinned_wait: Duration::from_secs(args.pinned_wait),
                demand_calm: Duration::from_secs(args.demand_calm),
            },
            capacity: capacity(&args.capacity)?,
            public: PublicFace { listen: args.listen, keys, metrics_need_key: args.metrics_need_key },
            admin,
            limits: limits(&args.limits, args.capacity.max_queue)?,
            admin_body_bytes: bytes("--max-admin-body", args.limits.max_admin_body, 1 << 10, 1 << 30)?,
            stuck_after: seconds("--stuck-after", args.limits.stuck_after)?,
            drain: seconds_from(0, "--drain-seconds", args.capacity.drain_seconds)?,
            until_stdin_closes: args.capacity.until_stdin_closes,
        })
    }
}

impl Config {
    /// The admin face's bounds.
    #[must_use]
    pub fn admin_limits(&self) -> Limits {
        Limits { body_bytes: self.admin_body_bytes, ..self.limits.clone() }
    }
}

/// `NAME=SRC`.
fn named(text: &str, base: &str) -> Result<(String, String), ConfigError> {
    match text.split_once('=') {
        Some((name, source)) if !source.is_empty() => {
            let name = check_name("--adapter", name)?;
            if name == base {
                return Err(invalid("--adapter", "a name other than the base model's", &name));
            }
            Ok((name, source.to_owned()))
        }
        _ => Err(invalid("--adapter", "NAME=SRC", text)),
    }
}

fn check_name(flag: &'static str, given: &str) -> Result<String, ConfigError> {
    if name::is_valid(given) { Ok(given.to_owned()) } else { Err(invalid(flag, name::EXPECTED, given)) }
}

/// The last part of a source, without an ending or a revision: a name to call the model by.
fn last_part(source: &str) -> &str {
    let trimmed = source.trim_end_matches('/');
    let last = trimmed.rsplit('/').next().unwrap_or(trimmed);
    let last = last.split('?').next().unwrap_or(last);
    let last = if source.contains("://") { last.split('@').next().unwrap_or(last) } else { last };
    last.strip_suffix(".gguf").unwrap_or(last)
}

fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

fn capacity(args: &CapacityArgs) -> Result<Capacity, ConfigError> {
    Ok(Capacity {
        kv_bytes: args.kv_memory.map(|size| size.0),
        kv_type: args.kv_dtype,
        resident_bytes: args.adapter_memory.0,
        max_sequences: range("--max-sequences", args.max_sequences, 1, 4096)?,
        max_queue: range("--max-queue", args.max_queue, 1, 1 << 20)?,
        max_step_tokens: range("--max-step-tokens", args.max_step_tokens, 1, 1 << 16)?,
        prefix_cache: !args.no_prefix_cache,
    })
}

fn limits(args: &LimitArgs, queue: usize) -> Result<Limits, ConfigError> {
    Ok(Limits {
        body_bytes: bytes("--max-body", args.max_body, 1 << 10, 1 << 30)?,
        body_time: seconds("--body-timeout", args.body_timeout)?,
        head_time: seconds("--header-timeout", args.header_timeout)?,
        write_time: seconds("--write-timeout", args.write_timeout)?,
        header_bytes: bytes("--max-header", args.max_header, 1 << 10, 1 << 20)?,
        headers: range("--max-headers", args.max_headers, 8, 1000)?,
        uri_bytes: bytes("--max-uri", args.max_uri, 64, 60 << 10)?,
        connections: range("--max-connections", args.max_connections, 1, 1 << 20)?,
        choices: u32::try_from(range("--max-choices", args.max_choices as usize, 1, 1024)?).unwrap_or(1),
        prompts: range("--max-prompts", args.max_prompts, 1, 1 << 16)?,
        // More could never all wait: such a body would be told to come again for ever.
        sequences: range("--max-body-sequences", args.max_body_sequences, 1, 1 << 16)?.min(queue),
        messages: range("--max-messages", args.max_messages, 1, 1 << 20)?,
        stop_strings: range("--max-stop", args.max_stop, 0, 1024)?,
        stop_bytes: bytes("--max-stop-bytes", args.max_stop_bytes, 1, 1 << 20)?,
        stop_ids: range("--max-stop-ids", args.max_stop_ids, 0, 1 << 16)?,
        logprobs: u32::try_from(range("--max-logprobs", args.max_logprobs as usize, 0, 1024)?).unwrap_or(0),
        logit_bias: range("--max-logit-bias", args.max_logit_bias, 0, 1 << 20)?,
        request_time: seconds("--request-timeout", args.request_timeout)?,
    })
}

fn bytes(flag: &'static str, size: size::Size, low: usize, high: usize) -> Result<usize, ConfigError> {
    range(flag, usize::try_from(size.0).unwrap_or(usize::MAX), low, high)
}

fn seconds(flag: &'static str, value: u64) -> Result<Duration, ConfigError> {
    seconds_from(1, flag, value)
}

fn seconds_from(low: usize, flag: &'static str, value: u64) -> Result<Duration, ConfigError> {
    const YEAR: usize = 366 * 24 * 3600;
    range(flag, usize::try_from(value).unwrap_or(usize::MAX), low, YEAR)?;
    Ok(Duration::from_secs(value))
}

fn at_least(flag: &'static str, value: Option<usize>, low: usize) -> Result<Option<usize>, ConfigError> {
    value.map(|value| range(flag, value, low, 1 << 24)).transpose()
}

fn range(flag: &'static str, value: usize, low: usize, high: usize) -> Result<usize, ConfigError> {
    if (low..=high).contains(&value) {
        Ok(value)
    } else {
        Err(invalid(flag, &format!("{low} to {high}"), &value.to_string()))
    }
}

fn invalid(flag: &'static str, expected: &str, got: &str) -> ConfigError {
    ConfigError::Invalid { flag, expected: expected.to_owned(), got: got.to_owned() }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn check(arguments: &str) -> Result<Config, String> {
        let line =
            ["lorikeet", "serve", "--model", "/models/tiny"].into_iter().chain(arguments.split_whitespace());
        match Cli::try_parse_from(line).map_err(|error| error.to_string())?.command {
            Command::Serve(args) => Config::check(*args).map_err(|error| error.to_string()),
            Command::Inspect(_) | Command::Inspector(_) => Err("not serve".into()),
        }
    }

    #[test]
    fn the_defaults_serve_on_loopback_without_an_admin_face() {
        let config = check("").unwrap();
        assert!(config.public.listen.ip().is_loopback());
        assert!(config.admin.is_none());
        assert_eq!(config.model.name, "tiny");
        assert_eq!(config.limits, Limits::default());
    }

    #[test]
    fn a_model_is_called_by_the_last_part_of_its_source() {
        for (source, name) in [
            ("hf://acme/base@main", "base"),
            ("/a/b/", "b"),
            ("/a/model-q4.gguf", "model-q4"),
            ("https://x/y.gguf?sig=1", "y"),
            ("tiny", "tiny"),
        ] {
            assert_eq!(last_part(source), name);
        }
    }

    #[test]
    fn an_admin_face_that_everybody_could_open_is_refused() {
        for (arguments, why) in [
            ("--admin-listen 127.0.0.1:0", "--admin-token-file"),
            ("--admin-listen 0.0.0.0:0 --admin-insecure", "loopback"),
            ("--admin-insecure", "--admin-listen"),
        ] {
            let error = check(arguments).err().unwrap();
            assert!(error.contains(why), "{arguments}: {error}");
        }
        assert!(check("--admin-listen 127.0.0.1:0 --admin-insecure").unwrap().admin.is_some());
    }

    #[test]
    fn a_token_does_not_go_in_the_clear_beyond_loopback() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "token").unwrap();
        let path = file.path().display();
        let error = check(&format!("--admin-listen 0.0.0.0:0 --admin-token-file {path}")).err().unwrap();
        assert!(error.contains("--admin-tls-cert"), "{error}");
        assert!(check(&format!("--admin-listen 127.0.0.1:0 --admin-token-file {path}")).is_ok());
    }

    #[test]
    fn a_value_that_cannot_be_names_its_flag_and_what_came() {
        for (arguments, message) in [
            ("--adapter sql", "--adapter: expected NAME=SRC, got sql"),
            ("--adapter tiny=/x", "--adapter: expected a name other than the base model's, got tiny"),
            ("--adapter a=/x --adapter a=/y", "--adapter: expected each name once, got a"),
            ("--max-sequences 0", "--max-sequences: expected 1 to 4096, got 0"),
            ("--request-timeout 0", "--request-timeout: expected 1 to 31622400, got 0"),
            ("--drain-seconds 31622401", "--drain-seconds: expected 0 to 31622400, got 31622401"),
            ("--max-model-length 1", "--max-model-length: expected 2 to 16777216, got 1"),
            ("--api-keys-file /nowhere", "--api-keys-file: /nowhere: No such file"),
            ("--model-revision v1", "--model-revision: revision: only a source of the hub"),
            ("--model-digest sha256:12", "expected sha256:<64 lower-case hex digits>, got \"sha256:12\""),
            ("--kv-memory 8apples", "expected a number of bytes such as 8GiB"),
            ("--model-credentials hf", "--credentials <DIR>"),
            ("--credentials /c --model-credentials ../x", "expected the name of a Secret"),
            ("--max-body 1", "--max-body: expected 1024 to 1073741824, got 1"),
        ] {
            let error = check(arguments).err().unwrap();
            assert!(error.contains(message), "{arguments}: {error}");
        }
    }
}
