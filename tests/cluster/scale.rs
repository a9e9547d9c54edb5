//! `make scale`: 10,000 Adapters over 64 replicas of one Deployment. Prints what the README's table says of it.
//!
//! Judges nothing but that it gets there: the figures are of the machine that it runs on.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use kube::api::{ListParams, PostParams};
use lorikeet_crds::condition::find;
use lorikeet_crds::{Adapter, ConditionType, Deployment};
use lorikeet_tests::args;
use lorikeet_tests::process::Memory;
use lorikeet_tests::say::say;
use serde_json::json;

use crate::fake::Fake;
use crate::manifests::{adapter, deployment, digest, with};
use crate::stage::Stage;
use crate::until::until;

const REPLICAS: usize = 64;
/// Writers of Adapters that run side by side: as a pipeline that applies a repository does.
const WRITERS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(1800);
/// A list of all is work for the API server: not too often.
const BETWEEN_LISTS: Duration = Duration::from_secs(2);
/// Single changes that are timed at full size.
const PROBES: usize = 100;
/// How long writes are counted for at rest.
const REST: Duration = Duration::from_secs(20);

fn percentile(sorted: &[Duration], part: f64) -> f64 {
    let at = (sorted.len() as f64 * part) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
}

/// From `begin` until the last of `fakes` heard of `name`.
fn heard_after(fakes: &[std::sync::Arc<Fake>], name: &str, begin: Instant) -> Option<Duration> {
    let last =
        fakes.iter().map(|fake| fake.first_heard(name)).collect::<Option<Vec<_>>>()?.into_iter().max()?;
    Some(last.saturating_duration_since(begin))
}

async fn apply_all(stage: &Stage, count: usize) -> Duration {
    let begin = Instant::now();
    let one = |at: usize| create(stage, adapter(&stage.namespace, &name(at), "base"));
    stream::iter(0..count).map(one).buffer_unordered(WRITERS).collect::<Vec<()>>().await;
    begin.elapsed()
}

fn name(at: usize) -> String {
    format!("tenant-{at:05}")
}

/// New Adapters one by one beside the many: from apply to the load call at the last replica.
async fn probe(stage: &Stage, fakes: &[std::sync::Arc<Fake>]) -> Vec<Duration> {
    let mut times = Vec::new();
    for at in 0..PROBES {
        let name = format!("probe-{at:03}");
        let begin = Instant::now();
        create(stage, with(adapter(&stage.namespace, &name, "base"), "/spec/digest", json!(digest('a'))))
            .await;
        let time =
            until("every replica heard of it", PATIENCE, async || heard_after(fakes, &name, begin)).await;
        times.push(time);
    }
    times.sort();
    times
}

/// Applies all, and waits until every replica serves them and every status says so.
async fn load(stage: &Stage, fakes: &[std::sync::Arc<Fake>], count: usize) {
    let begin = Instant::now();
    let applied = apply_all(stage, count).await;
    say(&format!("scale: {count} Adapters applied in {:.1} s", applied.as_secs_f64()));
    until("every replica serves every adapter", PATIENCE, async || {
        // From the last on: that is where one is missing as long as any is.
        fakes.iter().all(|fake| (0..count).rev().all(|at| fake.serves(&name(at)))).then_some(())
    })
    .await;
    say(&format!(
        "scale: all loaded everywhere {:.1} s after the first was applied",
        begin.elapsed().as_secs_f64()
    ));
    until("every Adapter is Ready", PATIENCE, async || {
        let status = stage.get::<Deployment>("base").await?.status?;
        (status.adapters.ready as usize == count).then_some(())
    })
    .await;
    // What the Deployment counts is said before every Adapter says so itself.
    until("every Adapter says that it is Ready", PATIENCE, async || {
        tokio::time::sleep(BETWEEN_LISTS).await;
        let all = stage.api::<Adapter>().list(&ListParams::default()).await.expect("a list");
        all.items.iter().all(is_ready).then_some(())
    })
    .await;
    say(&format!("scale: all Ready {:.1} s after the first was applied", begin.elapsed().as_secs_f64()));
}

fn is_ready(adapter: &Adapter) -> bool {
    let conditions = adapter.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    find(conditions, ConditionType::Ready).is_some_and(|one| one.status == "True")
}

async fn create(stage: &Stage, object: serde_json::Value) {
    let parsed = serde_json::from_value(object).expect("an Adapter");
    stage.api::<Adapter>().create(&PostParams::default(), &parsed).await.expect("it is created");
}

/// Kills the operator; its successor is in sync when a new Adapter reaches the last replica.
async fn restart(stage: &mut Stage, fakes: &[std::sync::Arc<Fake>]) {
    stage.kill_operator();
    let begin = Instant::now();
    stage.start_operator().await;
    create(stage, adapter(&stage.namespace, "after-restart", "base")).await;
    until("in sync", PATIENCE, async || heard_after(fakes, "after-restart", begin)).await;
    say(&format!("scale: restart to in sync {:.1} s", begin.elapsed().as_secs_f64()));
}

/// What the operator's process takes, and took at most so far.
fn memory(stage: &mut Stage) -> String {
    let Memory { resident, peak } = stage.operator().process().memory();
    format!("{} MiB (at most {})", resident >> 20, peak >> 20)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "`make scale`: minutes"]
async fn ten_thousand_adapters_over_sixty_four_replicas() {
    let Some(mut stage) = Stage::cluster_wide("scale").await else { return };
    stage.options().unhurried();
    stage.start_operator().await;
    // Room for all of them.
    let base = deployment(&stage.namespace, "base", REPLICAS as u32);
    stage.kubectl.apply(&[with(base, "/spec/adapters/gpuMemory", json!("16Gi"))]);
    stage.until_deployment_ready("base").await;
    let fakes = stage.kubelet.until_running(REPLICAS).await;
    say(&format!("scale: {REPLICAS} replicas; operator {}", memory(&mut stage)));
    load(&stage, &fakes, args::steps(10_000)).await;
    say(&format!("scale: operator {}", memory(&mut stage)));
    stage.until_quiet(Duration::from_secs(5)).await;
    let times = probe(&stage, &fakes).await;
    say(&format!(
        "scale: from apply to the load call at the last replica: p50 {:.0} ms, p99 {:.0} ms",
        percentile(&times, 0.5),
        percentile(&times, 0.99)
    ));
    let before = stage.until_quiet(Duration::from_secs(5)).await;
    let rest = Instant::now();
    until("a time of rest", PATIENCE, async || (rest.elapsed() > REST).then_some(())).await;
    let writes = stage.audit.count() - before;
    say(&format!("scale: {writes} writes in {} s at rest; operator {}", REST.as_secs(), memory(&mut stage)));
    restart(&mut stage, &fakes).await;
    stage.until_quiet(Duration::from_secs(5)).await;
    let written = stage.audit.count() - before;
    let memory = memory(&mut stage);
    say(&format!("scale: {written} writes after the restart and its one new Adapter; operator {memory}"));
}
