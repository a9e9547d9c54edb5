//! What runs in the next step. Pure: no tensor library, no async runtime, no clock.
//!
//! The rules, in the order in which a step follows them:
//!
//! 1. Every running sequence that decodes has its row. Where the blocks run out, the one that arrived last gives way
//!    (and is recomputed later, to the same tokens).
//! 2. What is left of the step's rows goes to prompts, in chunks: those that run first, then new ones.
//! 3. Who comes in is decided in [`admission`]: those whose adapter has waited too long, those that were preempted, then
//!    the flow that was served least.

mod admission;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use admission::Candidate;

use crate::engine::batch::Batch;
use crate::engine::blocks::BlockPool;
use crate::engine::config::EngineConfig;
use crate::engine::fairness::Fairness;
use crate::engine::request::FinishReason;
use crate::engine::residency::Residency;
use crate::engine::sequence::{Sequence, Work};
use crate::engine::waiting::Waiting;

/// The sequences of an engine and the plan of one step.
#[derive(Debug)]
pub struct Scheduler<T> {
    config: EngineConfig,
    pool: BlockPool,
    residency: Residency,
    fairness: Fairness,
    waiting: Waiting<T>,
    running: Vec<Sequence<T>>,
    plan: Vec<Work>,
    candidates: BinaryHeap<Reverse<Candidate>>,
    arrivals: u64,
    rows_left: usize,
    logits_left: usize,
    counts: Counts,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sequences that gave way.
    pub preemptions: u64,
    /// Rows that had been computed before.
    pub recomputed: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Tokens found there, or taken over from a sequence that runs.
    pub prefix_hits: u64,
}

impl<T> Scheduler<T> {
    /// A scheduler of nothing, under limits that were checked.
    #[must_use]
    pub fn new(config: EngineConfig) -> Self {
        Self {
            pool: BlockPool::new(config.blocks, config.block_size, config.prefix_cache),
            residency: Residency::new(config.resident_bytes),
            fairness: Fairness::default(),
            waiting: Waiting::default(),
            running: Vec::new(),
            plan: Vec::new(),
            candidates: BinaryHeap::new(),
            arrivals: 0,
            rows_left: 0,
            logits_left: 0,
            counts: Counts::default(),
            config,
        }
    }

    /// One more sequence waits.
    pub fn submit(&mut self, mut sequence: Sequence<T>) {
        sequence.arrival = self.arrivals;
        self.arrivals += 1;
        self.fairness.wait(sequence.owner(), sequence.weight());
        self.waiting.push(sequence);
    }

    /// Plans the next step. An empty plan means that nobody runs or waits.
    pub fn schedule(&mut self, now: Instant) -> &[Work] {
        self.plan.clear();
        self.logits_left = self.config.max_logits_rows;
        let gave_way = self.end_overdue_drains(now) | self.make_decodes_fit(now);
        self.plan_decodes();
        self.rows_left = self.config.max_step_tokens - self.plan.len();
        self.plan_running_prompts();
        if !gave_way {
            self.admit(now);
        }
        self.top_up_prompts();
        let running = &self.running;
        // Rows of one generation lie together: one run of rows is one pass over its weights.
        self.plan.sort_unstable_by_key(|work| {
            let sequence = &running[work.index];
            (sequence.owner().generation, sequence.arrival)
        });
        &self.plan
    }

    /// Every decoding sequence gets the block of its next token, or gives way, or another does. Whether one gave way.
    fn make_decodes_fit(&mut self, now: Instant) -> bool {
        let before = self.counts.preemptions;
        let mut index = 0;
        while let Some(sequence) = self.running.get_mut(index) {
            if sequence.pending() > 1 || sequence.grow() {
                index += 1;
                continue;
            }
            let last =
                (0..self.running.len()).max_by_key(|&other| self.running[other].arrival).unwrap_or(index);
            self.preempt(last, now);
            index -= usize::from(last < index);
        }
        self.counts.preemptions > before
    }

    fn preempt(&mut self, index: usize, now: Instant) {
        let mut sequence = self.running.remove(index);
        sequence.stop(now);
        self.fairness.wait_again(sequence.owner());
        self.waiting.push(sequence);
        self.counts.preemptions += 1;
    }

    fn plan_decodes(&mut self) {
        for (index, sequence) in self.running.iter_mut().enumerate() {
            if sequence.pending() == 1 {
                sequence.publish(1);
                let work = sequence.work(index, 1, self.logits_left);
                self.logits_left -= work.logits();
                self.plan.push(work);
            }
        }
    }

    fn plan_running_prompts(&mut self) {
        for index in 0..self.running.len() {
            if self.running[index].pending() > 1 {
                self.plan_chunk(index);
            }
        }
    }

    /// A prompt takes half of what is left, so that a long one does not shut out the short ones behind it.
    fn plan_chunk(&mut self, index: usize) {
        if self.rows_left == 0 {
            return;
        }
        let sequence = &mut self.running[index];
        self.counts.prefix_hits += sequence.adopt() as u64;
        let work = sequence.work(index, self.rows_left.div_ceil(2), self.logits_left);
        if work.rows > 0 {
            sequence.publish(work.rows);
            self.rows_left -= work.rows;
            self.logits_left -= work.logits();
            self.plan.push(work);
        }
    }

    /// Rows that nobody else wanted go to the prompts in their order.
    fn top_up_prompts(&mut self) {
        for work in &mut self.plan {
            let sequence = &mut self.running[work.index];
            if self.rows_left > 0 && work.rows < sequence.pending() {
                let (rows, logits) = (work.rows + self.rows_left, work.logits() + self.logits_left);
                self.rows_left = rows;
                self.logits_left = logits;
                *work = sequence.work(work.index, rows, logits);
                sequence.publish(work.rows);
                self.rows_left -= work.rows;
                self.logits_left -= work.logits();
            }
        }
    }

    /// Lays the plan out in rows.
    pub fn fill(&self, batch: &mut Batch) {
        batch.clear();
        for work in &self.plan {
            batch.push(&self.running[work.index], work, self.config.block_size);
        }
    }

    /// The step's work, in the order of the batch.
    #[must_use]
    pub fn plan(&self) -> &[Work] {
        &self.plan
    }

    /// The running sequence of a [`Work`].
    pub fn running_mut(&mut self, index: usize) -> &mut Sequence<T> {
        &mut self.running[index]
    }

    /// The work of `plan[place]` is done.
    pub fn commit(&mut self, place: usize) {
        let work = &self.plan[place];
        self.counts.recomputed += self.running[work.index].commit(work) as u64;
    }

    /// One more token of a running sequence. Says whether it is the last.
    pub fn push(&mut self, index: usize, id: u32) -> Option<FinishReason> {
        let sequence = &mut self.running[index];
        self.fairness.token(sequence.owner());
        sequence.push(id, &self.config.eos_ids, self.config.context())
    }

    /// A running sequence leaves. What it holds is given back when it is dropped.
    pub fn end(&mut self, index: usize) -> Sequence<T> {
        let sequence = self.running.remove(index);
        self.fairness.end(sequence.owner());
        sequence
    }

    /// The step failed: takes out its sequences, whose content is not to be trusted. Running ones that were not in it
    /// may share that content: they begin again.
    pub fn fail_step(&mut self, now: Instant, out: &mut Vec<Sequence<T>>) {
        let mut planned: Vec<usize> = self.plan.drain(..).map(|work| work.index).collect();
        planned.sort_unstable();
        for &index in planned.iter().rev() {
            self.running[index].disown();
            out.push(self.end(index));
        }
        while !self.running.is_empty() {
            self.preempt(self.running.len() - 1, now);
        }
    }

    /// Takes out every sequence, running or waiting, that `leaves` says, in the order in which it says so.
    pub fn take_out(&mut self, mut leaves: impl FnMut(&Sequence<T>) -> bool, out: &mut Vec<Sequence<T>>) {
        for index in (0..self.running.len()).rev() {
            if leaves(&self.running[index]) {
                out.push(self.end(index));
            }
        }
        let first = out.len();
        self.waiting.take_out(leaves, out);
        for sequence in &out[first..] {
            self.fairness.leave_queue(sequence.owner());
        }
    }

    /// Whether nobody runs or waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// The running sequences.
    #[must_use]
    pub fn running(&self) -> &[Sequence<T>] {
        &self.running
    }

    /// The waiting ones.
    #[must_use]
    pub fn waiting(&self) -> &Waiting<T> {
        &self.waiting
    }

    /// The KV blocks.
    #[must_use]
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// The resident adapters.
    #[must_use]
    pub fn residency(&self) -> &Residency {
        &self.residency
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

#[cfg(test)]
mod tests;
