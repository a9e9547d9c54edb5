//! How much a caller may ask for. Numbers only; config.rs fills them, error.rs words their refusals.

use std::time::Duration;

/// The limits of the public face.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Time in which a body must have come.
    pub body_time: Duration,
    /// Time in which a head must have come; also how long a connection may idle.
    pub head_time: Duration,
    /// Time that an answer may wait for its client to read on.
    pub write_time: Duration,
    /// Bytes of all headers.
    pub header_bytes: usize,
    /// Number of headers.
    pub headers: usize,
    /// Bytes of the request target.
    pub uri_bytes: usize,
    /// Connections at a time.
    pub connections: usize,
    /// Choices of one prompt.
    pub choices: u32,
    /// Prompts of one body.
    pub prompts: usize,
    /// Sequences of one body: choices times prompts.
    pub sequences: usize,
    /// Messages of a chat.
    pub messages: usize,
    /// Stop strings.
    pub stop_strings: usize,
    /// Bytes of a stop string.
    pub stop_bytes: usize,
    /// Entries of `stop_token_ids`.
    pub stop_ids: usize,
    /// Log-probabilities of one place.
    pub logprobs: u32,
    /// Entries of `logit_bias`.
    pub logit_bias: usize,
    /// From the body's arrival to the last token.
    pub request_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 4 << 20,
            body_time: Duration::from_secs(30),
            head_time: Duration::from_secs(10),
            write_time: Duration::from_mins(1),
            header_bytes: 32 << 10,
            headers: 100,
            uri_bytes: 8 << 10,
            connections: 4096,
            choices: 16,
            prompts: 128,
            sequences: 256,
            messages: 4096,
            stop_strings: 16,
            stop_bytes: 1024,
            stop_ids: 256,
            logprobs: 20,
            logit_bias: 1024,
            request_time: Duration::from_mins(10),
        }
    }
}
