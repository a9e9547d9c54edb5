//! `placement.replicas: Auto` with real replicas: an adapter that many ask for at a time is kept on more of them, at once;
//! on fewer when that is over, and neither comes and goes with the pauses between requests.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use lorikeet_tests::client::Client;
use lorikeet_tests::golden::Suite;
use lorikeet_tests::until::until;
use serde_json::json;
use tokio::task::JoinSet;

use crate::cluster_of_one::ClusterOfOne;
use crate::{adapter, deployment};

/// A demand that is lower for so many seconds is lower: long beside what passes between two requests of a user.
const CALM: &str = "6";

/// Users of one adapter, each with one request at a time.
#[derive(Default)]
struct Crowd {
    users: JoinSet<()>,
    over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
}

impl Crowd {
    fn grow(&mut self, client: &Client, users: usize) {
        for _ in 0..users {
            let (client, over, answered) =
                (client.clone(), Arc::clone(&self.over), Arc::clone(&self.answered));
            self.users.spawn(async move {
                let body = json!({"model": "qv", "prompt": "The wind", "max_tokens": 48, "ignore_eos": true});
                while !over.load(Ordering::Relaxed) {
                    let answer = client.post("/v1/completions", &body).await;
                    assert_eq!(answer.status, 200, "{}", answer.text);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }

    async fn go_on(&self, more: usize) {
        let answered = || self.answered.load(Ordering::Relaxed);
        let wanted = answered() + more;
        until(
            &format!("{wanted} are answered"),
            async || {
                if answered() >= wanted { Ok(()) } else { Err(answered()) }
            },
        )
        .await;
    }

    async fn leave(mut self) {
        self.over.store(true, Ordering::Relaxed);
        while let Some(user) = self.users.join_next().await {
            user.expect("no request failed");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auto_adapter_is_kept_on_as_many_replicas_as_its_demand_asks_for() {
    let suite = Suite::load();
    let model = &suite.model("llama_gqa").folder;
    let mut cluster = ClusterOfOne::new();
    cluster.write("a.yaml", &deployment("a", model, "  replicas: 3\n"));
    let auto = "  placement: {replicas: Auto}\n";
    cluster.write("qv.yaml", &(adapter("qv", "a", &model.join("adapters/qv_r8")) + auto));
    cluster.start_with(&[("LORIKEET_DEMAND_CALM", CALM)]);
    cluster.until_ready("Deployment", "a", 1).await;
    // On how many it was to be kept, each time that this was another number.
    let course = RefCell::new(Vec::<u64>::new());
    let kept_on = |wanted: u64| {
        let course = &course;
        move |object: &serde_yaml::Value| {
            let counts = &object["status"]["replicas"];
            let desired = counts["desired"].as_u64().unwrap_or_default();
            if course.borrow().last() != Some(&desired) {
                course.borrow_mut().push(desired);
            }
            desired == wanted && counts["ready"].as_u64() == Some(wanted)
        }
    };
    cluster.until("Adapter", "qv", "is kept on one", kept_on(1)).await;

    let (client, mut crowd) = (cluster.client(0), Crowd::default());
    // Four at a time on each of three: no replica alone has more than one serves.
    crowd.grow(&client, 12);
    cluster.until("Adapter", "qv", "is kept on two", kept_on(2)).await;
    crowd.grow(&client, 18);
    cluster.until("Adapter", "qv", "is kept on all", kept_on(3)).await;
    crowd.go_on(300).await;
    cluster.until("Adapter", "qv", "is still kept on all", kept_on(3)).await;
    crowd.leave().await;
    cluster.until("Adapter", "qv", "is kept on one again", kept_on(1)).await;
    let course = course.into_inner();
    let (up, down) = course.split_at(course.iter().position(|count| *count == 3).expect("it was on all"));
    let comes_and_goes = !up.is_sorted() || !down.is_sorted_by(|one, next| one >= next);
    assert!(!comes_and_goes, "it comes and goes: {course:?}");
    let why = cluster.why("qv");
    assert_eq!(why.matches("it is placed here").count(), 1, "{why}");
}
