//! Clocks that differ: the operator's is an hour ahead of the API server's, or behind it, or of another operator's.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use lorikeet_api::AdapterState;
use lorikeet_crds::Adapter;
use serde_json::json;

use crate::manifests::{adapter, deployment, digest, with};
use crate::operator::Operator;
use crate::scene::{make_due, serving};
use crate::second::{LEASE_SECONDS, Second};
use crate::stage::Stage;
use crate::until::{PATIENCE, until};

const HOUR: i32 = 3600;
const LEASE: &str = "lorikeet-operator";
/// What a step may take beside what is asked of it, on a machine that does much else.
const SLACK: Duration = Duration::from_secs(8);
/// How long a deletion is held for a replica that does not let go.
const DRAIN: Duration = Duration::from_secs(8);

/// With an operator that watches one namespace, whose clock is `ahead` so many seconds.
async fn stage(name: &str, ahead: i32) -> Stage {
    started(Stage::new(name).await, ahead).await
}

async fn started(mut stage: Stage, ahead: i32) -> Stage {
    (stage.options().ahead, stage.options().lease_seconds) = (ahead, LEASE_SECONDS);
    stage.start_operator().await;
    is_off(stage.operator(), ahead);
    stage
}

/// Another operator comes in the place of the one that is killed, with a clock that is `ahead` so many seconds.
async fn replace(stage: &mut Stage, ahead: i32) {
    stage.kill_operator();
    stage.options().ahead = ahead;
    stage.start_operator().await;
}

/// The operator's clock is indeed so far off: its log is stamped by it.
#[track_caller]
fn is_off(operator: &mut Operator, by: i32) {
    let log = operator.process().log();
    let time = |line: &str| line.split_whitespace().next()?.parse::<Timestamp>().ok();
    let last = log.lines().rev().find_map(time);
    let off = last.expect("a line with its time").as_second() - Timestamp::now().as_second();
    assert!((off - i64::from(by)).abs() < 60, "its clock is {off} s ahead, not {by}");
}

fn leases(stage: &Stage) -> Api<Lease> {
    Api::namespaced(stage.client.clone(), &stage.system)
}

async fn lease(stage: &Stage) -> LeaseSpec {
    let lease = leases(stage).get_opt(LEASE).await.expect("the API server answers");
    lease.and_then(|lease| lease.spec).unwrap_or_default()
}

/// Gives `sql` the content `digit`, and waits until every replica serves it.
async fn swapped(stage: &Stage, digit: char, patience: Duration) {
    let sql = adapter(&stage.namespace, "sql", "base");
    stage.kubectl.apply(&[with(sql, "/spec/digest", json!(digest(digit)))]);
    until(&format!("every replica serves content {digit}"), patience, async || {
        let fakes = stage.kubelet.fakes();
        let serves = |one: &lorikeet_api::AdapterReport| {
            one.name == "sql" && one.state == AdapterState::Ready && one.digest == Some(digest(digit))
        };
        let all = fakes.iter().all(|fake| fake.report().adapters.iter().any(serves));
        (all && !fakes.is_empty()).then_some(())
    })
    .await;
}

/// A leader whose clock is `leads` seconds ahead keeps its Lease from a candidate whose clock is `waits` ahead, for as long as
/// it lives and no longer.
async fn leads_and_is_followed(name: &str, leads: i32, waits: i32) {
    let mut stage = stage(name, leads).await;
    serving(&stage, 2, &["sql"]).await;
    stage.options().ahead = waits;
    let mut second = Second::start(&mut stage).await;
    is_off(&mut second.operator, waits);
    // A fifth of the Lease passes between two renewals.
    let mut renewals = BTreeSet::new();
    until("the leader has renewed its Lease for three times as long as it lasts", PATIENCE, async || {
        let lease = lease(&stage).await;
        assert_eq!(
            lease.holder_identity.as_deref(),
            Some("operator-0"),
            "it was taken from a leader that renews"
        );
        renewals.extend(lease.renew_time.map(|time| time.0));
        (renewals.len() > 15).then_some(())
    })
    .await;
    let off = renewals.last().map_or(0, |last| last.as_second() - Timestamp::now().as_second());
    assert!(off.abs() < 60, "the Lease is stamped with a time that is {off} s ahead");
    swapped(&stage, '1', PATIENCE).await;
    let calls = second.proxy.calls();
    let written = calls.iter().find(|call| call.method != "GET");
    assert!(written.is_none(), "a follower wrote: {written:?}");
    stage.kill_operator();
    until(
        "the candidate takes over in the Lease's time",
        Duration::from_secs(LEASE_SECONDS.into()) + SLACK,
        async || lease(&stage).await.holder_identity.filter(|holder| holder == "operator-1"),
    )
    .await;
    swapped(&stage, '2', SLACK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_an_hour_ahead_takes_no_lease_that_is_renewed() {
    leads_and_is_followed("ahead-waits", 0, HOUR).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_an_hour_behind_takes_over_from_a_leader_that_was_killed() {
    leads_and_is_followed("behind-waits", 0, -HOUR).await;
}

/// By the candidate's clock the leader has not renewed for an hour.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_an_hour_behind_keeps_its_lease_and_is_followed() {
    leads_and_is_followed("behind-leads", -HOUR, 0).await;
}

/// Everything that is asked is carried out, a deletion is held for as long as was asked, and what is said of it is stamped with
/// the right time.
async fn carries_out(name: &str, ahead: i32) {
    // Here the operator holds Adapters until they have drained.
    let stage = started(Stage::wide(name).await, ahead).await;
    let namespace = stage.namespace.clone();
    let drain = json!(DRAIN.as_secs());
    stage.kubectl.apply(&[with(deployment(&namespace, "base", 2), "/spec/rollout/drainSeconds", drain)]);
    stage.kubectl.apply(&["sql", "quick", "stuck"].map(|name| adapter(&namespace, name, "base")));
    stage.until_whole("base").await;
    swapped(&stage, '1', PATIENCE).await;
    let fakes = stage.kubelet.fakes();
    fakes[0].script(|script| script.clings.push("stuck".to_owned()));
    let asked = Instant::now();
    stage.kubectl.run(&["delete", "lora", "quick", "stuck", "--namespace", &namespace, "--wait=false"]);
    stage.until_gone::<Adapter>("quick").await;
    until("what drains no more is let go", DRAIN + SLACK, async || {
        stage.get::<Adapter>("stuck").await.is_none().then_some(())
    })
    .await;
    // Deletions are stamped with whole seconds, and so are answers.
    let held = asked.elapsed();
    assert!(
        held > DRAIN - Duration::from_secs(2),
        "it was let go after {held:?}, and has {DRAIN:?} to drain"
    );
    assert!(fakes.iter().all(|fake| fake.serves("sql") && !fake.serves("quick")));
    let sql = stage.until_adapter_ready("sql").await;
    for condition in sql.status.unwrap_or_default().conditions {
        let off = condition.last_transition_time.0.as_second() - Timestamp::now().as_second();
        assert!(off.abs() < 60, "{} is stamped with a time that is {off} s ahead", condition.type_);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_an_hour_ahead_lets_nothing_go_before_its_time() {
    carries_out("ahead", HOUR).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_an_hour_behind_holds_nothing_longer_than_its_time() {
    carries_out("behind", -HOUR).await;
}

/// What one operator made opens the replicas for another, whatever the clock of the first: after it made the Secret, and
/// after it renewed it while pods have the files of before.
async fn opens_for_another(name: &str, ahead: i32) {
    let mut stage = stage(name, ahead).await;
    serving(&stage, 2, &["sql"]).await;
    let secret = async |stage: &Stage| stage.get::<Secret>("base-admin").await.and_then(|secret| secret.data);
    let made = secret(&stage).await;
    replace(&mut stage, 0).await;
    swapped(&stage, '1', PATIENCE).await;
    assert_eq!(secret(&stage).await, made, "it was made anew");
    let strangers: usize = stage.kubelet.fakes().iter().map(|fake| fake.strangers()).sum();
    assert_eq!(strangers, 0, "a replica was sent another's token");

    replace(&mut stage, ahead).await;
    swapped(&stage, '2', PATIENCE).await;
    stage.kubelet.hold_mounts(true);
    let before = make_due(&stage).await.data;
    let renewed = until("the Secret is renewed", PATIENCE, async || {
        secret(&stage).await.filter(|data| Some(data) != before.as_ref())
    })
    .await;
    replace(&mut stage, 0).await;
    swapped(&stage, '3', PATIENCE).await;
    assert_eq!(secret(&stage).await.as_ref(), Some(&renewed), "it was renewed again");
    stage.kubelet.hold_mounts(false);
    stage.kubelet.until_mounted("base-admin", &renewed["token"].0).await;
    swapped(&stage, '4', PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_an_hour_ahead_made_opens_the_replicas_for_another() {
    opens_for_another("ahead-made", HOUR).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_an_hour_behind_made_opens_the_replicas_for_another() {
    opens_for_another("behind-made", -HOUR).await;
}

/// Somebody deletes the Lease of a leader whose clock is an hour ahead: that one ends, and replicas follow the next, whose
/// clock is an hour behind.
#[tokio::test(flavor = "multi_thread")]
async fn after_the_lease_was_deleted_replicas_follow_a_leader_an_hour_behind_the_last() {
    let mut stage = stage("lease-deleted", HOUR).await;
    serving(&stage, 2, &["sql"]).await;
    stage.options().ahead = -HOUR;
    let _second = Second::start(&mut stage).await;
    leases(&stage).delete(LEASE, &DeleteParams::default()).await.expect("it is there");
    let well = until("the former leader ends", PATIENCE, async || stage.operator().process().ended()).await;
    assert!(!well, "one that lost its Lease must not pass for one that was stopped");
    swapped(&stage, '1', PATIENCE).await;
    assert_eq!(lease(&stage).await.holder_identity.as_deref(), Some("operator-1"));
}

/// The terms of a Lease that is gone went by a clock that was ahead of the API server's as it is now.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_takes_a_term_above_those_that_replicas_have_heard_of() {
    let mut stage = Stage::new("terms").await;
    let in_an_hour = Timestamp::now().as_second() / 60 + 60;
    let spec = LeaseSpec {
        lease_transitions: Some(i32::try_from(in_an_hour).expect("minutes since 1970")),
        ..LeaseSpec::default()
    };
    let metadata = ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() };
    let made = Lease { metadata, spec: Some(spec) };
    leases(&stage).create(&PostParams::default(), &made).await.expect("it is made");
    stage.options().lease_seconds = LEASE_SECONDS;
    stage.start_operator().await;
    serving(&stage, 2, &["sql"]).await;
    let epochs = |stage: &Stage| -> BTreeSet<Option<u64>> {
        let fakes = stage.kubelet.fakes();
        fakes.iter().map(|fake| fake.report().version.map(|version| version.epoch)).collect()
    };
    let former = u64::try_from(in_an_hour).ok().map(|minutes| minutes + 2);
    assert_eq!(epochs(&stage), BTreeSet::from([former]));

    stage.kill_operator();
    leases(&stage).delete(LEASE, &DeleteParams::default()).await.expect("it is there");
    stage.start_operator().await;
    swapped(&stage, '1', PATIENCE).await;
    let transitions = lease(&stage).await.lease_transitions.and_then(|count| u64::try_from(count).ok());
    assert_eq!(epochs(&stage), BTreeSet::from([transitions.map(|count| count + 1)]));
    assert_eq!(transitions, former, "it goes on right above the last term");
    // The next one goes on from there.
    replace(&mut stage, -HOUR).await;
    swapped(&stage, '2', PATIENCE).await;
    assert_eq!(epochs(&stage), BTreeSet::from([transitions.map(|count| count + 2)]));
}
