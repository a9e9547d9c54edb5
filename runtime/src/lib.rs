//! One replica of Lorikeet: HTTP -> tokens -> schedule -> batch -> model -> sample.
//!
//! Must not know that Kubernetes exists: no `kube`, no custom resources. The map:
//!
//! * [`adapters`]: names, generations, tiers and pins of LoRA adapters
//! * [`engine`]: schedule, run, sample, commit, on one thread
//! * [`model`]: the base models, over fused linears; `layers`: what they are built of
//! * [`digest`]: what content was read
//! * [`args`], [`config`]: the command line as typed, as checked
//! * [`http`], [`generate`], [`metrics`], [`telemetry`], [`shutdown`]: the faces of the process
//! * [`safetensors`], [`gguf`], over an [`opened`] file: file formats, read strictly
//! * [`inspect`]: what a model or an adapter is, or why it would be refused; [`inspector`]: what sources say, told over HTTP
//! * [`text`]: text and tokens: tokenizer, chat template, stop strings
//! * [`source`]: where files are, and how they come here; [`progress`]: shown on a terminal

pub mod adapters;
pub mod args;
pub mod config;
pub mod digest;
pub mod engine;
pub mod generate;
pub mod gguf;
pub mod http;
pub mod inspect;
pub mod inspector;
mod layers;
pub mod metrics;
pub mod model;
pub mod opened;
pub mod progress;
pub mod safetensors;
pub mod serve;
pub mod shutdown;
pub mod source;
pub mod telemetry;
pub mod text;
