//! `lorikeet-bench`: arguments -> scenario -> warm-up -> run -> report. It is a client and knows nothing of any server's inside.

mod args;
mod client;
mod drive;
mod progress;
mod protocol;
mod report;
mod scenario;
#[cfg(test)]
mod scripted;
mod sse;
mod statistics;
mod table;
mod traffic;

use std::process::ExitCode;

use clap::Parser;

use crate::report::Report;
use crate::scenario::Scenario;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match measure().await {
        Ok(report) if report.total.requests > 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            say(&mut std::io::stderr(), &format!("lorikeet-bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn measure() -> Result<Report, Box<dyn std::error::Error>> {
    let mut scenario = Scenario::of(args::Args::parse())?;
    // Only a second call can fail, and there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = client::Server::of(&scenario)?;
    if scenario.discover {
        scenario.traffic.adapters = server.adapters().await?;
    }
    drive::warm_up(&scenario, &server).await?;
    let progress = progress::Progress::of(&scenario);
    let run = drive::run(&scenario, &server, &progress).await;
    progress.done();
    let report = Report::of(&scenario, &run);
    let json = serde_json::to_string_pretty(&report)?;
    match &scenario.json {
        Some(path) if path.as_os_str() == "-" => say(&mut std::io::stdout(), &json),
        Some(path) => std::fs::write(path, json + "\n")?,
        None => {}
    }
    if scenario.json.as_ref().is_none_or(|path| path.as_os_str() != "-") {
        say(&mut std::io::stdout(), &table::render(&report, scenario.total_only));
    }
    Ok(report)
}

/// A line for whoever reads; a reader that has gone is no error.
fn say(out: &mut dyn std::io::Write, line: &str) {
    let _ = writeln!(out, "{line}");
}
