//! Adapters of a replica: what they are called, which generation a name means now, where its weights are.

pub mod pin;
pub mod weights;
