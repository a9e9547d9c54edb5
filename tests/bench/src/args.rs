//! Flags and environment, as typed. The only file that reads them; `scenario.rs` makes a checked scenario of them.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Loads a server with requests for many adapters and measures what users feel: throughput, time to first token,
/// time between tokens, total time.
///
/// The environment names of the LoRA Land report's k6 script are defaults, so its settings can be used as they are.
#[derive(Clone, Debug, Parser)]
#[command(name = "lorikeet-bench", version, max_term_width = 110)]
pub(crate) struct Args {
    /// The server, as http://127.0.0.1:8080. Default: the k6 script's gateway, else http://127.0.0.1:8080
    #[arg(long)]
    pub(crate) url: Option<String>,
    /// What the server speaks
    #[arg(long, value_enum, default_value_t = Speaks::Completions)]
    pub(crate) protocol: Speaks,
    /// The base model's name, asked for where a request takes no adapter
    #[arg(long, env = "DEPLOYMENT_NAME", default_value = "base")]
    pub(crate) model: String,
    /// Adapter names, comma separated; `-` among them is the base model, `all` alone is every model of /v1/models but
    /// --model. llama.cpp knows adapters by their place in this list. None: base model only
    #[arg(long, value_delimiter = ',')]
    pub(crate) adapters: Vec<String>,
    /// Choose adapters by Zipf's law with this exponent, the first the most often. Default: all alike
    #[arg(long)]
    pub(crate) zipf: Option<f64>,

    /// Users that each send one request after the other (a closed loop)
    #[arg(long, env = "CONCURRENT_REQUESTS", default_value_t = 1, conflicts_with = "rate")]
    pub(crate) users: usize,
    /// Requests a second at random times (Poisson arrivals, an open loop) in place of --users
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// What a user waits between an answer and the next request, in milliseconds
    #[arg(long, default_value_t = 0)]
    pub(crate) think_ms: u64,
    /// Stop after this many requests
    #[arg(long, conflicts_with = "duration")]
    pub(crate) requests: Option<usize>,
    /// Start requests for this many seconds; those that run are finished. Default when --requests is not given: 60
    #[arg(long)]
    pub(crate) duration: Option<f64>,
    /// Unmeasured requests before: how many times each adapter is asked for one token
    #[arg(long, default_value_t = 1)]
    pub(crate) warm_up: usize,

    /// Fewest words of a prompt
    #[arg(long, env = "NUM_INPUT_WORDS_LOWER_BOUND", default_value_t = 1)]
    pub(crate) min_words: usize,
    /// Most words of a prompt
    #[arg(long, env = "NUM_INPUT_WORDS_UPPER_BOUND", default_value_t = 20)]
    pub(crate) max_words: usize,
    /// Prompts of random token ids in place of words: how many, as 30 or 30-500 (completions and llama.cpp only)
    #[arg(long)]
    pub(crate) prompt_tokens: Option<String>,
    /// The ids that --prompt-tokens draws from are below this
    #[arg(long, default_value_t = 256)]
    pub(crate) vocabulary: u32,
    /// Take words from this text file in place of the built-in list
    #[arg(long)]
    pub(crate) text: Option<PathBuf>,
    /// Fewest tokens of an answer
    #[arg(long, env = "MAX_NEW_TOKENS_LOWER_BOUND", default_value_t = 90)]
    pub(crate) min_new_tokens: u32,
    /// Most tokens of an answer
    #[arg(long, env = "MAX_NEW_TOKENS_UPPER_BOUND", default_value_t = 110)]
    pub(crate) max_new_tokens: u32,
    /// Let answers end at the model's end token. Default: they go on to the length that was drawn
    #[arg(long)]
    pub(crate) stop_at_eos: bool,

    /// The same seed gives the same requests
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Give up on a request after this many seconds
    #[arg(long, default_value_t = 300.0)]
    pub(crate) timeout: f64,
    /// Sent as `Authorization: Bearer`
    #[arg(long, env = "AUTH_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Write the report as JSON to this file, `-` for standard output in place of the table
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Leave the table's rows of single adapters out
    #[arg(long)]
    pub(crate) total_only: bool,

    /// The k6 script's gateway: with TENANT and DEPLOYMENT_NAME it gives the server's address
    #[arg(long, env = "SERVING_GATEWAY", hide = true)]
    pub(crate) gateway: Option<String>,
    /// The k6 script's tenant
    #[arg(long, env = "TENANT", hide = true)]
    pub(crate) tenant: Option<String>,
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Speaks {
    /// OpenAI's /v1/completions; the adapter is the `model`
    Completions,
    /// OpenAI's /v1/chat/completions; the adapter is the `model`
    Chat,
    /// LoRAX's /generate_stream; the adapter is `adapter_id`
    Lorax,
    /// llama.cpp's /v1/completions; the adapter is `lora: [{id, scale}]`
    LlamaCpp,
}
