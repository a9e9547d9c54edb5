//! What a face asks of the engine and what the engine tells it: token ids in, token ids out. No text, no HTTP.

use std::num::NonZeroU32;
use std::time::Instant;

use tokio::sync::mpsc;

use crate::adapters::pin::Pin;
use crate::adapters::tenure::{Cause, Notice};

/// One sequence to generate. `n` choices of one prompt are `n` requests.
#[derive(Debug)]
pub struct Request {
    /// For logs, and for cancelling.
    pub id: RequestId,
    /// The prompt; never empty, every id below the vocabulary.
    pub prompt: Vec<u32>,
    /// The adapter, already held; `None` for the base model.
    pub adapter: Option<Pin>,
    /// Whose prefix cache it may share: tenants of different salts share nothing.
    pub salt: u64,
    /// Its tenant's share of a contended replica, relative to the others; 1 is usual. Requests of one `(salt, adapter)`
    /// share one account: the last weight counts.
    pub weight: NonZeroU32,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// When to stop.
    pub limits: Limits,
    /// Answered with [`Failure::DeadlineExceeded`] from this moment on.
    pub deadline: Option<Instant>,
    /// Where its events go. When the receiver is dropped the request is cancelled.
    pub events: mpsc::UnboundedSender<Event>,
}

/// A request's number, unique in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// How a token is chosen from a row of logits. The order is vLLM's: bias, penalties, temperature, min-p, top-k, top-p.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// 1 keeps all.
    pub top_p: f32,
    /// 0 keeps all.
    pub top_k: u32,
    /// 0 keeps all.
    pub min_p: f32,
    /// 0 is none; [-2, 2].
    pub presence_penalty: f32,
    /// 0 is none; [-2, 2].
    pub frequency_penalty: f32,
    /// 1 is none; over prompt and output.
    pub repetition_penalty: f32,
    /// Added to the logits of these ids, all below the vocabulary.
    pub logit_bias: Vec<(u32, f32)>,
    /// The stream of random numbers: the same seed and prompt give the same tokens.
    pub seed: u64,
    /// Log-probabilities wanted: `None`, or of the chosen token and of this many best.
    pub logprobs: Option<u32>,
    /// Log-probabilities of the prompt's tokens too, of this many best each.
    pub prompt_logprobs: Option<u32>,
}

impl Sampling {
    /// Always the likeliest token, nothing else asked for.
    #[must_use]
    pub const fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: 0,
            logprobs: None,
            prompt_logprobs: None,
        }
    }
}

/// When a sequence ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// At most this many tokens. 0: the prompt alone is run, for its log-probabilities.
    pub max_tokens: u32,
    /// No stop id before this many.
    pub min_tokens: u32,
    /// Do not stop at the model's own end ids.
    pub ignore_eos: bool,
    /// Further ids that end it.
    pub stop_token_ids: Vec<u32>,
}

/// One thing that happened to a request. The last is [`Event::Finished`] or [`Event::Failed`], always exactly one.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It runs for the first time (once; not again after a preemption).
    Started {
        /// Prompt tokens whose keys and values were found in the prefix cache.
        cached_tokens: u32,
    },
    /// Log-probabilities of prompt tokens, in order; entry 0 is the second token's.
    Prompt(Vec<TokenLogprobs>),
    /// One token.
    Token(Token),
    /// It ended as it should.
    Finished(FinishReason),
    /// It ended otherwise.
    Failed(Failure),
}

/// One generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its log-probabilities, where wanted.
    pub logprobs: Option<TokenLogprobs>,
}

/// The log-probability of a token and of the best ones in its place, from the raw logits.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token.
    pub id: u32,
    /// Its natural log-probability.
    pub logprob: f32,
    /// The place of the token among all, from 1.
    pub rank: u32,
    /// `(id, log-probability)` of the best, best first.
    pub top: Vec<(u32, f32)>,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// A stop id: the model's own end or one of the request's. The id was sent as the last [`Event::Token`].
    Stop(u32),
    /// `max_tokens` or the context's end.
    Length,
}

/// Why a request failed. The faces map it to a status in one place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Failure {
    /// The waiting queue is full.
    #[error("the queue is full: {waiting} requests wait, {limit} may")]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
        /// How many may.
        limit: usize,
    },
    /// The replica is draining and takes no new work, or its time to finish is up.
    #[error("the replica is draining")]
    Draining,
    /// Its adapter's name serves other content, and the time to finish on the former one is up.
    #[error(
        "the adapter was swapped: requests had {seconds} s to finish on its former content, and this one had not; \
         a new one is answered by the new content"
    )]
    AdapterSwapped {
        /// That time.
        seconds: u64,
    },
    /// Its adapter was removed, and the time to finish is up.
    #[error("the adapter was removed: requests had {seconds} s to finish, and this one had not")]
    AdapterRemoved {
        /// That time.
        seconds: u64,
    },
    /// The deadline passed.
    #[error("the request's deadline passed")]
    DeadlineExceeded,
    /// The prompt and one token of output can never fit the context (the model's, or the KV cache where that is less).
    #[error("prompt: {needed} tokens with the first of the output, but the context holds {available}")]
    NeverFits {
        /// Tokens.
        needed: usize,
        /// Tokens.
        available: usize,
    },
    /// The adapter does not fit the resident budget even alone.
    #[error("adapter: {needed} bytes do not fit the resident budget of {budget} bytes")]
    AdapterTooLarge {
        /// Bytes.
        needed: u64,
        /// Bytes.
        budget: u64,
    },
    /// The step that this request was in failed, or its logits were not finite.
    #[error("internal: {0}")]
    Internal(String),
    /// It was asked to be cancelled.
    #[error("the request was cancelled")]
    Cancelled,
    /// The engine is gone.
    #[error("the engine has stopped")]
    EngineStopped,
}

impl From<Notice> for Failure {
    /// What those hear whose time is up.
    fn from(notice: Notice) -> Self {
        let seconds = notice.given.as_secs();
        match notice.cause {
            Cause::Swapped => Self::AdapterSwapped { seconds },
            Cause::Removed => Self::AdapterRemoved { seconds },
        }
    }
}
