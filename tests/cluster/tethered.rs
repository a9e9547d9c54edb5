//! A program of the control plane, or the operator: it ends with its value, and with this process however that ends.
//!
//! Statics are never dropped and a test may be killed: so each program has a tether, a shell that waits for the end of a
//! pipe which this process holds, and then kills the program by its id.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lorikeet_tests::say::say;

/// How much of the log is shown when a test fails.
const SHOWN_BYTES: u64 = 4000;

/// Becomes the program; the shell that it leaves behind is the tether. It kills only its own parent.
const TETHER: &str = r#"
exec 3<&0 </dev/null
{
  cat <&3 >/dev/null
  read -r _ _ _ parent _ < /proc/self/stat
  [ "$parent" = $$ ] && kill -KILL $$
} >/dev/null 2>&1 &
exec 3<&-
exec "$@"
"#;

/// A running program.
pub(crate) struct Tethered {
    name: String,
    child: Child,
    log: PathBuf,
    /// Whether its log is shown when a test fails.
    shown: bool,
}

impl Tethered {
    /// Starts `program` with `arguments`; what it prints goes to the file `log`.
    pub(crate) fn start(
        program: &Path,
        arguments: &[String],
        variables: &[(&str, &str)],
        log: PathBuf,
    ) -> Self {
        let name = program.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let file = File::options().create(true).append(true).open(&log).expect("a file for the log");
        let both = || Stdio::from(file.try_clone().expect("a second handle on the log"));
        let mut command = Command::new("sh");
        command.args(["-c", TETHER, "tether"]).arg(program).args(arguments);
        command.envs(variables.iter().copied()).stdin(Stdio::piped()).stdout(both()).stderr(both());
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name, child, log, shown: false }
    }

    /// Its log is shown when a test fails.
    pub(crate) fn shown(mut self) -> Self {
        self.shown = true;
        self
    }

    /// What it printed so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Fails the test when it has ended.
    #[track_caller]
    pub(crate) fn assert_running(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("{} ended: {status}\n{}", self.name, self.tail());
        }
    }

    /// Whether it has ended, and well.
    pub(crate) fn ended(&mut self) -> Option<bool> {
        self.child.try_wait().expect("the child can be asked").map(|status| status.success())
    }

    /// Sends it `signal`, by its id.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status().expect("kill is there");
        assert!(sent.success(), "{} is gone already", self.name);
    }

    /// Kills it and returns when it is gone.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Its resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("a running process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024
    }

    /// The end of its log.
    pub(crate) fn tail(&self) -> String {
        let Ok(mut log) = File::open(&self.log) else { return String::new() };
        let length = log.metadata().map_or(0, |metadata| metadata.len());
        let mut tail = Vec::new();
        let _ = log.seek(SeekFrom::Start(length.saturating_sub(SHOWN_BYTES)));
        let _ = log.read_to_end(&mut tail);
        String::from_utf8_lossy(&tail).into_owned()
    }
}

impl Drop for Tethered {
    fn drop(&mut self) {
        self.kill();
        if self.shown && std::thread::panicking() {
            say(&format!("--- the end of {}'s log ---\n{}\n---", self.name, self.tail()));
        }
    }
}
