//! The operator's program: that of this build, or the one that the environment names.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::args;

/// The `lorikeet-operator` to judge. Cargo decides whether it is up to date.
///
/// # Panics
/// When it does not build.
#[must_use]
pub fn binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY
        .get_or_init(|| {
            if let Some(named) = args::operator() {
                return named;
            }
            let built = args::built();
            let mut command = Command::new(env!("CARGO"));
            command.args([
                "build",
                "--quiet",
                "--package",
                "lorikeet-operator",
                "--bin",
                "lorikeet-operator",
            ]);
            command.arg("--target-dir").arg(built.parent().expect("target/PROFILE"));
            match built.file_name().and_then(|name| name.to_str()) {
                Some("debug") | None => {}
                Some(profile) => drop(command.args(["--profile", profile])),
            }
            let status = command.current_dir(args::root()).status().expect("cargo runs");
            assert!(status.success(), "lorikeet-operator does not build");
            built.join("lorikeet-operator")
        })
        .clone()
}
