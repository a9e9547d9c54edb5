//! Reads a source beside a replica: by the inspector in a replica's pod, or on one machine by the runtime's own program.
//! They mount what opens the source, which the operator never reads. Must not judge what they say.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use lorikeet_api::{ErrorCode, Failure, InspectRequest, InspectedSource};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::build::arguments::Reach;
use crate::decide::mounts::Mounts;
use crate::fleet::Probe;
use crate::probe::config;
use crate::probe::wanted::Wanted;
use crate::probe::weights;
use crate::replicas::client::{Client, ClientError, Endpoint};

/// The longest answer of the program that is read: the longest configuration, escaped.
const MAX_OUTPUT: u64 = 8 << 20;

/// Who reads for a fleet what the operator may not.
#[derive(Clone, Debug)]
pub enum Readers {
    /// The inspectors of its replicas' pods.
    Inspectors(Vec<Inspector>),
    /// This machine.
    Program(Program),
}

/// The inspector of a pod.
#[derive(Clone, Debug)]
pub struct Inspector {
    /// Where it is.
    pub endpoint: Endpoint,
    /// What the pod has mounted.
    pub mounts: Arc<Mounts>,
}

/// The runtime's program, which reads one source and ends.
#[derive(Clone, Debug)]
pub struct Program {
    /// `lorikeet`.
    pub path: PathBuf,
    /// Folders below which paths may be.
    pub roots: Vec<String>,
    /// The folder of the Secrets of the fleet's namespace.
    pub credentials: PathBuf,
    /// What sources may lead to.
    pub reach: Reach,
}

/// Those of [`Readers`] that have what one source takes.
#[derive(Clone, Debug)]
pub(super) enum Reader {
    /// Any of these, the first that answers.
    Inspectors(Vec<Endpoint>),
    /// This machine.
    Program(Program),
}

impl Readers {
    /// Those that have mounted what `wanted` takes.
    ///
    /// # Errors
    /// There is none: what would be one.
    pub(super) fn of(&self, wanted: &Wanted) -> Result<Reader, String> {
        let inspectors = match self {
            Self::Program(program) => return Ok(Reader::Program(program.clone())),
            Self::Inspectors(all) => all,
        };
        let has = |one: &&Inspector| {
            let is_in = |all: &std::collections::BTreeSet<String>, name: &Option<String>| {
                name.as_ref().is_none_or(|name| all.contains(name))
            };
            is_in(&one.mounts.secrets, &wanted.secret) && is_in(&one.mounts.claims, &wanted.claim)
        };
        let able: Vec<Endpoint> = inspectors.iter().filter(has).map(|one| one.endpoint.clone()).collect();
        if able.is_empty() { Err(lacked(wanted)) } else { Ok(Reader::Inspectors(able)) }
    }
}

/// What there would have to be.
fn lacked(wanted: &Wanted) -> String {
    match (&wanted.secret, &wanted.claim) {
        (None, None) => "a replica's pod that runs".to_owned(),
        (Some(secret), _) => format!("a replica's pod that has Secret {secret} mounted"),
        (None, Some(claim)) => format!("a replica's pod that has PersistentVolumeClaim {claim} mounted"),
    }
}

impl Reader {
    /// What `wanted` says of itself.
    pub(super) async fn read(&self, wanted: &Wanted) -> Probe {
        let request = InspectRequest {
            source: wanted.source.clone(),
            revision: None,
            credentials: wanted.secret.clone(),
        };
        let inspected = match self {
            Self::Inspectors(endpoints) => ask(endpoints, &request).await,
            Self::Program(program) => program.run(&request).await,
        };
        match inspected {
            Ok(inspected) => said(&inspected),
            Err(failure) => Probe::Refused(failure),
        }
    }
}

/// Asks one after the other until one answers; thousands of sources begin at different ones.
async fn ask(endpoints: &[Endpoint], request: &InspectRequest) -> Result<InspectedSource, Failure> {
    let first = request.source.bytes().fold(0, |sum: usize, byte| sum.wrapping_mul(31) + usize::from(byte));
    let mut why = String::new();
    for at in 0..endpoints.len() {
        let endpoint = &endpoints[(first.wrapping_add(at)) % endpoints.len()];
        let asked = async { Client::new(endpoint)?.inspect(request).await };
        let asked: Result<_, ClientError> = asked.await;
        match asked {
            Ok(inspected) => return inspected,
            Err(error) => why = format!("the inspector at {} did not read it: {error}", endpoint.address),
        }
    }
    Err(unavailable(why))
}

impl Program {
    async fn run(&self, request: &InspectRequest) -> Result<InspectedSource, Failure> {
        let mut command = Command::new(&self.path);
        command.args(self.arguments(request)).stdin(Stdio::null()).stderr(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().map_err(broken)?;
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MAX_OUTPUT).read_to_end(&mut output).await.map_err(broken)?;
        }
        let status = child.wait().await.map_err(broken)?;
        let strange =
            |error: serde_json::Error| unavailable(format!("its reader ended with {status}: {error}"));
        if status.success() {
            return serde_json::from_slice(&output).map_err(strange);
        }
        Err(serde_json::from_slice(&output).unwrap_or_else(strange))
    }

    fn arguments(&self, request: &InspectRequest) -> Vec<String> {
        let mut all = vec!["inspect".to_owned(), "--glimpse".to_owned()];
        all.push(format!("--hf-endpoint={}", self.reach.hub));
        all.extend(self.reach.hosts.iter().map(|host| format!("--allow-source-host={host}")));
        all.extend(self.roots.iter().map(|root| format!("--source-root={root}")));
        if let Some(secret) = &request.credentials {
            all.push(format!("--credentials={}", self.credentials.display()));
            all.push(format!("--secret={secret}"));
        }
        all.push("--".to_owned());
        all.push(request.source.clone());
        all
    }
}

fn broken(error: std::io::Error) -> Failure {
    unavailable(format!("its reader broke: {error}"))
}

pub(super) fn unavailable(message: String) -> Failure {
    Failure { code: ErrorCode::SourceUnavailable, message }
}

/// What was read, as far as a Deployment's limits go.
fn said(inspected: &InspectedSource) -> Probe {
    match config::read(inspected.config.as_bytes()) {
        Probe::Facts(mut facts) => {
            facts.bytes = inspected.weights.and_then(|size| weights::tensors(size.length, size.header));
            Probe::Facts(facts)
        }
        other => other,
    }
}
