//! The hands of Lorikeet: every operation that touches numbers, one per file, the CPU meaning first.
//!
//! Knows tensors, indices and segments. Must not know what a segment is for: nothing of serving lives here.

pub mod low_rank;
