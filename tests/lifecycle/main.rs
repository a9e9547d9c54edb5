//! Random load, swap, unload and cancel under traffic. Every answer is the golden one of a generation that its name had
//! while it was asked, and afterwards nothing is left: no block, no pin, no byte.
//!
//! `LORIKEET_STEPS` and `LORIKEET_SEED` change length and course.

mod draining;
mod faces;
mod inspector;
mod ledger;
mod operator;
mod traffic;

use std::sync::Arc;

use futures::future::join_all;
use lorikeet_tests::args;
use lorikeet_tests::golden::Suite;
use lorikeet_tests::replica::Replica;
use lorikeet_tests::say::say;

use crate::operator::{Desired, Endpoints, Operator};
use crate::traffic::{Answers, Traffic};

/// Users at a time: more than the KV cache has room for, so that sequences are preempted.
const USERS: usize = 12;

/// Room for one to six of the adapters, so that they are evicted and come back.
const ADAPTER_MEMORY: &str = "150KiB";
const KV_MEMORY: &str = "96KiB";

async fn run(make: impl Fn(&Replica, &str) -> Operator, seed: u64) {
    let suite = Suite::load();
    let model = suite.model("llama_gqa");
    let adapters = model.adapters_folder().expect("the model has adapters");
    let (adapters, bad) = (adapters.to_str().expect("a UTF-8 path"), suite.folder.join("bad"));
    let flags = [
        "--served-name",
        "base",
        "--source-root",
        adapters,
        "--source-root",
        bad.to_str().expect("a UTF-8 path"),
        "--kv-memory",
        KV_MEMORY,
        "--adapter-memory",
        ADAPTER_MEMORY,
    ];
    let mut replica = Replica::start(&model.folder, &flags).await;
    let answers = Arc::new(Answers::of(model));
    let traffic = Traffic::new(replica.public.clone(), Arc::clone(&answers), args::steps(4000));
    let mut operator = make(&replica, adapters);
    let before = replica.metrics().await;
    let users = join_all((0..USERS).map(|user| traffic.user(seed ^ (user as u64) << 32)));
    let (_, changes) = tokio::join!(users, operator.work(&traffic, seed));
    replica.process().assert_running();
    operator.forget_all(&traffic).await;
    let (asked, left) = traffic.done();
    say(&format!("{asked} answers compared, {left} left by their users, {changes} changes"));

    let gauges = [
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "lorikeet_resident_bytes",
    ];
    let at_baseline = |metrics: &lorikeet_tests::metrics::Metrics| {
        gauges.iter().all(|gauge| metrics.sum(gauge).is_some() && metrics.sum(gauge) == before.sum(gauge))
    };
    let after = replica.until("everything is given back", at_baseline).await;
    for never in ["lorikeet_panics_total", "lorikeet_failed_steps_total", "vllm:corrupted_requests_total"] {
        assert_eq!(after.sum(never).unwrap_or(0.0), 0.0, "{never}");
    }
    let report = replica.admin.get("/admin/v1/adapters").await.ok();
    assert_eq!((&report["resident"]["used"], &report["host"]["used"]), (&0.into(), &0.into()), "{report}");
    let pressed =
        |metric: &str| assert!(after.sum(metric) > before.sum(metric), "{metric} did not grow: no pressure");
    pressed("vllm:num_preemptions_total");
    pressed("lorikeet_resident_evictions_total");
}

#[tokio::test]
async fn answers_are_right_and_nothing_is_left_under_vllms_endpoints() {
    run(
        |replica, adapters| Operator::Endpoints(Endpoints::new(replica.admin.clone(), adapters)),
        args::seed(1),
    )
    .await;
}

#[tokio::test]
async fn answers_are_right_and_nothing_is_left_under_a_desired_set() {
    run(|replica, adapters| Operator::Desired(Desired::new(replica.admin.clone(), adapters)), args::seed(2))
        .await;
}
