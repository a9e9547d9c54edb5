//! The environment that suites read. The only file of the judges that does.
#![expect(clippy::disallowed_methods, reason = "this is the judges' args.rs")]

use std::path::PathBuf;

/// Where the golden suite lies: `LORIKEET_GOLDEN`, else the public one of the checkout.
#[must_use]
pub fn golden() -> PathBuf {
    std::env::var_os("LORIKEET_GOLDEN").map_or_else(|| root().join("tests/fixtures/golden"), PathBuf::from)
}

/// The `lorikeet` to judge in place of this build's: `LORIKEET_BINARY`.
#[must_use]
pub fn binary() -> Option<PathBuf> {
    std::env::var_os("LORIKEET_BINARY").map(PathBuf::from)
}

/// The `lorikeet-operator` to judge in place of this build's: `LORIKEET_OPERATOR`.
#[must_use]
pub fn operator() -> Option<PathBuf> {
    std::env::var_os("LORIKEET_OPERATOR").map(PathBuf::from)
}

/// A folder with the programs of a control plane: `KUBEBUILDER_ASSETS`.
#[must_use]
pub fn kubebuilder_assets() -> Option<PathBuf> {
    std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from)
}

/// The control plane for `tests/cluster` in the place of its own: `KUBECONFIG`, one file or several, as kubectl takes it.
#[must_use]
pub fn kubeconfig() -> Option<PathBuf> {
    std::env::var_os("KUBECONFIG").filter(|files| !files.is_empty()).map(PathBuf::from)
}

/// How many random steps the lifecycle suite takes: `LORIKEET_STEPS`, else `usual`.
#[must_use]
pub fn steps(usual: usize) -> usize {
    std::env::var("LORIKEET_STEPS").ok().and_then(|steps| steps.parse().ok()).unwrap_or(usual)
}

/// The seed of random suites: `LORIKEET_SEED`, else `usual`.
#[must_use]
pub fn seed(usual: u64) -> u64 {
    std::env::var("LORIKEET_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(usual)
}

/// The root of the checkout.
///
/// # Panics
/// Never: this crate lies in a folder of the root.
#[must_use]
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the root").to_path_buf()
}

/// The folder of what this build made: `target/debug`.
///
/// # Panics
/// When a test's program lies where cargo would not put it.
#[must_use]
pub fn built() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own program");
    test.ancestors().nth(2).expect("target/PROFILE/deps/TEST").to_path_buf()
}

/// A file that `tests/setup.sh PART` provides.
///
/// # Panics
/// When it is not there, with the command that makes it.
#[must_use]
pub fn provided(path: &str, part: &str) -> PathBuf {
    let path = root().join(path);
    assert!(path.exists(), "{} is missing; `tests/setup.sh {part}` makes it", path.display());
    path
}
