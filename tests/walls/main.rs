//! Holds the walls and the invariants of the design. Each file holds one kind and says which.
//!
//! Must not judge style that a tool judges already: formatting, lints and the length of functions are clippy's.

mod code;
mod crates;
mod files;
mod modules;
mod pure;
mod readme;
mod sources;
mod waits;
mod words;
