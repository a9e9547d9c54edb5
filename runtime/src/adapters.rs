//! Adapters of a replica: what they are called, which generation a name means now, where its weights are.
//!
//! * [`store`]: what the rest of the replica holds: pins, desired sets, reports. Owns every task and every wait
//! * [`name`]: what may be called how; `ledger`, `host`: names and memory, decided without clock or I/O
//! * [`pin`], [`tenure`]: a request's hold on weights, and how long it may last when a name has left them
//! * [`loader`]: the seam to what brings weights into memory; [`load`]: what does
//! * [`files`], [`peft`], [`tensors`], [`build`]: two files become checked weights; no step trusts what it reads

pub mod build;
mod dora;
pub mod failure;
pub mod files;
mod host;
mod ledger;
pub mod load;
pub mod loader;
pub mod name;
pub mod peft;
pub mod pin;
#[cfg(test)]
mod scripted;
pub mod store;
pub mod tensors;
pub mod tenure;
pub mod wanted;
pub mod weights;
