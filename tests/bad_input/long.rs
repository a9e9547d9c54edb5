//! Texts that are as bad for a tokenizer as they can be: answered, and nobody else waits for them.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use lorikeet_tests::golden::Suite;
use lorikeet_tests::replica::Replica;
use lorikeet_tests::say::say;
use serde_json::json;

/// A megabyte of each: no cut into words, or nothing but cuts.
const FILLERS: [(&str, &str); 8] = [
    ("one letter", "a"),
    ("spaces", " "),
    ("line ends", "\n"),
    ("digits", "7"),
    ("emoji", "\u{1f99c}"),
    ("Chinese without spaces", "鸚鵡學舌"),
    ("marks on one letter", "e\u{301}\u{302}"),
    ("a special token", "</s>"),
];
const BYTES: usize = 1 << 20;

/// Asks for the ids of every filler at once; meanwhile a small request follows another. Returns how many of those were
/// answered before the last of the large ones.
async fn small_ones_meanwhile(replica: &Replica) -> usize {
    let over = AtomicBool::new(false);
    let large = async {
        let ask = async |(what, filler): (&str, &str)| {
            let body = json!({"prompt": filler.repeat(BYTES / filler.len())});
            let answer = replica.public.post("/tokenize", &body).await.ok();
            let count = answer["count"].as_u64().unwrap_or_default();
            assert!(count > 0, "{what}: {count} tokens");
        };
        join_all(FILLERS.map(ask)).await;
        over.store(true, Ordering::Relaxed);
    };
    let small = async {
        let mut answered = 0;
        while !over.load(Ordering::Relaxed) {
            let body = json!({"model": "base", "prompt": "The wind", "max_tokens": 2, "temperature": 0});
            let _ = replica.public.post("/v1/completions", &body).await.ok();
            answered += 1;
        }
        answered
    };
    tokio::join!(large, small).1
}

#[tokio::test]
async fn a_megabyte_of_the_worst_is_tokenized_and_small_requests_pass_by() {
    let suite = Suite::load();
    // One word of everything; cuts by expressions; composed characters; cuts at spaces alone.
    for name in ["llama2_mha", "llama3_rope", "qwen2", "gemma"] {
        let replica = Replica::start(&suite.model(name).folder, &["--served-name", "base"]).await;
        let passed = small_ones_meanwhile(&replica).await;
        say(&format!("{name}: {passed} small requests passed {} large ones by", FILLERS.len()));
        // If they waited for a large one each, there could not be more of them.
        assert!(passed > FILLERS.len(), "{name}: only {passed} small requests passed by");
    }
}
