//! LoRAX's answers: `GenerateResponse` and `StreamResponse`.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::super::App;
use super::super::error::ApiError;
use super::super::logprobs::finite;
use super::super::run::Answer;
use super::super::stream::{Frames, Scribe};
use crate::engine::request::Token;
use crate::generate::{End, Piece};
use crate::text::Tokenizer;

/// What shapes an answer.
pub(super) struct Form {
    pub(super) adapter: Option<String>,
    pub(super) characters: usize,
    pub(super) full_text: Option<String>,
    pub(super) details: bool,
    pub(super) prefill: bool,
    pub(super) alternatives: bool,
    pub(super) seed: Option<u64>,
    pub(super) prompt: Vec<u32>,
    pub(super) arrived: Instant,
    pub(super) validated: Instant,
}

fn finish_reason(end: Option<&End>) -> &'static str {
    match end {
        Some(End::Eos) => "eos_token",
        Some(End::StopToken(_) | End::StopString(_)) => "stop_sequence",
        Some(End::Length) | None => "length",
    }
}

impl Form {
    pub(super) fn whole(&self, tokenizer: &Tokenizer, answer: &Answer) -> Value {
        let mut text = self.full_text.clone().unwrap_or_default();
        text.push_str(&answer.text);
        if !self.details && !self.prefill {
            return json!({ "generated_text": text });
        }
        let tokens: Vec<Value> =
            answer.tokens.iter().map(|token| self.token(tokenizer, token, None)).collect();
        json!({
            "generated_text": text,
            "details": {
                "finish_reason": finish_reason(answer.end.as_ref()),
                "prompt_tokens": self.prompt.len(),
                "generated_tokens": answer.tokens.len(),
                "skipped_tokens": answer.cached_tokens,
                "seed": self.seed,
                "prefill": if self.prefill { self.prefill(tokenizer, answer) } else { Vec::new() },
                "tokens": tokens,
            },
        })
    }

    fn prefill(&self, tokenizer: &Tokenizer, answer: &Answer) -> Vec<Value> {
        let entry = |(place, id): (usize, &u32)| {
            let logprob = place.checked_sub(1).and_then(|place| answer.prompt_logprobs.get(place));
            json!({"id": id, "text": tokenizer.piece(*id), "logprob": logprob.map(|token| finite(token.logprob))})
        };
        self.prompt.iter().enumerate().map(entry).collect()
    }

    /// A token; in a stream its text is the part that may be shown by now.
    fn token(&self, tokenizer: &Tokenizer, token: &Token, text: Option<&str>) -> Value {
        let logprob = token.logprobs.as_ref().map_or(0.0, |token| finite(token.logprob));
        let special = tokenizer.is_special(token.id);
        let text = match text {
            Some(text) if !special => text.to_owned(),
            _ => tokenizer.piece(token.id),
        };
        let mut value =
            json!({"id": token.id, "text": text, "logprob": logprob, "special": special, "skipped": false});
        if self.alternatives
            && let Some(logprobs) = &token.logprobs
        {
            let alternative = |(id, logprob): &(u32, f32)| json!({"id": id, "text": tokenizer.piece(*id), "logprob": finite(*logprob)});
            value["alternative_tokens"] = logprobs.top.iter().map(alternative).collect();
        }
        value
    }
}

/// The events of a stream: one a token, the last with the whole text and the details. No `[DONE]`.
pub(super) struct Events {
    app: Arc<App>,
    form: Form,
    text: String,
    tokens: usize,
    /// The last token: it goes out with the end.
    last: Option<(Token, String)>,
}

impl Events {
    pub(super) fn new(app: Arc<App>, form: Form) -> Self {
        Self { app, form, text: String::new(), tokens: 0, last: None }
    }

    fn send(&mut self, end: Option<&End>, out: &mut Frames) {
        let Some((token, text)) = self.last.take() else { return };
        let token = self.form.token(self.app.tokenizer(), &token, Some(&text));
        let (whole, details) = match end {
            None => (None, None),
            Some(end) => {
                let full = self.form.full_text.clone().unwrap_or_default() + &self.text;
                let details = json!({
                    "finish_reason": finish_reason(Some(end)),
                    "prompt_tokens": self.form.prompt.len(),
                    "generated_tokens": self.tokens,
                    "seed": self.form.seed,
                });
                (Some(full), Some(details))
            }
        };
        out.data(&json!({"token": token, "generated_text": whole, "details": details}));
    }
}

impl Scribe for Events {
    fn open(&mut self, _out: &mut Frames) {}

    fn piece(&mut self, _choice: usize, piece: Piece, out: &mut Frames) {
        match piece {
            Piece::Started { .. } | Piece::Prompt(_) | Piece::Failed(_) => {}
            Piece::Token { token, text, last } => {
                self.tokens += 1;
                self.text.push_str(&text);
                self.last = Some((token, text));
                if !last {
                    self.send(None, out);
                }
            }
            Piece::End { text, reason } => {
                self.text.push_str(&text);
                if let Some((_, last)) = &mut self.last {
                    last.push_str(&text);
                }
                self.send(Some(&reason), out);
            }
        }
    }

    fn close(&mut self, _out: &mut Frames) {}

    fn fail(&mut self, error: &ApiError, out: &mut Frames) {
        out.data(&error.body());
    }
}
