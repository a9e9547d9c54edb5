//! The base models: each family once, over shared layers.

pub mod config;
pub mod family;
mod gemma;
mod gemma2;
mod llama;
mod mistral;
pub mod modules;
mod phi;
mod phi3;
mod qwen2;
mod qwen3;
pub(crate) mod shape;
