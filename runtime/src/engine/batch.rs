//! One step's work, laid out flat. Pure: numbers only, no tensor library; the scheduler's plan goes in, the runner reads it.

use std::ops::Range;

use crate::adapters::pin::Generation;
use crate::engine::sequence::{Sequence, Work};

/// The rows of one step: every row is one token of one sequence, prefill and decode alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// `[rows]` token ids.
    pub tokens: Vec<u32>,
    /// `[rows]` the place of each token in its sequence, from 0.
    pub positions: Vec<u32>,
    /// `[rows]` where its key and value go: `block * block_size + offset`.
    pub slots: Vec<u32>,
    /// One entry a sequence, in row order; their rows tile `0..rows`.
    pub spans: Vec<Span>,
    /// The spans' block tables, one after the other.
    pub block_tables: Vec<u32>,
    /// Runs of rows that share a generation, in row order. Rows of the base model are in none.
    pub segments: Vec<AdapterRows>,
    /// The rows whose logits are wanted, ascending.
    pub logits_rows: Vec<u32>,
}

/// The rows of one sequence in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its rows; their positions follow one another.
    pub rows: Range<usize>,
    /// Its part of [`Batch::block_tables`]: it covers every position up to the last row's.
    pub blocks: Range<usize>,
}

/// A run of rows that share an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterRows {
    /// The rows.
    pub rows: Range<usize>,
    /// Whose weights they take.
    pub generation: Generation,
}

impl Batch {
    /// The number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// No rows; what was allocated stays for the next step.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.slots.clear();
        self.spans.clear();
        self.block_tables.clear();
        self.segments.clear();
        self.logits_rows.clear();
    }

    /// Adds the rows of one sequence. Rows that follow rows of the same generation lengthen their segment.
    pub fn push<T>(&mut self, sequence: &Sequence<T>, work: &Work, block_size: usize) {
        let first_row = self.tokens.len();
        let computed = sequence.computed();
        let places = computed..computed + work.rows;
        let blocks = &sequence.blocks()[..places.end.div_ceil(block_size)];
        self.tokens.extend_from_slice(&sequence.tokens()[places.clone()]);
        for place in places {
            self.positions.push(narrow(place));
            self.slots.push(blocks[place / block_size] * narrow(block_size) + narrow(place % block_size));
        }
        let rows = first_row..self.tokens.len();
        let first_block = self.block_tables.len();
        self.block_tables.extend_from_slice(blocks);
        self.spans.push(Span { rows: rows.clone(), blocks: first_block..self.block_tables.len() });
        self.logits_rows.extend(work.scored.clone().map(|place| narrow(first_row + place - computed)));
        self.logits_rows.extend(work.samples.then(|| narrow(rows.end - 1)));
        let Some(generation) = sequence.owner().generation else { return };
        match self.segments.last_mut() {
            Some(last) if last.generation == generation && last.rows.end == rows.start => {
                last.rows.end = rows.end
            }
            _ => self.segments.push(AdapterRows { rows, generation }),
        }
    }
}

/// Places and slots are below the size of the KV cache, which blocks of 32-bit numbers bound.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::engine::blocks::BlockPool;
    use crate::engine::fixtures::{generation_of, job, pin_of};
    use crate::engine::sequence::Job;

    fn push(batch: &mut Batch, pool: &BlockPool, job: Job, rows: usize) -> Sequence<()> {
        let mut sequence = Sequence::new(job, (), Instant::now());
        let lease = sequence.lease(pool, 0).unwrap();
        sequence.run(lease, None);
        let work = sequence.work(0, rows, 99);
        batch.push(&sequence, &work, pool.block_size());
        sequence
    }

    #[test]
    fn rows_carry_their_place_their_slot_and_the_blocks_up_to_it() {
        let (mut batch, pool) = (Batch::default(), BlockPool::new(8, 2, false));
        let base = push(&mut batch, &pool, job(&[5, 6, 7]), 99);
        let chunk = push(&mut batch, &pool, job(&[8, 9, 10, 11, 12]), 2);
        assert_eq!(batch.tokens, [5, 6, 7, 8, 9]);
        assert_eq!(batch.positions, [0, 1, 2, 0, 1]);
        let (b, c) = (base.blocks(), chunk.blocks());
        assert_eq!(batch.slots, [b[0] * 2, b[0] * 2 + 1, b[1] * 2, c[0] * 2, c[0] * 2 + 1]);
        assert_eq!(batch.spans, [Span { rows: 0..3, blocks: 0..2 }, Span { rows: 3..5, blocks: 2..3 }]);
        assert_eq!(batch.block_tables, [b[0], b[1], c[0]]);
        assert_eq!(batch.logits_rows, [2], "the chunk does not reach its end");
        assert!(batch.segments.is_empty());
    }

    #[test]
    fn neighbours_of_one_generation_are_one_segment_and_base_rows_are_in_none() {
        let (mut batch, pool) = (Batch::default(), BlockPool::new(8, 2, false));
        let of = |name| Job { adapter: Some(pin_of(name, 1)), ..job(&[1, 2]) };
        let jobs = [job(&[1]), of("a"), of("a"), of("b")];
        let _sequences: Vec<_> = jobs.into_iter().map(|job| push(&mut batch, &pool, job, 99)).collect();
        let segment = |rows, name| AdapterRows { rows, generation: generation_of(name) };
        assert_eq!(batch.segments, [segment(1..5, "a"), segment(5..7, "b")]);
    }

    #[test]
    fn a_scored_prompt_wants_logits_of_its_rows() {
        let (mut batch, pool) = (Batch::default(), BlockPool::new(8, 2, false));
        let _one = push(&mut batch, &pool, job(&[1, 2]), 99);
        let _two = push(&mut batch, &pool, Job { score_prompt: true, ..job(&[1, 2, 3]) }, 99);
        assert_eq!(batch.logits_rows, [1, 2, 3, 4]);
    }

    #[test]
    fn a_cleared_batch_has_no_rows() {
        let (mut batch, pool) = (Batch::default(), BlockPool::new(8, 2, false));
        let _one = push(&mut batch, &pool, Job { adapter: Some(pin_of("a", 1)), ..job(&[1, 2]) }, 99);
        batch.clear();
        assert_eq!(batch, Batch::default());
    }
}
