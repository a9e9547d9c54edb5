//! Reads a source beside a replica: by the inspector in a replica's pod, or on one machine by the runtime's own program.
//! They mount what opens the source, which the operator never reads. Must not judge what they say.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use lorikeet_api::{ErrorCode, Failure, InspectRequest, InspectedSource};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::timeout;

use crate::build::arguments::Reach;
use crate::decide::mounts::Mounts;
use crate::fleet::Probe;
use crate::probe::wanted::Wanted;
use crate::probe::{config, weights};
use crate::replicas::client::{Client, ClientError, Endpoint};

/// The longest answer of the program that is read: the longest configuration, escaped.
const MAX_OUTPUT: u64 = 8 << 20;
/// Inspectors that are asked about one source, one after the other.
const ASKED: usize = 3;
/// Programs that run at once for one fleet.
const PROGRAMS: usize = 4;

/// Who reads for a fleet what the operator may not.
#[derive(Clone, Debug)]
pub enum Readers {
    /// The inspectors of its replicas' pods.
    Inspectors(Arc<[Inspector]>),
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

impl Readers {
    /// Sources that are read at once, where `concurrent` may be.
    pub(super) fn turns(&self, concurrent: usize) -> usize {
        match self {
            Self::Program(_) => concurrent.min(PROGRAMS),
            Self::Inspectors(_) => concurrent,
        }
    }

    /// What there would have to be for `wanted` to be read; nothing where there is.
    pub(super) fn lacked(&self, wanted: &Wanted) -> Option<String> {
        match self {
            Self::Program(_) => None,
            Self::Inspectors(all) if all.iter().any(|one| one.has(wanted)) => None,
            Self::Inspectors(_) => Some(whom(wanted)),
        }
    }
}

impl Inspector {
    /// Whether its pod has mounted what `wanted` takes.
    pub(super) fn has(&self, wanted: &Wanted) -> bool {
        let is_in = |all: &BTreeSet<String>, name: &Option<String>| {
            name.as_ref().is_none_or(|name| all.contains(name))
        };
        is_in(&self.mounts.secrets, &wanted.secret) && is_in(&self.mounts.claims, &wanted.claim)
    }
}

/// What there would have to be.
fn whom(wanted: &Wanted) -> String {
    match (&wanted.secret, &wanted.claim) {
        (None, None) => "a replica's pod that runs".to_owned(),
        (Some(secret), _) => format!("a replica's pod that has Secret {secret} mounted"),
        (None, Some(claim)) => format!("a replica's pod that has PersistentVolumeClaim {claim} mounted"),
    }
}

/// What came of asking who reads.
#[derive(Debug)]
pub(super) enum Asking {
    /// What the source says, or why it cannot be read.
    Said(Probe),
    /// The source took too long.
    Late,
    /// Nobody tried, and why.
    Unanswered(String),
}

/// What is asked about `wanted`.
pub(super) fn request(wanted: &Wanted) -> InspectRequest {
    InspectRequest { source: wanted.source.clone(), revision: None, credentials: wanted.secret.clone() }
}

/// The few of those that are `able` that are asked about `source`, one after the other. They are others for another source, and
/// begin with the next one when `failures` went before.
pub(super) fn first<'a>(
    able: &[&'a Endpoint],
    source: &str,
    failures: u32,
) -> impl Iterator<Item = &'a Endpoint> {
    let hash = source.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let start = hash.wrapping_add(failures as usize) % able.len().max(1);
    able.iter().copied().cycle().skip(start).take(able.len().min(ASKED))
}

/// Asks one inspector, for as long as `limit`.
pub(super) async fn ask(client: &Client, request: &InspectRequest, limit: Duration) -> Asking {
    match timeout(limit, client.inspect(request)).await {
        Ok(Ok(Ok(inspected))) => Asking::Said(said(&inspected)),
        Ok(Ok(Err(failure))) => Asking::Said(Probe::Refused(failure)),
        Ok(Err(ClientError::Late | ClientError::Refused { status: 504, .. })) | Err(_) => Asking::Late,
        Ok(Err(error)) => Asking::Unanswered(error.to_string()),
    }
}

impl Program {
    /// Reads one source.
    pub(super) async fn run(&self, request: &InspectRequest) -> Asking {
        match self.output(request).await {
            Ok(probe) => Asking::Said(probe),
            Err(error) => Asking::Unanswered(format!("{}: {error}", self.path.display())),
        }
    }

    /// What the source may hold, a signature say, is for no command line: it is told by the standard input.
    async fn output(&self, request: &InspectRequest) -> io::Result<Probe> {
        let mut command = Command::new(&self.path);
        command.args(self.arguments()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // Ctrl-C at the terminal is for this process.
        let mut child = command.process_group(0).kill_on_drop(true).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&serde_json::to_vec(request)?).await?;
        }
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MAX_OUTPUT).read_to_end(&mut output).await?;
        }
        let status = child.wait().await?;
        if status.success() {
            return Ok(said(&serde_json::from_slice(&output)?));
        }
        let failure = serde_json::from_slice(&output);
        failure.map(Probe::Refused).map_err(|_| io::Error::other(format!("it ended with {status}")))
    }

    fn arguments(&self) -> Vec<String> {
        let mut all = ["inspect", "-", "--glimpse"].map(str::to_owned).to_vec();
        all.push(format!("--hf-endpoint={}", self.reach.hub));
        all.extend(self.reach.hosts.iter().map(|host| format!("--allow-source-host={host}")));
        all.extend(self.roots.iter().map(|root| format!("--source-root={root}")));
        all.push(format!("--credentials={}", self.credentials.display()));
        all
    }
}

/// A source that cannot be read, and why.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replicas::client::{Access, Pass};

    #[test]
    fn the_next_try_begins_with_another_inspector() {
        let newest = Pass { authority: String::new(), token: String::new() };
        let access = Arc::new(Access { newest, former: None });
        let endpoint = |port: u16| Endpoint {
            host: String::new(),
            address: ([127, 0, 0, 1], port).into(),
            incarnation: String::new(),
            access: Arc::clone(&access),
        };
        let all: Vec<Endpoint> = (0..5).map(endpoint).collect();
        let able: Vec<&Endpoint> = all.iter().collect();
        let asked = |count: usize, failures: u32| -> Vec<u16> {
            first(&able[..count], "s3://bucket/x", failures).map(|one| one.address.port()).collect()
        };
        let begins: BTreeSet<u16> = (0..5).map(|failures| asked(5, failures)[0]).collect();
        assert_eq!(begins.len(), 5);
        assert_eq!(asked(5, 0).iter().collect::<BTreeSet<_>>().len(), ASKED);
        assert_eq!((asked(1, 7), asked(0, 0)), (vec![0], vec![]));
    }
}
