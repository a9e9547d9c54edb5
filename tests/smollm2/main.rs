//! The real model, from its GGUF file: it answers a question sensibly, and its greedy tokens are llama.cpp's.

use std::path::PathBuf;
use std::process::Command;

use lorikeet_tests::args::provided;
use lorikeet_tests::client::Client;
use lorikeet_tests::process::{Process, free_address};
use lorikeet_tests::replica::Replica;
use lorikeet_tests::say::say;
use lorikeet_tests::until::until;
use serde_json::{Value, json};

/// Tokens of each answer that are compared.
const TOKENS: usize = 32;

/// Both quantize activations to 8 bits and round on the way, each in its own order: where two tokens are nearly as likely they
/// part, and answer other texts after that. Measured: 40 % of the prompts to the end, 73 % of the tokens; each of them agrees
/// with float32 on the same weights about as often. A fault in the format or the model leaves next to nothing.
const PROMPTS_THAT_AGREE: f64 = 0.25;
const TOKENS_THAT_AGREE: f64 = 0.6;

const PROMPTS: [&str; 20] = [
    "The capital of France is",
    "Water boils at a temperature of",
    "Once upon a time, in a small village by the sea,",
    "The three primary colors are",
    "def fibonacci(n):\n",
    "Photosynthesis is the process by which",
    "In 1969, the first humans",
    "A recipe for pancakes: First,",
    "The quick brown fox",
    "Dear Sir or Madam,\n\nI am writing to",
    "The largest planet in the solar system is",
    "1, 2, 3, 4, 5,",
    "Question: How many legs does a spider have?\nAnswer:",
    "The main difference between a virus and a bacterium is",
    "import numpy as np\n\n",
    "My favourite season is autumn because",
    "The Pacific Ocean lies between",
    "To tie a shoelace, you",
    "Shakespeare wrote",
    "The opposite of hot is",
];

fn model() -> PathBuf {
    provided(".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2")
}

async fn llama_server() -> (Process, Client) {
    let address = free_address();
    let mut command = Command::new(provided(".cache/llama.cpp/bin/llama-server", "llama.cpp"));
    command.arg("--model").arg(model()).args(["--threads", "2", "--parallel", "1", "--ctx-size", "2048"]);
    command.args(["--host", "127.0.0.1", "--port", &address.port().to_string()]);
    let mut process = Process::start("llama-server", &mut command);
    let client = Client::of(format!("http://{address}"));
    until("llama-server is ready", async || {
        process.assert_running();
        match Client::send(client.request(reqwest::Method::GET, "/health")).await {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    (process, client)
}

fn ids(value: &Value) -> Vec<u64> {
    value.as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}

async fn ours(replica: &Replica, prompt: &[u64]) -> Vec<u64> {
    let body = json!({
        "model": "smollm2", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": true,
        "return_token_ids": true,
    });
    ids(&replica.public.post("/v1/completions", &body).await.ok()["choices"][0]["token_ids"])
}

async fn theirs(server: &Client, prompt: &[u64]) -> Vec<u64> {
    let body = json!({
        "prompt": prompt, "n_predict": TOKENS, "temperature": 0, "samplers": ["temperature"], "ignore_eos": true,
        "return_tokens": true, "cache_prompt": false,
    });
    ids(&server.post("/completion", &body).await.ok()["tokens"])
}

#[tokio::test]
async fn greedy_tokens_are_those_of_llama_cpp_on_the_same_file() {
    let replica = Replica::start(&model(), &["--served-name", "smollm2"]).await;
    let (_process, server) = llama_server().await;
    let (mut whole, mut same) = (0, 0);
    for text in PROMPTS {
        let prompt = ids(&replica.public.post("/tokenize", &json!({"prompt": text})).await.ok()["tokens"]);
        let tokens = server.post("/tokenize", &json!({"content": text, "add_special": true})).await.ok();
        assert_eq!(prompt, ids(&tokens["tokens"]), "the tokens of {text:?}");
        let (ours, theirs) = (ours(&replica, &prompt).await, theirs(&server, &prompt).await);
        assert_eq!((ours.len(), theirs.len()), (TOKENS, TOKENS), "{text:?}");
        let agree = ours.iter().zip(&theirs).take_while(|(our, their)| our == their).count();
        whole += usize::from(agree == TOKENS);
        same += agree;
        say(&format!("{agree:3} of {TOKENS}  {text:?}"));
    }
    let (whole, same) = (whole as f64 / PROMPTS.len() as f64, same as f64 / (PROMPTS.len() * TOKENS) as f64);
    say(&format!(
        "{:.0} % of the prompts agree to the end, {:.0} % of the tokens before a difference",
        whole * 100.0,
        same * 100.0
    ));
    assert!(
        whole >= PROMPTS_THAT_AGREE && same >= TOKENS_THAT_AGREE,
        "{whole:.2} of prompts, {same:.2} of tokens"
    );
}

#[tokio::test]
async fn a_question_in_a_chat_is_answered_sensibly() {
    let replica = Replica::start(&model(), &["--served-name", "smollm2"]).await;
    let body = json!({
        "model": "smollm2", "temperature": 0, "max_tokens": 32,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "What is the capital of France?"},
        ],
    });
    let answer = replica.public.post("/v1/chat/completions", &body).await.ok();
    assert_eq!(answer["choices"][0]["message"]["content"], "The capital of France is Paris.");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}
