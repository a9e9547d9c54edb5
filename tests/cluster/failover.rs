//! The leader goes while Adapters come, change and go all the time: another one carries on, and nobody notices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use kube::Api;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use lorikeet_api::AdapterState;
use lorikeet_crds::Adapter;
use lorikeet_tests::args;
use lorikeet_tests::made::Random;
use lorikeet_tests::say::say;
use serde_json::json;
use tokio::time::MissedTickBehavior;

use crate::fake::Fake;
use crate::manifests::{adapter, deployment, digest, with};
use crate::second::{LEASE_SECONDS, Second};
use crate::stage::{Stage, is_ready_adapter};
use crate::until::{PATIENCE, until};

/// Changes of the stream, twenty a second.
const STEPS: usize = 300;
const PACE: Duration = Duration::from_millis(50);
/// The leader goes after so many.
const FAULT: usize = 100;
/// Adapters that are there at a time, of those that change.
const MOST: usize = 40;
/// Adapters that nobody touches.
const STILL: [&str; 3] = ["still-0", "still-1", "still-2"];
/// The one that is changed as soon as the leader is gone.
const NEWS: &str = "news";
const REPLICAS: u32 = 3;
/// The new leader has carried out what is new: as long as the Lease lasts, and a few seconds.
const TAKEOVER: Duration = Duration::from_secs(LEASE_SECONDS as u64 + 6);
/// What the operators may write for one change: finalizer, statuses, Events, and a share of the registry.
const WRITES_PER_STEP: usize = 6;

/// The digests that the manifests say, by Adapter.
type Manifests = BTreeMap<String, String>;

/// Changes Adapters.
struct Stream {
    adapters: Api<Adapter>,
    namespace: String,
    random: Random,
    changing: Manifests,
    fakes: Vec<Arc<Fake>>,
    done: Arc<AtomicUsize>,
}

impl Stream {
    async fn run(mut self) -> Manifests {
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for at in 0..STEPS {
            pace.tick().await;
            self.step(at).await;
            for name in STILL {
                assert!(self.fakes.iter().all(|fake| fake.serves(name)), "{name} was unloaded");
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        self.changing
    }

    /// One is made, edited or deleted.
    async fn step(&mut self, at: usize) {
        let digit = char::from_digit(self.random.below(16) as u32, 16).expect("a digit");
        let names: Vec<String> = self.changing.keys().cloned().collect();
        let what = self.random.below(3);
        if names.is_empty() || (what == 0 && names.len() < MOST) {
            let name = format!("changing-{at}");
            self.adapters
                .create(&PostParams::default(), &made(&self.namespace, &name, digit))
                .await
                .expect("it is made");
            self.changing.insert(name, digest(digit));
            return;
        }
        let name = self.random.pick(&names).clone();
        if what == 1 {
            self.adapters.delete(&name, &DeleteParams::default()).await.expect("it is deleted");
            self.changing.remove(&name);
        } else {
            edit(&self.adapters, &name, digit).await;
            self.changing.insert(name, digest(digit));
        }
    }
}

fn made(namespace: &str, name: &str, digit: char) -> Adapter {
    let object = with(adapter(namespace, name, "base"), "/spec/digest", json!(digest(digit)));
    serde_json::from_value(object).expect("an Adapter")
}

async fn edit(adapters: &Api<Adapter>, name: &str, digit: char) {
    let patch = Patch::Merge(json!({"spec": {"digest": digest(digit)}}));
    adapters.patch(name, &PatchParams::default(), &patch).await.expect("it is there");
}

/// What `fake` serves, and what else it holds.
fn held(fake: &Fake) -> (Manifests, Vec<String>) {
    let (ready, other): (Vec<_>, Vec<_>) =
        fake.report().adapters.into_iter().partition(|one| one.state == AdapterState::Ready);
    let ready = ready.into_iter().map(|one| (one.name, one.digest.unwrap_or_default())).collect();
    (ready, other.into_iter().map(|one| one.name).collect())
}

/// Everything that `fake` was told: nothing of a former term once there was a newer one, and never to give up what nobody
/// touches. Returns the terms.
fn told(fake: &Fake) -> Vec<u64> {
    let mut terms = Vec::new();
    let mut newest = None;
    for write in fake.heard() {
        assert!(
            newest <= Some(write.version),
            "{:?} came after {newest:?}, taken: {}",
            write.version,
            write.taken
        );
        newest = Some(write.version);
        if terms.last() != Some(&write.version.epoch) {
            terms.push(write.version.epoch);
        }
    }
    fake.assert_kept(&STILL);
    terms
}

/// Waits until everything is as `expected`, and nothing else is there.
async fn until_as_asked(stage: &Stage, fakes: &[Arc<Fake>], expected: &Manifests) {
    until("every replica serves what the manifests say, and nothing else", PATIENCE, async || {
        fakes.iter().all(|fake| held(fake) == (expected.clone(), Vec::new())).then_some(())
    })
    .await;
    until("every Adapter that the manifests say is Ready, and no other is left", PATIENCE, async || {
        let all = stage.api::<Adapter>().list(&ListParams::default()).await.expect("a list").items;
        let names = all.iter().map(ResourceExt::name_any);
        (names.eq(expected.keys().cloned()) && all.iter().all(is_ready_adapter)).then_some(())
    })
    .await;
    stage.until_whole("base").await;
    let running: Vec<_> = stage.kubelet.fakes().iter().map(|fake| fake.name().to_owned()).collect();
    assert!(running.iter().eq(fakes.iter().map(|fake| fake.name())), "others run by now: {running:?}");
}

/// The leader goes in the midst, as `goes` says.
async fn fails_over(name: &str, goes: impl AsyncFnOnce(&mut Stage)) {
    // Here Adapters are held until they have drained.
    let mut stage = Stage::wide(name).await;
    stage.options().lease_seconds = LEASE_SECONDS;
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    let adapters: Api<Adapter> = stage.api();
    stage.kubectl.apply(&[deployment(&namespace, "base", REPLICAS)]);
    for name in STILL.into_iter().chain([NEWS]) {
        adapters.create(&PostParams::default(), &made(&namespace, name, 'a')).await.expect("it is made");
    }
    let fakes = stage.kubelet.until_running(REPLICAS as usize).await;
    stage.until_whole("base").await;
    let second = Second::start(&mut stage).await;
    let (before, done) = (stage.audit.count(), Arc::new(AtomicUsize::new(0)));
    let stream = Stream {
        adapters: adapters.clone(),
        namespace: namespace.clone(),
        random: Random(args::seed(11)),
        changing: Manifests::new(),
        fakes: fakes.clone(),
        done: Arc::clone(&done),
    };
    let mut stream = tokio::spawn(stream.run());
    until("the stream flows", PATIENCE, async || (done.load(Ordering::Relaxed) >= FAULT).then_some(())).await;
    goes(&mut stage).await;
    edit(&adapters, NEWS, 'b').await;
    let gone = Instant::now();
    until("the new leader carries out what is new", TAKEOVER, async || {
        let serves = |fake: &Arc<Fake>| held(fake).0.get(NEWS) == Some(&digest('b'));
        fakes.iter().all(serves).then_some(())
    })
    .await;
    let took = gone.elapsed();
    let rest = STEPS - done.load(Ordering::Relaxed);
    assert!(rest > 0, "the stream ended before the new leader led");
    let flowed = until("the stream has ended", PATIENCE, async || (&mut stream).now_or_never()).await;
    let mut expected = flowed.expect("its panic is above");
    expected.extend(STILL.map(|name| (name.to_owned(), digest('a'))));
    expected.insert(NEWS.to_owned(), digest('b'));

    until_as_asked(&stage, &fakes, &expected).await;
    let writes = stage.until_quiet(Duration::from_secs(2)).await - before;
    for fake in &fakes {
        let terms = told(fake);
        assert_eq!(terms.len(), 2, "{}: terms {terms:?}", fake.name());
    }
    assert!(second.proxy.writes() > 0, "the former leader did it all");
    say(&format!(
        "{name}: {STEPS} changes, the new leader's first {:.1} s after the former one went; {writes} writes",
        took.as_secs_f64()
    ));
    assert!(writes < STEPS * WRITES_PER_STEP, "{writes} writes for {STEPS} changes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_under_load_is_followed() {
    fails_over("killed-loaded", async |stage: &mut Stage| stage.kill_operator()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_asked_to_stop_under_load_is_followed() {
    fails_over("stopped-loaded", async |stage: &mut Stage| {
        stage.operator().process().signal("TERM");
        let well = until("it stops", PATIENCE, async || stage.operator().process().ended()).await;
        assert!(well, "it did not stop well");
    })
    .await;
}

/// It reaches the replicas still, and hears of nothing that is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_from_the_api_server_under_load_is_followed() {
    fails_over("cut-loaded", async |stage: &mut Stage| stage.proxy.down()).await;
}
