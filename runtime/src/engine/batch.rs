//! One step's work, laid out flat. Pure: numbers only, no tensor library; the scheduler's plan goes in, the runner reads it.

use std::ops::Range;

use crate::adapters::pin::Generation;

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
}
