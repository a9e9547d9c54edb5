//! Who comes in next: by need, by right, by share. The only file that knows the order. Pure.

use std::cmp::Reverse;
use std::time::Instant;

use crate::adapters::pin::{Generation, Pin};
use crate::engine::fairness::Flow;
use crate::engine::scheduler::Scheduler;
use crate::engine::sequence::Sequence;

/// The first of a flow, and its place among the others: the smallest comes in next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    right: Right,
    arrival: u64,
    flow: Flow,
}

/// What a candidate's place follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Right {
    /// Its adapter has not been resident for longer than a request may wait for that: oldest first.
    Starving(Instant),
    /// It ran before and had to give way: by arrival.
    Preempted,
    /// What its flow was served: least first.
    Share(u64),
}

/// What came of one candidate.
enum Admission {
    Runs,
    /// Its adapter's bytes are not to be had now. Others may pass.
    NoBytes,
    /// Its blocks are not to be had now. Nobody passes: what becomes free is for it.
    NoBlocks,
}

impl<T> Scheduler<T> {
    /// Lets sequences in while there are seats and rows, and plans their first chunks.
    pub(super) fn admit(&mut self, now: Instant) {
        if self.waiting.is_empty() || self.is_full() {
            return;
        }
        self.rank(now);
        let mut claimed = 0;
        while !self.is_full() {
            let Some(Reverse(candidate)) = self.candidates.pop() else { return };
            match self.try_run(&candidate.flow, claimed == 0) {
                Admission::Runs => {
                    self.plan_chunk(self.running.len() - 1);
                    let next = self.waiting.first(&candidate.flow).map(|first| self.candidate(first, now));
                    self.candidates.extend(next.map(Reverse));
                }
                Admission::NoBlocks => return,
                Admission::NoBytes if matches!(candidate.right, Right::Starving(_)) => {
                    let first = claimed == 0;
                    claimed += self.needed(&candidate.flow);
                    self.residency.drain_for(claimed, first, now, |generation| self.remaining(generation));
                }
                Admission::NoBytes => {}
            }
        }
    }

    fn is_full(&self) -> bool {
        self.rows_left == 0 || self.running.len() >= self.config.sequences()
    }

    /// Puts the first of every flow in order. When nobody starves, nobody needs to be drained.
    fn rank(&mut self, now: Instant) {
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        candidates.extend(self.waiting.firsts().map(|(_, first)| Reverse(self.candidate(first, now))));
        if !candidates.iter().any(|Reverse(candidate)| matches!(candidate.right, Right::Starving(_))) {
            self.residency.stop_draining();
        }
        self.candidates = candidates;
    }

    fn candidate(&self, first: &Sequence<T>, now: Instant) -> Candidate {
        let flow = first.owner();
        let is_cold = flow.generation.is_some_and(|generation| !self.residency.contains(generation));
        let waited = now.saturating_duration_since(first.waiting_since);
        let right = if is_cold && waited > self.config.drain_after {
            Right::Starving(first.waiting_since)
        } else if first.has_run() {
            Right::Preempted
        } else {
            Right::Share(self.fairness.served(&flow))
        };
        Candidate { right, arrival: first.arrival, flow }
    }

    fn try_run(&mut self, flow: &Flow, may_enter: bool) -> Admission {
        let Some(first) = self.waiting.first(flow) else { return Admission::NoBytes };
        if first.adapter().is_some_and(|pin| !self.residency.can_seat(pin, may_enter)) {
            return Admission::NoBytes;
        }
        // Those that run will soon need a block each.
        let Some(lease) = first.lease(&self.pool, self.running.len()) else { return Admission::NoBlocks };
        let seat = match first.adapter().map(|pin| self.residency.seat(pin, may_enter)) {
            Some(None) => return Admission::NoBytes,
            Some(seat) => seat,
            None => None,
        };
        let Some(mut sequence) = self.waiting.pop(flow) else { return Admission::NoBytes };
        let is_new = !sequence.has_run();
        sequence.run(lease, seat);
        let spared = sequence.computed();
        // A recomputed sequence has paid already.
        self.fairness.run(*flow, if is_new { sequence.pending() } else { 0 });
        if is_new {
            self.counts.prefix_queries += sequence.tokens().len() as u64;
            self.counts.prefix_hits += spared as u64;
        }
        self.running.push(sequence);
        Admission::Runs
    }

    /// Bytes of the adapter that the first of a flow waits for.
    fn needed(&self, flow: &Flow) -> u64 {
        self.waiting.first(flow).and_then(Sequence::adapter).map_or(0, |pin| pin.weights().bytes)
    }

    /// Tokens until the last running sequence of a generation has ended.
    fn remaining(&self, generation: Generation) -> u64 {
        let of_generation =
            |sequence: &&Sequence<T>| sequence.adapter().map(Pin::generation) == Some(generation);
        self.running.iter().filter(of_generation).map(|sequence| sequence.remaining()).max().unwrap_or(0)
    }

    /// Preempts what keeps a drain from ending. Whether there was any.
    pub(super) fn end_overdue_drains(&mut self, now: Instant) -> bool {
        let before = self.running.len();
        while let Some(generation) = self.residency.overdue(now, self.config.drain_for) {
            for index in (0..self.running.len()).rev() {
                if self.running[index].owner().generation == Some(generation) {
                    self.preempt(index, now);
                }
            }
        }
        self.running.len() < before
    }
}
