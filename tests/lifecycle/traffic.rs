//! Users that ask under changing names, compare what comes, and sometimes leave in the middle.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use lorikeet_tests::client::Client;
use lorikeet_tests::golden::Model;
use lorikeet_tests::made::Random;
use serde_json::{Value, json};

use crate::ledger::{Ledger, Meaning};

/// The names that adapters come and go under.
pub(crate) const NAMES: [&str; 5] = ["red", "green", "blue", "white", "black"];

/// What each adapter answers to each prompt.
pub(crate) struct Answers {
    prompts: Vec<Vec<u32>>,
    /// By adapter (`None`: base) and prompt.
    greedy: HashMap<(Meaning, usize), Vec<u32>>,
    /// The adapters, without the base.
    pub(crate) adapters: Vec<String>,
}

impl Answers {
    /// Of the adapters of `model` that must be served, to the prompts that all of them have.
    pub(crate) fn of(model: &Model) -> Self {
        let adapters: Vec<String> = model
            .adapters
            .iter()
            .filter(|adapter| adapter.expect == "ok")
            .map(|adapter| adapter.name.clone())
            .collect();
        let cases = model.cases();
        let has = |name: &str, ids: &[u32]| {
            cases.iter().any(|c| c.adapter.as_deref() == Some(name) && c.prompt_ids == ids)
        };
        let of_base = cases.iter().filter(|case| case.adapter.is_none()).map(|case| case.prompt_ids.clone());
        let prompts: Vec<_> = of_base.filter(|ids| adapters.iter().all(|name| has(name, ids))).collect();
        assert!(prompts.len() >= 2 && adapters.len() >= 3, "too little to compare");
        let mut greedy = HashMap::new();
        for case in cases {
            if let Some(prompt) = prompts.iter().position(|ids| *ids == case.prompt_ids) {
                greedy.insert((case.adapter, prompt), case.greedy_ids);
            }
        }
        Self { prompts, greedy, adapters }
    }
}

/// All users together.
pub(crate) struct Traffic {
    client: Client,
    answers: Arc<Answers>,
    /// What names mean.
    pub(crate) ledger: Ledger,
    steps: usize,
    taken: AtomicUsize,
    asked: AtomicUsize,
    left: AtomicUsize,
}

impl Traffic {
    pub(crate) fn new(client: Client, answers: Arc<Answers>, steps: usize) -> Self {
        let count = || AtomicUsize::new(0);
        Self {
            client,
            answers,
            ledger: Ledger::default(),
            steps,
            taken: count(),
            asked: count(),
            left: count(),
        }
    }

    /// The adapters that names may be given.
    pub(crate) fn adapters(&self) -> &[String] {
        &self.answers.adapters
    }

    /// Whether all steps are taken.
    pub(crate) fn over(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= self.steps
    }

    /// Answers compared, and streams that were left.
    pub(crate) fn done(&self) -> (usize, usize) {
        (self.asked.load(Ordering::Relaxed), self.left.load(Ordering::Relaxed))
    }

    /// One user, until all steps are taken.
    pub(crate) async fn user(&self, seed: u64) {
        let mut random = Random(seed);
        while self.taken.fetch_add(1, Ordering::Relaxed) < self.steps {
            let name = if random.below(8) == 0 { "base" } else { *random.pick(&NAMES) };
            if random.below(10) == 0 {
                self.leave(name, &mut random).await;
            } else {
                self.ask(name, &mut random).await;
            }
        }
    }

    /// Asks under `name` and compares.
    pub(crate) async fn ask(&self, name: &str, random: &mut Random) {
        let (prompt, body) = self.request(name, random);
        let moment = self.ledger.now(name);
        let answer = self.client.post("/v1/completions", &body).await;
        let meanings = self.ledger.since(name, moment);
        self.asked.fetch_add(1, Ordering::Relaxed);
        if name != "base" && answer.status == 404 {
            assert!(meanings.contains(&None), "404 for {name}, which meant {meanings:?}: {}", answer.text);
            return;
        }
        let ids: Vec<u32> =
            serde_json::from_value(answer.ok()["choices"][0]["token_ids"].clone()).expect("token ids");
        assert_eq!(Some(ids.len()), body["max_tokens"].as_u64().map(|most| most as usize), "ignore_eos");
        let is = |meaning: &Meaning| {
            self.answers.greedy.get(&(meaning.clone(), prompt)).is_some_and(|all| all.starts_with(&ids))
        };
        if name == "base" {
            assert!(is(&None), "the base model answered {ids:?}");
            return;
        }
        let right = meanings.iter().filter(|meaning| meaning.is_some()).any(is);
        let whose: Vec<_> =
            self.answers.greedy.keys().filter(|(meaning, of)| *of == prompt && is(meaning)).collect();
        assert!(right, "{name} meant {meanings:?} and answered {ids:?}, which is the answer of {whose:?}");
    }

    /// Asks for a stream and leaves after some of it.
    async fn leave(&self, name: &str, random: &mut Random) {
        let (_, mut body) = self.request(name, random);
        body["stream"] = json!(true);
        let pieces = random.below(4);
        let request = self.client.request(reqwest::Method::POST, "/v1/completions").json(&body);
        let response = request.send().await.expect("an answer");
        let mut bytes = response.bytes_stream();
        for _ in 0..pieces {
            if bytes.next().await.is_none() {
                break;
            }
        }
        self.left.fetch_add(1, Ordering::Relaxed);
    }

    fn request(&self, name: &str, random: &mut Random) -> (usize, Value) {
        let prompt = random.below(self.answers.prompts.len());
        let body = json!({
            "model": name, "prompt": self.answers.prompts[prompt], "max_tokens": 4 + random.below(21), "temperature": 0,
            "ignore_eos": true, "return_token_ids": true,
        });
        (prompt, body)
    }
}
