//! Log-probabilities in the three shapes that clients know: OpenAI's of completions and of chats, vLLM's of prompts.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::engine::request::TokenLogprobs;
use crate::text::Tokenizer;

/// JSON has no infinity: vLLM writes this for it.
const LOWEST: f32 = -9999.0;

/// `/v1/completions`: four lists of one length.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CompletionLogprobs {
    /// Where each token begins in the text, in characters.
    pub text_offset: Vec<usize>,
    /// Of each token; null for the first of a prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// The tokens as text.
    pub tokens: Vec<String>,
    /// Of the best in each place and of the token itself.
    pub top_logprobs: Vec<Option<Map<String, Value>>>,
}

impl CompletionLogprobs {
    /// Adds a token of `id` (with its log-probabilities, where there are any) and moves `offset` behind it.
    pub fn push(
        &mut self,
        tokenizer: &Tokenizer,
        id: u32,
        logprobs: Option<&TokenLogprobs>,
        offset: &mut usize,
    ) {
        let text = tokenizer.piece(id);
        self.text_offset.push(*offset);
        *offset += text.chars().count();
        self.tokens.push(text);
        self.token_logprobs.push(logprobs.map(|token| finite(token.logprob)));
        self.top_logprobs.push(logprobs.map(|token| {
            let mut map: Map<String, Value> = token
                .top
                .iter()
                .map(|(id, logprob)| (tokenizer.piece(*id), finite(*logprob).into()))
                .collect();
            map.entry(tokenizer.piece(token.id)).or_insert_with(|| finite(token.logprob).into());
            map
        }));
    }
}

/// `/v1/chat/completions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChatLogprobs {
    /// One entry a token.
    pub content: Vec<ChatLogprob>,
}

/// A token of an answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatLogprob {
    /// As text.
    pub token: String,
    /// Natural logarithm.
    pub logprob: f32,
    /// As bytes: a token may be part of a character.
    pub bytes: Vec<u8>,
    /// The best in its place.
    pub top_logprobs: Vec<TopLogprob>,
}

/// One of the best.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopLogprob {
    /// As text.
    pub token: String,
    /// Natural logarithm.
    pub logprob: f32,
    /// As bytes.
    pub bytes: Vec<u8>,
}

impl ChatLogprob {
    /// The entry of one token.
    #[must_use]
    pub fn new(tokenizer: &Tokenizer, token: &TokenLogprobs) -> Self {
        let top = |(id, logprob): &(u32, f32)| TopLogprob {
            token: tokenizer.piece(*id),
            logprob: finite(*logprob),
            bytes: tokenizer.piece_bytes(*id).to_vec(),
        };
        Self {
            token: tokenizer.piece(token.id),
            logprob: finite(token.logprob),
            bytes: tokenizer.piece_bytes(token.id).to_vec(),
            top_logprobs: token.top.iter().map(top).collect(),
        }
    }
}

/// vLLM's `prompt_logprobs`: null for the first token, then an object by id.
#[must_use]
pub fn of_prompt(tokenizer: &Tokenizer, logprobs: &[TokenLogprobs]) -> Value {
    let entry = |token: &TokenLogprobs| {
        let mut map = Map::new();
        let mut add = |id: u32, logprob: f32, rank: usize| {
            let value =
                json!({"logprob": finite(logprob), "rank": rank, "decoded_token": tokenizer.piece(id)});
            map.insert(id.to_string(), value);
        };
        for (place, (id, logprob)) in token.top.iter().enumerate() {
            add(*id, *logprob, place + 1);
        }
        add(token.id, token.logprob, token.rank as usize);
        Value::Object(map)
    };
    std::iter::once(Value::Null).chain(logprobs.iter().map(entry)).collect()
}

/// What JSON can hold.
pub(crate) fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob.max(LOWEST) } else { LOWEST }
}
