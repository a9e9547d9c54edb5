//! What decides is pure: no tensor library, no async runtime, no client, no clock. What reads and what writes are other files.

use crate::sources::{Source, none, rust};

/// The bookkeeping of the engine, with the folders beside the files.
const ENGINE: &[&str] = &["scheduler", "sequence", "blocks", "batch", "prefix", "fairness", "residency"];

/// What decides in the operator, with the folders beside the files.
const OPERATOR: &[&str] = &["fleet", "decide", "build", "why"];

/// What says of itself that it is pure among the files of a cluster of one.
const UP: &[&str] = &["manifests", "admit", "roll", "news", "table", "nesting"];

/// Whether `file` is `FOLDER/NAME.rs`, or lies in `FOLDER/NAME/`, for one of `names`. Its tests may do as they like.
fn is_one_of(file: &Source, folder: &str, names: &[&str]) -> bool {
    let Some(inside) = file.path.strip_prefix(folder) else { return false };
    file.name() != "tests.rs" && inside.split('/').any(|part| names.contains(&part.trim_end_matches(".rs")))
}

/// The lines of `file` before its unit tests that say one of `words`.
fn says(file: &Source, words: &[&str]) -> Vec<String> {
    let before_tests = file.code.split("#[cfg(test)]").next().unwrap_or_default();
    let lines =
        before_tests.lines().enumerate().filter(|(_, line)| words.iter().any(|word| line.contains(word)));
    lines.map(|(line, text)| file.at(line, text.trim())).collect()
}

#[test]
fn the_engines_bookkeeping_imports_no_tensor_library_no_async_runtime_and_no_clock() {
    let words = [
        "tokio::",
        "futures::",
        "lorikeet_kernels",
        "candle",
        "Instant::now",
        "SystemTime",
        ".await",
        "async fn",
    ];
    let files = rust();
    let files = files.iter().filter(|file| is_one_of(file, "runtime/src/engine/", ENGINE));
    none("the engine's bookkeeping is pure:", &files.flat_map(|file| says(file, &words)).collect::<Vec<_>>());
}

#[test]
fn the_operators_decisions_take_no_client_and_no_clock() {
    let words =
        ["kube::Client", "Client,", ".await", "async fn", "Instant::now", "SystemTime", "Timestamp::now"];
    let files = rust();
    let is_pure = |file: &&Source| {
        is_one_of(file, "operator/src/", OPERATOR) || is_one_of(file, "operator/src/up/", UP)
    };
    let files = files.iter().filter(is_pure);
    none("what decides is pure:", &files.flat_map(|file| says(file, &words)).collect::<Vec<_>>());
}

#[test]
fn low_rank_updates_are_known_to_the_linear_layer_alone() {
    let files = rust();
    let models = files.iter().filter(|file| {
        is_one_of(
            file,
            "runtime/src/model/",
            &["families", "llama", "mistral", "gemma", "gemma2", "phi", "phi3", "qwen2", "qwen3"],
        )
    });
    let words = ["LowRank", "low_rank", "AdapterWeights"];
    none(
        "LoRA is known to layers/linear.rs:",
        &models.flat_map(|file| says(file, &words)).collect::<Vec<_>>(),
    );
}
