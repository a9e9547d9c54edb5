//! The base models: each family once, over shared layers.

pub mod modules;
