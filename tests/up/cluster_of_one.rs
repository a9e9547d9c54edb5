//! A cluster of one, started for a test: manifests, models and state in a folder of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use lorikeet_tests::client::Client;
use lorikeet_tests::operator::binary as operator;
use lorikeet_tests::process::Process;
use lorikeet_tests::replica::binary as runtime;
use lorikeet_tests::until::until;
use serde_yaml::Value;

/// An address that is free, with the next port: two Deployments. Not among the ports that the system gives to whoever asks
/// for any, as replicas do.
fn free_ports() -> SocketAddr {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let own = (std::process::id() % 1000) as u16 * 10;
    let candidates =
        std::iter::repeat_with(|| 20_000 + (own + 10 * TAKEN.fetch_add(1, Ordering::Relaxed)) % 12_000);
    let free = |port: u16| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let first = candidates.take(1000).find(|port| free(*port) && free(port + 1)).expect("two free ports");
    SocketAddr::from((Ipv4Addr::LOCALHOST, first))
}

/// An `up` and what it works on.
pub(crate) struct ClusterOfOne {
    folder: tempfile::TempDir,
    listen: SocketAddr,
    process: Option<Process>,
}

impl ClusterOfOne {
    /// Nothing runs yet.
    pub(crate) fn new() -> Self {
        Self::at(free_ports())
    }

    /// As [`Self::new`], at an address of the scenario's choice.
    pub(crate) fn at(listen: SocketAddr) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["manifests", "claims", "state"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        Self { folder, listen, process: None }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(operator());
        command.arg("up").arg(self.path("manifests")).arg("--listen").arg(self.listen.to_string());
        command.arg("--state").arg(self.path("state")).arg("--claims").arg(self.path("claims"));
        command.arg("--runtime").arg(runtime());
        command
    }

    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// With more in the environment, which the replicas see too.
    pub(crate) fn start_with(&mut self, environment: &[(&str, &str)]) {
        let mut command = self.command();
        command.envs(environment.iter().copied());
        self.start_by(&mut command);
    }

    /// By a program that is given the command, as `nohup` is.
    pub(crate) fn start_under(&mut self, program: &[&str]) {
        let own = self.command();
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(own.get_program()).args(own.get_args());
        self.start_by(&mut command);
    }

    /// By another command than our own.
    pub(crate) fn start_by(&mut self, command: &mut Command) {
        self.process = Some(Process::start("lorikeet-operator up", command));
    }

    /// Where the first Deployment answers.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Waits until it has ended, and well.
    pub(crate) async fn until_ended(&mut self) {
        let well = until("it ends", async || self.process().ended().ok_or("it runs")).await;
        assert!(well, "{}", self.process().log());
        assert_eq!(self.children(), [] as [u32; 0], "no child is left");
    }

    /// Another `up` on the same state: what it says. It must not go on.
    pub(crate) async fn second(&self) -> String {
        let mut second = Process::start("a second up", &mut self.command());
        let well = until("a second up ends", async || second.ended().ok_or_else(|| second.log())).await;
        assert!(!well, "two at once: {}", second.log());
        second.log()
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("started")
    }

    /// Ends it as a power cut does.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// A client of the n-th Deployment.
    pub(crate) fn client(&self, index: u16) -> Client {
        Client::of(format!("http://{}:{}", self.listen.ip(), self.listen.port() + index))
    }

    pub(crate) fn write(&self, manifest: &str, text: &str) {
        std::fs::write(self.path("manifests").join(manifest), text).expect("written");
    }

    pub(crate) fn text(&self, manifest: &str) -> String {
        std::fs::read_to_string(self.path("manifests").join(manifest)).expect("a manifest")
    }

    pub(crate) fn remove(&self, manifest: &str) {
        std::fs::remove_file(self.path("manifests").join(manifest)).expect("removed");
    }

    /// The object as it lies in the state folder.
    pub(crate) fn object(&self, kind: &str, name: &str) -> Option<Value> {
        let path = self.path("state").join(kind).join("default").join(format!("{name}.yaml"));
        let text = std::fs::read_to_string(path).ok()?;
        Some(serde_yaml::from_str(&text).expect("an object is YAML"))
    }

    /// Waits until the object satisfies `condition`.
    pub(crate) async fn until(
        &mut self,
        kind: &str,
        name: &str,
        what: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> Value {
        until(&format!("{kind} {name} {what}"), async || {
            self.process().assert_running();
            match self.object(kind, name) {
                Some(object) if condition(&object) => Ok(object),
                other => Err(other),
            }
        })
        .await
    }

    pub(crate) async fn until_ready(&mut self, kind: &str, name: &str, generation: u64) -> Value {
        self.until(kind, name, "ready", |object| is_ready(object, generation)).await
    }

    /// Waits until the object is gone.
    pub(crate) async fn until_gone(&mut self, kind: &str, name: &str) {
        until(&format!("{kind} {name} is gone"), async || self.object(kind, name).map_or(Ok(()), Err)).await;
    }

    /// Waits until it has said `text`.
    pub(crate) async fn until_said(&mut self, text: &str) {
        until(&format!("it says {text:?}"), async || {
            let log = self.process().log();
            if log.contains(text) { Ok(()) } else { Err(log) }
        })
        .await;
    }

    /// Processes of replicas of this state: its folder is in their command lines.
    pub(crate) fn children(&self) -> Vec<u32> {
        let state = self.path("state").canonicalize().expect("a folder").display().to_string();
        let is_ours = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains(&state) && line.contains("serve")
        };
        let all = std::fs::read_dir("/proc").expect("/proc").flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
    }

    /// What a replica has logged since it started.
    pub(crate) fn log_of(&self, replica: &str) -> String {
        let path = self.path("state/logs/default").join(format!("{replica}.log"));
        std::fs::read_to_string(path).expect("a log")
    }

    /// Where the replicas are, as `up` notes it: `PID-START` of each.
    pub(crate) fn noted(&self) -> String {
        std::fs::read_to_string(self.path("state/run/replicas.yaml")).unwrap_or_default()
    }

    /// Waits until no child is left.
    pub(crate) async fn until_childless(&self) {
        until("no child is left", async || {
            let children = self.children();
            if children.is_empty() { Ok(()) } else { Err(children) }
        })
        .await;
    }

    /// What `why` says of an Adapter.
    pub(crate) fn why(&self, adapter: &str) -> String {
        let mut command = Command::new(operator());
        let out = command
            .arg("why")
            .arg(adapter)
            .arg("--state")
            .arg(self.path("state"))
            .output()
            .expect("it starts");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

/// Whether the object is Ready, and says so of that generation.
pub(crate) fn is_ready(object: &Value, generation: u64) -> bool {
    let status = &object["status"];
    status["observedGeneration"].as_u64() == Some(generation) && condition(object, "Ready").0 == "True"
}

/// The reason of a condition.
pub(crate) fn reason<'a>(object: &'a Value, wanted: &str) -> Option<&'a str> {
    let all = object["status"]["conditions"].as_sequence();
    all.into_iter().flatten().find(|one| one["type"].as_str() == Some(wanted))?["reason"].as_str()
}

/// Truth and message of a condition.
pub(crate) fn condition(object: &Value, wanted: &str) -> (String, String) {
    let all = object["status"]["conditions"].as_sequence();
    let found = all.into_iter().flatten().find(|one| one["type"].as_str() == Some(wanted));
    let text = |field: &str| found.and_then(|one| one[field].as_str()).unwrap_or_default().to_owned();
    (text("status"), text("message"))
}

/// Copies a folder of files and folders.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).expect("copied");
        }
    }
}
