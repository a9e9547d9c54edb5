//! The command line as typed. Its comments are the manual. The only file that reads the environment.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::size::Size;
use crate::digest::Digest;
use crate::source::address::HostRule;
use crate::source::credentials::SecretName;

/// Serves one base model and hundreds of its LoRA adapters, mixed in one batch.
///
/// Clients speak OpenAI's API (`/v1/completions`, `/v1/chat/completions`, the adapter as `model`) or LoRAX's
/// (`/generate`, the adapter as `adapter_id`).
#[derive(Debug, Parser)]
#[command(name = "lorikeet", version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load a model, serve it and its adapters, and drain at SIGTERM.
    Serve(Box<ServeArgs>),
    /// Print what a model or an adapter is, and why it would be refused.
    Inspect(Box<InspectArgs>),
    /// Tell over HTTP what adapters' sources say of themselves, without fetching their weights. Loads no model.
    Inspector(Box<InspectorArgs>),
}

/// What to look at.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A model or an adapter: a directory, a .gguf file, hf://OWNER/NAME, s3://BUCKET/KEY or https://…
    /// With --glimpse, - reads {"source": …, "revision": …, "credentials": …} from standard input, which other users do not see.
    #[arg(value_name = "SRC")]
    pub source: String,
    /// The base model that an adapter is checked against.
    #[arg(long, value_name = "SRC")]
    pub model: Option<String>,
    /// Greatest rank of an adapter.
    #[arg(long, value_name = "RANK", default_value_t = 256)]
    pub max_rank: u32,
    /// Greatest weights file of an adapter.
    #[arg(long, value_name = "BYTES", default_value = "8GiB")]
    pub max_adapter_bytes: Size,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Fetch nothing: print the text of an adapter's configuration and the size of its weights, or code and message of a refusal, as
    /// one line of JSON. SRC may lead where the admin API lets one: paths below --source-root, public hosts and those of --allow-source-host.
    #[arg(long, conflicts_with_all = ["model", "json"])]
    pub glimpse: bool,
    /// With --glimpse: the Secret of --credentials that opens SRC.
    #[arg(long, value_name = "NAME", requires_all = ["glimpse", "credentials"])]
    pub secret: Option<SecretName>,
    /// With --glimpse: the revision of a source of the hub.
    #[arg(long, value_name = "REVISION", requires = "glimpse")]
    pub revision: Option<String>,
    /// Where files from elsewhere are fetched from.
    #[command(flatten)]
    pub sources: SourceArgs,
    /// Where they are kept.
    #[command(flatten)]
    pub cache: CacheArgs,
}

/// Who may ask what sources say, and where sources may lead.
#[derive(Debug, Args)]
pub struct InspectorArgs {
    /// The face that is asked: POST /admin/v1/inspect. [::]:PORT listens on every address, of IPv4 and IPv6.
    #[arg(long, value_name = "HOST:PORT", value_parser = address, help_heading = "Faces")]
    pub admin_listen: SocketAddr,
    /// Who may ask there.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Where sources may lead.
    #[command(flatten)]
    pub sources: SourceArgs,
    /// Sources that are read at a time.
    #[arg(long, value_name = "N", default_value_t = 4, help_heading = "Limits")]
    pub concurrent: usize,
    /// Time for a source; then 504. Whoever waits as long for another source's end is answered 429.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, help_heading = "Limits")]
    pub inspect_seconds: u64,
    /// Stop, as at SIGTERM, when standard input ends: the process that holds its other end is gone.
    #[arg(long)]
    pub until_stdin_closes: bool,
    /// How it tells what it does.
    #[command(flatten)]
    pub log: LogArgs,
}

/// What to serve, where, within which bounds.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The base model: a directory in Hugging Face's layout, a .gguf file, hf://OWNER/NAME, s3://BUCKET/KEY or https://…
    #[arg(long, env = "LORIKEET_MODEL", value_name = "SRC", help_heading = "Model")]
    pub model: String,
    /// The revision of a model of the hub: a branch, a tag or a commit.
    #[arg(long, value_name = "REVISION", help_heading = "Model")]
    pub model_revision: Option<String>,
    /// Pins the model's content: sha256: and 64 hex digits, as `lorikeet inspect` and the admin API name it. Any other
    /// content is refused.
    #[arg(long, value_name = "DIGEST", help_heading = "Model")]
    pub model_digest: Option<Digest>,
    /// The Secret of --credentials that opens the model's source.
    #[arg(long, value_name = "NAME", requires = "credentials", help_heading = "Model")]
    pub model_credentials: Option<SecretName>,
    /// The name that requests use for the base model. Default: the last part of the source.
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    pub served_name: Option<String>,
    /// Quantize the weights while loading. GGUF files keep their own types.
    #[arg(long, value_name = "TYPE", help_heading = "Model")]
    pub quantize: Option<Quantize>,
    /// Tokens of a sequence, prompt and output. Default: what the model was trained for, at most 32768.
    #[arg(long, value_name = "TOKENS", help_heading = "Model")]
    pub max_model_length: Option<usize>,
    /// Threads that compute. Default: one a core.
    #[arg(long, env = "LORIKEET_THREADS", value_name = "N", value_parser = at_least_one, help_heading = "Model")]
    pub threads: Option<NonZeroUsize>,

    /// An adapter under a name. May be given again.
    #[arg(long = "adapter", value_name = "NAME=SRC", help_heading = "Adapters")]
    pub adapters: Vec<String>,
    /// Every directory in this one is an adapter under its own name. One that is refused is reported and does not keep
    /// the rest from being served.
    #[arg(long = "adapters", value_name = "DIR", help_heading = "Adapters")]
    pub adapters_dir: Option<PathBuf>,
    /// Every .json file in this directory names adapters, `{"adapters": [{"name": …, "source": …}]}`: they are served
    /// until the first desired set comes over the admin API. One that cannot be read is reported and does not keep the
    /// rest from being served.
    #[arg(long, value_name = "DIR", help_heading = "Adapters")]
    pub registry: Option<PathBuf>,
    /// A start waits so long for adapters that are pinned, then takes requests without those whose source does not answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, help_heading = "Adapters")]
    pub pinned_wait: u64,
    /// The demand of an adapter that is reported falls when it has stayed lower for so long: bursts come and go.
    #[arg(
        long,
        env = "LORIKEET_DEMAND_CALM",
        value_name = "SECONDS",
        default_value_t = 60,
        help_heading = "Adapters"
    )]
    pub demand_calm: u64,
    /// Greatest rank of an adapter.
    #[arg(long, value_name = "RANK", default_value_t = 256, help_heading = "Adapters")]
    pub max_rank: u32,
    /// Greatest weights file of an adapter.
    #[arg(long, value_name = "BYTES", default_value = "8GiB", help_heading = "Adapters")]
    pub max_adapter_bytes: Size,
    /// Names that may be registered.
    #[arg(long, value_name = "N", default_value_t = 100_000, help_heading = "Adapters")]
    pub max_adapters: usize,
    /// Where files from elsewhere are fetched from.
    #[command(flatten)]
    pub sources: SourceArgs,
    /// Where they are kept.
    #[command(flatten)]
    pub cache: CacheArgs,

    /// The public face: OpenAI's and LoRAX's API. [::]:PORT listens on every address, of IPv4 and IPv6.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080", value_parser = address, help_heading = "Faces")]
    pub listen: SocketAddr,
    /// The admin face: adapters are loaded and unloaded here. Absent: there is none.
    #[arg(long, value_name = "HOST:PORT", value_parser = address, help_heading = "Faces")]
    pub admin_listen: Option<SocketAddr>,
    /// Who may use the admin face.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// API keys of the public face, one a line, `#` for comments. Read anew when it changes. Each key has a prefix cache
    /// of its own. Absent: everybody may ask.
    #[arg(long, value_name = "FILE", help_heading = "Faces")]
    pub api_keys_file: Option<PathBuf>,
    /// Ask for a key on the public face's /metrics too: it names adapters.
    #[arg(long, requires = "api_keys_file", help_heading = "Faces")]
    pub metrics_need_key: bool,

    /// Memory, queue and batch.
    #[command(flatten)]
    pub capacity: CapacityArgs,
    /// What a caller may ask for.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// How it tells what it does.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Who may use the admin face.
#[derive(Debug, Args)]
#[command(next_help_heading = "Faces")]
pub struct AdminArgs {
    /// The admin face's bearer token is this file's content.
    #[arg(long, value_name = "FILE", conflicts_with = "admin_insecure")]
    pub admin_token_file: Option<PathBuf>,
    /// The admin face's certificate chain (PEM). Needed beyond loopback. Read anew, with its key, when it changes.
    #[arg(long, value_name = "FILE", requires = "admin_tls_key")]
    pub admin_tls_cert: Option<PathBuf>,
    /// The admin face's private key (PEM).
    #[arg(long, value_name = "FILE", requires = "admin_tls_cert")]
    pub admin_tls_key: Option<PathBuf>,
    /// No token and no TLS on the admin face. Only on a loopback address.
    #[arg(long)]
    pub admin_insecure: bool,
}

/// Memory, queue and batch.
#[derive(Debug, Args)]
#[command(next_help_heading = "Capacity")]
pub struct CapacityArgs {
    /// Bytes of the KV cache. Default: enough for --max-sequences full sequences, at most a quarter of the memory that is
    /// free.
    #[arg(long, value_name = "BYTES")]
    pub kv_memory: Option<Size>,
    /// How keys and values are kept. auto: f16 beside quantized weights, else f32.
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    pub kv_dtype: KvType,
    /// Bytes of adapters that are resident for the next step.
    #[arg(long, value_name = "BYTES", default_value = "8GiB")]
    pub adapter_memory: Size,
    /// Bytes of checked adapters in host memory.
    #[arg(long, value_name = "BYTES", default_value = "16GiB")]
    pub host_memory: Size,
    /// Sequences that run at a time.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_sequences: usize,
    /// Requests that wait at a time; one more is answered 429.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_queue: usize,
    /// Tokens of one step: decoding sequences first, prompts in the rest.
    #[arg(long, value_name = "TOKENS", default_value_t = 256)]
    pub max_step_tokens: usize,
    /// Do not share the keys and values of equal prefixes.
    #[arg(long)]
    pub no_prefix_cache: bool,
    /// How long requests may still take: from SIGTERM all, from the removal of an adapter those on it, from a swap those on
    /// the former content. Those that take longer end with an error.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub drain_seconds: u64,
    /// Stop, as at SIGTERM, when standard input ends: the process that holds its other end is gone.
    #[arg(long)]
    pub until_stdin_closes: bool,
}

/// What a caller may ask for.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// From a request's arrival to its last token; then 504.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub request_timeout: u64,
    /// Time for a request's head, and between two requests of a connection.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub header_timeout: u64,
    /// Time for a request's body; then 408.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub body_timeout: u64,
    /// Time that an answer may wait for its client to read on; then the connection ends.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub write_timeout: u64,
    /// Bytes of a body; more is 413.
    #[arg(long, value_name = "BYTES", default_value = "4MiB")]
    pub max_body: Size,
    /// Bytes of a body on the admin face: a whole desired set may be long.
    #[arg(long, value_name = "BYTES", default_value = "64MiB")]
    pub max_admin_body: Size,
    /// Bytes of all headers; more is 431.
    #[arg(long, value_name = "BYTES", default_value = "32KiB")]
    pub max_header: Size,
    /// Number of headers; more is 431.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub max_headers: usize,
    /// Bytes of the request target; more is 414.
    #[arg(long, value_name = "BYTES", default_value = "8KiB")]
    pub max_uri: Size,
    /// Connections at a time.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub max_connections: usize,
    /// Choices of a prompt (n).
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub max_choices: u32,
    /// Prompts of a body.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_prompts: usize,
    /// Sequences of a body, choices times prompts; never more than --max-queue.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_body_sequences: usize,
    /// Messages of a chat.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub max_messages: usize,
    /// Stop strings of a body.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub max_stop: usize,
    /// Bytes of a stop string.
    #[arg(long, value_name = "BYTES", default_value = "1KiB")]
    pub max_stop_bytes: Size,
    /// Token ids in stop_token_ids.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_stop_ids: usize,
    /// Entries of logit_bias.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_logit_bias: usize,
    /// Log-probabilities of one place.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub max_logprobs: u32,
    /// Seconds after which a busy engine that makes no step counts as stuck: /health turns 503.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub stuck_after: u64,
}

/// How it tells what it does.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// The form of a line.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// What is logged: a level, or tracing's directives (lorikeet_runtime::engine=debug,info).
    #[arg(long, env = "LORIKEET_LOG", value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
}

/// Where fetched files are kept.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sources")]
pub struct CacheArgs {
    /// Where fetched files are kept, by digest. Default: lorikeet in the user's cache directory.
    #[arg(long, env = "LORIKEET_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Bytes of fetched files that are kept.
    #[arg(long, value_name = "BYTES", default_value = "50GiB")]
    pub cache_bytes: Size,
    /// The user's cache directory.
    #[arg(long, env = "XDG_CACHE_HOME", hide = true)]
    pub xdg_cache_home: Option<PathBuf>,
    /// The user's home directory.
    #[arg(long, env = "HOME", hide = true)]
    pub home: Option<PathBuf>,
}

/// Where files from elsewhere are fetched from.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sources")]
pub struct SourceArgs {
    /// Over the admin API and in --registry, adapters may be read from paths below this directory, and from no other path. May
    /// be given again.
    #[arg(long = "source-root", value_name = "DIR")]
    pub source_roots: Vec<PathBuf>,
    /// A folder of Secrets: a sub-folder for each, whose files are its keys, read anew for each fetch. A source that names a
    /// Secret is opened with it alone: hf:// and https:// with its `token` (or HF_TOKEN), s3:// with its `access-key-id` and
    /// `secret-access-key`, and `session-token`, `region`, `endpoint` where it has them (or AWS_ACCESS_KEY_ID,
    /// AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL).
    #[arg(long, value_name = "DIR")]
    pub credentials: Option<PathBuf>,
    /// The Hugging Face hub.
    #[arg(long, env = "HF_ENDPOINT", value_name = "URL", default_value = "https://huggingface.co")]
    pub hf_endpoint: String,
    /// The hub's token. Better from the environment: others can see a command line.
    #[arg(long, env = "HF_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub hf_token: Option<String>,
    /// An S3 endpoint other than Amazon's.
    #[arg(long, env = "AWS_ENDPOINT_URL", value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// The region of s3:// sources.
    #[arg(long, env = "AWS_REGION", value_name = "REGION")]
    pub s3_region: Option<String>,
    /// S3 access key. Better from the environment.
    #[arg(long, env = "AWS_ACCESS_KEY_ID", hide_env_values = true, value_name = "ID")]
    pub s3_access_key_id: Option<String>,
    /// S3 secret. Better from the environment.
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY", hide_env_values = true, value_name = "SECRET")]
    pub s3_secret_access_key: Option<String>,
    /// S3 session token. Better from the environment.
    #[arg(long, env = "AWS_SESSION_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub s3_session_token: Option<String>,
    /// A host or network that https:// sources named over the admin API may reach though its address is not public; plain
    /// http:// as well. HOST, HOST:PORT or ADDRESS/BITS; may be given again.
    #[arg(long = "allow-source-host", value_name = "HOST")]
    pub allow_source_hosts: Vec<HostRule>,
}

/// An address to listen on; `[::]` is every address, of IPv4 too. The host may be a name: of several addresses that of IPv4 is meant, which everybody tries.
fn address(text: &str) -> Result<SocketAddr, String> {
    let found: Vec<SocketAddr> =
        text.to_socket_addrs().map_err(|error| format!("expected HOST:PORT: {error}"))?.collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| "expected HOST:PORT: the name has no address".to_owned())
}

fn at_least_one(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "expected a whole number, 1 or more".to_owned())
}

/// A type to quantize to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Quantize {
    /// 8 bits, blocks of 32.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 bits, blocks of 256.
    #[value(name = "q4_k")]
    Q4K,
}

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KvType {
    /// f16 beside quantized weights, else f32.
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits.
    F16,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_address_may_be_a_name() {
        assert_eq!(address("localhost:9100"), Ok(SocketAddr::from(([127, 0, 0, 1], 9100))));
        assert_eq!(address("[::1]:1").map(|address| address.port()), Ok(1));
        for odd in ["9100", "localhost", "localhost:x", ""] {
            assert!(address(odd).unwrap_err().starts_with("expected HOST:PORT"), "{odd}");
        }
        assert!(at_least_one("0").is_err());
    }

    #[test]
    fn a_secret_of_the_environment_is_not_shown_by_the_manual() {
        let help = Cli::command().find_subcommand_mut("serve").unwrap().render_long_help().to_string();
        assert!(help.contains("[env: HF_TOKEN]"), "{help}");
    }
}
