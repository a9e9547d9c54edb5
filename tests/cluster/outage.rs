//! The API server is away, or the operator is: replicas go on serving, and all is in order soon after.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment as Workload;
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use lorikeet_crds::Adapter;
use lorikeet_tests::say::say;
use serde_json::json;

use crate::manifests::{adapter, deployment, digest, with};
use crate::proxy::Fault;
use crate::scene::{change_unseen, serving, until_carried_out};
use crate::stage::{Stage, is_ready_adapter};
use crate::until::{PATIENCE, until};

/// From the end of an outage until everything is as asked.
const CONVERGENCE: Duration = Duration::from_secs(30);
/// An outage of the API server.
const AWAY: Duration = Duration::from_secs(60);

/// Longer than the operator's Lease: it ends for want of it, is started again by the cluster, and waits.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_server_is_away_for_a_minute_replicas_keep_their_adapters() {
    let mut stage = Stage::unhurried("away").await;
    let namespace = stage.namespace.clone();
    let sql = adapter(&namespace, "sql", "base");
    serving(&stage, 2, &["sql"]).await;
    let fakes = stage.kubelet.fakes();
    let heard: Vec<usize> = fakes.iter().map(|fake| fake.heard().len()).collect();
    stage.proxy.down();
    let away = Instant::now();
    stage
        .kubectl
        .apply(&[with(sql, "/spec/digest", json!(digest('7'))), adapter(&namespace, "chat", "base")]);
    let mut starts = 0;
    until("the minute is over", 2 * AWAY, async || {
        if stage.operator().process().ended().is_some() {
            stage.launch_operator();
            starts += 1;
        }
        assert!(fakes.iter().all(|fake| fake.serves("sql")), "a serving replica was touched");
        (away.elapsed() >= AWAY).then_some(())
    })
    .await;
    assert!(starts > 0, "it went on without its Lease");
    assert!(starts <= 10, "it was started {starts} times in a minute");
    let now: Vec<usize> = fakes.iter().map(|fake| fake.heard().len()).collect();
    assert_eq!(heard, now, "somebody wrote to a replica on what was known before");
    stage.proxy.heal();
    let healed = Instant::now();
    until("everything is as asked", CONVERGENCE, async || {
        if stage.operator().process().ended().is_some() {
            stage.launch_operator();
        }
        let mut ready = true;
        for name in ["sql", "chat"] {
            ready &= stage.get::<Adapter>(name).await.is_some_and(|adapter| is_ready_adapter(&adapter));
        }
        let swapped = stage.get::<Adapter>("sql").await?.status?.digest == Some(digest('7'));
        (ready && swapped).then_some(())
    })
    .await;
    say(&format!(
        "API server away for a minute: in order {:.1} s after it was back",
        healed.elapsed().as_secs_f64()
    ));
}

/// Shorter than the Lease: a replica that restarts meanwhile is given its adapters all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_restarts_while_the_api_server_is_away_gets_its_adapters() {
    let mut stage = Stage::new("away-shortly").await;
    stage.options().lease_seconds = 120;
    stage.start_operator().await;
    serving(&stage, 2, &["sql"]).await;
    stage.proxy.down();
    let fakes = stage.kubelet.fakes();
    fakes[0].restart();
    until("its report was enough", PATIENCE, async || fakes[0].serves("sql").then_some(())).await;
    stage.operator().process().assert_running();
}

/// A call that is never answered holds up nothing for longer than the operator allows a call to take.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_never_answered_is_given_up_and_tried_again() {
    let stage = Stage::with_operator("hangs").await;
    let namespace = stage.namespace.clone();
    let mut hung = 0;
    stage.proxy.judge(move |call| {
        if call.is_write() && call.path.contains("/services") && hung < 2 {
            hung += 1;
            return Fault::Hang;
        }
        Fault::None
    });
    stage.kubectl.apply(&[deployment(&namespace, "base", 1), adapter(&namespace, "sql", "base")]);
    stage.until_deployment_ready("base").await;
    stage.until_adapter_ready("sql").await;
}

/// An absence of ten minutes, by what it leaves: changes that nobody saw, and the Lease of another process that was renewed
/// ten minutes ago. The minutes themselves do not pass: the operator and the API server go by the machine's clock.
#[tokio::test(flavor = "multi_thread")]
async fn while_no_operator_runs_nothing_is_touched_and_what_changed_meanwhile_is_done_after() {
    let mut stage = Stage::unhurried("absent").await;
    let namespace = stage.namespace.clone();
    serving(&stage, 2, &["sql", "chat"]).await;
    stage.kill_operator();
    let fakes = stage.kubelet.fakes();
    let heard: Vec<usize> = fakes.iter().map(|fake| fake.heard().len()).collect();
    // What changes in ten minutes: a swap, a deletion, a new adapter, a child deleted, a replica restarted, one replaced.
    change_unseen(&stage).await;
    fakes[0].restart();
    stage.kubectl.run(&["delete", "pod", fakes[1].name(), "--namespace", &namespace, "--wait=false"]);
    until("the cluster replaced the pod", PATIENCE, async || {
        let now = stage.kubelet.fakes();
        (now.len() == 2 && now.iter().all(|fake| fake.name() != fakes[1].name())).then_some(())
    })
    .await;
    assert_eq!(fakes[0].heard().len(), heard[0], "somebody wrote to a replica while the operator was away");
    let ago = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(10);
    let lease = json!({"spec": {"renewTime": format!("{ago:.6}"), "holderIdentity": "operator-of-before"}});
    let lease = ["--type=merge", "--patch", &lease.to_string()].map(str::to_owned);
    let of = ["patch", "lease", "lorikeet-operator", "--namespace", &stage.system];
    stage.kubectl.run(&[&of[..], &lease.each_ref().map(String::as_str)].concat());
    let back = Instant::now();
    stage.start_operator().await;
    until_carried_out(&stage, CONVERGENCE).await;
    say(&format!("operator away: in order {:.1} s after its start", back.elapsed().as_secs_f64()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_deleted_is_gone_whether_or_not_the_replicas_answer() {
    let mut stage = Stage::wide("terminating").await;
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    serving(&stage, 2, &["sql"]).await;
    stage.kubelet.fakes().iter().for_each(|fake| fake.script(|script| script.hung = true));
    stage.kubectl.run(&["delete", "namespace", &namespace, "--timeout=60s"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_whose_replicas_do_not_answer_can_be_deleted() {
    let mut stage = Stage::wide("dead").await;
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    serving(&stage, 2, &["sql"]).await;
    let is_held = |adapter: &Adapter| adapter.finalizers().iter().any(|one| one == "lorikeet.dev/drain");
    stage.until_adapter("sql", "held by the operator", is_held).await;
    stage.kubelet.fakes().iter().for_each(|fake| fake.script(|script| script.hung = true));
    stage.kubectl.run(&["delete", "lora", "sql", "--namespace", &namespace, "--timeout=60s"]);
    // And with no pod at all.
    stage.kubectl.apply(&[adapter(&namespace, "chat", "base")]);
    stage.until_adapter("chat", "held by the operator", is_held).await;
    stage.api::<Workload>().delete("base-runtime", &DeleteParams::default()).await.expect("it is there");
    stage.kubectl.run(&["delete", "lora", "chat", "--namespace", &namespace, "--timeout=60s"]);
}
