//! A cluster of one: the manifests of a folder, carried out on this machine. Files in the place of the API server, child
//! processes in the place of pods; what decides between them is [`crate::decide`], as in a cluster.
//!
//! * [`files`], [`nesting`], [`manifests`], [`admit`]: documents become objects, or are refused as the API server would
//! * [`state`], [`lock`]: objects with their statuses, in a folder that one process has, until one of [`signals`]
//! * [`fleets`], [`process`], [`roll`]: replicas as processes; [`secrets`]: what is mounted into them; [`log`]: what they print
//! * [`ports`], [`proxy`], [`screen`], [`table`], [`news`]: what users see of it
//! * [`carrier`]: a step of all that; [`troubles`]: what a step could not do

pub mod admit;
pub mod carrier;
pub mod files;
pub mod fleets;
pub mod folder;
pub mod lock;
pub mod log;
pub mod look;
pub mod manifests;
pub mod nesting;
pub mod news;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod roll;
pub mod screen;
pub mod secrets;
pub mod signals;
pub mod state;
pub mod table;
pub mod troubles;
pub mod whole;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::args::UpArgs;
use crate::credentials;
use crate::fleet::FleetKey;
use crate::probe::{News, ProbeConfig, Probes};
use crate::replicas::client::{Access, Pass};
use crate::up::carrier::Carrier;
use crate::up::fleets::{HOST, Machine};
use crate::up::folder::Stamps;
use crate::up::lock::{Lock, LockError};
use crate::up::ports::Ports;
use crate::up::proxy::Connections;
use crate::up::signals::Signals;

/// Between two looks at the manifests.
const LOOK: Duration = Duration::from_millis(200);
/// So long whoever was answered may take to read the rest of it when all replicas have ended.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Certificates are made anew at each start: none runs as long.
const CERTIFICATE_DAYS: u32 = 3650;

/// Why it does not run.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum UpError {
    #[error("{folder}: expected a folder of manifests: {source}")]
    Folder { folder: PathBuf, source: io::Error },
    #[error("--runtime: {0} is not there; build lorikeet-runtime, or say where its `lorikeet` is")]
    Program(PathBuf),
    #[error("--listen {address}: {source}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("--state {folder}: {source}")]
    State { folder: PathBuf, source: io::Error },
    #[error("--state {0}: is the folder of the manifests; expected another one, which may lie in it")]
    OneFolder(PathBuf),
    #[error(
        "--state {folder}: expected a new or empty folder, or that of an earlier `up`; it holds {found}, which is neither's, \
         and would be in the way of what `up` writes and removes there"
    )]
    Strangers { folder: PathBuf, found: String },
    #[error("certificates: {0}")]
    Certificates(#[from] rcgen::Error),
    #[error("{0}")]
    System(#[from] io::Error),
}

/// What was typed, checked.
pub struct Config {
    folder: PathBuf,
    listen: SocketAddr,
    state: PathBuf,
    claims: PathBuf,
    program: PathBuf,
    threads: usize,
    moves: usize,
    connections: Connections,
    log_bytes: u64,
    probe: ProbeConfig,
}

impl TryFrom<UpArgs> for Config {
    type Error = UpError;

    fn try_from(args: UpArgs) -> Result<Self, UpError> {
        let of = |folder: &Path| {
            folder.canonicalize().map_err(|source| UpError::Folder { folder: folder.to_owned(), source })
        };
        let folder = of(&args.folder)?;
        std::fs::read_dir(&folder).map_err(|source| UpError::Folder { folder: folder.clone(), source })?;
        let claims = match &args.claims {
            Some(claims) => of(claims)?,
            None => folder.parent().unwrap_or(&folder).to_owned(),
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            folder,
            listen: args.listen,
            state: args.state,
            claims,
            program: program(args.runtime)?,
            threads: args.threads.map_or(cores, std::num::NonZero::get),
            moves: usize::from(args.place.concurrent_moves),
            connections: Connections::new(args.max_connections),
            log_bytes: u64::from(args.replica_log_mib) << 20,
            probe: ProbeConfig::of(args.probe, true),
        })
    }
}

/// The runtime: as named, or the one beside this program, or whichever the system finds.
fn program(named: Option<PathBuf>) -> Result<PathBuf, UpError> {
    if let Some(named) = named {
        return if named.is_file() { Ok(named) } else { Err(UpError::Program(named)) };
    }
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("lorikeet")));
    Ok(beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("lorikeet")))
}

/// Carries the manifests out until a signal, then lets every replica finish.
///
/// # Errors
/// [`UpError`].
pub fn run(config: Config) -> Result<(), UpError> {
    // It may have been installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(up(config))
}

async fn up(config: Config) -> Result<(), UpError> {
    let in_state = |source| UpError::State { folder: config.state.clone(), source };
    std::fs::create_dir_all(&config.state).map_err(in_state)?;
    let state = config.state.canonicalize().map_err(in_state)?;
    if state == config.folder {
        return Err(UpError::OneFolder(state));
    }
    let (_lock, epoch) = take(&state)?;
    let first = TcpListener::bind(config.listen)
        .await
        .map_err(|source| UpError::Bind { address: config.listen, source })?;
    let (changed, changes) = mpsc::unbounded_channel();
    let machine = machine(&config, &state, changed)?;
    let probes = Probes::new(
        config.probe.clone(),
        News { some: machine.changed.clone(), all: machine.changed.clone() },
    );
    let ports = Ports::new(first, config.connections.clone())?;
    let carrier = Carrier::new(machine, probes, config.folder, ports, epoch).map_err(in_state)?;
    drive(carrier, changes, &config.connections).await
}

/// Takes the state folder for this process: its lock, and its epoch. That is written before anything else is, so that
/// whatever ends this process leaves a folder that is known for one of ours.
fn take(state: &Path) -> Result<(Lock, u64), UpError> {
    let in_state = |source| UpError::State { folder: state.to_owned(), source };
    if let Some(found) = state::stranger(state).map_err(in_state)? {
        return Err(UpError::Strangers { folder: state.to_owned(), found });
    }
    let lock = lock::lock(state)?;
    let epoch = state::next_epoch(state).map_err(in_state)?;
    Ok((lock, epoch))
}

/// The folder of this run, with new certificates and a new token.
fn machine(
    config: &Config,
    state: &Path,
    changed: mpsc::UnboundedSender<FleetKey>,
) -> Result<Machine, UpError> {
    let in_state = |source| UpError::State { folder: state.to_owned(), source };
    let made = credentials::make(HOST, CERTIFICATE_DAYS, Timestamp::now())?;
    let machine = Machine {
        program: config.program.clone(),
        state: state.to_owned(),
        claims: config.claims.display().to_string(),
        reach: config.probe.reach(),
        threads: config.threads,
        moves: config.moves,
        log_bytes: config.log_bytes,
        access: Arc::new(Access {
            newest: Pass { authority: made.authority.clone(), token: made.token.clone() },
            former: None,
        }),
        changed,
    };
    let run = machine.run_folder();
    match std::fs::remove_dir_all(&run) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(in_state(error)),
        _ => {}
    }
    let files = [
        ("ca.crt", &made.authority),
        ("tls.crt", &made.certificate),
        ("tls.key", &made.key),
        ("token", &made.token),
    ];
    for (name, content) in files {
        write_secret(&run.join("admin").join(name), content.as_bytes()).map_err(in_state)?;
    }
    std::fs::write(run.join("claims"), &machine.claims).map_err(in_state)?;
    Ok(machine)
}

/// A file that nobody else may read.
fn write_secret(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(content)
}

/// Follows files, reports, processes and signals. Nothing but a signal ends it: what a step cannot do is tried again.
async fn drive(
    mut carrier: Carrier,
    mut changes: mpsc::UnboundedReceiver<FleetKey>,
    connections: &Connections,
) -> Result<(), UpError> {
    let mut signals = Signals::new()?;
    let mut looks = tokio::time::interval(LOOK);
    // Looks that were missed, as while a step took long or the machine slept, would all see what one sees; and a file has
    // stood still when time has passed between two.
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before: Option<Stamps> = None;
    loop {
        let due = tokio::time::Instant::from_std(carrier.due());
        tokio::select! {
            _ = looks.tick() => {
                let now = carrier.stamps();
                // A file that is being written is read once it has stood still.
                if let Some(stamps) = now.as_ref().filter(|_| now == before)
                    && carrier.read(stamps.clone())
                {
                    carrier.step(Timestamp::now()).await;
                }
                before = now;
            }
            Some(_) = changes.recv() => {
                while changes.try_recv().is_ok() {}
                carrier.step(Timestamp::now()).await;
            }
            () = tokio::time::sleep_until(due) => carrier.step(Timestamp::now()).await,
            () = signals.end() => break,
        }
        carrier.show(Timestamp::now());
    }
    tracing::info!("replicas finish what they have; a second signal ends them at once");
    carrier.stop();
    let mut is_hurried = false;
    while !carrier.is_empty() && !is_hurried {
        tokio::select! {
            _ = changes.recv() => {}
            () = signals.end_at_once() => is_hurried = true,
        }
        carrier.step(Timestamp::now()).await;
    }
    carrier.step(Timestamp::now()).await;
    if !is_hurried {
        // The replicas have said all that they had to say: whoever does not read it is not waited for without end.
        tokio::select! {
            _ = tokio::time::timeout(LAST_WORDS, connections.ended()) => {}
            () = signals.end_at_once() => {}
        }
    }
    carrier.forget_secrets()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    #[tokio::test]
    async fn a_manifest_that_could_not_be_read_is_taken_when_it_can_be_though_its_stamp_is_the_same() {
        let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let typed = ["lorikeet-operator", "up", folder.path().to_str().unwrap(), "--listen", "127.0.0.1:0"];
        let Command::Up(args) = Cli::parse_from(typed).command else { panic!("another command") };
        let config = Config::try_from(*args).unwrap();
        let (changed, _changes) = mpsc::unbounded_channel();
        let machine = machine(&config, state.path(), changed).unwrap();
        let news = News { some: machine.changed.clone(), all: machine.changed.clone() };
        let probes = Probes::new(config.probe.clone(), news);
        let ports = Ports::new(TcpListener::bind(config.listen).await.unwrap(), config.connections).unwrap();
        let mut carrier = Carrier::new(machine, probes, config.folder.clone(), ports, 1).unwrap();
        let manifest = config.folder.join("a.yaml");
        let write = || std::fs::write(&manifest, "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n");
        write().unwrap();
        let stamps = carrier.stamps().unwrap();
        // In the place of a mode that forbids it: nothing is forbidden to whoever may all.
        std::fs::remove_file(&manifest).unwrap();
        assert!(carrier.read(stamps.clone()), "it is told");
        assert!(!carrier.read(stamps.clone()), "it is told once");
        write().unwrap();
        assert!(carrier.read(stamps.clone()), "it is taken");
        assert!(!carrier.read(stamps), "all is read");
    }

    #[test]
    fn of_two_that_start_at_once_on_a_new_folder_one_is_told_of_the_other() {
        for _ in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            let (state, both) = (folder.path(), Barrier::new(2));
            let start = || {
                both.wait();
                let taken = take(state);
                // Neither ends before the other has been answered.
                both.wait();
                taken.map(|(_lock, epoch)| epoch)
            };
            let answers = std::thread::scope(|scope| {
                let other = scope.spawn(start);
                [start(), other.join().unwrap()]
            });
            let held = format!("in use by process {};", std::process::id());
            let is_told = |answer: &Result<u64, UpError>| {
                answer.as_ref().is_err_and(|error| error.to_string().contains(&held))
            };
            assert!(
                answers.iter().any(|one| matches!(one, Ok(1))) && answers.iter().any(is_told),
                "{answers:?}"
            );
        }
    }

    #[test]
    fn what_ended_as_it_started_left_a_folder_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        // In the way of the epoch, as a full disk is.
        std::fs::create_dir(state.join("epoch.new")).unwrap();
        let error = take(state).unwrap_err().to_string();
        assert!(error.contains("/epoch: "), "{error}");
        std::fs::remove_dir(state.join("epoch.new")).unwrap();
        std::fs::write(state.join("epoch.new"), "").unwrap();
        assert!(take(state).is_ok_and(|(_lock, epoch)| epoch == 1));
    }
}
