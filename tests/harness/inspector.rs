//! `lorikeet inspector`, started for a test on a free port, and the same asked once without one.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use lorikeet_api::{Failure, INSPECT_PATH, InspectedSource, WeightsSize};
use serde_json::Value;

use crate::client::{Answer, Client};
use crate::process::{Process, free_address};
use crate::replica::binary;
use crate::until::until;

/// One inspector, which asks for no token.
pub struct Inspector {
    process: Process,
    client: Client,
}

impl Inspector {
    /// Starts one with further `flags`, and waits until it answers.
    ///
    /// # Panics
    /// When it ends instead, with its log.
    pub async fn start(flags: &[&str]) -> Self {
        let address = free_address();
        let mut command = Command::new(binary());
        command.args(["inspector", "--admin-listen", &address.to_string(), "--admin-insecure"]).args(flags);
        let mut process = Process::start("lorikeet inspector", &mut command);
        let client = Client::of(format!("http://{address}"));
        until("the inspector answers", async || {
            process.assert_running();
            match Client::send(client.request(reqwest::Method::GET, "/health")).await {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(other),
            }
        })
        .await;
        Self { process, client }
    }

    /// Asks what a source says of itself.
    pub async fn ask(&self, body: &Value) -> Answer {
        self.client.post(INSPECT_PATH, body).await
    }

    /// The process.
    #[must_use]
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Asks once: `lorikeet inspect SRC --glimpse` with further `flags`. What it prints, or the refusal.
///
/// # Errors
/// The message of its refusal.
///
/// # Panics
/// When it does not start, or does not say the same to programs and people.
pub fn glimpse(source: &str, flags: &[&str]) -> Result<InspectedSource, String> {
    let mut command = Command::new(binary());
    let output = command.args(["inspect", source, "--glimpse"]).args(flags).output().expect("it starts");
    answered(output)
}

fn answered(output: Output) -> Result<InspectedSource, String> {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let (said, refusal) = (text(output.stdout), text(output.stderr));
    match output.status.code() {
        Some(0) => Ok(serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))),
        Some(1) => {
            let failure: Failure =
                serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
            assert_eq!(refusal.trim_end(), format!("lorikeet: {}", failure.message));
            Err(failure.message)
        }
        other => panic!("{other:?}: {said}{refusal}"),
    }
}

/// Asks once as [`glimpse`] does, by a request on standard input: other users of the machine see none of it. What it prints,
/// or the refusal.
///
/// # Errors
/// The message of its refusal.
///
/// # Panics
/// When it does not start, or does not say the same to programs and people.
pub fn glimpse_quietly(request: &str, flags: &[&str]) -> Result<InspectedSource, String> {
    let mut command = Command::new(binary());
    command.args(["inspect", "-", "--glimpse"]).args(flags).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut input = child.stdin.take().expect("its standard input");
    // It may have refused before it has read all.
    let _ = input.write_all(request.as_bytes());
    drop(input);
    answered(child.wait_with_output().expect("it ends"))
}

/// What the adapter in `folder` says of itself, read here.
///
/// # Panics
/// When it has not its two files.
#[must_use]
pub fn said_by(folder: &Path) -> InspectedSource {
    let config = std::fs::read_to_string(folder.join("adapter_config.json")).expect("a configuration");
    let weights = std::fs::read(folder.join("adapter_model.safetensors")).expect("weights");
    let header = u64::from_le_bytes(weights[..8].try_into().expect("eight bytes"));
    InspectedSource { config, weights: Some(WeightsSize { length: weights.len() as u64, header }) }
}
