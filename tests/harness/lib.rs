//! What the suites over HTTP share: a replica started for a test, a client, the golden fixtures.
//!
//! Must not import the runtime: the judges have only HTTP-level hands.
