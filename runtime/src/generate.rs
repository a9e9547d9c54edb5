//! One sequence from tokens to text: submit to the engine, detokenize its events, stop at stop strings. Used by every
//! face; must not know one.
//!
//! Dropping a [`Sequence`] cancels it: its receiver goes, and the engine lets go of what it held.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use crate::adapters::pin::Pin;
use crate::engine::handle::EngineHandle;
use crate::engine::request::{
    Event, Failure, FinishReason, Limits, Request, RequestId, Sampling, Token, TokenLogprobs,
};
use crate::metrics::sequence::{Outcome, Watch};
use crate::text::{Detokenizer, StopStrings, Tokenizer};

/// Time beyond the deadline that the engine has to say so itself. A stuck engine does not keep a caller waiting.
const GRACE: Duration = Duration::from_secs(1);

/// Starts sequences. Cloning is cheap.
pub struct Generator {
    engine: EngineHandle,
    tokenizer: Tokenizer,
    ids: AtomicU64,
}

/// What to generate.
#[derive(Debug)]
pub struct Ask {
    /// The prompt; not empty, every id below the vocabulary.
    pub prompt: Vec<u32>,
    /// The adapter, already held; `None` for the base model.
    pub adapter: Option<Pin>,
    /// Whose prefix cache it may share.
    pub salt: u64,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// When to stop.
    pub limits: Limits,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// The stop that was hit, text or token, is part of the text.
    pub include_stop: bool,
    /// Special tokens are not part of the text.
    pub skip_special: bool,
    /// The text goes on after the prompt's (`echo`), so that a sentencepiece word keeps the space before it; else it
    /// stands alone, as `decode` of its tokens gives it.
    pub goes_on: bool,
    /// When its caller is answered at the latest.
    pub deadline: Instant,
}

/// One thing that happened to a sequence. The last is [`Piece::End`] or [`Piece::Failed`], always exactly one.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// It runs; so many prompt tokens came from the prefix cache.
    Started {
        /// Prompt tokens that were spared.
        cached_tokens: u32,
    },
    /// Log-probabilities of prompt tokens; the first is the second token's.
    Prompt(Vec<TokenLogprobs>),
    /// A token, and the text that may be sent by now: empty while a character or a stop string may be incomplete.
    Token {
        /// The token.
        token: Token,
        /// The text.
        text: String,
        /// The next piece is [`Piece::End`], and it is there.
        last: bool,
    },
    /// It ended as it should.
    End {
        /// What was held back and belongs to the text after all.
        text: String,
        /// Why it ended.
        reason: End,
    },
    /// It ended otherwise.
    Failed(Failure),
}

/// Why a sequence ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// At the model's own end.
    Eos,
    /// At one of the caller's stop ids.
    StopToken(u32),
    /// At one of the caller's stop strings.
    StopString(String),
    /// At its most tokens.
    Length,
}

/// A sequence under way.
pub struct Sequence {
    events: mpsc::UnboundedReceiver<Event>,
    deadline: tokio::time::Instant,
    detokenizer: Detokenizer,
    stops: StopStrings,
    stop: Vec<String>,
    include_stop: bool,
    /// Ids that may end it: they wait until the engine has said whether they did, and so does the last possible token.
    enders: Vec<u32>,
    own_stop_ids: Vec<u32>,
    min_tokens: u32,
    max_tokens: u32,
    tokens: u32,
    watch: Watch,
    held: Option<Token>,
    next: Option<Piece>,
    over: bool,
}

impl Generator {
    /// Sequences of `engine`, in the words of `tokenizer`.
    #[must_use]
    pub fn new(engine: EngineHandle, tokenizer: Tokenizer) -> Self {
        Self { engine, tokenizer, ids: AtomicU64::new(1) }
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &EngineHandle {
        &self.engine
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Hands a sequence to the engine.
    ///
    /// # Errors
    /// The [`Failure`] that the engine knows at once.
    pub fn start(&self, ask: Ask, mut watch: Watch) -> Result<Sequence, Failure> {
        let (sender, events) = mpsc::unbounded_channel();
        let detokenizer = if ask.goes_on {
            Detokenizer::after(&self.tokenizer, ask.skip_special, &ask.prompt)
        } else {
            Detokenizer::new(&self.tokenizer, ask.skip_special)
        };
        let mut enders = ask.limits.stop_token_ids.clone();
        if !ask.limits.ignore_eos {
            enders.extend_from_slice(&self.engine.config().eos_ids);
        }
        let sequence = |watch| Sequence {
            events,
            deadline: (ask.deadline + GRACE).into(),
            detokenizer,
            stops: StopStrings::new(&ask.stop, ask.include_stop),
            stop: ask.stop,
            include_stop: ask.include_stop,
            enders,
            own_stop_ids: ask.limits.stop_token_ids.clone(),
            min_tokens: ask.limits.min_tokens,
            max_tokens: ask.limits.max_tokens,
            tokens: 0,
            watch,
            held: None,
            next: None,
            over: false,
        };
        let request = Request {
            id: RequestId(self.ids.fetch_add(1, Ordering::Relaxed)),
            prompt: ask.prompt,
            adapter: ask.adapter,
            salt: ask.salt,
            weight: NonZeroU32::MIN,
            sampling: ask.sampling,
            limits: ask.limits.clone(),
            deadline: Some(ask.deadline),
            events: sender,
        };
        match self.engine.submit(request) {
            Ok(()) => Ok(sequence(watch)),
            Err(failure) => {
                watch.ended(Outcome::Error);
                Err(failure)
            }
        }
    }
}

impl Sequence {
    /// The next piece; `None` after the last.
    pub async fn next(&mut self) -> Option<Piece> {
        loop {
            if let Some(piece) = self.next.take() {
                return Some(piece);
            }
            if self.over {
                return None;
            }
            let event = self.event().await;
            if let Some(piece) = self.read(event) {
                return Some(piece);
            }
        }
    }

    async fn event(&mut self) -> Event {
        match self.events.try_recv() {
            Ok(event) => return event,
            Err(TryRecvError::Disconnected) => return Event::Failed(Failure::EngineStopped),
            Err(TryRecvError::Empty) => {}
        }
        match tokio::time::timeout_at(self.deadline, self.events.recv()).await {
            Ok(Some(event)) => event,
            Ok(None) => Event::Failed(Failure::EngineStopped),
            Err(_) => Event::Failed(Failure::DeadlineExceeded),
        }
    }

    fn read(&mut self, event: Event) -> Option<Piece> {
        if let Some(token) = self.held.take() {
            return Some(self.release(token, event));
        }
        match event {
            Event::Started { cached_tokens } => {
                self.watch.started();
                Some(Piece::Started { cached_tokens })
            }
            Event::Prompt(logprobs) => Some(Piece::Prompt(logprobs)),
            Event::Token(token) => {
                self.watch.token();
                self.tokens += 1;
                if self.enders.contains(&token.id) || self.tokens >= self.max_tokens {
                    self.held = Some(token);
                    return None;
                }
                let text = self.text_of(token.id);
                Some(Piece::Token { token, text, last: self.next.is_some() })
            }
            Event::Finished(_) | Event::Failed(_) => Some(self.end(event)),
        }
    }

    /// A token that could have been the last, now that `event` tells: the text of a stop id is not part of the answer.
    fn release(&mut self, token: Token, event: Event) -> Piece {
        let stopped = matches!(event, Event::Finished(FinishReason::Stop(id)) if id == token.id);
        let text = if stopped && !self.include_stop { String::new() } else { self.text_of(token.id) };
        // A stop string may have ended it before: then nothing after counts.
        if self.next.is_none() {
            self.next = self.read(event);
        }
        let last = matches!(self.next, Some(Piece::End { .. }));
        Piece::Token { token, text, last }
    }

    fn text_of(&mut self, id: u32) -> String {
        let text = self.detokenizer.push(id);
        let (text, hit) = self.scan(&text);
        if let Some(stop) = hit {
            self.over(Outcome::Stop);
            self.next = Some(Piece::End { text: String::new(), reason: End::StopString(stop) });
        }
        text
    }

    /// The text that may go out, and the stop string that was hit. None counts before `min_tokens`.
    fn scan(&mut self, text: &str) -> (String, Option<String>) {
        if self.tokens <= self.min_tokens && self.min_tokens > 0 {
            return (self.stops.pass(text), None);
        }
        let scanned = self.stops.push(text);
        (scanned.text, scanned.hit.and_then(|hit| self.stop.get(hit).cloned()))
    }

    fn end(&mut self, event: Event) -> Piece {
        let reason = match event {
            Event::Finished(FinishReason::Length) => End::Length,
            Event::Finished(FinishReason::Stop(id)) if self.own_stop_ids.contains(&id) => End::StopToken(id),
            Event::Finished(FinishReason::Stop(_)) => End::Eos,
            Event::Failed(failure) => {
                self.over(Outcome::Error);
                return Piece::Failed(failure);
            }
            Event::Started { .. } | Event::Prompt(_) | Event::Token(_) => {
                self.over(Outcome::Error);
                return Piece::Failed(Failure::Internal("an event out of order".into()));
            }
        };
        self.over(if reason == End::Length { Outcome::Length } else { Outcome::Stop });
        let tail = self.detokenizer.finish();
        let (mut text, hit) = self.scan(&tail);
        match hit {
            Some(stop) => Piece::End { text, reason: End::StopString(stop) },
            None => {
                text.push_str(&self.stops.finish());
                Piece::End { text, reason }
            }
        }
    }

    fn over(&mut self, outcome: Outcome) {
        self.over = true;
        self.watch.ended(outcome);
        // The engine sees the closed channel and lets go, where it has not ended the sequence itself.
        self.events.close();
    }
}
