//! One replica as a process of this machine: started, watched, started again when it ends, and let go. What `kubelet`
//! does for a pod. Must not decide how many there are or when one is to go.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::SignalKind;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;

use crate::build::health::{Probing, READY};
use crate::fleet::FleetKey;
use crate::up::log::Log;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// One that lived so long did not fail at its start.
const LIVED: Duration = Duration::from_secs(30);
/// Between two looks at a process that is not ready, and at one that is.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// From its leaving the proxy to its end: a connection that was made just before has sent its request by then.
const HANDOVER: Duration = Duration::from_millis(300);
/// Beyond the drain: time for the process to end.
const GRACE: Duration = Duration::from_secs(15);

/// SIGKILL's number, which nobody can handle and tokio has no name for.
const KILL: i32 = 9;

/// How to start it.
#[derive(Clone)]
pub struct Launch {
    /// The `lorikeet` program.
    pub program: PathBuf,
    /// Its arguments for the addresses of its public and its admin face.
    pub arguments: Arc<dyn Fn(SocketAddr, SocketAddr) -> Vec<String> + Send + Sync>,
    /// Threads that compute.
    pub threads: usize,
    /// Where its output goes.
    pub log: Log,
    /// How long its requests may take when it is let go.
    pub drain: Duration,
    /// How it is asked whether it lives, once it has answered.
    pub live: Probing,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It loads its model.
    Loading,
    /// It has answered, and takes no requests now: it waits for pinned adapters, or is late with an answer.
    Loaded,
    /// It takes requests.
    Ready,
    /// It ended by itself and is started again after a pause.
    Ended,
    /// It was let go and is no more.
    Gone,
}

/// A process as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How far it is.
    pub phase: Phase,
    /// Its id; 0 before the first start.
    pub pid: u32,
    /// Starts of it, this one included.
    pub start: u32,
    /// Its public face.
    pub public: SocketAddr,
    /// Its admin face.
    pub admin: SocketAddr,
    /// Its last end by itself, until it answers again.
    pub failed: Option<Failed>,
}

impl Seen {
    /// It was asked whether it is ready. While it runs it is not loading again: whoever it answered before may go on asking.
    fn hears(&mut self, answer: Option<u16>) {
        self.phase = match (answer, &self.phase) {
            (Some(200), _) => Phase::Ready,
            (None, Phase::Loading) => return,
            _ => Phase::Loaded,
        };
        if answer.is_some() {
            self.failed = None;
        }
    }
}

/// An end that nobody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// How, and its last words.
    pub why: String,
    /// When.
    pub since: Timestamp,
}

/// A replica's process; dropped, it is killed.
pub struct Process {
    /// What it was started from: another one means that it is to be replaced.
    pub template: String,
    /// Threads that compute, for as long as it runs.
    pub threads: usize,
    seen: watch::Receiver<Seen>,
    leave: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Process {
    /// Starts it. `changed` hears of every change.
    #[must_use]
    pub fn start(
        fleet: FleetKey,
        launch: Launch,
        template: String,
        changed: mpsc::UnboundedSender<FleetKey>,
    ) -> Self {
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let first =
            Seen { phase: Phase::Loading, pid: 0, start: 0, public: nowhere, admin: nowhere, failed: None };
        let (tell, seen) = watch::channel(first);
        let (leave, leaving) = watch::channel(false);
        let threads = launch.threads;
        let keeper = Keeper { fleet, launch, tell, leaving, changed };
        Self { template, threads, seen, leave, _task: AbortOnDropHandle::new(tokio::spawn(keeper.keep())) }
    }

    /// As it is now.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Lets it finish what it has, and end.
    pub fn leave(&self) {
        self.leave.send_replace(true);
    }

    /// Whether it was let go.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        *self.leave.borrow()
    }

    /// Whether it takes requests.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.is_leaving() && self.seen.borrow().phase == Phase::Ready
    }

    /// Bytes of memory that it takes; 0 where nobody can say.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.seen.borrow().pid)).unwrap_or_default();
        kibibytes(&status, "VmRSS:").unwrap_or(0)
    }
}

/// Bytes of memory that are free for another process; a great number where nobody can say.
#[must_use]
pub fn available_bytes() -> u64 {
    kibibytes(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemAvailable:")
        .unwrap_or(u64::MAX)
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// Why a process is not followed any more.
enum Over {
    /// It has ended.
    Ended(io::Result<ExitStatus>),
    /// It does not live, though it runs.
    Hangs(String),
    /// It is to go.
    LetGo,
}

/// Keeps one process running until it is let go.
struct Keeper {
    fleet: FleetKey,
    launch: Launch,
    tell: watch::Sender<Seen>,
    leaving: watch::Receiver<bool>,
    changed: mpsc::UnboundedSender<FleetKey>,
}

impl Keeper {
    async fn keep(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut before: Option<String> = None;
        while !*self.leaving.borrow() {
            let began = Instant::now();
            let why = match self.start() {
                Ok(child) => match self.watch(child).await {
                    Some(why) => why,
                    None => break,
                },
                Err(error) => format!("{}: {error}", self.launch.program.display()),
            };
            if began.elapsed() > LIVED {
                (pause, before) = (FIRST_PAUSE, None);
            }
            self.tell_end(&why, before.as_ref() == Some(&why));
            before = Some(why.clone());
            self.say(|seen| {
                seen.phase = Phase::Ended;
                seen.failed = Some(Failed { why, since: Timestamp::now() });
            });
            // Let go meanwhile: nothing is left to end.
            let _ = tokio::time::timeout(pause, self.leaving.wait_for(|leaving| *leaving)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.say(|seen| seen.phase = Phase::Gone);
    }

    /// One that ends again and again in the same way is news once.
    fn tell_end(&self, why: &str, is_known: bool) {
        let (name, log) = (self.launch.log.name(), self.launch.log.path.display());
        if is_known {
            tracing::debug!(%log, "replica {name} ended again: {why}");
        } else {
            tracing::warn!(%log, "replica {name} ended: {why}; it is started again");
        }
    }

    fn start(&self) -> io::Result<Child> {
        let (public, admin) = (free_address()?, free_address()?);
        let log = self.launch.log.create()?;
        let child = Command::new(&self.launch.program)
            .args((self.launch.arguments)(public, admin))
            // Whatever ends this process closes the pipe, and the child with it.
            .arg("--until-stdin-closes")
            .env("LORIKEET_THREADS", self.launch.threads.to_string())
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C at the terminal is for this process, which lets its children finish.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().unwrap_or(0);
        self.say(|seen| {
            let (start, failed) = (seen.start + 1, seen.failed.take());
            *seen = Seen { phase: Phase::Loading, pid, start, public, admin, failed };
        });
        Ok(child)
    }

    /// Follows the process to its end: why it ended by itself, or nothing when it was let go.
    async fn watch(&mut self, mut child: Child) -> Option<String> {
        let stdin = child.stdin.take();
        let public = self.tell.borrow().public;
        let looks = async {
            loop {
                let answer = answer(public, READY).await;
                self.say(|seen| seen.hears(answer));
                let pause = if answer == Some(200) { LOOK_AGAIN } else { LOOK };
                if let Err(error) = self.launch.log.bound().await {
                    tracing::debug!(%error, log = %self.launch.log.path.display(), "a log is not cut");
                }
                tokio::time::sleep(pause).await;
            }
        };
        let mut leaving = self.leaving.clone();
        let over = tokio::select! {
            ended = child.wait() => Over::Ended(ended),
            why = self.hangs(public) => Over::Hangs(why),
            () = looks => Over::LetGo,
            _ = leaving.wait_for(|leaving| *leaving) => Over::LetGo,
        };
        match over {
            Over::Ended(Ok(status)) => return Some(end(status, &self.launch.log).await),
            Over::Ended(Err(error)) => return Some(error.to_string()),
            Over::Hangs(why) => {
                // It has ended meanwhile: all the better.
                let _ = child.kill().await;
                return Some(why);
            }
            Over::LetGo => {}
        }
        tokio::time::sleep(HANDOVER).await;
        drop(stdin);
        if tokio::time::timeout(self.launch.drain + GRACE, child.wait()).await.is_err() {
            tracing::warn!(fleet = %self.fleet.name, "a replica did not end in time: killed");
            // It has ended meanwhile: all the better.
            let _ = child.kill().await;
        }
        None
    }

    /// Waits until the process, which has answered once, does not say any more that it lives: why it is to be killed.
    async fn hangs(&self, public: SocketAddr) -> String {
        let live = self.launch.live;
        // The sender is our own.
        let _ = self.tell.subscribe().wait_for(|seen| seen.phase != Phase::Loading).await;
        let mut times = tokio::time::interval(live.period);
        times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures = 0;
        loop {
            times.tick().await;
            let said = match answer(public, live).await {
                Some(200..400) => {
                    failures = 0;
                    continue;
                }
                Some(status) => format!("said {status}"),
                None => "did not answer".to_owned(),
            };
            failures += 1;
            if failures >= live.failures {
                return format!("killed: {} {said}, {failures} times in a row", live.path);
            }
        }
    }

    fn say(&self, change: impl FnOnce(&mut Seen)) {
        let differs = self.tell.send_if_modified(|seen| {
            let before = seen.clone();
            change(seen);
            *seen != before
        });
        if differs {
            // Nobody listens any more only while everything stops.
            let _ = self.changed.send(self.fleet.clone());
        }
    }
}

/// A port that nobody has now. Another process may take it before the child does: then the child ends and is started again.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// The status that a question is answered with.
async fn answer(address: SocketAddr, probing: Probing) -> Option<u16> {
    let asked = async {
        let mut socket = TcpStream::connect(address).await.ok()?;
        let request =
            format!("GET {} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n", probing.path);
        socket.write_all(request.as_bytes()).await.ok()?;
        let mut head = [0; 12];
        socket.read_exact(&mut head).await.ok()?;
        std::str::from_utf8(&head).ok()?.strip_prefix("HTTP/1.1 ")?.parse().ok()
    };
    tokio::time::timeout(probing.timeout, asked).await.ok()?
}

/// How a process ended, and what it said of that. One that was ended from outside knows nothing of it.
async fn end(status: ExitStatus, log: &Log) -> String {
    let outside = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let is_outside = |signal: i32| signal == KILL || outside.iter().any(|kind| kind.as_raw_value() == signal);
    if status.signal().is_some_and(is_outside) {
        return status.to_string();
    }
    match log.last_words().await {
        Some(words) => format!("{status}: {words}"),
        None => status.to_string(),
    }
}

#[cfg(test)]
mod tests;
