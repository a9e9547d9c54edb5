//! The engine's thread: takes commands, runs steps, parks when there is nothing to do. Owns the device.

use std::sync::mpsc::Receiver;
use std::time::Instant;

use crate::engine::forward::Forward;
use crate::engine::handle::{Command, Shared};
use crate::engine::heart::EngineState;
use crate::engine::request::Failure;
use crate::engine::step::{Core, DeviceGone, caught};

/// Runs until the engine is drained, every handle is gone and the work is done, or the device keeps failing.
pub(crate) fn run(forward: Box<dyn Forward>, commands: &Receiver<Command>, shared: &Shared) {
    // Whatever breaks in here drops the core, and with it every request: each hears of it.
    let end = caught(|| {
        let mut core = Core::new(forward, shared.config.clone(), shared.metrics.clone());
        let end = serve(&mut core, commands, shared);
        if end.is_err() {
            tracing::error!("the device kept failing: the engine has stopped");
            core.fail_all(&Failure::EngineStopped);
        }
        core.report(true);
        end
    });
    if let Err(panic) = &end {
        tracing::error!(panic, "the engine has stopped");
    }
    let ended_well = matches!(end, Ok(Ok(())));
    shared.heart.enter(if ended_well { EngineState::Stopped } else { EngineState::Failed });
    shared.heart.rest();
    for command in commands.try_iter() {
        if let Command::Submit(submitted) = command {
            submitted.client.fail(if ended_well { Failure::Draining } else { Failure::EngineStopped });
        }
    }
    shared.ended.send_replace(true);
}

fn serve(core: &mut Core, commands: &Receiver<Command>, shared: &Shared) -> Result<(), DeviceGone> {
    let mut drained_by = None;
    loop {
        if core.is_idle() {
            core.report(true);
            shared.heart.rest();
            if drained_by.is_some() {
                return Ok(());
            }
            // Parks. No handle left means that nobody can ask for anything any more.
            let Ok(command) = commands.recv() else { return Ok(()) };
            shared.heart.beat(Instant::now());
            obey(core, command, shared, &mut drained_by);
        }
        for command in commands.try_iter() {
            obey(core, command, shared, &mut drained_by);
        }
        let now = Instant::now();
        shared.heart.beat(now);
        if drained_by.is_some_and(|deadline| deadline <= now) {
            core.fail_all(&Failure::Draining);
        }
        core.step(now)?;
    }
}

fn obey(core: &mut Core, command: Command, shared: &Shared, drained_by: &mut Option<Instant>) {
    match command {
        Command::Submit(submitted) => core.submit(*submitted),
        Command::Cancel(id) => core.cancel(id),
        Command::Refresh => {}
        Command::Drain { deadline } => {
            shared.heart.start_draining();
            *drained_by = Some(drained_by.map_or(deadline, |earlier| earlier.min(deadline)));
        }
    }
}
