//! The hands of Lorikeet: every operation that touches numbers, one per file, the CPU meaning first.
//!
//! Knows tensors, indices and segments. Must not know what a segment is for: nothing of serving lives here.
//!
//! Every operation takes a [`device::Device`] and is deterministic and batch-invariant: an output element is computed
//! by one task, in an order that depends on its own inputs only, never on the number of rows, their neighbours, the
//! number of threads or how the work was cut. Shapes that do not fit are programming errors and panic; the constructors
//! that see file data ([`matrix::Matrix`], [`low_rank::LowRank`]) return errors.

#![deny(clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]

pub mod add;
mod aligned;
pub mod device;
pub mod embed;
pub mod gate;
pub mod kv_cache;
pub mod kv_write;
pub mod layer_norm;
pub mod linear;
pub mod low_rank;
pub mod matrix;
pub mod paged_attention;
pub mod rms_norm;
pub mod rope;
pub mod sample;
pub mod scale;
pub mod soft_cap;
pub mod tensor;
mod tile;
mod vector;

#[cfg(test)]
mod reference;
