//! The engine: schedule -> run -> sample -> commit, one sentence, one thread.

pub mod batch;
pub mod forward;
pub mod request;
