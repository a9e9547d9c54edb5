//! The clients that people have, unchanged, against real replicas: the `openai` package and LoRAX's own, in Python. This file
//! starts the replicas and hands their addresses to pytest; what is asked and expected is in the `test_*.py` beside it.

use std::process::Command;

use lorikeet_tests::args::{provided, root};
use lorikeet_tests::loraland;
use lorikeet_tests::replica::Replica;
use lorikeet_tests::say::say;

/// The key of the replica that asks for one.
const KEY: &str = "a-key-of-the-tests";

#[tokio::test]
async fn the_openai_and_lorax_clients_work_unchanged() {
    let python = provided(".venv/bin/python", "python");
    let smollm2 = provided(".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2");
    let adapters = loraland::adapters();
    let adapters = ["--served-name", "base", "--adapters", adapters.to_str().expect("a UTF-8 path")];
    let miniature = Replica::start(&loraland::base(), &adapters).await;
    let real = Replica::start(&smollm2, &["--served-name", "smollm2"]).await;
    let keys = tempfile::NamedTempFile::new().expect("a file for the keys");
    std::fs::write(keys.path(), format!("{KEY}\n")).expect("the key is written");
    let with_keys =
        [&adapters[..], &["--api-keys-file", keys.path().to_str().expect("a UTF-8 path")]].concat();
    let locked = Replica::start(&loraland::base(), &with_keys).await;
    let mut pytest = Command::new(python);
    pytest
        .args(["-m", "pytest", "--quiet", "--color=no", "-p", "no:cacheprovider", "tests/clients"])
        .current_dir(root());
    pytest.args(["--miniature", miniature.public.url(), "--real", real.public.url()]);
    pytest.args(["--locked", locked.public.url(), "--key", KEY]);
    let ended = pytest.output().expect("pytest runs");
    let said = String::from_utf8_lossy(&ended.stdout);
    say(&format!("{said}"));
    assert!(ended.status.success(), "{said}\n{}", String::from_utf8_lossy(&ended.stderr));
}
