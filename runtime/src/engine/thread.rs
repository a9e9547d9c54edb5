//! The engine's thread: takes commands, runs steps, parks when there is nothing to do. Owns the device.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use crate::engine::forward::Forward;
use crate::engine::handle::{Command, Shared};
use crate::engine::heart::EngineState;
use crate::engine::request::Failure;

/// Runs until every handle is gone or the engine is drained.
pub(crate) fn run(_forward: Box<dyn Forward>, commands: &Receiver<Command>, shared: &Arc<Shared>) {
    while let Ok(command) = commands.recv() {
        shared.heart.beat(Instant::now());
        match command {
            Command::Submit(submitted) => {
                let waited = submitted.at.elapsed();
                submitted
                    .client
                    .fail(Failure::Internal(format!("not served, {waited:?} {:?}", submitted.request.id)));
            }
            Command::Cancel(_) => {}
            Command::Drain { deadline: _ } => break,
        }
        shared.heart.rest();
    }
    shared.heart.enter(EngineState::Stopped);
    shared.ended.send_replace(true);
}
