//! The `lorikeet-operator` command: arguments -> configuration -> observe, decide, write -> drain.

use std::process::ExitCode;

use clap::Parser as _;
use lorikeet_operator::args::{Cli, Command};
use lorikeet_operator::{cluster, telemetry, up, why};

/// glibc's allocator keeps an arena for each thread, and gives little of them back; musl's, in an image without glibc, is slow.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => telemetry::start(&args.log).map_err(|error| error.to_string()).and_then(|()| {
            let config = cluster::config::Config::try_from(*args).map_err(|error| error.to_string())?;
            cluster::run(config).map_err(|error| error.to_string())
        }),
        Command::Up(args) => telemetry::start(&args.log).map_err(|error| error.to_string()).and_then(|()| {
            let config = up::Config::try_from(*args).map_err(|error| error.to_string())?;
            up::run(config).map_err(|error| error.to_string())
        }),
        Command::Why(args) => {
            let sight = match &args.state {
                Some(state) => up::look::sight(state, &args).map_err(|error| error.to_string()),
                None => cluster::view::sight(&args).map_err(|error| error.to_string()),
            };
            sight.and_then(|sight| {
                why::print(&sight, &mut std::io::stdout()).map_err(|error| error.to_string())
            })
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not be there yet.
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "lorikeet-operator: {error}");
            ExitCode::FAILURE
        }
    }
}
