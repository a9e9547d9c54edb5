//! The real binary, started for a test on free ports, ready when `start` returns, gone when the value is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::args;
use crate::client::Client;
use crate::metrics::Metrics;
use crate::process::{Process, free_address};
use crate::until::until;

/// One replica.
pub struct Replica {
    process: Process,
    /// The public face.
    pub public: Client,
    /// The admin face.
    pub admin: Client,
    /// What it keeps on disk; emptied with it.
    _cache: tempfile::TempDir,
}

impl Replica {
    /// Serves `model` with further `flags`, and waits until it is ready.
    ///
    /// # Panics
    /// When it ends instead, with its log.
    pub async fn start(model: &Path, flags: &[&str]) -> Self {
        let mut replica = Self::spawn(model, flags);
        replica.until_ready().await;
        replica
    }

    /// As [`Self::start`], without waiting.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(model: &Path, flags: &[&str]) -> Self {
        let cache = tempfile::tempdir().expect("a folder for the cache");
        let (listen, admin) = (free_address(), free_address());
        let mut command = Command::new(binary());
        command.arg("serve").arg("--model").arg(model);
        command.args([
            "--listen",
            &listen.to_string(),
            "--admin-listen",
            &admin.to_string(),
            "--admin-insecure",
        ]);
        command.arg("--cache-dir").arg(cache.path()).args(flags);
        Self {
            process: Process::start("lorikeet", &mut command),
            public: Client::of(format!("http://{listen}")),
            admin: Client::of(format!("http://{admin}")),
            _cache: cache,
        }
    }

    /// Waits until `/ready` says so.
    ///
    /// # Panics
    /// When it ends instead, or takes forever.
    pub async fn until_ready(&mut self) {
        until("the replica is ready", async || {
            self.process.assert_running();
            match Client::send(self.public.request(reqwest::Method::GET, "/ready")).await {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// Its metrics now.
    pub async fn metrics(&self) -> Metrics {
        Metrics::parse(&self.public.get("/metrics").await.text)
    }

    /// Waits until its metrics satisfy `condition`.
    ///
    /// # Panics
    /// When they never do: with `what` and the metrics.
    pub async fn until(&self, what: &str, condition: impl Fn(&Metrics) -> bool) -> Metrics {
        until(what, async || {
            let metrics = self.metrics().await;
            if condition(&metrics) { Ok(metrics) } else { Err(metrics) }
        })
        .await
    }

    /// The process.
    #[must_use]
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// The `lorikeet` of this build, or the one that the environment names. Cargo decides whether it is up to date.
///
/// # Panics
/// When it does not build.
#[must_use]
pub fn binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY
        .get_or_init(|| {
            if let Some(named) = args::binary() {
                return named;
            }
            let built = args::built();
            let mut command = Command::new(env!("CARGO"));
            command.args(["build", "--quiet", "--package", "lorikeet-runtime", "--bin", "lorikeet"]);
            command.arg("--target-dir").arg(built.parent().expect("target/PROFILE"));
            match built.file_name().and_then(|name| name.to_str()) {
                Some("debug") | None => {}
                Some(profile) => drop(command.args(["--profile", profile])),
            }
            let status = command.current_dir(args::root()).status().expect("cargo runs");
            assert!(status.success(), "lorikeet does not build");
            built.join("lorikeet")
        })
        .clone()
}
