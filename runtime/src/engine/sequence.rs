//! One sequence: its text so far, how much of it is computed, what it holds of the device, and when it ends. Pure:
//! what the rest of the process attaches to it (`T`) is carried and never looked at.

use std::num::NonZeroU32;
use std::ops::Range;
use std::time::Instant;

use crate::adapters::pin::Pin;
use crate::adapters::tenure::Notice;
use crate::engine::blocks::{BlockPool, Lease};
use crate::engine::prefix::Owner;
use crate::engine::request::{FinishReason, Limits, RequestId};
use crate::engine::residency::Seat;

/// A request, as far as scheduling goes.
#[derive(Debug)]
pub struct Job {
    /// For cancelling.
    pub id: RequestId,
    /// Never empty; with one token more it fits the context.
    pub prompt: Vec<u32>,
    /// The adapter, held until the sequence is gone.
    pub adapter: Option<Pin>,
    /// The tenant's.
    pub salt: u64,
    /// Its share.
    pub weight: NonZeroU32,
    /// When it ends.
    pub limits: Limits,
    /// The log-probabilities of the prompt are wanted.
    pub score_prompt: bool,
    /// When it is late.
    pub deadline: Option<Instant>,
}

/// A sequence, waiting or running.
#[derive(Debug)]
pub struct Sequence<T> {
    job: Job,
    /// What was attached to it.
    pub client: T,
    /// Its number by arrival. The smaller one has the older right.
    pub(super) arrival: u64,
    /// Since when it waits, for the first time or again.
    pub(super) waiting_since: Instant,
    /// Prompt and output.
    tokens: Vec<u32>,
    prompt_len: usize,
    /// Tokens whose keys and values are there.
    computed: usize,
    /// The most that `computed` ever was.
    peak: usize,
    /// Positions whose log-probabilities were made.
    scored: usize,
    has_run: bool,
    hold: Option<Hold>,
}

/// What a running sequence holds. Dropped, it is given back.
#[derive(Debug)]
struct Hold {
    lease: Lease,
    _seat: Option<Seat>,
}

/// What one sequence does in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// Its place among the running ones.
    pub index: usize,
    /// Tokens to compute, from its first that is not.
    pub rows: usize,
    /// Positions of the prompt whose logits are wanted: each says how likely the token after it was.
    pub scored: Range<usize>,
    /// Whether the last row's logits are wanted, for the next token.
    pub samples: bool,
}

impl Work {
    /// Rows of logits.
    #[must_use]
    pub fn logits(&self) -> usize {
        self.scored.len() + usize::from(self.samples)
    }
}

impl<T> Sequence<T> {
    /// A sequence that waits since `now`.
    #[must_use]
    pub fn new(mut job: Job, client: T, now: Instant) -> Self {
        let tokens = std::mem::take(&mut job.prompt);
        let prompt_len = tokens.len();
        Self {
            job,
            client,
            arrival: 0,
            waiting_since: now,
            tokens,
            prompt_len,
            computed: 0,
            peak: 0,
            scored: 0,
            has_run: false,
            hold: None,
        }
    }

    /// Gives back what it holds and lets its adapter go; what was attached stays.
    #[must_use]
    pub fn into_client(self) -> T {
        self.client
    }

    /// Its request.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.job.id
    }

    /// Its adapter.
    #[must_use]
    pub fn adapter(&self) -> Option<&Pin> {
        self.job.adapter.as_ref()
    }

    /// Whose it is.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner { generation: self.adapter().map(Pin::generation), salt: self.job.salt }
    }

    /// Its share.
    #[must_use]
    pub fn weight(&self) -> NonZeroU32 {
        self.job.weight
    }

    /// Whether `now` is past its deadline.
    #[must_use]
    pub fn is_late(&self, now: Instant) -> bool {
        self.job.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Its adapter's notice, where the time of that is over at `now`.
    #[must_use]
    pub fn outstayed(&self, now: Instant) -> Option<Notice> {
        self.adapter()?.notice().filter(|notice| notice.is_over(now))
    }

    /// Prompt and output.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// What was asked.
    #[must_use]
    pub fn prompt(&self) -> &[u32] {
        &self.tokens[..self.prompt_len]
    }

    /// What was made.
    #[must_use]
    pub fn output(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// Its limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.job.limits
    }

    /// Tokens whose keys and values are there.
    #[must_use]
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// Tokens still to be computed: one while it decodes.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Tokens that it may still make.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        u64::from(self.job.limits.max_tokens).saturating_sub(self.output().len() as u64)
    }

    /// Whether it has run before.
    #[must_use]
    pub fn has_run(&self) -> bool {
        self.has_run
    }

    /// Its block table; empty while it waits.
    #[must_use]
    pub fn blocks(&self) -> &[u32] {
        self.hold.as_ref().map_or(&[], |hold| hold.lease.blocks())
    }

    /// The blocks that it would start with: those of its prefix that are there, and fresh ones for the rest of its text.
    /// `None` when fewer than `reserve` would be left to the others.
    #[must_use]
    pub fn lease(&self, pool: &BlockPool, reserve: usize) -> Option<Lease> {
        let mut lease = pool.lease(self.owner());
        lease.adopt(&self.tokens, self.adoptable());
        let enough = lease.missing(self.tokens.len()) + reserve <= pool.available();
        (enough && lease.grow(self.tokens.len())).then_some(lease)
    }

    /// It runs from now on.
    pub fn run(&mut self, lease: Lease, seat: Option<Seat>) {
        self.has_run = true;
        self.hold = Some(Hold { lease, _seat: seat });
        self.adopt();
    }

    /// It gives back what it holds, and will begin again. Its text stays.
    pub fn stop(&mut self, now: Instant) {
        self.hold = None;
        self.computed = 0;
        self.waiting_since = now;
    }

    /// Takes over what others have computed of its text. Returns how many tokens that spares.
    pub fn adopt(&mut self) -> usize {
        let limit = self.adoptable();
        let Some(hold) = &mut self.hold else { return 0 };
        let covered = hold.lease.adopt(&self.tokens, limit);
        let spared = covered.saturating_sub(self.computed);
        self.computed += spared;
        spared
    }

    /// Up to where it need not compute: its last token makes the logits, and positions to be scored make logits too.
    fn adoptable(&self) -> usize {
        let last = self.tokens.len() - 1;
        if self.job.score_prompt { last.min(self.scored) } else { last }
    }

    /// Takes the block that its next token needs, if it needs one. `false`: there is none.
    pub fn grow(&mut self) -> bool {
        let tokens = self.tokens.len();
        self.hold.as_mut().is_some_and(|hold| hold.lease.grow(tokens))
    }

    /// What it does in this step with at most `rows` rows and `logits` rows of logits.
    #[must_use]
    pub fn work(&self, index: usize, rows: usize, logits: usize) -> Work {
        let mut rows = rows.min(self.pending());
        loop {
            let end = self.computed + rows;
            let first = self.scored.max(self.computed);
            let last = end.min(self.prompt_len - 1);
            let scored = if self.job.score_prompt && first < last { first..last } else { first..first };
            let samples = rows > 0 && end == self.tokens.len();
            let work = Work { index, rows, scored, samples };
            match work.logits().checked_sub(logits) {
                None | Some(0) => return work,
                // Each row less is at most one row of logits less.
                Some(excess) => rows -= excess.min(rows),
            }
        }
    }

    /// Others may share what `rows` more rows compute, from this very step on: a step writes all keys and values of a
    /// layer before any row reads them.
    pub fn publish(&mut self, rows: usize) {
        let Some(hold) = &mut self.hold else { return };
        hold.lease.publish(&self.tokens, self.computed, self.computed + rows);
    }

    /// Its content is not to be trusted: nobody shares it from now on.
    pub fn disown(&mut self) {
        if let Some(hold) = &mut self.hold {
            hold.lease.disown();
        }
    }

    /// The work is done. Returns how many of its rows had been computed before.
    pub fn commit(&mut self, work: &Work) -> usize {
        let again = self.peak.min(self.computed + work.rows).saturating_sub(self.computed);
        self.computed += work.rows;
        self.peak = self.peak.max(self.computed);
        self.scored = self.scored.max(work.scored.end);
        again
    }

    /// Whether `id` ends it, where it may end at all.
    #[must_use]
    pub fn is_stop(&self, id: u32, eos_ids: &[u32]) -> bool {
        let limits = &self.job.limits;
        limits.stop_token_ids.contains(&id) || (!limits.ignore_eos && eos_ids.contains(&id))
    }

    /// Whether a stop id may end it now.
    #[must_use]
    pub fn may_stop(&self) -> bool {
        self.output().len() >= self.job.limits.min_tokens as usize
    }

    /// One more token. Says whether it is the last.
    pub fn push(&mut self, id: u32, eos_ids: &[u32], context: usize) -> Option<FinishReason> {
        let stops = self.may_stop() && self.is_stop(id, eos_ids);
        self.tokens.push(id);
        let full = self.remaining() == 0 || self.tokens.len() >= context;
        match (stops, full) {
            (true, _) => Some(FinishReason::Stop(id)),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fixtures::job;

    fn sequence(job: Job) -> Sequence<()> {
        Sequence::new(job, (), Instant::now())
    }

    fn running(job: Job) -> Sequence<()> {
        let pool = BlockPool::new(64, 4, true);
        let mut sequence = sequence(job);
        let lease = sequence.lease(&pool, 0).unwrap();
        sequence.run(lease, None);
        sequence
    }

    #[test]
    fn a_chunk_that_does_not_reach_the_end_wants_no_logits() {
        let sequence = running(job(&[1, 2, 3, 4, 5]));
        assert_eq!(sequence.work(0, 3, 9), Work { index: 0, rows: 3, scored: 0..0, samples: false });
        assert_eq!(sequence.work(0, 99, 9), Work { index: 0, rows: 5, scored: 0..0, samples: true });
        assert_eq!(sequence.work(0, 99, 0).rows, 4, "the last row needs a row of logits");
    }

    #[test]
    fn a_scored_prompt_gets_logits_for_every_token_but_the_first() {
        let mut sequence = running(Job { score_prompt: true, ..job(&[1, 2, 3, 4, 5]) });
        let first = sequence.work(0, 99, 2);
        assert_eq!(first, Work { index: 0, rows: 2, scored: 0..2, samples: false });
        sequence.commit(&first);
        let second = sequence.work(0, 99, 9);
        assert_eq!(second, Work { index: 0, rows: 3, scored: 2..4, samples: true });
        sequence.commit(&second);
        assert_eq!(sequence.push(7, &[], 99), None);
        sequence.stop(Instant::now());
        let again = sequence.work(0, 99, 9);
        assert_eq!((again.rows, again.logits()), (6, 1), "nothing is scored twice");
        assert_eq!(sequence.commit(&again), 5, "the new token was not computed before");
    }

    #[test]
    fn it_ends_at_a_stop_id_the_limit_or_the_contexts_end() {
        let limits = |max_tokens, min_tokens, ignore_eos| Limits {
            max_tokens,
            min_tokens,
            ignore_eos,
            stop_token_ids: vec![8],
        };
        let push = |limits, ids: &[u32], context| {
            let mut sequence = running(Job { limits, ..job(&[1, 2]) });
            ids.iter().map(|&id| sequence.push(id, &[9], context)).last().flatten()
        };
        assert_eq!(push(limits(9, 0, false), &[5, 9], 99), Some(FinishReason::Stop(9)));
        assert_eq!(push(limits(9, 0, false), &[5, 8], 99), Some(FinishReason::Stop(8)));
        assert_eq!(push(limits(9, 0, true), &[9], 99), None);
        assert_eq!(push(limits(9, 0, true), &[8], 99), Some(FinishReason::Stop(8)));
        assert_eq!(push(limits(9, 1, false), &[9], 99), None, "not before min_tokens");
        assert_eq!(push(limits(9, 1, false), &[5, 9], 99), Some(FinishReason::Stop(9)));
        assert_eq!(push(limits(2, 0, false), &[5, 5], 99), Some(FinishReason::Length));
        assert_eq!(
            push(limits(1, 0, false), &[9], 99),
            Some(FinishReason::Stop(9)),
            "a stop is a stop at the limit too"
        );
        assert_eq!(push(limits(9, 0, false), &[5, 5], 4), Some(FinishReason::Length));
    }
}
