//! A program of the control plane, or the operator: it ends with its value, and with this process however that ends.
//!
//! Statics are never dropped and a test may be killed: so each program has a tether, a shell that waits for the end of a
//! pipe which this process holds, and then kills the program by its id.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lorikeet_tests::process::Memory;
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

    /// The name of its program.
    pub(crate) fn name(&self) -> &str {
        &self.name
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

    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory.
    pub(crate) fn memory(&self) -> Memory {
        Memory::of(self.child.id())
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::given::skips;
    use crate::stage::Stage;
    use crate::until::{PATIENCE, until};

    /// A process of this machine, by its id and when it started: an id is given again.
    type Id = (u32, u64);

    /// Every process that runs, with its parent and its name.
    fn processes() -> BTreeMap<Id, (u32, String)> {
        let all = std::fs::read_dir("/proc").expect("a list of processes").flatten();
        all.filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?)).collect()
    }

    fn process(id: u32) -> Option<(Id, (u32, String))> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let (head, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        // One that has ended and whose parent has not asked for it runs no more.
        let runs = *fields.first()? != "Z";
        let (parent, start) = (fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?);
        let name = head.split_once('(')?.1.to_owned();
        runs.then_some(((id, start), (parent, name)))
    }

    /// The processes that `root` started, and those that they did.
    fn below(root: u32) -> BTreeMap<Id, String> {
        let all = processes();
        let mut found = BTreeMap::new();
        let mut parents = vec![root];
        while let Some(parent) = parents.pop() {
            for ((id, start), (_, name)) in all.iter().filter(|(_, (of, _))| *of == parent) {
                found.insert((*id, *start), name.clone());
                parents.push(*id);
            }
        }
        found
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "waits until it is killed: the test below runs it in a process of its own"]
    async fn a_suite_that_waits_to_be_killed() {
        let _stage = Stage::with_operator("killed").await;
        std::future::pending::<()>().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_suite_that_is_killed_leaves_no_program_behind() {
        if skips("its programs are looked for") {
            return;
        }
        let program = std::env::current_exe().expect("a test knows its own program");
        let name = "tethered::tests::a_suite_that_waits_to_be_killed";
        let mut command = Command::new(program);
        command.args(["--exact", name, "--ignored"]).stdin(Stdio::null()).stdout(Stdio::null());
        let mut suite = command.stderr(Stdio::null()).spawn().expect("it starts");
        // The kernel keeps fifteen characters of a name.
        let expected = ["etcd", "kube-apiserver", "kube-controller", "lorikeet-operat"];
        let started = until("all programs of the suite run", PATIENCE * 3, async || {
            let found = below(suite.id());
            let runs = |name: &str| found.values().any(|other| other == name);
            expected.iter().all(|name| runs(name)).then_some(found)
        })
        .await;
        suite.kill().expect("it runs");
        suite.wait().expect("it has ended");
        until("its programs have ended, and their tethers", PATIENCE, async || {
            let left = processes();
            (!started.keys().any(|id| left.contains_key(id))).then_some(())
        })
        .await;
    }
}
