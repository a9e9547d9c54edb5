//! The `lorikeet` command: arguments -> configuration -> engine -> faces -> drain.

use std::process::ExitCode;

use clap::Parser as _;
use lorikeet_runtime::args::{Cli, Command};
use lorikeet_runtime::serve;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => serve::run(*args).map_err(|error| error.to_string()),
        Command::Inspect(_) => Err("inspect: comes with the next piece".to_owned()),
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
