//! The `lorikeet` command: arguments -> configuration -> engine -> faces -> drain.

use std::process::ExitCode;

use clap::Parser as _;
use lorikeet_runtime::adapters::build::AdapterLimits;
use lorikeet_runtime::args::{Cli, Command, InspectArgs};
use lorikeet_runtime::inspect::{self, Inspection};
use lorikeet_runtime::{inspector, serve};

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => serve::run(*args).map_err(|error| error.to_string()),
        Command::Inspect(args) if args.glimpse => glimpsed(&args),
        Command::Inspect(args) => return inspected(&args),
        Command::Inspector(args) => inspector::run(&args).map_err(|error| error.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not be there yet.
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "lorikeet: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One line of JSON in either case, for programs; the refusal for people too.
fn glimpsed(args: &InspectArgs) -> Result<(), String> {
    use std::io::Write as _;
    let (line, ended) = match inspect::glimpse(args, &mut std::io::stdin().lock()) {
        Ok(said) => (serde_json::to_string(&said), Ok(())),
        Err(failure) => (serde_json::to_string(&failure), Err(failure.message)),
    };
    let line = line.map_err(|error| error.to_string())?;
    writeln!(std::io::stdout(), "{line}").map_err(|error| error.to_string())?;
    ended
}

/// 0: it would be served; 1: it would be refused.
fn inspected(args: &InspectArgs) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let done = match inspect::locate(args) {
        Ok(located) => {
            let (path, model) = (located.path(), located.model());
            let limits = AdapterLimits::new(args.max_rank as usize, args.max_adapter_bytes.0);
            let inspection = Inspection { path: &path, model: model.as_deref(), limits, json: args.json };
            inspect::run(&inspection, &mut out)
        }
        Err(reason) => inspect::refuse(&reason, args.json, &mut out).map(|()| false),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}
