//! The operator as a process: what it says of itself, what it does when its rights are taken away, how it stops.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, PostParams};

use crate::manifests::{adapter, deployment};
use crate::operator::Operator;
use crate::proxy::{Call, Fault};
use crate::stage::Stage;
use crate::until::{PATIENCE, until};

/// The figure `name` of `page`, whose labels are written as there.
fn figure(page: &str, name: &str) -> Option<f64> {
    let mut lines = page.lines().filter_map(|line| line.rsplit_once(' '));
    lines.find(|(is, _)| *is == format!("lorikeet_operator_{name}"))?.1.parse().ok()
}

/// Waits until the figure `name` is as `condition` wants it.
async fn until_figure(operator: &Operator, name: &str, condition: impl Fn(f64) -> bool) {
    until(name, PATIENCE, async || {
        figure(&operator.page().await, name).filter(|is| condition(*is)).map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_alive_at_once_and_ready_when_it_has_seen_the_cluster() {
    let mut stage = Stage::new("health").await;
    stage.proxy.judge(|call| if call.path.ends_with("/adapters") { Fault::Hang } else { Fault::None });
    let mut operator = Operator::start(stage.options());
    until("it answers", PATIENCE, async || operator.asked("/healthz").await).await;
    until("it asked for what it is not told", PATIENCE, async || {
        stage.proxy.calls().iter().any(|call| call.path.ends_with("/adapters")).then_some(())
    })
    .await;
    assert_eq!(operator.asked("/healthz").await, Some(200));
    assert_eq!(operator.asked("/readyz").await, Some(503), "ready, and has not seen the Adapters");
    assert_eq!(stage.proxy.writes(), 0, "it wrote before it had seen the cluster");
    stage.proxy.heal();
    operator.until_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_figures_say_what_it_does_and_what_fails() {
    let mut stage = Stage::with_operator("figures").await;
    let namespace = stage.namespace.clone();
    let mut failed = 0;
    stage.proxy.judge(move |call| {
        let fails = call.is_write() && call.path.contains("/services") && failed < 3;
        failed += usize::from(fails);
        if fails { Fault::Refuse(503, "ServiceUnavailable") } else { Fault::None }
    });
    stage.kubectl.apply(&[deployment(&namespace, "base", 1), adapter(&namespace, "sql", "base")]);
    stage.until_adapter_ready("sql").await;
    stage.until_deployment_ready("base").await;
    let operator = stage.operator();
    for (name, least) in [
        (r#"reconciles_total{result="done"}"#, 2.0),
        (r#"reconciles_total{result="failed"}"#, 1.0),
        (r#"errors_total{reason="Unavailable"}"#, 1.0),
        (r#"api_calls_total{code="503",verb="patch"}"#, 1.0),
        (r#"api_calls_total{code="201",verb="patch"}"#, 6.0),
        (r#"api_calls_total{code="200",verb="watch"}"#, 8.0),
        (r#"api_seconds_count{verb="patch"}"#, 7.0),
        ("reconcile_seconds_count", 3.0),
        ("fleets", 1.0),
        ("leader", 1.0),
    ] {
        until_figure(operator, name, |is| is >= least).await;
    }
    until_figure(operator, "queue_length", |is| is == 0.0).await;
    assert_eq!(figure(&operator.page().await, "malformed_objects"), Some(0.0));
}

/// What cert-manager is praised for: an operator whose rights are revoked neither ends nor forgets, and goes on when they
/// are back.
#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_taken_away_and_given_back_are_waited_for() {
    let mut stage = Stage::with_operator("revoked").await;
    let namespace = stage.namespace.clone();
    stage.kubectl.apply(&[deployment(&namespace, "base", 1), adapter(&namespace, "sql", "base")]);
    stage.until_adapter_ready("sql").await;
    let bindings = stage.api::<RoleBinding>();
    let binding = bindings.get("lorikeet-operator").await.expect("it was applied");
    bindings.delete("lorikeet-operator", &DeleteParams::default()).await.expect("it is deleted");
    // Watches that run and some that are begun anew.
    stage.proxy.sever();
    stage.kubectl.apply(&[adapter(&namespace, "late", "base")]);
    until_figure(stage.operator(), r#"api_calls_total{code="403",verb="watch"}"#, |is| is >= 2.0).await;
    stage.operator().process().assert_running();
    assert_eq!(stage.operator().asked("/healthz").await, Some(200));
    assert!(stage.kubelet.fakes()[0].serves("sql"), "a serving replica was touched");
    let metadata = ObjectMeta { name: binding.metadata.name.clone(), ..ObjectMeta::default() };
    let again = RoleBinding { metadata, ..binding };
    bindings.create(&PostParams::default(), &again).await.expect("it is made again");
    stage.until_adapter_ready("late").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_it_gives_its_lease_back_and_ends_well() {
    let mut stage = Stage::with_operator("stopped").await;
    let leases: Api<Lease> = Api::namespaced(stage.client.clone(), &stage.system);
    let holder = async || leases.get("lorikeet-operator").await.ok()?.spec?.holder_identity;
    until("it leads", PATIENCE, async || holder().await.filter(|holder| holder == "operator-0")).await;
    stage.operator().process().signal("TERM");
    let is_well = until("it ends", PATIENCE, async || stage.operator().process().ended()).await;
    assert!(is_well, "it did not end well");
    assert_eq!(holder().await.unwrap_or_default(), "", "its successor would wait for the Lease to end");
}

/// The answer to the last renewal did not arrive: what it knows of its Lease is not the newest.
#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_before_it_heard_of_its_renewal_it_gives_its_lease_back() {
    let mut stage = Stage::new("unheard").await;
    // Another renewal is a while away.
    stage.options().lease_seconds = 30;
    stage.start_operator().await;
    let is_renewal = |call: &Call| call.is_lease() && call.method == "PUT";
    let mut cut = false;
    stage.proxy.judge(move |call| {
        let is_first = is_renewal(call) && !std::mem::replace(&mut cut, true);
        if is_first { Fault::CutAfter } else { Fault::None }
    });
    until("a renewal's answer is lost", PATIENCE, async || {
        stage.operator().process().log().contains("the Lease was not renewed; trying again").then_some(())
    })
    .await;
    stage.operator().process().signal("TERM");
    let is_well = until("it ends", PATIENCE, async || stage.operator().process().ended()).await;
    assert!(is_well, "it did not end well");
    let leases: Api<Lease> = Api::namespaced(stage.client.clone(), &stage.system);
    let lease = leases.get("lorikeet-operator").await.expect("it is there").spec.unwrap_or_default();
    assert_eq!(
        lease.holder_identity.unwrap_or_default(),
        "",
        "its successor would wait for the Lease to end"
    );
}
