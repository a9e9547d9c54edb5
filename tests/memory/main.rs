//! What adapters cost in memory: their bytes and at most a tenth more; and the miniature stays small.

use std::path::Path;

use lorikeet_tests::args::provided;
use lorikeet_tests::loraland;
use lorikeet_tests::made::{Shape, adapter};
use lorikeet_tests::replica::Replica;
use lorikeet_tests::say::say;
use serde_json::json;

const ADAPTERS: usize = 25;
const RANK: usize = 16;
const MIB: u64 = 1 << 20;

async fn ask(replica: &Replica, model: &str) {
    let body =
        json!({"model": model, "prompt": "The wind", "max_tokens": 8, "temperature": 0, "ignore_eos": true});
    let _ = replica.public.post("/v1/completions", &body).await.ok();
}

/// Makes, loads and asks adapter `number`; returns the bytes of its weights.
async fn load(replica: &Replica, folder: &Path, number: usize) -> u64 {
    let name = format!("a{number}");
    let path = folder.join(&name);
    let bytes = adapter(&path, &Shape::smollm2(), RANK, number as u64);
    let answer =
        replica.admin.post("/v1/load_lora_adapter", &json!({"lora_name": name, "lora_path": path})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    ask(replica, &name).await;
    bytes
}

#[tokio::test]
async fn twenty_five_adapters_of_rank_16_cost_their_bytes_and_at_most_a_tenth_more() {
    let model = provided(".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2");
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().to_str().expect("a UTF-8 path");
    let mut replica = Replica::start(&model, &["--served-name", "base", "--source-root", root]).await;
    // The first request of each kind grows buffers that stay.
    ask(&replica, "base").await;
    load(&replica, folder.path(), ADAPTERS).await;
    let before = replica.process().resident_bytes();
    let mut bytes = 0;
    for number in 0..ADAPTERS {
        bytes += load(&replica, folder.path(), number).await;
    }
    let grown = replica.process().resident_bytes().saturating_sub(before);
    say(&format!(
        "{ADAPTERS} adapters of {bytes} bytes cost {grown} bytes resident: {:.3}",
        grown as f64 / bytes as f64
    ));
    assert!(grown <= bytes + bytes / 10, "{ADAPTERS} adapters of {bytes} bytes cost {grown} bytes resident");
}

#[tokio::test]
async fn the_miniature_with_all_its_adapters_stays_below_150_megabytes() {
    let adapters = loraland::adapters();
    let flags = ["--served-name", "base", "--adapters", adapters.to_str().expect("a UTF-8 path")];
    let mut replica = Replica::start(&loraland::base(), &flags).await;
    for task in loraland::results().keys() {
        ask(&replica, task).await;
    }
    let resident = replica.process().resident_bytes();
    say(&format!("the miniature with 25 adapters: {} MiB resident", resident / MIB));
    assert!(resident < 150_000_000, "{resident} bytes resident");
}
