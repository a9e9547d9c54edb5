//! Adapters of a replica: what they are called, which generation a name means now, where its weights are.
//!
//! * [`store`]: what the rest of the replica holds: pins, desired sets, reports. Owns every task and every wait
//! * `ledger`, `host`: names and memory, decided without clock or I/O
//! * [`loader`]: the seam to what brings weights into memory

pub mod failure;
mod host;
mod ledger;
pub mod loader;
pub mod pin;
pub mod store;
pub mod wanted;
pub mod weights;
