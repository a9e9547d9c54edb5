//! A program started for a test: its output goes to a file, which is shown when the test fails; it ends with its value.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use crate::say::say;

/// How much of the log is shown when a test fails.
const SHOWN_BYTES: u64 = 6000;

/// A running program.
pub struct Process {
    name: String,
    child: Child,
    log: tempfile::NamedTempFile,
}

impl Process {
    /// Starts `command`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(name: &str, command: &mut Command) -> Self {
        let log = tempfile::NamedTempFile::new().expect("a file for the log");
        let out = || Stdio::from(File::options().append(true).open(log.path()).expect("the log opens"));
        let child = command.stdin(Stdio::null()).stdout(out()).stderr(out()).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name} does not start: {error}: {command:?}"));
        Self { name: name.to_owned(), child, log }
    }

    /// What it printed so far.
    ///
    /// # Panics
    /// When the log cannot be read.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).expect("the log is text")
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails the test when it has ended.
    ///
    /// # Panics
    /// When it has ended, with its log.
    pub fn assert_running(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("{} ended: {status}\n{}", self.name, self.log());
        }
    }

    /// Whether it has ended, and well.
    ///
    /// # Panics
    /// When the system cannot tell.
    pub fn ended(&mut self) -> Option<bool> {
        self.child.try_wait().expect("the child can be asked").map(|status| status.success())
    }

    /// Asks it to end (SIGTERM).
    ///
    /// # Panics
    /// When `kill` is not there.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Asks it to end as Ctrl-C does (SIGINT).
    ///
    /// # Panics
    /// When `kill` is not there.
    pub fn interrupt(&self) {
        self.signal("INT");
    }

    /// Tells it that its terminal is closed (SIGHUP).
    ///
    /// # Panics
    /// When `kill` is not there.
    pub fn hang_up(&self) {
        self.signal("HUP");
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill is there");
        assert!(sent.success(), "{} is gone already", self.name);
    }

    /// Its resident memory in bytes.
    ///
    /// # Panics
    /// When it is gone, or the system has no `/proc`.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        Memory::of(self.child.id()).resident
    }
}

/// The resident memory of a process.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Bytes now.
    pub resident: u64,
    /// The most that it ever had, in bytes.
    pub peak: u64,
}

impl Memory {
    /// That of process `id`.
    ///
    /// # Panics
    /// When it is gone, or the system has no `/proc`.
    #[must_use]
    pub fn of(id: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a running process");
        let bytes = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("it is told");
            line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024
        };
        Self { resident: bytes("VmRSS:"), peak: bytes("VmHWM:") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking()
            && let Ok(mut log) = File::open(self.log.path())
        {
            let length = log.metadata().map_or(0, |metadata| metadata.len());
            let mut tail = Vec::new();
            let _ = log.seek(SeekFrom::Start(length.saturating_sub(SHOWN_BYTES)));
            let _ = log.read_to_end(&mut tail);
            say(&format!("--- the end of {}'s log ---\n{}\n---", self.name, String::from_utf8_lossy(&tail)));
        }
    }
}

/// An address on loopback that nobody listens on now.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}
