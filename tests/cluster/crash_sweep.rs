//! The operator is killed after its i-th write, for every i of a scenario: the end is that of a run without a fault.
//!
//! It watches the whole cluster: its finalizers are among what it writes. A write that the API server answers with an error,
//! as one over a version that is not the newest, counts like any other: the kill is the same.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, stream};
use lorikeet_crds::{Adapter, Deployment};
use lorikeet_tests::say::say;
use serde_json::json;

use crate::end_state::{EndState, differences, end_state};
use crate::manifests::{adapter, deployment, digest, with};
use crate::proxy::{Call, Fault};
use crate::stage::{Stage, is_ready_adapter, is_whole};
use crate::until::{PATIENCE, until};

/// Sweeps that run side by side: they wait more than they work.
const LANES: usize = 4;

/// Of so many in a hundred of the writes of the undisturbed run each is struck. To the others another run may not come:
/// statuses that follow each other closely are written as one, and those over an older version are written again.
const SURE: usize = 60;

/// What the operator writes: a kill comes after each of them.
const STRUCK: [&str; 11] = [
    "/apis/lorikeet.dev/v1alpha1: adapters",
    "/apis/lorikeet.dev/v1alpha1: deployments/status",
    "/apis/lorikeet.dev/v1alpha1: adapters/status",
    "/apis/events.k8s.io/v1: events",
    "/apis/apps/v1: deployments",
    "/apis/policy/v1: poddisruptionbudgets",
    "/apis/networking.k8s.io/v1: networkpolicies",
    "/api/v1: services",
    "/api/v1: serviceaccounts",
    "/api/v1: secrets",
    "/api/v1: configmaps",
];

/// A run of the scenario.
struct Run {
    stage: Stage,
    /// The write after which the operator was killed.
    strike: Option<Call>,
}

impl Run {
    /// With an operator that is killed after write `at` of those that `counts`, from 1; unless there are fewer.
    async fn struck_at(
        at: usize,
        counts: impl Fn(&Call) -> bool + Send + Clone + 'static,
    ) -> (EndState, Option<Call>) {
        let mut stage = Stage::wide("sweep").await;
        let (mut count, is_counted) = (0, counts.clone());
        stage.proxy.judge(move |call| {
            let is_counted = is_counted(call);
            count += usize::from(is_counted);
            if is_counted && count == at { Fault::Strike } else { Fault::None }
        });
        stage.start_operator().await;
        let mut run = Self { stage, strike: None };
        let end = run.scenario().await;
        let writes = run.stage.proxy.calls().iter().filter(|call| counts(call)).count();
        // One that comes after the end was looked at kills nobody.
        let came = run.strike.is_some() || run.stage.proxy.struck().is_some();
        assert!(came || writes < at, "none of {writes} writes was struck");
        (end, run.strike)
    }

    /// With an operator that is not killed. Counts its writes.
    async fn undisturbed() -> (EndState, usize) {
        let mut stage = Stage::wide("undisturbed").await;
        stage.start_operator().await;
        let mut run = Self { stage, strike: None };
        (run.scenario().await, run.stage.proxy.writes())
    }

    /// Starts the operator anew where it was struck down.
    async fn revive(&mut self) {
        if let Some(write) = self.stage.proxy.struck() {
            self.strike = Some(write);
            self.stage.kill_operator();
            self.stage.proxy.heal();
            self.stage.start_operator().await;
        }
    }

    /// Waits until `condition` holds, with the operator revived when it is struck.
    async fn until(&mut self, what: &str, condition: impl AsyncFn(&Stage) -> bool) {
        until(what, PATIENCE, async || {
            self.revive().await;
            condition(&self.stage).await.then_some(())
        })
        .await;
    }

    /// Create, swap, scale, delete; then everything as it is at rest.
    async fn scenario(&mut self) -> EndState {
        let namespace = self.stage.namespace.clone();
        let base = deployment(&namespace, "base", 1);
        let sql = adapter(&namespace, "sql", "base");
        self.stage.kubectl.apply(&[base.clone(), sql.clone(), adapter(&namespace, "chat", "base")]);
        self.until("both are Ready", async |stage| {
            let ready =
                async |name| stage.get::<Adapter>(name).await.is_some_and(|one| is_ready_adapter(&one));
            ready("sql").await && ready("chat").await
        })
        .await;
        let changed = [with(sql, "/spec/digest", json!(digest('e'))), with(base, "/spec/replicas", json!(2))];
        self.stage.kubectl.apply(&changed);
        self.stage.kubectl.run(&["delete", "lora", "chat", "--namespace", &namespace, "--wait=false"]);
        self.until("the change is carried out", async |stage| {
            let swapped = stage.get::<Adapter>("sql").await.is_some_and(|adapter| {
                let status = adapter.status.clone().unwrap_or_default();
                is_ready_adapter(&adapter) && status.digest == Some(digest('e')) && status.replicas.ready == 2
            });
            let whole = stage.get::<Deployment>("base").await.filter(is_whole).and_then(|base| base.status);
            let counted =
                whole.is_some_and(|status| status.adapters.total == 1 && status.ready_replicas == 2);
            swapped && counted && stage.get::<Adapter>("chat").await.is_none()
        })
        .await;
        // The last write may be the one that strikes, and comes after what was waited for.
        let mut last = None;
        until("the end state stays", PATIENCE, async || {
            self.revive().await;
            self.stage.until_quiet(Duration::from_millis(400)).await;
            let stage = &self.stage;
            let now = end_state(&stage.client, &stage.namespace, &stage.kubelet).await;
            let same = last.as_ref() == Some(&now) && stage.proxy.struck().is_none();
            last = Some(now);
            same.then_some(())
        })
        .await;
        last.unwrap_or_default()
    }
}

/// What `write` is of: `PREFIX: PLURAL[/SUBRESOURCE]`.
fn subject(write: &Call) -> String {
    let (prefix, rest) = write.path.split_once("/namespaces/").unwrap_or((&write.path, ""));
    let mut parts = rest.split('/').skip(1);
    let plural = parts.next().unwrap_or_default();
    let subresource = parts.nth(1).map_or_else(String::new, |name| format!("/{name}"));
    format!("{prefix}: {plural}{subresource}")
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_any_write_it_ends_where_an_undisturbed_operator_ends() {
    let (expected, writes) = Run::undisturbed().await;
    let struck_at = |at| AssertUnwindSafe(Run::struck_at(at, Call::is_write)).catch_unwind();
    // No run has twice as many.
    let runs = (1..=2 * writes).map(|at| async move { (at, struck_at(at).await) });
    let mut runs = std::pin::pin!(stream::iter(runs).buffer_unordered(LANES));
    let (mut strikes, mut missed, mut findings) = (Vec::new(), Vec::new(), Vec::new());
    // Beyond the last write. One run alone may have had fewer than the others.
    while missed.len() < LANES
        && let Some((at, run)) = runs.next().await
    {
        let found = match run {
            Ok((end, Some(strike))) => {
                strikes.push(strike);
                differences(&expected, &end)
            }
            Ok((_, None)) => {
                missed.push(at);
                Vec::new()
            }
            Err(_) => vec!["it never got there; its panic is above".to_owned()],
        };
        findings.extend(found.into_iter().map(|found| format!("killed after write {at}: {found}")));
    }
    say(&format!("crash sweep: {writes} writes undisturbed, {} kills, none after {missed:?}", strikes.len()));
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    let early = missed.iter().find(|at| **at * 100 <= writes * SURE);
    assert!(early.is_none(), "of {writes} writes not all were struck: {missed:?}");
    let struck: BTreeSet<String> = strikes.iter().map(subject).collect();
    let strange: Vec<&String> = struck.iter().filter(|one| !STRUCK.contains(&one.as_str())).collect();
    assert!(strange.is_empty(), "written too: {strange:?}");
    // Writes come in another order each time: none of the runs may have struck one of a kind that is written once.
    for kind in STRUCK.into_iter().filter(|kind| !struck.contains(*kind)) {
        let is_of_kind = move |call: &Call| call.is_write() && subject(call) == kind;
        ends_as(&expected, &Run::struck_at(1, is_of_kind).await, kind);
    }
}

/// Two are put on; the third write of one takes the deleted Adapter's off.
#[tokio::test(flavor = "multi_thread")]
async fn killed_after_a_finalizer_is_put_on_or_taken_off_it_ends_where_an_undisturbed_operator_ends() {
    let (expected, _) = Run::undisturbed().await;
    for at in 1..=3 {
        ends_as(&expected, &Run::struck_at(at, Call::is_of_finalizer).await, &format!("finalizer {at}"));
    }
}

/// The operator was killed, after a write of `what`, and the end is `expected`.
#[track_caller]
fn ends_as(expected: &EndState, (end, strike): &(EndState, Option<Call>), what: &str) {
    assert!(strike.is_some(), "{what}: never written");
    let found = differences(expected, end);
    assert!(found.is_empty(), "killed after a write of {what}: {}", found.join("\n"));
}
