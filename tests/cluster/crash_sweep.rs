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

/// So many of the writes of the undisturbed run another may not come to: statuses that follow each other closely are written
/// as one, and those over an older version are written again.
const VARIES: usize = 10;

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

/// The steps of the scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Change,
    Settle,
}

/// A kill: after which write, and during which step it was noticed.
struct Strike {
    write: Call,
    during: Step,
}

/// A run of the scenario.
struct Run {
    stage: Stage,
    strike: Option<Strike>,
}

impl Run {
    /// With an operator that is killed after write `at`, counted from 1; unless there are fewer.
    async fn struck_at(at: usize) -> (EndState, Option<Strike>) {
        let mut stage = Stage::wide("sweep").await;
        let mut count = 0;
        stage.proxy.judge(move |call| {
            count += usize::from(call.is_write());
            if call.is_write() && count == at { Fault::Strike } else { Fault::None }
        });
        stage.start_operator().await;
        let mut run = Self { stage, strike: None };
        let end = run.scenario().await;
        let writes = run.stage.proxy.writes();
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
    async fn revive(&mut self, during: Step) {
        if let Some(write) = self.stage.proxy.struck() {
            self.strike = Some(Strike { write, during });
            self.stage.kill_operator();
            self.stage.proxy.heal();
            self.stage.start_operator().await;
        }
    }

    /// Waits until `condition` holds, with the operator revived when it is struck.
    async fn until(&mut self, step: Step, condition: impl AsyncFn(&Stage) -> bool) {
        until(&format!("{step:?} is done"), PATIENCE, async || {
            self.revive(step).await;
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
        self.until(Step::Create, async |stage| {
            let ready =
                async |name| stage.get::<Adapter>(name).await.is_some_and(|one| is_ready_adapter(&one));
            ready("sql").await && ready("chat").await
        })
        .await;
        let changed = [with(sql, "/spec/digest", json!(digest('e'))), with(base, "/spec/replicas", json!(2))];
        self.stage.kubectl.apply(&changed);
        self.stage.kubectl.run(&["delete", "lora", "chat", "--namespace", &namespace, "--wait=false"]);
        self.until(Step::Change, async |stage| {
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
            self.revive(Step::Settle).await;
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
    // No run has twice as many.
    let runs = (1..=2 * writes)
        .map(|at| async move { (at, AssertUnwindSafe(Run::struck_at(at)).catch_unwind().await) });
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
    let early = missed.iter().find(|at| **at + VARIES <= writes);
    assert!(early.is_none(), "of {writes} writes not all were struck: {missed:?}");
    let struck: BTreeSet<String> = strikes.iter().map(|strike| subject(&strike.write)).collect();
    assert_eq!(struck, STRUCK.map(str::to_owned).into(), "not after each kind of write, or after another");
    // Put on, before the Adapter is Ready; and taken off.
    let of_finalizers = strikes.iter().filter(|strike| strike.write.is_of_finalizer());
    let steps: BTreeSet<bool> = of_finalizers.map(|strike| strike.during == Step::Create).collect();
    assert_eq!(steps.len(), 2, "not after a finalizer was put on, and after one was taken off");
}
