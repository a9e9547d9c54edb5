//! The faces: what comes over HTTP is checked and becomes sequences; what they say becomes an answer.
//!
//! Must not compute tokens, hold weights or decide which sequence runs. One file an endpoint; the map:
//!
//! * [`server`], `socket`: connections, TLS, their times and bounds
//! * [`routes`]: every path with its policy; [`auth`]: keys; [`front`]: what every request passes, [`account`]: what its log line says
//! * [`body`], [`fields`], [`parameters`], [`messages`], [`limits`]: from bytes to what was asked for
//! * `beside`: what takes long for one caller's text, away from the others
//! * [`run`], [`stream`]: the sequences of a body, whole or as events
//! * [`completions`], [`chat`], [`models`], [`tokenize`]: OpenAI's and vLLM's; [`openai`], [`logprobs`]: their shapes
//! * [`lorax`]: LoRAX's; [`admin`], [`vllm`]: adapters in and out; [`health`]: probes and metrics; `root`: a person's first look
//! * [`inspect`]: what sources say of themselves, for a process that serves nothing
//! * [`App`]: what handlers share; [`registry`]: what they ask of the adapters; [`target`]: who answers
//! * [`error`]: the one place where a problem becomes a status

pub mod account;
pub mod admin;
mod app;
pub mod auth;
mod beside;
pub mod body;
pub mod chat;
pub mod completions;
pub mod error;
pub mod fields;
pub mod front;
pub mod health;
pub mod inspect;
pub mod limits;
pub mod listen;
pub mod logprobs;
pub mod lorax;
pub mod messages;
pub mod models;
pub mod openai;
pub mod parameters;
pub mod registry;
mod root;
pub mod routes;
pub mod run;
#[cfg(test)]
mod scripted;
pub mod server;
mod socket;
mod store;
pub mod stream;
pub mod target;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod tokenize;
pub mod vllm;

use std::time::{SystemTime, UNIX_EPOCH};

pub use self::app::{App, Render};
pub use self::beside::Beside;
pub use self::front::Asker;

/// Seconds since 1970.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
