//! The faces: what comes over HTTP is checked and becomes sequences; what they say becomes an answer.
//!
//! Must not compute tokens, hold weights or decide which sequence runs. One file an endpoint.

pub mod auth;
pub mod body;
pub mod error;
pub mod fields;
pub mod limits;
pub mod server;
pub mod tls;
