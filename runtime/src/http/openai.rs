//! OpenAI's answers as they go over the wire, with vLLM's additions. Shapes only.

use serde::Serialize;
use serde_json::Value;

use crate::generate::End;

/// A whole answer or one chunk of a stream: `C` is a choice of its endpoint.
#[derive(Debug, Serialize)]
pub struct Envelope<'a, C> {
    /// The same in every chunk of a stream.
    pub id: &'a str,
    /// What this is.
    pub object: &'static str,
    /// Unix time.
    pub created: u64,
    /// The name that was asked for.
    pub model: &'a str,
    /// The choices.
    pub choices: Vec<C>,
    /// Absent unless asked for; `null` in the chunks before the one that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    /// vLLM's, of the one prompt of a chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<&'a [u32]>,
    /// vLLM's, of the one prompt of a chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<Value>,
}

/// What was computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of the prompts.
    pub prompt_tokens: u32,
    /// Tokens of the answers.
    pub completion_tokens: u32,
    /// Both.
    pub total_tokens: u32,
    /// Of the prompt tokens.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// Of the prompt tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PromptTokensDetails {
    /// Those that the prefix cache spared.
    pub cached_tokens: u32,
}

impl Usage {
    /// Of so many prompt tokens (so many of them cached) and so many generated ones.
    #[must_use]
    pub const fn new(prompt: u32, cached: u32, output: u32) -> Self {
        Self {
            prompt_tokens: prompt,
            completion_tokens: output,
            total_tokens: prompt.saturating_add(output),
            prompt_tokens_details: PromptTokensDetails { cached_tokens: cached },
        }
    }
}

/// A choice of `/v1/completions`.
#[derive(Debug, Serialize)]
pub struct CompletionChoice {
    /// Its place among the choices of all prompts.
    pub index: u32,
    /// The text, or a chunk's part of it.
    pub text: String,
    /// Where asked for.
    pub logprobs: Option<super::logprobs::CompletionLogprobs>,
    /// `stop`, `length`, or not ended yet.
    pub finish_reason: Option<&'static str>,
    /// vLLM's: the stop string or id that ended it.
    pub stop_reason: Option<Value>,
    /// vLLM's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<Value>,
    /// vLLM's, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// vLLM's, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// A choice of `/v1/chat/completions`: a `message` when whole, a `delta` in a chunk.
#[derive(Debug, Serialize)]
pub struct ChatChoice {
    /// Its place.
    pub index: u32,
    /// The whole message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Message>,
    /// A chunk's part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<Delta>,
    /// Where asked for.
    pub logprobs: Option<super::logprobs::ChatLogprobs>,
    /// `stop`, `length`, or not ended yet.
    pub finish_reason: Option<&'static str>,
    /// vLLM's: the stop string or id that ended it.
    pub stop_reason: Option<Value>,
    /// vLLM's, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// What the model said.
#[derive(Debug, Serialize)]
pub struct Message {
    /// Always the assistant.
    pub role: &'static str,
    /// The text.
    pub content: String,
    /// Never.
    pub refusal: Option<String>,
}

/// What the model said next.
#[derive(Debug, Default, Serialize)]
pub struct Delta {
    /// In the first chunk of a choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

impl End {
    /// OpenAI's word.
    #[must_use]
    pub const fn finish_reason(&self) -> &'static str {
        match self {
            Self::Eos | Self::StopToken(_) | Self::StopString(_) => "stop",
            Self::Length => "length",
        }
    }

    /// vLLM's `stop_reason`: null for the model's own end.
    #[must_use]
    pub fn stop_reason(&self) -> Option<Value> {
        match self {
            Self::Eos | Self::Length => None,
            Self::StopToken(id) => Some((*id).into()),
            Self::StopString(text) => Some(text.as_str().into()),
        }
    }
}
