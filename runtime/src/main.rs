//! The `lorikeet` command: arguments -> configuration -> engine -> faces -> drain.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use lorikeet_runtime::args::{Cli, Command, InspectArgs};
use lorikeet_runtime::inspect::{self, Inspection};
use lorikeet_runtime::serve;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => serve::run(*args).map_err(|error| error.to_string()),
        Command::Inspect(args) => return inspected(&args),
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

/// 0: it would be served; 1: it would be refused.
fn inspected(args: &InspectArgs) -> ExitCode {
    let inspection = Inspection {
        path: Path::new(&args.source),
        model: args.model.as_deref().map(Path::new),
        max_rank: args.max_rank as usize,
        json: args.json,
    };
    match inspect::run(&inspection, &mut std::io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}
