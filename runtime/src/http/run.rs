//! The sequences of one body: pins the adapter once, starts every choice of every prompt, collects what comes.
//! Must not know how an answer looks.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt as _;
use futures::stream::{BoxStream, SelectAll, unfold};

use super::App;
use super::account::Account;
use super::auth::Caller;
use super::error::ApiError;
use super::parameters::Parameters;
use super::target::Target;
use crate::engine::request::{Limits, Token, TokenLogprobs};
use crate::generate::{Ask, End, Piece, Sequence};
use crate::metrics::sequence::{Outcome, Watch};

/// A body, read and checked.
#[derive(Debug)]
pub struct Order {
    /// Which model answers.
    pub target: Target,
    /// Who asks.
    pub caller: Caller,
    /// What its log line will say.
    pub account: Arc<Account>,
    /// When the body had come.
    pub arrived: Instant,
    /// The prompts as token ids, none empty.
    pub prompts: Vec<Vec<u32>>,
    /// The most tokens of an answer to each prompt.
    pub most: Vec<u32>,
    /// All else.
    pub parameters: Parameters,
}

/// The sequences under way; dropping it cancels them all.
pub struct Running {
    /// `(choice, piece)` as they come; choice `i` is of prompt `i / choices`.
    pub pieces: SelectAll<BoxStream<'static, (usize, Piece)>>,
    /// How many sequences there are.
    pub choices: usize,
    /// When they were asked for.
    pub arrived: Instant,
}

/// What became of one choice.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// The tokens.
    pub tokens: Vec<Token>,
    /// Of the prompt's tokens from the second on.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// Prompt tokens that were spared.
    pub cached_tokens: u32,
    /// Why it ended.
    pub end: Option<End>,
    /// When its first step began.
    pub started: Option<Instant>,
    /// When its first token came.
    pub first_token: Option<Instant>,
}

impl Answer {
    /// Takes the next piece.
    ///
    /// # Errors
    /// The failure that ended it.
    pub fn take(&mut self, piece: Piece) -> Result<(), ApiError> {
        match piece {
            Piece::Started { cached_tokens } => {
                self.cached_tokens = cached_tokens;
                self.started = Some(Instant::now());
            }
            Piece::Prompt(logprobs) => self.prompt_logprobs.extend(logprobs),
            Piece::Token { token, text, .. } => {
                self.first_token.get_or_insert_with(Instant::now);
                self.text.push_str(&text);
                self.tokens.push(token);
            }
            Piece::End { text, reason } => {
                self.text.push_str(&text);
                self.end = Some(reason);
            }
            Piece::Failed(failure) => return Err(failure.into()),
        }
        Ok(())
    }
}

/// Starts every sequence of `order`.
///
/// # Errors
/// What the store says of the adapter, or the engine of the first sequence that it does not take; those that it took
/// are cancelled.
pub async fn start(app: &App, order: Order) -> Result<Running, ApiError> {
    let Order { target, caller, account, arrived, prompts, most, parameters } = order;
    let deadline = arrived + app.limits.request_time;
    let choices = parameters.choices as usize;
    let tokens = prompts.iter().map(Vec::len).sum();
    account.begin(target.name(app), tokens, prompts.len() * choices, parameters.stream.is_some());
    let mut watches: Vec<Watch> = prompts
        .iter()
        .zip(&most)
        .flat_map(|(prompt, most)| std::iter::repeat_n((prompt.len(), *most), choices))
        .map(|(prompt, most)| Watch::begin(&app.metrics, target.name(app), prompt, most))
        .collect();
    if let Some(watch) = watches.first() {
        watch.choices(parameters.choices);
    }
    let pin = match app.pin(&target, deadline, &watches).await {
        Ok(pin) => pin,
        Err(error) => {
            watches.iter_mut().for_each(|watch| watch.ended(Outcome::Error));
            return Err(error);
        }
    };
    let fresh = RandomState::new();
    let mut pieces = SelectAll::new();
    for (index, watch) in watches.into_iter().enumerate() {
        let (place, choice) = (index / choices, index % choices);
        let (Some(prompt), Some(most)) = (prompts.get(place), most.get(place)) else { continue };
        let mut sampling = parameters.sampling.clone();
        // A choice of a seeded request has a seed of its own, or all would be the same; as vLLM counts them.
        sampling.seed = match parameters.seed {
            Some(seed) => seed.wrapping_add(choice as u64),
            None => fresh.hash_one(index),
        };
        let ask = Ask {
            prompt: prompt.clone(),
            adapter: pin.clone(),
            salt: caller.salt,
            sampling,
            limits: Limits {
                max_tokens: *most,
                min_tokens: parameters.min_tokens,
                ignore_eos: parameters.ignore_eos,
                stop_token_ids: parameters.stop_token_ids.clone(),
            },
            stop: parameters.stop.clone(),
            include_stop: parameters.include_stop,
            skip_special: parameters.skip_special,
            goes_on: parameters.goes_on,
            deadline,
        };
        let sequence = app.generator.start(ask, watch).map_err(|failure| app.busy(failure))?;
        pieces.push(pieces_of(index, sequence, Arc::clone(&account)));
    }
    Ok(Running { choices: pieces.len(), pieces, arrived })
}

fn pieces_of(index: usize, sequence: Sequence, account: Arc<Account>) -> BoxStream<'static, (usize, Piece)> {
    unfold((sequence, account), move |(mut sequence, account)| async move {
        let piece = sequence.next().await?;
        account.take(&piece);
        Some(((index, piece), (sequence, account)))
    })
    .boxed()
}

/// Waits for every answer.
///
/// # Errors
/// The first failure; the other sequences are cancelled.
pub async fn collect(mut running: Running) -> Result<Vec<Answer>, ApiError> {
    let mut answers = vec![Answer::default(); running.choices];
    while let Some((index, piece)) = running.pieces.next().await {
        if let Some(answer) = answers.get_mut(index) {
            answer.take(piece)?;
        }
    }
    Ok(answers)
}
