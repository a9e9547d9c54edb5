//! What the suites over HTTP share: a replica started for a test, a client, the golden fixtures, adapters made for a test.
//!
//! Must not import the runtime: the judges have only HTTP-level hands.

pub mod args;
pub mod client;
pub mod golden;
pub mod inspector;
pub mod loraland;
pub mod made;
pub mod metrics;
pub mod operator;
pub mod process;
pub mod replica;
pub mod say;
pub mod until;
