//! Users that ask every adapter over and over, and hold each answer against what its name may mean.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lorikeet_tests::client::Client;
use lorikeet_tests::until::until;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const USERS: usize = 6;
const PROMPT: &str = "Is the movie review positive or negative?\n### Review: The story is fresh.\n### Label:";

/// What came, in tokens.
pub(crate) type Ids = Vec<u64>;

/// Asks `name` once, over a connection that is kept: its answer, or the status and text of a refusal.
pub(crate) async fn ask(client: &Client, name: &str) -> Result<Ids, (u16, String)> {
    answer(client.request(reqwest::Method::POST, "/v1/completions"), name).await
}

/// As [`ask`], over a connection of its own.
async fn ask_anew(client: &Client, name: &str) -> Result<Ids, (u16, String)> {
    let request = client.request(reqwest::Method::POST, "/v1/completions").header("connection", "close");
    answer(request, name).await
}

async fn answer(request: reqwest::RequestBuilder, name: &str) -> Result<Ids, (u16, String)> {
    let body = json!({
        "model": name, "prompt": PROMPT, "max_tokens": 12, "temperature": 0, "ignore_eos": true, "return_token_ids": true,
    });
    let answer = Client::send(request.json(&body)).await;
    let answer = answer.map_err(|error| (0, format!("{error:?}")))?;
    if answer.status != 200 {
        return Err((answer.status, answer.text));
    }
    let ids = answer.json()["choices"][0]["token_ids"].as_array().cloned().unwrap_or_default();
    Ok(ids.iter().filter_map(Value::as_u64).collect())
}

/// Users, and what they may be told.
pub(crate) struct Traffic {
    asked: Arc<Asked>,
    users: JoinSet<()>,
}

/// What the users share.
struct Asked {
    client: Client,
    names: Vec<String>,
    /// The answers that a name may give now.
    allowed: Mutex<BTreeMap<String, BTreeSet<Ids>>>,
    /// Names that may be unknown.
    absent: Mutex<BTreeSet<String>>,
    over: AtomicBool,
    /// Answers that were right.
    answered: AtomicUsize,
}

impl Traffic {
    /// Users ask from now on; each name may give its answer of `answers`.
    pub(crate) fn start(client: Client, answers: &BTreeMap<String, Ids>) -> Self {
        let allowed = answers.iter().map(|(name, ids)| (name.clone(), BTreeSet::from([ids.clone()])));
        let asked = Arc::new(Asked {
            client,
            names: answers.keys().cloned().collect(),
            allowed: Mutex::new(allowed.collect()),
            absent: Mutex::default(),
            over: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
        });
        let user = |number| {
            let asked = Arc::clone(&asked);
            async move { asked.user(number).await }
        };
        Self { users: (0..USERS).map(user).collect(), asked }
    }

    /// From now on `name` may give these answers.
    pub(crate) fn allow(&self, name: &str, answers: &[&Ids]) {
        let answers = answers.iter().map(|ids| (*ids).clone()).collect();
        self.asked.allowed.lock().expect("no panic").insert(name.to_owned(), answers);
    }

    /// From now on `name` may be unknown, or not.
    pub(crate) fn may_be_absent(&self, name: &str, may: bool) {
        let mut absent = self.asked.absent.lock().expect("no panic");
        if may {
            absent.insert(name.to_owned())
        } else {
            absent.remove(name)
        };
    }

    /// Waits until that many more answers were right: so long the change before has been lived with.
    pub(crate) async fn go_on(&self, more: usize) {
        let answered = || self.asked.answered.load(Ordering::Relaxed);
        let wanted = answered() + more;
        until(&format!("{wanted} answers were right"), async || {
            if answered() >= wanted { Ok(()) } else { Err(answered()) }
        })
        .await;
    }

    /// No user asks again: how many answers there were. Each was right.
    pub(crate) async fn finish(mut self) -> usize {
        self.asked.over.store(true, Ordering::Relaxed);
        while let Some(user) = self.users.join_next().await {
            user.expect("no request failed");
        }
        self.asked.answered.load(Ordering::Relaxed)
    }
}

impl Asked {
    /// One user, until the end. Every third has a connection of its own for each request; the others keep theirs through
    /// whatever happens to the replicas behind the port.
    async fn user(&self, number: usize) {
        let mut next = number * 7;
        while !self.over.load(Ordering::Relaxed) {
            next += 1;
            let name = &self.names[next % self.names.len()];
            // What may be said is what may be said at any time while the question is under way.
            let mut may = self.allowed.lock().expect("no panic")[name].clone();
            let mut absent = self.absent.lock().expect("no panic").contains(name);
            let keeps = !number.is_multiple_of(3);
            let answer =
                if keeps { ask(&self.client, name).await } else { ask_anew(&self.client, name).await };
            may.extend(self.allowed.lock().expect("no panic")[name].iter().cloned());
            absent |= self.absent.lock().expect("no panic").contains(name);
            match answer {
                Ok(ids) => assert!(may.contains(&ids), "{name} answered {ids:?}, which is none of {may:?}"),
                Err((404, _)) if absent => {}
                Err((status, text)) => panic!("{name} failed: {status} {text}"),
            }
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}
